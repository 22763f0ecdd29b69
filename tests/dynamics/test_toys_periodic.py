import doctest
import json
import math
from importlib.util import find_spec

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.dynamics.detect import zigzag_jumps
from onsphere.dynamics.toys import period_law, periodic, simulate_periods

FLOORS = np.array([1e-8, 1e-16, 1e-24, 1e-32, 1e-40])
COMPARED = (
    *("period", "log_radius", "fractions", "recorded_log_radius", "recorded_loss"),
    *("recorded_effective_gradient_norm", "recorded_angle"),
)


def descent(lr, weight_decay, floor, x, y, steps, alpha=1):
    """Gradient descent with weight decay on x and y themselves, in whatever numbers it is given; its ELRs."""
    b, elrs = 1 - lr * weight_decay, []
    for _ in range(steps):
        square = x * x + y * y
        elrs.append(lr / square)
        push = 2 * lr * alpha * x * y / (square * square)
        x, y = b * x - push * y, b * y + push * x
        least = floor * (x * x + y * y) ** 0.5
        if abs(x) < least:
            x = least if x >= 0 else -least
    return elrs, x, y


# The law -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.01, 0.03])
def test_periods_follow_the_law(weight_decay):
    run = simulate_periods(0.1, weight_decay, floor=np.repeat(FLOORS, 8))
    ratios = (run.period / run.predicted_period).reshape(-1, 8)
    assert min(len(found) for found in run.periods) >= 9
    assert np.abs(ratios.mean(axis=1) - 1).max() < 0.1
    assert ratios.max() <= 1  # the law is an upper bound
    weak = 0.1 * weight_decay * np.log(1 / FLOORS) < 0.2
    assert weak.sum() >= 3 and ratios[weak].min() > 0.9  # from every start, where jumps are not too strong


def test_measured_periods_of_the_three_cases_in_the_table():
    run = simulate_periods(0.1, [[0.01], [0.03]], floor=[1e-8, 1e-16])
    np.testing.assert_allclose(run.period.reshape(2, 2), [[184.6, 266.8], [107.9, 153.7]], atol=0.7)
    np.testing.assert_allclose(run.predicted_period.reshape(2, 2), [[191.9, 271.4], [110.8, 156.7]], atol=0.06)


