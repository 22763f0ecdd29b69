"""One step of training scale-invariant weights, exactly: how the norm, the direction and the ELR move.

For weights x of norm ρ on which the loss depends through their direction alone, <∇f(x), x> = 0, so that
x' = b x - η ∇f(x) with b = 1 - ηλ (SGD, coupled weight decay λ) obeys without approximation

    ρ'²  = b² ρ² + η² ‖∇f(x)‖²          norm: weight decay pulls in, the gradient pushes out
    x̂'   ∝ x̂ - η̃/b ∇f(x̂)                direction: a step on the unit sphere at ELR η̃/b,  η̃ = η/ρ²
    tan θ = s / b                         angle;  s = η ‖∇f(x)‖ / ρ  is the effective step
    η̃'   = η̃ / (b² + s²)                 ELR

Any subset of the weights whose common rescaling leaves f unchanged obeys the same laws with its own norm.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3; Wan et al., Spherical Motion Dynamics; Kodryan
et al., NeurIPS 2022 (joint sphere, individual ELRs).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, decay_factor, non_negative, numbers, plain, positive

__all__ = [
    "Step",
    "effective_elr",
    "effective_step",
    "elr_after",
    "group_elrs",
    "sgd_step",
    "shares_after",
    "sphere_elr",
    "total_elr",
    "update_step",
]


@dataclass(frozen=True)
class Step:
    """What one step did to scale-invariant weights.

    Attributes:
        radius: The norm after the step.
        angle: The angle between the weights before and after, radians in [0, π].
        elr: The effective learning rate after the step, lr / radius²; None if no lr was given.
    """

    radius: Any
    angle: Any
    elr: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def effective_elr(radius: Numbers, lr: Numbers) -> Any:
    """The effective learning rate ``lr / radius²`` of scale-invariant weights (dimensionless).

    Args:
        radius: Norm of the weights, positive, any shape.
        lr: Learning rate, positive, broadcast against ``radius``.

    Returns:
        A float, or an array of the broadcast shape.

    Raises:
        ValueError: A radius or learning rate is not positive and finite, or empty.

    Source: Kodryan et al., NeurIPS 2022, section 2.
    """
    return plain(positive("lr", lr) / positive("radius", radius) ** 2)


def effective_step(radius: Numbers, gradient_norm: Numbers, lr: Numbers) -> Any:
    """The effective step ``s = lr ‖∇f(x)‖ / radius``: ELR times the effective gradient's norm.

    Args:
        radius: Norm of the weights, positive.
        gradient_norm: Norm of the gradient at these weights, not negative.
        lr: Learning rate of the optimiser, positive.

    Returns:
        A float or array; dimensionless, the tangent of the step's angle when there is no weight decay.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    return plain(positive("lr", lr) * non_negative("gradient_norm", gradient_norm) / positive("radius", radius))


