"""The laws of the norm under weight decay: on gradients drawn at random, and on a network in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onsphere.dynamics import (
    averaged_law_residual,
    elr_schedule,
    equilibrium,
    exponential_schedule,
    jump_threshold,
    jump_time_bounds,
    norm_band,
)
from onsphere.lab import data, models
from onsphere.lab.claims.study import Values

#: From the step's number, the weights and their gradient to the next weights.
Step = Callable[[int, Tensor, Tensor], Tensor]


def norms(seed: int, *, lr: float, weight_decay: float, low: float, high: float, steps: int) -> Values:
    """Simulate ρ² ← b²ρ² + (lr g̃ / ρ)² with effective gradient norms g̃ drawn between two bounds.

    Args:
        seed: Seed of the draws.
        lr: Learning rate of SGD.
        weight_decay: Weight decay; b = 1 - lr weight_decay.
        low: Lower bound of g̃, which is drawn evenly in log.
        high: Upper bound of g̃.
        steps: Steps; the equilibrium is read over the last half.

    Returns:
        ``fourth``: mean ρ⁴ over lr g̃² / (2 wd - lr wd²); ``angle``: rms angular update over √(2 lr wd); ``relaxation``:
        rate at which ρ⁴ comes back with a constant gradient over 4 lr wd; ``band_low``, ``band_high``: least and
        largest ρ² over the ends of the band; ``first_jump``: steps to the first δ-jump after gradients a twentieth of
        ``low``, minus the least number that the law allows; ``window``: residual of the averaged law.
    """
    generator = np.random.default_rng(seed)
    gradients = np.exp(generator.uniform(math.log(low), math.log(high), steps))
    b = 1 - lr * weight_decay
    start = float(equilibrium("sgd", lr=lr, weight_decay=weight_decay, gradient_norm=math.sqrt(low * high)).radius or 1)
    squares = [start**2]
    for gradient in gradients:
        squares.append(b**2 * squares[-1] + lr**2 * gradient**2 / squares[-1])
    square = np.array(squares)
    effective = lr * gradients / square[:-1]
    half = steps // 2
    band = norm_band(low, high, lr, weight_decay)
    law = lr * float((gradients[half:] ** 2).mean()) / (2 * weight_decay - lr * weight_decay**2)
    return {
        "fourth": float((square[half:-1] ** 2).mean()) / law,
        "angle": float(np.sqrt((np.arctan(effective[half:] / b) ** 2).mean())) / math.sqrt(2 * lr * weight_decay),
        "relaxation": _relaxation(lr, weight_decay) / (4 * lr * weight_decay),
        "band_low": float(square[half:].min() / float(band.low) ** 2),
        "band_high": float(square[half:].max() / float(band.high) ** 2),
        "first_jump": _first_jump(lr, weight_decay, low / 20, high, generator),
        "window": abs(float(averaged_law_residual(np.sqrt(square), effective, lr, weight_decay))),
    }


def _relaxation(lr: float, weight_decay: float, steps: int = 200) -> float:
    """The rate at which ρ⁴, one per cent above its equilibrium, comes back."""
    b, target = 1 - lr * weight_decay, lr / (2 * weight_decay - lr * weight_decay**2)
    square = math.sqrt(1.01 * target)
    for _ in range(steps):
        square = b**2 * square + lr**2 / square
    return math.log(0.01 / (square**2 / target - 1)) / steps


def _first_jump(lr: float, weight_decay: float, low: float, high: float, generator: np.random.Generator) -> float:
    """Steps to the first δ-jump under the fastest adversary, minus what the law allows at the least."""
    delta, radius = 0.02, float(generator.uniform(2.0, 4.0))
    bounds = jump_time_bounds(radius, low, high, delta, lr, weight_decay)
    b, kappa = 1 - lr * weight_decay, float(jump_threshold(delta))
    square = radius**2
    for step in range(100_000):
        if lr * high / square > kappa * b:
            return step - float(bounds.minimum)
        square = b**2 * square + lr**2 * low**2 / square
    return math.nan


def replays(seed: int, *, lr: float, weight_decay: float, steps: int, batch: int) -> Values:
    """Train one network with weight decay in float64, and again by what is said to be the same.

    Args:
        seed: Seed of weights and batches.
        lr: Learning rate of SGD.
        weight_decay: Weight decay as in torch's SGD.
        steps: How many steps are trained.
        batch: How many images a step sees.

    Returns:
        Relative distances of the outputs on the batch at the end: ``sphere`` (on the unit sphere at the ELR of every
        step), ``exponential`` (without weight decay, a growing learning rate), ``radius`` (on spheres of radius 1 and
        10 at one ELR); and ``recurrence``, the largest relative error of the norm recurrence on the way.
    """
    digits = data.load("digits", seed=0, train=512, label_noise=0.0)
    x, y = digits.x_train.double(), digits.y_train
    net = models.build("mlp", input_shape=digits.input_shape, classes=10, widths=(16, 16), eps=1e-30, seed=seed)
    net = net.double()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: batch * 4].view(4, -1)

    def run(radius: float | None, step: Step) -> tuple[Tensor, list[float], list[float]]:
        weights = [p.detach().clone() for p in net.parameters() if p.requires_grad]
        flat = nn.utils.parameters_to_vector(weights)
        flat = flat if radius is None else radius * flat / flat.norm()
        norms, gradients = [float(flat.norm())], []
        for t in range(steps):
            _set(net, flat)
            loss = F.cross_entropy(net(x[rows[t % 4]]), y[rows[t % 4]])
            trained = [p for p in net.parameters() if p.requires_grad]
            gradient = nn.utils.parameters_to_vector(torch.autograd.grad(loss, trained))
            gradients.append(float(gradient.norm()))
            flat = step(t, flat, gradient)
            norms.append(float(flat.norm()))
        _set(net, flat)
        with torch.no_grad():
            return net(x[:batch]), norms, gradients

    saved = nn.utils.parameters_to_vector([p for p in net.parameters() if p.requires_grad]).detach().clone()
    plain, norms, gradients = run(None, lambda t, w, g: w - lr * (g + weight_decay * w))
    effective = [g * n for g, n in zip(gradients, norms, strict=False)]
    recurrence = max(
        abs(((1 - lr * weight_decay) ** 2 * n**2 + lr**2 * g**2) / m**2 - 1)
        for n, g, m in zip(norms, gradients, norms[1:], strict=False)
    )
    _set(net, saved)
    elrs = elr_schedule(lr, weight_decay, radius=norms[0], effective_gradient_norm=np.array(effective)).elr
    sphere, *_ = run(1.0, lambda t, w, g: _unit(w - float(elrs[t]) * g))
    _set(net, saved)
    growing = exponential_schedule(lr, weight_decay, steps).lr
    exponential, *_ = run(None, lambda t, w, g: w - float(growing[t]) * g)
    elr = lr / norms[0] ** 2
    _set(net, saved)
    small, *_ = run(1.0, lambda t, w, g: _unit(w - elr * g))
    _set(net, saved)
    large, *_ = run(10.0, lambda t, w, g: 10 * _unit(w - 100 * elr * g))
    return {
        "sphere": _apart(sphere, plain),
        "exponential": _apart(exponential, plain),
        "radius": _apart(small, large),
        "recurrence": recurrence,
    }


def _set(net: nn.Module, flat: Tensor) -> None:
    with torch.no_grad():
        nn.utils.vector_to_parameters(flat, [p for p in net.parameters() if p.requires_grad])


def _unit(flat: Tensor) -> Tensor:
    unit: Tensor = flat / flat.norm()
    return unit


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
