"""What the readings say, against courses whose jumps and recoveries are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.dynamics import equilibrium
from onsphere.lab.experiments.periods.science.runs import analyse, count_jumps
from onsphere.lab.population import Copy, Readings
from onsphere.lab.population.course import courses, decay_of

FINAL = np.array([0.1, 0.01, 0.2, 0.02])


def readings_of(norm2, gradient2, loss):
    """Readings of one copy with one tensor, from |w|², |g|² and loss of every step."""
    values = np.stack([loss, np.zeros_like(loss), norm2, gradient2, np.zeros_like(loss)], axis=-1)
    return Readings(("w",), 0, values[:, None])


def simulate(gradient, steps, copy, norm2=1.0):
    """The exact norm recurrence of SGD under an effective gradient norm given by step and ELR."""
    norms, gradients = [], []
    b = 1 - copy.lr * copy.weight_decay
    for t in range(steps):
        g2 = gradient(t, copy.lr / norm2) ** 2 / norm2
        norms.append(norm2)
        gradients.append(g2)
        norm2 = b**2 * norm2 + copy.lr**2 * g2
    return readings_of(np.array(norms), np.array(gradients), np.ones(steps))


def the_run(readings, copy, **options):
    (course,) = courses(readings, [copy])
    return analyse(course, FINAL, **options)


@settings(max_examples=20, deadline=None)
@given(
    lr=st.floats(0.05, 2),
    product=st.floats(2e-3, 1e-2),
    kick=st.floats(0.8, 3),
    interval=st.integers(80, 250),
)
def test_without_gradients_between_jumps_every_recovery_is_as_predicted(lr, product, kick, interval):
    copy = Copy(0, lr, product / lr)
    # a kick of effective step ``kick`` divides the ELR by about 1 + kick², and decay must bring it up in between
    readings = simulate(lambda t, elr: kick / elr if t % interval == interval - 1 else 0.0, 8 * interval, copy)
    run = the_run(readings, copy, burn_in=0)
    assert run.jumps == [interval * i - 1 for i in range(1, 8 + 1)][: len(run.jumps)] and len(run.jumps) >= 7
    assert run.behaviour == "periodic" and run.period == interval
    assert run.period_tau == pytest.approx(interval * 2 * product)
    assert run.measured_recovery == interval - 1
    assert run.recovery_ratio == pytest.approx(1, rel=1e-9)
    assert run.predicted_first_jump == pytest.approx(run.first_jump, rel=1e-9)
    assert run.elr_drop == pytest.approx((1 - product) ** 2 + kick**2, rel=1e-9)


def test_gradients_on_the_way_make_recoveries_longer():
    copy = Copy(0, 1.0, 3e-3)
    readings = simulate(lambda t, elr: 1 / elr if t % 200 == 199 else 0.03 / elr, 2000, copy)
    run = the_run(readings, copy)
    assert 1.1 < run.recovery_ratio < 1.4


def test_a_constant_gradient_is_an_equilibrium_with_its_elr_and_angle():
    copy = Copy(0, 1.0, 3e-3)
    run = the_run(simulate(lambda t, elr: 2.0, 4000, copy), copy)
    balance = equilibrium(lr=1.0, weight_decay=3e-3, gradient_norm=2.0)
    assert run.behaviour == "equilibrium" and run.jumps == [] and run.period is None
    assert run.predicted_elr == pytest.approx(balance.elr) and run.mean_elr == pytest.approx(balance.elr, rel=1e-3)
    assert run.rms_angular_update == pytest.approx(run.predicted_angular_update, rel=1e-3)
    assert run.predicted_angular_update == pytest.approx(math.sqrt(2 * 3e-3), rel=1e-2)
    assert run.jumpiness == pytest.approx(0, abs=1e-4)
    assert run.start == 1000 and run.delta_jumps == 0
    assert (run.train_loss, run.train_error, run.test_error) == (0.1, 0.01, 0.02)


def test_a_run_too_short_for_its_decay_is_undecided():
    copy = Copy(0, 1.0, 1e-4)
    assert the_run(simulate(lambda t, elr: 0.1, 500, copy), copy).behaviour == "undecided"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_run_that_stops_being_finite_is_measured_up_to_there(bad):
    copy = Copy(0, 1.0, 3e-3)
    readings = simulate(lambda t, elr: 1 / elr if t % 200 == 199 else 0.0, 2000, copy)
    readings.values[1500:, 0, 2] = bad
    run = the_run(readings, copy)
    assert not run.finite and run.behaviour == "non-finite"
    assert run.jumps == [199, 399, 599, 799, 999, 1199, 1399]


def test_a_run_that_is_never_finite_has_no_numbers():
    copy = Copy(0, 1.0, 3e-3)
    readings = readings_of(*np.full((3, 50), np.nan))
    (course,) = courses(readings, [copy])
    run = analyse(course, np.full(4, np.nan))
    assert run.behaviour == "non-finite" and run.jumps == [] and run.loss is None and run.test_error is None


def test_only_scale_invariant_tensors_count():
    values = np.zeros((10, 1, 2 + 6))
    values[..., 0] = 1.0
    values[..., 2:4] = (4.0, 100.0)  # norm2 of w, v
    values[..., 4:6] = (0.25, 100.0)  # gradient2
    readings = Readings(("w", "v"), 0, values)
    (course,) = courses(readings, [Copy(0, 1.0, 1e-3)], ["w"])
    assert course.elr == pytest.approx(0.25) and course.gradient == pytest.approx(1.0)
    assert course.radius == pytest.approx(2.0) and course.effective_step == pytest.approx(0.25)


@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_momentum_decays_as_its_slow_root_says(alpha):
    copy = Copy(0, 0.1, 2e-3, alpha)
    x, v = 1.0, 0.0
    xs = []
    for _ in range(2000):
        v = alpha * v + copy.weight_decay * x
        x -= copy.lr * v
        xs.append(x)
    assert xs[-1] / xs[-2] == pytest.approx(1 - decay_of(copy), rel=1e-9)
    assert decay_of(copy) == pytest.approx(2e-4 / (1 - alpha), rel=0.05)


def test_momentum_that_swings_decays_as_its_envelope():
    assert decay_of(Copy(0, 1.0, 0.5, 0.9)) == pytest.approx(1 - math.sqrt(0.9))


def test_momentum_has_no_angle_of_a_gradient():
    copy = Copy(0, 0.1, 1e-2, 0.9)
    (course,) = courses(simulate(lambda t, elr: 1.0, 200, copy), [copy])
    run = analyse(course, FINAL, burn_in=10)
    assert course.cosine_distance is None and run.rms_angular_update is None and run.delta_jumps is None
    assert run.predicted_angular_update == pytest.approx(math.sqrt(2 * 1e-3 / 1.9), rel=1e-2)


def test_a_pause_follows_every_counted_jump():
    distance = np.zeros(100)
    distance[[5, 20, 22, 29, 31, 60]] = 1.0
    assert count_jumps(distance, 10, 0.5, 10) == 3  # 20, 31, 60: 5 lies before the start
    assert count_jumps(distance, 0, 0.5, 1) == 6