def sgd_step(radius: Numbers, gradient_norm: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Step:
    """One step of SGD with coupled weight decay, without momentum: exact for a scale-invariant loss.

    Args:
        radius: Norm of the weights before the step, positive.
        gradient_norm: Norm ‖∇f(x)‖ of the loss gradient at these weights (weight decay not included), not
            negative. It is the effective gradient's norm divided by the radius.
        lr: Learning rate η, positive.
        weight_decay: Coefficient λ of the L2 penalty as in ``torch.optim.SGD``, in [0, 1 / lr).

    Returns:
        Norm, angle (radians) and ELR after the step, in the broadcast shape of the arguments.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3 (norm recurrence); Wan et al. (angle).

    Example:
        >>> sgd_step(radius=2.0, gradient_norm=0.5, lr=0.1, weight_decay=0.01)
        Step(radius=1.998625..., angle=0.02501..., elr=0.025034...)
    """
    b = decay_factor(lr, weight_decay)
    rate = positive("lr", lr)
    rho = positive("radius", radius)
    push = rate * non_negative("gradient_norm", gradient_norm)
    after = np.hypot(b * rho, push)
    return Step(plain(after), plain(np.arctan2(push, b * rho)), plain(rate / after**2))


def update_step(radius: Numbers, radial: Numbers, update_norm: Numbers, lr: Numbers | None = None) -> Step:
    """One step of any optimiser, from its applied update Δ: ``ρ'² = ρ² + 2<x, Δ> + ‖Δ‖²``.

    Args:
        radius: Norm ρ of the weights before the step, positive.
        radial: The radial part <x, Δ> / ρ of the update, of either sign.
        update_norm: ‖Δ‖, at least ``|radial|``.
        lr: Learning rate, for the ELR after the step; None leaves it out.

    Returns:
        Norm, angle (radians) and ELR after the step.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty; the weights end at zero.

    Source: exact for every update; Wan et al. use it for momentum, where <x, Δ> does not vanish.
    """
    rho, along, size = positive("radius", radius), numbers("radial", radial), non_negative("update_norm", update_norm)
    if not (np.abs(along) <= size * (1 + 1e-12)).all():
        raise ValueError("radial is larger than update_norm; the radial part <x, update> / radius cannot exceed it")
    # The product of sum and difference keeps what a difference of squares loses.
    tangent = np.sqrt(np.maximum((size - along) * (size + along), 0.0))
    after = np.hypot(rho + along, tangent)
    if not (after > 0).all():
        raise ValueError("the update takes the weights to zero, where they have no direction")
    elr = None if lr is None else plain(positive("lr", lr) / after**2)
    return Step(plain(after), plain(np.arctan2(tangent, rho + along)), elr)


def sphere_elr(radius: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Any:
    """The fixed ELR whose one projected step on the sphere moves the direction as this step of SGD does.

    ``lr / (radius² (1 - lr weight_decay))``: weight decay shortens the weights before the gradient is applied,
    which enlarges the plain ELR by the factor 1 / (1 - lr weight_decay). Exact.

    Args:
        radius: Norm of the weights before the step, positive.
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: follows from Kodryan et al., NeurIPS 2022, section 2, by normalising the step.
    """
    return plain(positive("lr", lr) / (positive("radius", radius) ** 2 * decay_factor(lr, weight_decay)))


def elr_after(elr: Numbers, effective_step: Numbers, lr: Numbers, weight_decay: Numbers = 0.0) -> Any:
    """The ELR after a step: ``elr / (b² + s²)``, b = 1 - lr weight_decay. Exact for SGD.

    Weight decay multiplies the ELR by about exp(2 lr weight_decay) a step, gradients divide it.

    Args:
        elr: ELR before the step, positive.
        effective_step: s = ELR times the effective gradient's norm, not negative.
        lr: Learning rate (it enters through lr · weight_decay alone), positive.
        weight_decay: Coupled weight decay, in [0, 1 / lr).

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    s = non_negative("effective_step", effective_step)
    return plain(positive("elr", elr) / (decay_factor(lr, weight_decay) ** 2 + s**2))


def total_elr(elrs: Numbers, axis: int = -1) -> Any:
    """The ELR of all groups together: ``1 / elr = Σ 1 / elr_i``, since squared norms add up.

    Args:
        elrs: ELRs of disjoint scale-invariant groups under one learning rate, positive, groups along ``axis``.
        axis: The axis of the groups.

    Returns:
        A float, or an array without that axis.

    Raises:
        ValueError: An ELR is not positive and finite, or there is none.

    Source: Kodryan et al., NeurIPS 2022, section 3.
    """
    return plain(1 / (1 / np.atleast_1d(positive("elrs", elrs))).sum(axis=axis))


def group_elrs(elr: Numbers, shares: Numbers) -> Any:
    """The individual ELR of each group on a joint sphere: ``elr / share_i``.

    Args:
        elr: Total ELR, positive; broadcast against ``shares`` without its last axis.
        shares: What part of the squared norm each group holds, positive, summing to one along the last axis.

    Returns:
        An array of the shape of ``shares``.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty; shares do not sum to one.

    Source: Kodryan et al., NeurIPS 2022, section 3.
    """
    return plain(positive("elr", elr)[..., None] / _shares(shares))


def shares_after(shares: Numbers, effective_steps: Numbers) -> Any:
    """How the shares of a joint sphere move in one step: ``r_i² ← r_i² (1 + s_i²) / Σ_j r_j² (1 + s_j²)``. Exact.

    Only the total norm is fixed. A group that turns more than the others gains share and so loses ELR; the
    shares stand still only where all effective steps are equal. Weight decay at equilibrium balances the
    same way, with s_i² = 2 lr weight_decay for every group.

    Args:
        shares: Part of the squared norm each group holds, positive, summing to one along the last axis.
        effective_steps: Each group's own effective step s_i = ELR_i · ‖effective gradient_i‖, not negative,
            broadcast against ``shares``.

    Returns:
        An array of the broadcast shape, summing to one along the last axis.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty; shares do not sum to one.

    Source: Kodryan et al., NeurIPS 2022, section 3 (equalised effective steps).
    """
    grown = _shares(shares) * (1 + non_negative("effective_steps", effective_steps) ** 2)
    return plain(grown / grown.sum(axis=-1, keepdims=True))


def _shares(shares: Numbers) -> Array:
    found = np.atleast_1d(positive("shares", shares))
    total = found.sum(axis=-1)
    if not np.allclose(total, 1, rtol=0, atol=1e-6):
        raise ValueError(f"shares sum to {float(np.ravel(total)[0]):g}; they must sum to one along the last axis")
    return found
