"""Equivalent recipes give the same directions, step by step, in float64."""

import numpy as np
import pytest
import torch

from onsphere import SphereSGD, dynamics


def loss_of(x, t):
    """A scale-invariant loss that differs at every step, as minibatch losses do."""
    unit = x / x.norm()
    return ((1 + 0.01 * t) * unit).sin().sum() + unit[0] * unit[1] * (t % 3)


def gradient(x, t):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss_of(x, t), x)[0]


def start(size=7, norm=2.5):
    x = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return norm * x / x.norm()


def sgd_run(rates, decays, steps, momentum=0.0, velocity=0.0):
    x = start()
    x0, buffer = x.clone(), velocity * x
    directions, effective = [], []
    for t in range(steps):
        g = gradient(x, t)
        effective.append(float(g.norm() * x.norm()))
        buffer = momentum * buffer + g + decays[t] * x
        x = x - rates[t] * buffer
        directions.append(x / x.norm())
    assert torch.equal(x0, start())
    return directions, effective


def test_a_run_with_lr_and_decay_is_an_elr_schedule_on_the_sphere_and_back():
    steps = 60
    rates = 0.3 * (1 + np.cos(np.arange(steps) / 20)) + 0.05
    decays = np.linspace(0.01, 0.3, steps)
    directions, effective = sgd_run(rates, decays, steps)
    run = dynamics.elr_schedule(rates, decays, radius=2.5, effective_gradient_norm=effective)
    weight = torch.nn.Parameter(start())
    optimizer = SphereSGD([{"params": [weight], "sphere": "joint"}], lr=1.0)
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = float(run.elr[t])
        weight.grad = gradient(weight, t)
        optimizer.step()
        torch.testing.assert_close(weight.detach() / weight.detach().norm(), directions[t], rtol=0, atol=1e-11)
    back = dynamics.lr_schedule(run.elr, decays, radius=2.5, effective_gradient_norm=effective)
    np.testing.assert_allclose(back.lr, rates, rtol=1e-12)
    np.testing.assert_allclose(back.radius, run.radius, rtol=1e-12)
    assert run.to_dict().keys() == {"elr", "lr", "weight_decay", "radius"}


def test_a_constant_elr_without_decay_needs_a_growing_lr():
    run = dynamics.lr_schedule(np.full(50, 0.1), radius=1.0, effective_gradient_norm=1.0)
    np.testing.assert_allclose(run.radius[1:] / run.radius[:-1], np.sqrt(1 + 0.1**2), rtol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_weight_decay_is_an_exponentially_growing_learning_rate(momentum):
    lr, decay, steps = 0.05, 0.01 if momentum == 0.9 else 0.4, 150
    with_decay, _ = sgd_run([lr] * steps, [decay] * steps, steps, momentum)
    grown = dynamics.exponential_schedule(lr, decay, steps, momentum=momentum)
    without, _ = sgd_run(grown.lr, [0.0] * steps, steps, momentum, grown.initial_velocity)
    for a, b in zip(with_decay, without, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert np.all(np.diff(grown.lr) > 0)
    if momentum == 0:
        assert grown.rate == pytest.approx(1 - lr * decay) and grown.initial_velocity == 0


def test_angles_and_elrs_convert():
    g = np.array([0.01, 1.0, 30.0])
    angles = dynamics.angle_from_elr(0.05, g)
    np.testing.assert_allclose(dynamics.elr_from_angle(angles, g), 0.05, rtol=1e-13)
    # At equilibrium weight decay has the ELR of its angle, up to 1 - lr wd in the direction's step.
    found = dynamics.equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=2.0)
    assert dynamics.elr_from_angle(found.angular_update, 2.0) == pytest.approx(found.elr / (1 - 0.001), rel=1e-12)


def test_to_frame_needs_pandas_alone():
    pandas = pytest.importorskip("pandas")
    frame = dynamics.elr_schedule([0.1, 0.2], 0.1, radius=1.0, effective_gradient_norm=1.0).to_frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamics.elr_schedule(0.1, 0.1, radius=1, effective_gradient_norm=1), "at least one argument"),
        (lambda: dynamics.elr_schedule([0.1, 0.1], [0.1], radius=1, effective_gradient_norm=1), "all of one length"),
        (lambda: dynamics.elr_schedule([[0.1]], 0.1, radius=1, effective_gradient_norm=1), "one value a step"),
        (lambda: dynamics.elr_schedule([0.1], 10, radius=1, effective_gradient_norm=1), "below 1 / lr"),
        (lambda: dynamics.lr_schedule([0.0], radius=1, effective_gradient_norm=1), "elr is 0"),
        (lambda: dynamics.lr_schedule([], radius=1, effective_gradient_norm=1), "elr is empty"),
        (lambda: dynamics.exponential_schedule(0.1, 1, 10, momentum=0.9), "the weights oscillate"),
        (lambda: dynamics.exponential_schedule(0.1, 1, 0), "steps is 0"),
        (lambda: dynamics.exponential_schedule(0.1, 5, 10_000), "overflow"),
        (lambda: dynamics.elr_from_angle(2, 1), "angle is 2"),
        (lambda: dynamics.angle_from_elr(0.1, -1), "effective_gradient_norm is -1"),
    ],
)
def test_impossible_schedules_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
