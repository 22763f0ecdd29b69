"""The generalised equilibrium: what holds on average although the effective gradient never settles.

Summing the exact recurrence ρ_{t+1}²/ρ_t² = b² + s_t² over a window [t0, t1) gives, for any gradients,

    Σ ln(b² + s_t²) = 2 ln(ρ_{t1} / ρ_{t0})

so over a whole period (the norm returns) ln(b² + s²) averages to zero: mean s² >= 1 - b² ≈ 2ηλ (Jensen), with
equality only at constant steps. The excess measures how jumpy the run is. If ℓ <= g̃ <= L, the norm ends up in a band.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3 (generalised equilibrium); the window identity is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Numbers, decay_factor, non_negative, plain, positive
from onsphere.dynamics.jumps import gradient_bounds

__all__ = ["GeneralisedEquilibrium", "NormBand", "averaged_law_residual", "generalised_equilibrium", "norm_band"]


@dataclass(frozen=True)
class GeneralisedEquilibrium:
    """A window of steps against the averaged law.

    Attributes:
        drift: Mean of ln(b² + s²), the growth of ln ρ² per step; 0 at generalised equilibrium.
        mean_square_step: Mean of the squared effective step s².
        balance: 1 - b², the value of s² at a constant equilibrium.
        jumpiness: mean_square_step / balance - 1 after removing the drift; 0 for constant steps, never negative
            by more than rounding.
    """

    drift: Any
    mean_square_step: Any
    balance: Any
    jumpiness: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class NormBand:
    """Where the norm ends up if the effective gradient's norm stays between two bounds.

    Attributes:
        low: Lower end of the norm's band.
        high: Upper end of the norm's band.
        guaranteed: Whether ℓ/L >= tan θ*, under which the band holds; otherwise jumps may leave it.
    """

    low: Any
    high: Any
    guaranteed: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def generalised_equilibrium(
    effective_steps: Numbers, lr: Numbers, weight_decay: Numbers, axis: int = -1
) -> GeneralisedEquilibrium:
    """How far a window of steps is from the generalised equilibrium, and how jumpy it is.

    Args:
        effective_steps: s_t of consecutive steps along ``axis``, not negative.
        lr: Learning rate, positive; a number, or an array like ``effective_steps``.
        weight_decay: In [0, 1 / lr); likewise.
        axis: The axis of time.

    Returns:
        Floats, or arrays without that axis.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: see the module.
    """
    square = np.atleast_1d(non_negative("effective_steps", effective_steps)) ** 2
    b2 = np.broadcast_to(decay_factor(lr, weight_decay) ** 2, square.shape)
    growth = b2 + square
    drift = np.log(growth).mean(axis=axis)
    excess = growth.mean(axis=axis) - np.exp(drift)
    balance = (1 - b2).mean(axis=axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        jumpiness = np.where(balance > 0, excess / balance, np.where(excess > 0, np.inf, 0.0))
    return GeneralisedEquilibrium(plain(drift), plain(square.mean(axis=axis)), plain(balance), plain(jumpiness))


def averaged_law_residual(
    radii: Numbers, effective_steps: Numbers, lr: Numbers, weight_decay: Numbers, axis: int = -1
) -> Any:
    """Σ ln(b² + s_t²) - 2 ln(ρ_T / ρ_0): zero to rounding for SGD on scale-invariant weights, a self-test of readings.

    Args:
        radii: Norms ρ_0 .. ρ_T along ``axis`` (one more than steps), positive.
        effective_steps: s_0 .. s_{T-1} along ``axis``, not negative.
        lr: Learning rate, positive; a number, or an array like ``effective_steps``.
        weight_decay: In [0, 1 / lr); likewise.
        axis: The axis of time.

    Returns:
        A float, or an array without that axis.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or the lengths do not match.

    Source: see the module.
    """
    rho = np.atleast_1d(positive("radii", radii))
    square = np.atleast_1d(non_negative("effective_steps", effective_steps)) ** 2
    if rho.shape[axis] != square.shape[axis] + 1:
        raise ValueError(
            f"there are {rho.shape[axis]} radii for {square.shape[axis]} effective_steps; "
            "give the norm before every step and after the last"
        )
    b2 = np.broadcast_to(decay_factor(lr, weight_decay) ** 2, square.shape)
    change = np.log(np.take(rho, -1, axis=axis) / np.take(rho, 0, axis=axis))
    return plain(np.log(b2 + square).sum(axis=axis) - 2 * change)


def norm_band(gradient_low: Numbers, gradient_high: Numbers, lr: Numbers, weight_decay: Numbers) -> NormBand:
    """The band ρ² ∈ [ℓ, L] · √(η / (2λ - ηλ²)) into which the norm settles, at a linear rate.

    Args:
        gradient_low: ℓ, lower bound of the effective gradient's norm, not negative.
        gradient_high: L, upper bound, positive, at least ℓ.
        lr: Learning rate η, positive.
        weight_decay: λ, in (0, 1 / lr).

    Returns:
        Both ends and whether the bound's condition ℓ/L >= tan θ* = √(1 - b²)/b holds.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty, or ℓ > L.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    positive("weight_decay", weight_decay)
    rate, b = positive("lr", lr), decay_factor(lr, weight_decay)
    low, high = gradient_bounds(gradient_low, gradient_high)
    sine = np.sqrt((1 - b) * (1 + b))
    square = rate / sine
    guaranteed = low * b >= high * sine
    return NormBand(
        low=plain(np.sqrt(low * square)),
        high=plain(np.sqrt(high * square)),
        guaranteed=bool(guaranteed) if guaranteed.ndim == 0 else guaranteed,
    )
