"""Jumps: the criterion against cosines, and the bounds on their time against runs and adversaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere import dynamics


@given(s=st.floats(1e-9, 10), product=st.floats(0, 0.9), delta=st.floats(1e-4, 0.9))
def test_a_jump_is_a_cosine_distance_above_delta(s, product, delta):
    angle = np.arctan2(s, 1 - product)
    distance = 2 * np.sin(angle / 2) ** 2
    assert dynamics.cosine_distance(s, 1.0, product) == pytest.approx(distance, rel=1e-12)
    if abs(distance / delta - 1) > 1e-9:
        assert dynamics.is_jump(s, delta, 1.0, product) == (distance > delta)
    kappa = dynamics.jump_threshold(delta)
    assert np.cos(np.arctan(kappa)) == pytest.approx(1 - delta, rel=1e-12)


def test_the_threshold_is_root_two_delta_to_leading_order():
    deltas = np.array([1e-2, 1e-3, 1e-4])
    errors = dynamics.jump_threshold(deltas) / np.sqrt(2 * deltas) - 1
    np.testing.assert_allclose(errors / deltas, 0.75, rtol=0.05)  # κ = √(2δ) (1 + 3δ/4 + ...)


def first_jumps(radius, gradients, delta, lr, decay):
    """Step of the first δ-jump of every run, runs along axis 0, steps along axis 1; -1 if none came."""
    square, first = np.full(len(gradients), radius**2), np.full(len(gradients), -1)
    threshold = dynamics.jump_threshold(delta) * (1 - lr * decay)
    for t in range(gradients.shape[1]):
        s = lr * gradients[:, t] / square
        first[(first < 0) & (s > threshold)] = t
        square = square * ((1 - lr * decay) ** 2 + s**2)
    return first


def test_bounds_are_never_violated_in_ten_thousand_runs():
    generator = np.random.default_rng(0)
    count = jumped = bounded = 0
    while count < 10_000:
        lr, product = 10 ** generator.uniform(-2, 0), 10 ** generator.uniform(-3, -1.5)
        high = 10 ** generator.uniform(-1, 1)
        low = high * (0.0, 10 ** generator.uniform(-1, 0))[generator.integers(0, 2)]
        delta = product * 10 ** generator.uniform(-1.5, 1.5)
        if delta > 0.9:
            continue
        start = np.sqrt(lr * high / product) * 10 ** generator.uniform(-0.5, 0.5)
        runs, steps = 250, int(4 / product)
        kind = generator.integers(0, 3, size=(runs, 1))
        u = generator.random((runs, steps))
        switch = generator.integers(0, steps, size=(runs, 1))
        shape = np.where(kind == 0, u, np.where(kind == 1, u < 0.02, np.arange(steps) >= switch))
        first = first_jumps(start, low + (high - low) * shape, delta, lr, product / lr)
        bounds = dynamics.jump_time_bounds(start, low, high, delta, lr, product / lr)
        assert bounds.minimum <= bounds.maximum
        assert (first[first >= 0] >= np.floor(bounds.minimum)).all()
        if bounds.maximum < steps - 1:
            assert (first >= 0).all() and (first <= np.ceil(bounds.maximum)).all()
            bounded += runs
        count, jumped = count + runs, jumped + int((first >= 0).sum())
    assert jumped > 2000 and bounded > 500  # neither bound was tested on nothing


@given(product=st.floats(1e-3, 3e-2), ratio=st.floats(0, 0.3), excess=st.floats(3, 100), lr=st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_the_adversary_reaches_the_minimum_within_two_steps(product, ratio, excess, lr):
    """g̃ = ℓ until g̃ = L makes a jump."""
    high, decay = 2.0, product / lr
    low = ratio * high
    delta = min(excess * product, 0.5)
    start = 1.5 * np.sqrt(lr * high / product)
    bounds = dynamics.jump_time_bounds(start, low, high, delta, lr, decay)
    # Clear of the edge of possibility, where the s⁴ that the bound leaves out holds the norm up.
    if not dynamics.jump_possible(1.5 * delta, low, high, lr, decay):
        return
    square, threshold, t = start**2, dynamics.jump_threshold(delta) * (1 - product), 0
    while lr * high / square <= threshold:
        square, t = (1 - product) ** 2 * square + (lr * low) ** 2 / square, t + 1
    assert bounds.minimum <= t <= bounds.minimum + 2


@pytest.mark.parametrize("low", [0.0, 0.1, 0.2])
def test_the_minimum_of_one_case_step_by_step(low):
    bounds = dynamics.jump_time_bounds(3.0, low, 2.0, 0.05, 0.1, 0.01)
    square, steps = 9.0, 0
    while 0.1 * 2.0 / square <= dynamics.jump_threshold(0.05) * 0.999:
        square, steps = 0.999**2 * square + (0.1 * low) ** 2 / square, steps + 1
    assert bounds.minimum <= steps <= bounds.minimum + 2


def test_possibility_agrees_with_the_minimum():
    lr, decay = 0.1, 0.01
    assert dynamics.jump_possible(0.2, 0.0, 1.0, lr, decay)
    for low in (0.02, 0.05, 0.2):
        possible = dynamics.jump_possible(0.2, low, 1.0, lr, decay)
        bounds = dynamics.jump_time_bounds(5.0, low, 1.0, 0.2, lr, decay)
        assert possible == np.isfinite(bounds.minimum)
    assert not dynamics.jump_possible(0.2, 0.2, 1.0, lr, decay)
    flags = dynamics.jump_possible(0.2, [0.02, 0.2], 1.0, lr, decay)
    assert flags.tolist() == [True, False]
    # To leading order the edge lies at delta = lr wd (L/l)².
    edge = 1e-3 / 0.05**2
    assert dynamics.jump_possible(0.6 * edge, 0.05, 1.0, lr, decay)
    assert not dynamics.jump_possible(1.4 * edge, 0.05, 1.0, lr, decay)


def test_bounds_at_the_ends():
    now = dynamics.jump_time_bounds(0.1, 1.0, 2.0, 0.05, 0.1, 0.01)
    assert now.minimum == 0 and now.maximum == 0
    never = dynamics.jump_time_bounds(5.0, 1.0, 1.0, 0.5, 0.1, 0.01)
    assert never.minimum == never.maximum == np.inf
    many = dynamics.jump_time_bounds([1.0, 5.0], 0.0, 1.0, 0.05, 0.1, 0.01)
    assert many.minimum.shape == (2,) and many.to_dict().keys() == {"minimum", "maximum"}


def test_drop_and_recovery_follow_the_recurrence():
    lr, decay, elr = 0.5, 0.02, 0.3
    s = 1.7
    after = dynamics.elr_after(elr, s, lr, decay)
    assert elr / after == pytest.approx(dynamics.elr_drop(s, lr, decay), rel=1e-14)
    steps, value = 0, after
    while value < elr:
        value, steps = dynamics.elr_after(value, 0.0, lr, decay), steps + 1
    assert 0 <= steps - dynamics.recovery_steps(after, elr, lr, decay) < 1
    assert dynamics.recovery_steps(0.5, 0.3, lr, decay) == 0


@pytest.mark.parametrize("g", [0.01, 0.05, 0.1])
def test_gradients_delay_recovery(g):
    lr, decay, trough, jump = 0.1, 0.01, 0.05, 0.2
    steps, value = 0, trough
    while value < jump and steps < 20_000:
        value, steps = dynamics.elr_after(value, value * g, lr, decay), steps + 1
    predicted = dynamics.recovery_steps(trough, jump, lr, decay, g)
    assert dynamics.recovery_steps(trough, jump, lr, decay) < predicted <= steps
    assert steps == pytest.approx(predicted, rel=2 * (jump * g) ** 2, abs=1)
    held = dynamics.recovery_steps(trough, jump, lr, decay, 1.0)
    assert held == np.inf


def test_default_delta():
    assert dynamics.default_delta(0.1, 0.01) == 0.02
    assert dynamics.default_delta(1.0, 0.01) == pytest.approx(0.07)
    assert dynamics.default_delta(1.0, 0.5) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamics.jump_threshold(0), r"delta is 0; it must lie in \(0, 1\)"),
        (lambda: dynamics.jump_threshold(1), "delta is 1"),
        (lambda: dynamics.jump_threshold([]), "delta is empty"),
        (lambda: dynamics.is_jump(-1, 0.1, 0.1), "effective_step is -1"),
        (lambda: dynamics.jump_time_bounds(1, 2, 1, 0.1, 0.1, 0.1), "gradient_low is 2 and gradient_high 1"),
        (lambda: dynamics.jump_time_bounds(1, 0, 1, 1.5, 0.1, 0.1), "delta is 1.5"),
        (lambda: dynamics.jump_time_bounds(1, 0, 1, 0.1, 0.1, 0), "weight_decay is 0"),
        (lambda: dynamics.jump_time_bounds(1, 0, 1, 0.1, 0.1, 10), "below 1 / lr"),
        (lambda: dynamics.jump_time_bounds(0, 0, 1, 0.1, 0.1, 0.1), "radius is 0"),
        (lambda: dynamics.jump_possible(0.1, -1, 1, 0.1, 0.1), "gradient_low is -1"),
        (lambda: dynamics.recovery_steps(0, 1, 0.1, 0.1), "elr_trough is 0"),
    ],
)
def test_impossible_jumps_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
