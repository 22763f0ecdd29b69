"""Time scales of weight decay, and the decay of an angle."""

import numpy as np
import pytest

from onsphere.dynamics import decay_for_angle, equilibrium, timescale


def test_a_constant_run_and_its_schedule_agree():
    constant = timescale(2e-3, 0.1, 500)
    schedule = timescale(np.full(500, 2e-3), 0.1)
    assert constant.to_dict() == pytest.approx(schedule.to_dict())
    assert constant.steps == pytest.approx(5000)
    assert constant.elapsed == pytest.approx(0.1)
    assert constant.remembered == pytest.approx((1 - 2e-4) ** 500)


def test_a_schedule_counts_every_step_and_its_peak():
    lr = np.concatenate([np.linspace(0, 1e-2, 50), np.linspace(1e-2, 0, 450)])
    found = timescale(lr, 0.5)
    assert found.steps == pytest.approx(200)
    assert found.elapsed == pytest.approx(lr.sum() * 0.5)
    assert found.remembered == pytest.approx(np.prod(1 - lr * 0.5))


def test_weights_forget_as_it_says():
    """Decoupled decay without gradients, step by step."""
    weight = 1.0
    for _ in range(300):
        weight *= 1 - 0.01 * 0.3
    assert timescale(0.01, 0.3, 300).remembered == pytest.approx(weight)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        ("momentum", {"momentum": 0.9}),
        ("momentum", {"momentum": 0.0}),
        ("adamw", {}),
        ("adamw", {"betas": (0.5, 0.9)}),
        ("adamw", {"betas": (0.0, 0.9)}),
    ],
)
@pytest.mark.parametrize("lr", [1e-4, 0.3])
def test_decay_for_angle_is_the_inverse_of_the_equilibrium(optimizer, options, lr):
    angles = np.geomspace(1e-4, 0.2, 9)  # below, 1 - lr decay itself is rounded too far
    decay = decay_for_angle(angles, optimizer, lr=lr, **options)
    found = equilibrium(optimizer, lr=lr, weight_decay=decay, **options).angular_update
    np.testing.assert_allclose(found, angles, rtol=1e-7)


def test_a_setting_of_adamw_comes_back_from_its_angle():
    """(lr, decay) to radians a step and back, and at another lr the same product of the two."""
    lr, decay = np.array([[1e-4], [1e-3], [3e-3]]), np.array([0.01, 0.1, 1.0])
    angle = equilibrium("adamw", lr=lr, weight_decay=decay).angular_update
    np.testing.assert_allclose(decay_for_angle(angle, lr=lr), np.broadcast_to(decay, (3, 3)), rtol=1e-8)
    np.testing.assert_allclose(10 * decay_for_angle(angle, lr=10 * lr), np.broadcast_to(decay, (3, 3)), rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: timescale(1e-3, 0.1), "steps is None"),
        (lambda: timescale([1e-3, 1e-3], 0.1, 3), "leave steps out"),
        (lambda: timescale([0.0, 0.0], 0.1), "not all zero"),
        (lambda: timescale([[1e-3]], 0.1), "one a step"),
        (lambda: timescale(1e-3, 2000.0, 10), "below 1 / lr"),
        (lambda: timescale(1e-3, 0.0, 10), "must be positive"),
        (lambda: decay_for_angle(0.01, "lion", lr=1e-3), "one of sgd, momentum, adamw"),
        (lambda: decay_for_angle(1.6, lr=1e-3), "below pi / 2"),
        (lambda: decay_for_angle(1.5, "momentum", lr=1e-3, momentum=0.9), "no weight decay below"),
        (lambda: decay_for_angle(0.01, "sgd", lr=1e-3, momentum=0.9), "use optimizer 'momentum'"),
        (lambda: decay_for_angle(0.01, "sgd", lr=1e-3, betas=(0.9, 0.99)), "betas does not enter"),
        (lambda: decay_for_angle(0.01, "adamw", lr=1e-3, momentum=0.9), "momentum does not enter"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
