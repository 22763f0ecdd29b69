"""Training on the sphere as an ideal gas: temperature, pressure, volume, entropy, free energies, for three protocols.

There are d scale-invariant parameters of norm r; TrSigma is the trace of the covariance of the stochastic gradient on
the unit sphere, and sigma² = TrSigma / (d - 1). The protocols differ in what is held fixed:

    protocol      held fixed                 T                                 r, p
    "fixed_elr"   elr = lr / r², decay wd    elr sigma² / 2                    r² = T (d - 1) / wd,              p = wd
    "fixed_lr"    lr, decay wd               sqrt(lr wd sigma² / (2 (d - 1)))  r⁴ = lr sigma² (d - 1) / (2 wd),  p = wd
    "sphere"      elr, r                     elr sigma² / 2                    p = T (d - 1) / r²

The volume is V = r² / 2, and p V = (d - 1) T / 2 in all three: the law of an ideal gas. The mean loss is the internal
energy U; free energies are in :mod:`onsphere.dynamics.free_energy`, Maxwell's relations in
:mod:`onsphere.dynamics.maxwell`.

These are laws of small steps. The discrete correction replaces TrSigma by the second moment of the gradient,
TrSigma + |grad L|²: pass ``gradient_norm``. Where the loss is quadratic and the noise isotropic, the corrected T gives
U = (d - 1) T / 2 to all orders in elr. What is left on the sphere is of relative order s² = elr² (TrSigma + |grad L|²),
the squared angle of a step.

Source: Sadrtdinov et al. 2025 (ideal gas; free energy).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, non_negative, numbers, plain, positive
from onsphere.dynamics._protocols import Protocol, given, known, only, rate_and_decay, space_dimension

__all__ = ["Protocol", "growth_pressure", "pressure", "stationary_radius", "temperature", "total_entropy"]


def temperature(
    protocol: Protocol,
    *,
    dimension: int,
    noise_trace: Numbers,
    elr: Numbers | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    gradient_norm: Numbers = 0.0,
) -> Any:
    """The temperature a protocol trains at, by the table above.

    Args:
        protocol: What is held fixed.
        dimension: Dimension d of the weights, at least 2.
        noise_trace: TrSigma > 0, of the gradient on the unit sphere (r² times that at norm r).
        elr: Effective learning rate, for "fixed_elr" and "sphere".
        lr: Learning rate, for "fixed_lr".
        weight_decay: Coupled weight decay, for "fixed_lr", in (0, 1 / lr).
        gradient_norm: |grad L| on the unit sphere, for the discrete correction.

    Returns:
        T, in units of the loss; the arguments broadcast.

    Raises:
        ValueError: An argument is missing, not wanted, not positive, or ``weight_decay`` is at least 1 / lr.
    """
    d, moment = space_dimension(dimension), _second_moment(noise_trace, gradient_norm)
    if known(protocol) == "fixed_lr":
        only(protocol, elr=elr)
        rate, decay = rate_and_decay(protocol, lr, weight_decay)
        return plain(np.sqrt(rate * decay * moment / 2) / (d - 1))
    only(protocol, lr=lr)
    return plain(positive("elr", given(protocol, elr=elr)) * moment / (2 * (d - 1)))


def stationary_radius(
    protocol: Protocol,
    *,
    noise_trace: Numbers,
    elr: Numbers | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    gradient_norm: Numbers = 0.0,
) -> Any:
    """The norm the weights settle at: r² = elr m / (2 wd) at a fixed ELR, r⁴ = lr m / (2 wd) at a fixed lr.

    m = TrSigma + |grad L|². Under gradients of one norm the exact fixed point is larger, to first order by a factor
    1 + s² / 8 at a fixed ELR, s² = elr² m, and 1 + lr wd / 8 at a fixed lr. Where |grad|² fluctuates, with a relative
    variance v from step to step, the root mean square at a fixed ELR is smaller by v s² / 4 in turn.

    Args:
        protocol: "fixed_elr" or "fixed_lr"; on the sphere the norm is chosen.
        noise_trace: TrSigma > 0, of the gradient on the unit sphere.
        elr: Effective learning rate, for "fixed_elr".
        lr: Learning rate, for "fixed_lr".
        weight_decay: Coupled weight decay, positive and below 1 / lr.
        gradient_norm: |grad L| on the unit sphere, for the discrete correction.

    Returns:
        The norm r; the arguments broadcast.

    Raises:
        ValueError: As :func:`temperature`; the protocol is "sphere"; or elr² m >= 1, where no norm is stationary.
    """
    moment = _second_moment(noise_trace, gradient_norm)
    if known(protocol) == "sphere":
        raise ValueError('protocol is "sphere": its radius is chosen, not a result; use "fixed_elr" or "fixed_lr"')
    if protocol == "fixed_lr":
        only(protocol, elr=elr)
        rate, decay = rate_and_decay(protocol, lr, weight_decay)
        return plain((rate * moment / (2 * decay)) ** 0.25)
    only(protocol, lr=lr)
    rate, decay = (
        positive("elr", given(protocol, elr=elr)),
        positive("weight_decay", given(protocol, weight_decay=weight_decay)),
    )
    if not (rate**2 * moment < 1).all():
        raise ValueError(
            f"elr² times the gradient's second moment is {(rate**2 * moment).max():g}; it must be below 1, or the norm "
            "grows faster than any weight decay shrinks it: lower elr"
        )
    return plain(np.sqrt(rate * moment / (2 * decay)))


def pressure(dimension: int, temperature: Numbers, radius: Numbers) -> Any:
    """The weight decay that would hold the weights at this norm, p = T (d - 1) / r².

    Args:
        dimension: Dimension d of the weights, at least 2.
        temperature: Temperature T, positive, in units of the loss.
        radius: Norm r of the weights, positive.

    Returns:
        p, in units of weight decay; the arguments broadcast.

    Raises:
        ValueError: An argument is not positive, or ``dimension`` is below 2.
    """
    return plain(
        positive("temperature", temperature) * (space_dimension(dimension) - 1) / positive("radius", radius) ** 2
    )


def growth_pressure(radius: Numbers, grown_radius: Numbers, elr: Numbers) -> Any:
    """The pressure as measured on the sphere: p = (|x'| - r) / (elr r³), from the norm after a step without projection.

    Its mean is elr (TrSigma + |grad L|²) / (2 r²), which is T (d - 1) / r² with the discrete correction, up to a
    relative -s² / 4 + O(s⁴), s = elr |grad| the effective step.

    Args:
        radius: r > 0, of the sphere.
        grown_radius: |x'|, after the gradient step and before the projection. Take it in float64: it exceeds r by a
            relative s² / 2 only.
        elr: Effective learning rate; the step was x' = x - elr r² grad f(x).

    Returns:
        p, in units of weight decay; the arguments broadcast.

    Raises:
        ValueError: An argument is not positive.
    """
    r = positive("radius", radius)
    return plain((positive("grown_radius", grown_radius) - r) / (positive("elr", elr) * r**3))


def total_entropy(dimension: int, sphere_entropy: Numbers, radius: Numbers) -> Any:
    """S = S_sphere + (d - 1) ln r: the entropy of the weights at norm r from that of their directions.

    Args:
        dimension: Dimension d of the weights, at least 2.
        sphere_entropy: Differential entropy on the unit sphere, nats.
        radius: Norm r of the weights, positive; where it fluctuates, its geometric mean.

    Returns:
        The entropy S in nats; the arguments broadcast.

    Raises:
        ValueError: ``radius`` is not positive, or ``dimension`` is below 2.
    """
    d = space_dimension(dimension)
    return plain(numbers("sphere_entropy", sphere_entropy) + (d - 1) * np.log(positive("radius", radius)))


def _second_moment(noise_trace: Numbers, gradient_norm: Numbers) -> Array:
    return np.asarray(positive("noise_trace", noise_trace) + non_negative("gradient_norm", gradient_norm) ** 2)
