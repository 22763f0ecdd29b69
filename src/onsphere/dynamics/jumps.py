"""δ-jumps of SGD with weight decay on scale-invariant weights: what makes one, whether and when it can come.

Step t is a δ-jump if 1 - cos(x_t, x_{t+1}) > δ. With b = 1 - ηλ and κ(δ) = √(1/(1-δ)² - 1) ≈ √(2δ) that is

    s_t = η̃_t g̃_t > κ b        the effective step against a threshold (exact)

where g̃ is the norm of the effective gradient (at the unit sphere). If ℓ <= g̃ <= L, the norm recurrence gives
bounds on the time to the first jump from norm ρ_0, with a = b²:

    T_min = ln[(ρ_0⁴ - R²)/(r_J² - R²)] / (-4 ln b),   R² = 2aη²ℓ²/(1-a²),       r_J = ηL/(bκ)
    T_max = ln[(ρ_0⁴ - Q²)/(r_ℓ² - Q²)] / (-4 ln b),   Q² = aη²L²(2+κ²)/(1-a²),  r_ℓ = ηℓ/(bκ)

Jumps of interest have δ well above ηλ, the value at a constant equilibrium.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3 (jumps and their times; constants derived anew).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, decay_factor, fraction, non_negative, plain, positive

__all__ = [
    "JumpTimes",
    "cosine_distance",
    "default_delta",
    "elr_drop",
    "is_jump",
    "jump_possible",
    "jump_threshold",
    "jump_time_bounds",
    "recovery_steps",
]


@dataclass(frozen=True)
class JumpTimes:
    """Bounds on the number of steps before the first δ-jump.

    Attributes:
        minimum: No jump can come in fewer steps; infinite if none can come at all.
        maximum: A jump has come after so many steps (rounded up); infinite if none is guaranteed.
    """

    minimum: Any
    maximum: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def jump_threshold(delta: Numbers) -> Any:
    """κ(δ) = √(1/(1-δ)² - 1), the tangent of the smallest angle that counts as a δ-jump.

    Args:
        delta: Cosine distance δ in (0, 1).

    Returns:
        A float or array; √(2δ) to leading order.

    Raises:
        ValueError: δ is not in (0, 1).

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    d = fraction("delta", delta)
    return plain(np.sqrt(d * (2 - d)) / (1 - d))


def default_delta(lr: Numbers, weight_decay: Numbers) -> Any:
    """A δ for detection: ``max(0.02, 7 lr weight_decay)``, well above the equilibrium's ``lr weight_decay``.

    Args:
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A float or array, at most 0.5.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: a convention of this package; seven times the equilibrium's value, since minibatch noise spreads around it.
    """
    return plain(np.clip(7 * (1 - decay_factor(lr, weight_decay)), 0.02, 0.5))