@settings(max_examples=15, deadline=None)
@given(
    lr=st.floats(1e-4, 10),
    product=st.floats(3e-4, 2e-3),
    depth=st.floats(8, 40),
    alpha=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
def test_the_elr_straddles_the_threshold_and_the_period_is_near_the_law(lr, product, depth, alpha, seed):
    floor = 10**-depth
    run = simulate_periods(lr, product / lr, floor=floor, alphas=alpha, seed=seed, record_every=1)
    settled = run.recorded_elr[0, run.burn_in[0] :]
    assert settled.min() * alpha < 0.95 and settled.max() * alpha > 1.05
    assert run.period[0] == pytest.approx(run.predicted_period[0], rel=0.1)
    assert zigzag_jumps(settled, drop=0.1).tolist() == (run.jumps[0] - run.burn_in[0]).tolist()


def test_weak_jumps_are_found_too():
    run = simulate_periods(0.1, 1e-4, floor=1e-12)  # the ELR drops by 7 % only
    assert len(run.jumps[0]) >= 10
    assert run.period[0] == pytest.approx(run.predicted_period[0], rel=0.2)


def test_the_law_broadcasts_and_is_infinite_without_a_floor():
    assert period_law(0.1, 0.01, 1e-16) == pytest.approx(math.sqrt(2 * math.log(1e16) / 1e-3), rel=1e-12)
    assert period_law(0.1, [[0.01], [0.03]], [1e-8, 0.0]).shape == (2, 2)
    assert period_law(0.1, 0.01, 0.0) == math.inf


def test_without_a_floor_the_norm_decays_for_ever():
    run = simulate_periods(0.1, 0.01, floor=0.0, record_every=1000)
    assert run.fractions[0, 0] == 0 and len(run.jumps[0]) == 0 and math.isnan(run.period[0])
    assert run.radius[0] < 1e-8
    np.testing.assert_allclose(np.diff(run.recorded_log_radius[0, 5:]), 1000 * math.log(0.999), rtol=1e-9)
    assert (run.recorded_loss[0, 5:] == 0).all() and (run.recorded_angle[0, 5:] == 0).all()
    # Far beyond what a float can hold.
    long = simulate_periods(0.1, 0.01, floor=0.0, steps=1_000_000, record_every=100_000)
    expected = run.log_radius[0] + (1_000_000 - run.steps) * math.log(0.999)
    assert long.log_radius[0] == pytest.approx(expected, rel=1e-9) and expected < -900
    assert long.radius[0] == 0 and long.recorded_elr[0, -1] == math.inf
    for name in ("recorded_loss", "recorded_effective_gradient_norm", "recorded_angle"):
        assert np.isfinite(getattr(long, name)).all()
    # With a floor as small as any the same run has periods.
    assert len(simulate_periods(0.1, 0.005, floor=1e-120).jumps[0]) >= 10


# Accuracy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight_decay", "floor", "digits"), [(0.01, 1e-40, 60), (0.003, 1e-120, 150)])
def test_float64_has_the_periods_of_high_precision(weight_decay, floor, digits):
    run = simulate_periods(0.1, weight_decay, floor=floor, start=[[0.3, 0.9]], record_every=1)
    with mpmath.workdps(digits):
        exact = [mpmath.mpf(value) for value in (0.1, weight_decay, floor, 0.3, 0.9)]
        elrs, _, _ = descent(*exact, run.steps)
        log_elr = np.array([float(mpmath.log(elr)) for elr in elrs])
    np.testing.assert_allclose(np.log(run.recorded_elr[0]), log_elr, atol=1e-8)
    jumps = zigzag_jumps(np.exp(log_elr), burn_in=int(run.burn_in[0]))
    assert len(jumps) >= 10 and run.jumps[0].tolist() == jumps.tolist()


def test_strong_jumps_amplify_rounding_but_only_late():
    # lr weight_decay ln(1/floor) = 0.28: rounding decides after several jumps, as it would in x and y.
    run = simulate_periods(0.1, 0.03, floor=1e-40, start=[[0.3, 0.9]])
    with mpmath.workdps(60):
        elrs, _, _ = descent(*(mpmath.mpf(value) for value in (0.1, 0.03, 1e-40, 0.3, 0.9)), 2000)
    jumps = zigzag_jumps([float(elr) for elr in elrs], burn_in=int(run.burn_in[0]))
    assert len(jumps) >= 5 and run.jumps[0][:5].tolist() == jumps[:5].tolist()


def test_traces_obey_the_exact_laws_of_a_step():
    lr, weight_decay = 0.1, 0.02
    run = simulate_periods(lr, weight_decay, floor=1e-12, alphas=[1.0, 3.0], record_every=1)
    b = 1 - lr * weight_decay
    radius, elr = run.recorded_radius, run.recorded_elr
    np.testing.assert_allclose(elr, lr / radius**2, rtol=1e-12)
    step = elr * run.recorded_effective_gradient_norm
    np.testing.assert_allclose(np.tan(run.recorded_angle), step / b, rtol=1e-12)
    np.testing.assert_allclose(radius[:, 1:] ** 2 / radius[:, :-1] ** 2, (b**2 + step**2)[:, :-1], rtol=1e-12)
    assert run.recorded_loss.min() >= 0 and run.recorded_loss.max() <= 4


def test_pairs_do_not_feel_each_other():
    alphas, start = [1.0, 2.5], np.array([[0.3, 0.9], [-0.4, 0.2]])
    both = simulate_periods(0.1, 0.02, floor=1e-12, alphas=alphas, start=start, steps=1500, record_every=10)
    inverse = 0
    for i in range(2):
        one = simulate_periods(
            0.1, 0.02, floor=1e-12, alphas=alphas[i], start=start[i : i + 1], steps=1500, record_every=10
        )
        np.testing.assert_array_equal(one.fractions[:, 0], both.fractions[:, i])
        inverse = inverse + 1 / one.recorded_elr
        _, x, y = descent(0.1, 0.02, 1e-12, *start[i], 200, alphas[i])
        short = simulate_periods(0.1, 0.02, floor=1e-12, alphas=alphas[i], start=start[i : i + 1], steps=200)
        assert short.radius[0] == pytest.approx(math.hypot(x, y), rel=1e-9)
        assert short.fractions[0, 0] == pytest.approx(x * x / (x * x + y * y), rel=1e-6)
    np.testing.assert_allclose(1 / both.recorded_elr, inverse, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(-20, 20), st.integers(0, 2**32))
def test_only_the_product_of_lr_and_weight_decay_matters(power, seed):
    one = simulate_periods(0.1, 0.03, seed=seed)
    other = simulate_periods(0.1 * 2.0**power, 0.03 / 2.0**power, seed=seed)
    assert one.jumps[0].tolist() == other.jumps[0].tolist()
    assert other.radius[0] == pytest.approx(one.radius[0] * 2 ** (power / 2), rel=1e-9)


# How it runs -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is an optional accelerator")
@pytest.mark.parametrize("runs", [1, 3, 65])
def test_numba_gives_the_bits_of_numpy(runs):
    decays = np.geomspace(0.005, 0.3, runs)
    arguments = {"floor": 1e-20, "alphas": [1.0, 2.0], "steps": 2000, "record_every": 7}
    plain = simulate_periods(0.1, decays, backend="numpy", **arguments)
    compiled = simulate_periods(0.1, decays, backend="numba", **arguments)
    assert (plain.backend, compiled.backend) == ("numpy", "numba")
    for name in COMPARED:
        np.testing.assert_array_equal(getattr(plain, name), getattr(compiled, name), err_msg=name)
    assert [found.tolist() for found in plain.jumps] == [found.tolist() for found in compiled.jumps]


def test_pieces_and_strides_do_not_change_what_is_read(monkeypatch):
    whole = simulate_periods(0.1, [0.01, 0.03], floor=[1e-16, 0.0], steps=3000, record_every=1)
    monkeypatch.setattr(periodic, "_TRACE", 200)  # a hundred steps a piece
    pieces = simulate_periods(0.1, [0.01, 0.03], floor=[1e-16, 0.0], steps=3000, record_every=7)
    assert pieces.recorded_steps.tolist() == list(range(0, 3000, 7))
    for name in ("recorded_log_radius", "recorded_loss", "recorded_effective_gradient_norm", "recorded_angle"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name)[:, ::7], rtol=1e-11, err_msg=name)
    assert pieces.jumps[0].tolist() == whole.jumps[0].tolist()


