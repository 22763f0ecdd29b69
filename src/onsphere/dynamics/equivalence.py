"""Different recipes, same directions: what a run in the whole space is on the sphere, and the other way round.

    lr, weight decay  ->  ELR schedule      elr_t = η_t / (ρ_t² (1 - η_t λ_t)),  ρ_t by the norm recurrence
    ELR schedule      ->  lr, weight decay  η_t = elr_t ρ_t² / (1 + elr_t ρ_t² λ)
    weight decay      ->  growing lr        lr_t = η α^(-2t-1), no weight decay; α + μ/α = 1 + μ - ηλ
    fixed ELR        <->  fixed angle       tan angle = elr g̃

All are exact for scale-invariant weights and reproduce the directions, and with them the function, step by step.

Source: Kodryan et al., NeurIPS 2022 (sphere); Li and Arora, ICLR 2020 (exponential learning rate); the fixed angle is
the step of Hyperball-style optimisers, which normalise the update as well as the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, decay_factor, fraction, non_negative, numbers, plain, positive
from onsphere.results import frame

__all__ = [
    "ExponentialSchedule",
    "Schedule",
    "angle_from_elr",
    "elr_from_angle",
    "elr_schedule",
    "exponential_schedule",
    "lr_schedule",
]


@dataclass(frozen=True)
class Schedule:
    """A run in the whole space and the run on the sphere with the same directions.

    Attributes:
        elr: ELR of the step on the sphere, [T].
        lr: Learning rate in the whole space, [T].
        weight_decay: Coupled weight decay in the whole space, [T].
        radius: Norm of the weights before each step and after the last, [T + 1].
    """

    elr: Array
    lr: Array
    weight_decay: Array
    radius: Array

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)

    def to_frame(self) -> Any:
        """One row a step as a pandas data frame (needs pandas)."""
        columns = {"elr": self.elr, "lr": self.lr, "weight_decay": self.weight_decay, "radius": self.radius[:-1]}
        return frame(columns)


@dataclass(frozen=True)
class ExponentialSchedule:
    """Training without weight decay that has the directions of training with it.

    Attributes:
        lr: Learning rate of each step, [T].
        rate: α < 1; weights at step t are α^-t times those of the run with weight decay.
        momentum: Momentum, the same as with weight decay.
        initial_velocity: The momentum buffer starts at this times the initial weights (0 without momentum).
    """

    lr: Array
    rate: float
    momentum: float
    initial_velocity: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def elr_schedule(lr: Numbers, weight_decay: Numbers, *, radius: float, effective_gradient_norm: Numbers) -> Schedule:
    """A run of SGD with a learning-rate schedule and weight decay as an ELR schedule on the sphere.

    Args:
        lr: η_t of each step, [T] or a number, positive.
        weight_decay: λ_t, [T] or a number, in [0, 1 / lr).
        radius: Norm of the weights before the first step, positive.
        effective_gradient_norm: g̃_t of each step, [T] or a number, not negative.

    Returns:
        The ELRs, and the norms by the exact recurrence. At least one argument must be an array [T].

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or the lengths differ.

    Source: exact; the sphere step of Kodryan et al., NeurIPS 2022, section 2.
    """
    rate, decay, gradient = _series(
        lr=positive("lr", lr),
        weight_decay=non_negative("weight_decay", weight_decay),
        effective_gradient_norm=non_negative("effective_gradient_norm", effective_gradient_norm),
    )
    b = decay_factor(rate, decay)
    square = np.empty(len(rate) + 1)
    square[0] = float(positive("radius", radius)) ** 2
    for t in range(len(rate)):
        square[t + 1] = b[t] ** 2 * square[t] + (rate[t] * gradient[t]) ** 2 / square[t]
    return Schedule(rate / (square[:-1] * b), rate, decay, np.sqrt(square))


def lr_schedule(
    elr: Numbers, weight_decay: Numbers = 0.0, *, radius: float, effective_gradient_norm: Numbers
) -> Schedule:
    """The learning rates that make SGD with weight decay follow an ELR schedule; inverse of :func:`elr_schedule`.

    Args:
        elr: ELR of each step on the sphere, [T] or a number, positive.
        weight_decay: λ_t, [T] or a number, not negative; any is allowed, since the learning rate gives way.
        radius: Norm of the weights before the first step, positive.
        effective_gradient_norm: g̃_t of each step, [T] or a number, not negative.

    Returns:
        The learning rates η_t = elr_t ρ_t² / (1 + elr_t ρ_t² λ_t), and the norms. At least one argument must
        be an array [T].

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or the lengths differ.

    Source: exact; the sphere step of Kodryan et al., NeurIPS 2022, section 2.
    """
    wanted, decay, gradient = _series(
        elr=positive("elr", elr),
        weight_decay=non_negative("weight_decay", weight_decay),
        effective_gradient_norm=non_negative("effective_gradient_norm", effective_gradient_norm),
    )
    square, rate = np.empty(len(wanted) + 1), np.empty(len(wanted))
    square[0] = float(positive("radius", radius)) ** 2
    for t in range(len(wanted)):
        step = wanted[t] * square[t]
        rate[t] = step / (1 + step * decay[t])
        b = 1 - rate[t] * decay[t]
        square[t + 1] = b**2 * square[t] + (rate[t] * gradient[t]) ** 2 / square[t]
    return Schedule(wanted, rate, decay, np.sqrt(square))


def exponential_schedule(lr: float, weight_decay: float, steps: int, *, momentum: float = 0.0) -> ExponentialSchedule:
    """Constant lr and weight decay as an exponentially growing learning rate without weight decay.

    With heavy-ball momentum μ (as in ``torch.optim.SGD``) the growth is that of the larger root of
    α + μ/α = 1 + μ - ηλ; without, α = 1 - ηλ. Exact for any scale-invariant loss.

    Args:
        lr: Learning rate η, positive.
        weight_decay: λ, in [0, 1 / lr).
        steps: Number of steps T, at least 1. The learning rates grow as α^-2t and must stay finite.
        momentum: μ in [0, 1).

    Returns:
        Learning rates ``η α^(-2t-1)`` and what momentum needs at the start.

    Raises:
        ValueError: An argument is out of its range; weight decay too large for this momentum, so that the
            weights oscillate (no real root); the learning rate would overflow.

    Source: Li and Arora, ICLR 2020, theorems on the equivalence with and without momentum.
    """
    rate, mu = float(positive("lr", lr)), float(fraction("momentum", momentum, zero=True))
    b = float(decay_factor(lr, weight_decay))
    if int(steps) != steps or steps < 1:
        raise ValueError(f"steps is {steps}; it must be a positive whole number")
    total = mu + b
    if total**2 < 4 * mu:
        raise ValueError(
            f"lr * weight_decay is {1 - b:g}; with momentum {mu:g} it must be at most "
            f"{(1 - mu**0.5) ** 2:g}, or the weights oscillate and no growing learning rate matches"
        )
    alpha = (total + (total**2 - 4 * mu) ** 0.5) / 2
    exponents = -np.log(alpha) * (2 * np.arange(int(steps)) + 1)
    if exponents[-1] + np.log(rate) > np.log(np.finfo(np.float64).max):
        raise ValueError(f"steps is {steps}; the learning rate would overflow, rescale the weights on the way instead")
    velocity = -(1 - alpha) / (rate * alpha) if mu else 0.0
    return ExponentialSchedule(rate * np.exp(exponents), alpha, mu, velocity)


def angle_from_elr(elr: Numbers, effective_gradient_norm: Numbers) -> Any:
    """The angle of one step at fixed ELR: ``atan(elr g̃)``. It shrinks with the gradient, so that training can converge.

    Args:
        elr: Effective learning rate, positive.
        effective_gradient_norm: Norm g̃ of the gradient at the unit sphere, not negative.

    Returns:
        Radians in [0, π/2), a float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Kodryan et al., NeurIPS 2022, section 2.
    """
    g = non_negative("effective_gradient_norm", effective_gradient_norm)
    return plain(np.arctan(positive("elr", elr) * g))


def elr_from_angle(angle: Numbers, effective_gradient_norm: Numbers) -> Any:
    """The ELR at which a step turns by a fixed angle: ``tan(angle) / g̃``. It grows as the gradient vanishes.

    A step that fixes the norms of weights and update (Hyperball) has this ELR; that of weight decay at
    equilibrium too, with the equilibrium's angle.

    Args:
        angle: Radians in (0, π/2).
        effective_gradient_norm: Norm g̃ of the gradient at the unit sphere, positive.

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: geometry of the projected step.
    """
    theta = numbers("angle", angle)
    if not ((theta > 0) & (theta < np.pi / 2)).all():
        raise ValueError(f"angle is {float(np.ravel(theta)[0]):g}; it must lie in (0, pi/2) radians")
    return plain(np.tan(theta) / positive("effective_gradient_norm", effective_gradient_norm))


def _series(**named: Array) -> list[Array]:
    """Numbers and series [T] as series of one length."""
    lengths = {name: array.shape[0] for name, array in named.items() if array.ndim == 1}
    for name, array in named.items():
        if array.ndim > 1:
            raise ValueError(f"{name} has shape {array.shape}; it must be a number or one value a step")
    if len(set(lengths.values())) != 1:
        raise ValueError(f"lengths are {lengths}; at least one argument must be a series, and all of one length")
    steps = next(iter(lengths.values()))
    return [np.broadcast_to(array, (steps,)) for array in named.values()]