def cosine_distance(effective_step: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Any:
    """1 - cos of a step's angle, without the cancellation of computing the cosine first.

    Args:
        effective_step: s = ELR times the effective gradient's norm, not negative.
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A float or array in [0, 1).

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    b, s = decay_factor(lr, weight_decay), non_negative("effective_step", effective_step)
    hypotenuse = np.hypot(b, s)
    return plain(s**2 / (hypotenuse * (hypotenuse + b)))


def is_jump(effective_step: Numbers, delta: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Any:
    """Whether a step is a δ-jump: ``effective_step > κ(δ) (1 - lr weight_decay)``. Exact.

    Args:
        effective_step: s = ELR times the effective gradient's norm, not negative.
        delta: δ in (0, 1).
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A bool or boolean array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    s = non_negative("effective_step", effective_step)
    return _truth(s > jump_threshold(delta) * decay_factor(lr, weight_decay))


def jump_possible(
    delta: Numbers, gradient_low: Numbers, gradient_high: Numbers, lr: Numbers, weight_decay: Numbers
) -> Any:
    """Whether δ-jumps can occur after the transient: only if κ(δ) < (L/ℓ) tan θ*.

    tan θ* = √(1 - b²) / b belongs to the equilibrium at a constant gradient. To leading order the condition is
    δ < lr · weight_decay · (L/ℓ)²: jumps need a large spread of effective gradients.

    Args:
        delta: δ in (0, 1).
        gradient_low: ℓ, lower bound of the effective gradient's norm, not negative (0: always possible).
        gradient_high: L, upper bound, positive, at least ℓ.
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in (0, 1 / lr).

    Returns:
        A bool or boolean array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or ℓ > L.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    positive("weight_decay", weight_decay)
    b = decay_factor(lr, weight_decay)
    low, high = gradient_bounds(gradient_low, gradient_high)
    return _truth(np.asarray(jump_threshold(delta)) * low * b < high * np.sqrt((1 - b) * (1 + b)))


def jump_time_bounds(
    radius: Numbers,
    gradient_low: Numbers,
    gradient_high: Numbers,
    delta: Numbers,
    lr: Numbers,
    weight_decay: Numbers,
) -> JumpTimes:
    """Bounds on the steps before the first δ-jump, for any gradients with ℓ <= g̃ <= L.

    T_min is never undercut; g̃ = ℓ until g̃ = L makes a jump reaches it within two steps, unless jumps of δ are all but
    impossible (:func:`jump_possible` at 1.5 δ says no), where it takes longer than T_min. T_max is an upper
    bound, finite only if even the smallest gradient makes a jump at the norm that the largest can hold
    (to leading order δ < lr · weight_decay · (ℓ/L)²).

    Args:
        radius: Norm ρ_0 of the weights now, positive.
        gradient_low: ℓ, lower bound of the effective gradient's norm (at the unit sphere), not negative.
        gradient_high: L, upper bound, positive, at least ℓ.
        delta: δ in (0, 1).
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in (0, 1 / lr).

    Returns:
        Numbers of steps that come before the jump's own (0: the next step may jump or must jump).

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or ℓ > L.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    positive("weight_decay", weight_decay)
    rate, b = positive("lr", lr), decay_factor(lr, weight_decay)
    low, high = gradient_bounds(gradient_low, gradient_high)
    kappa = np.asarray(jump_threshold(delta))
    fourth = positive("radius", radius) ** 4
    a = b**2
    spread = a * rate**2 / ((1 - a) * (1 + a))
    can_jump, must_jump = (rate * high / (b * kappa)) ** 2, (rate * low / (b * kappa)) ** 2
    return JumpTimes(
        minimum=plain(_steps_down(fourth, can_jump, 2 * spread * low**2, b)),
        maximum=plain(_steps_down(fourth, must_jump, spread * high**2 * (2 + kappa**2), b)),
    )


def elr_drop(effective_step: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Any:
    """The factor b² + s² by which a step with effective step s divides the ELR (above 1: a drop). Exact.

    Args:
        effective_step: s = ELR times the effective gradient's norm, not negative.
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    return plain(decay_factor(lr, weight_decay) ** 2 + non_negative("effective_step", effective_step) ** 2)


def recovery_steps(
    elr_trough: Numbers,
    elr_jump: Numbers,
    lr: Numbers,
    weight_decay: Numbers,
    effective_gradient_norm: Numbers = 0.0,
) -> Any:
    """Steps that weight decay needs to raise the ELR from its trough after a jump to the level of the next.

    Without gradients ``ln(elr_jump / elr_trough) / (-2 ln(1 - lr weight_decay))``, exact. With a constant
    effective gradient g̃ the fourth power of the norm falls towards R² = 2b²η²g̃²/(1 - b⁴), which takes longer:
    a lower bound whose error is of relative order (effective step)².

    Args:
        elr_trough: ELR after the jump, positive.
        elr_jump: ELR at which the next jump is expected, positive; below the trough the time is 0.
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in (0, 1 / lr).
        effective_gradient_norm: g̃ on the way (root mean square), not negative.

    Returns:
        Steps, a float or array; infinite if the gradients hold the ELR below ``elr_jump``.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: norm recurrence of Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    positive("weight_decay", weight_decay)
    rate, b = positive("lr", lr), decay_factor(lr, weight_decay)
    start, end = rate / positive("elr_trough", elr_trough), rate / positive("elr_jump", elr_jump)
    g = non_negative("effective_gradient_norm", effective_gradient_norm)
    floor = 2 * b**2 * (rate * g) ** 2 / ((1 - b**2) * (1 + b**2))
    return plain(_steps_down(start**2, end**2, floor, b))


def gradient_bounds(low: Numbers, high: Numbers) -> tuple[Array, Array]:
    """Check ℓ <= L, the bounds of an effective gradient's norm (ValueError)."""
    least, most = non_negative("gradient_low", low), positive("gradient_high", high)
    if not (least <= most).all():
        raise ValueError(
            f"gradient_low is {least.max():g} and gradient_high {most.min():g}; "
            "the lower bound must not exceed the upper"
        )
    return least, most


def _steps_down(start: Array, end: Array, floor: Array, b: Array) -> Array:
    """Steps for ρ⁴ - floor to shrink by b⁴ each from ``start`` to ``end``; 0 if there already, inf if never."""
    start, end, floor, b = np.broadcast_arrays(start, end, floor, b)
    steps = np.full(start.shape, np.inf)
    there, reachable = start <= end, (start > end) & (end > floor)
    steps[there] = 0.0
    ratio = (start[reachable] - floor[reachable]) / (end[reachable] - floor[reachable])
    steps[reachable] = np.log(ratio) / (-4 * np.log(b[reachable]))
    return steps


def _truth(array: Any) -> Any:
    return bool(array) if np.ndim(array) == 0 else np.asarray(array)