def test_a_run_depends_on_its_place_and_the_seed_alone():
    one = simulate_periods(0.1, 0.02, steps=1000, seed=3)
    two = simulate_periods(0.1, [0.02, 0.05], steps=1000, seed=3)
    assert one.log_radius[0] == two.log_radius[0]
    assert simulate_periods(0.1, 0.02, steps=1000, seed=4).log_radius[0] != one.log_radius[0]


def test_burn_in_and_length_follow_from_the_law_and_the_start():
    run = simulate_periods(0.1, 0.01)
    descent_steps = math.log(10) / (-2 * math.log(0.999))
    assert run.burn_in[0] == math.ceil(descent_steps + run.predicted_period[0])
    assert run.steps == math.ceil(descent_steps + 12 * run.predicted_period[0])
    all_jumps = simulate_periods(0.1, 0.01, burn_in=0)
    assert len(all_jumps.jumps[0]) > len(run.jumps[0])
    np.testing.assert_array_equal(all_jumps.jumps[0][-len(run.jumps[0]) :], run.jumps[0])
    assert simulate_periods(0.1, 0.01, start=[[1.0, 1.0]]).steps > run.steps  # further from its threshold


def test_results_are_plain_values_for_json():
    run = simulate_periods(0.1, [0.01, 0.03], floor=[1e-16, 0.0], steps=2000, record_every=500)
    found = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert found["predicted_period"][1] is None and found["floor"] == [1e-16, 0.0]
    assert found["periods"][0] == [int(period) for period in run.periods[0]] and len(found["recorded_elr"][0]) == 4
    lines = repr(run).splitlines()
    assert lines[0] == "PeriodsRun: 1 pairs, 2 runs of 2000 steps" and "predicted 271.45" in lines[1]
    assert "and 2 more" in repr(simulate_periods(0.1, np.full(8, 0.03), steps=10))
    assert simulate_periods(0.1, 0.01, steps=10).recorded_elr is None
    assert simulate_periods(0.1, 0.01, steps=10).recorded_radius is None
    assert run.rows()[0]["jumps"] == len(run.jumps[0])
    if find_spec("pandas") is None:
        with pytest.raises(ImportError, match="pip install pandas"):
            run.to_frame()
    else:
        assert run.to_frame()["period"].shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr is 0; it must be positive"),
        ({"lr": []}, "lr is empty"),
        ({"weight_decay": 0.0}, "weight_decay is 0; it must be positive"),
        ({"weight_decay": 10.0}, r"weight_decay is 10 at lr 0.1; it must be below 1 / lr = 10"),
        ({"weight_decay": 1e-13}, r"lr \* weight_decay is 1e-14; it must be at least 1e-12"),
        ({"floor": 1.0}, r"floor is 1; it must lie in \[0, 1\)"),
        ({"floor": -0.1}, "floor is -0.1"),
        ({"floor": 1e-130}, "floor is 1e-130; float64 squares carry floors down to 1e-120"),
        ({"alphas": []}, "alphas is empty"),
        ({"alphas": [1.0, -1.0]}, "alphas is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": None, "weight_decay": 1e-9}, "ten periods would take"),
        ({"burn_in": -1}, "burn_in is -1"),
        ({"record_every": 0.5}, "record_every is 0.5"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"start": [1.0, 1.0]}, r"start has shape \(2,\)"),
        ({"start": [[0.0, 0.0]]}, r"a pair \(0, 0\)"),
        ({"start": [[1e60, 0.0]]}, "more than 100 decades away"),
        ({"backend": "cuda"}, "backend is 'cuda'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_periods(**{"lr": 0.1, "weight_decay": 0.01, "steps": 10, **arguments})


def test_examples_of_the_docstrings():
    assert doctest.testmod(periodic, optionflags=doctest.ELLIPSIS).failed == 0
