"""The von Mises-Fisher law: what training on the sphere settles into when the gradient noise is isotropic.

The loss L(x) = 1 + <mu, x>, |mu| = 1, at temperature T on the unit sphere of R^d has the stationary density

    exp(-L(x) / T) / Z:   von Mises-Fisher around -mu with concentration kappa = 1 / T

    U = 1 - A,   A = I_{d/2}(kappa) / I_{d/2-1}(kappa)                       U -> (d - 1) T / 2
    S = (d/2) ln(2 pi) - (d/2 - 1) ln kappa + ln(exp(-kappa) I_{d/2-1}(kappa)) + kappa U
                                                                             S -> (d - 1)/2 ln(2 pi e T)

Bessel functions of a thousand dimensions underflow and 1 - A cancels at small T; both are computed so that neither
happens, to a relative error below 1e-12.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, plain, positive
from onsphere.dynamics._protocols import space_dimension

__all__ = ["vmf_energy", "vmf_entropy", "vmf_sample"]

#: From this order on Debye's uniform expansion below is right to about 1e-13.
_HIGH_ORDER = 120
#: U_1 to U_4 of DLMF 10.41(ii): a common denominator, then the coefficients of t^k, t^(k+2), ..., t^(3k).
_DEBYE = (
    (24, 3, -5),
    (1152, 81, -462, 385),
    (414720, 30375, -369603, 765765, -425425),
    (39813120, 4465125, -94121676, 349922430, -446185740, 185910725),
)


def vmf_energy(dimension: int, temperature: Numbers) -> Any:
    """Mean loss U = 1 - I_{d/2}(1/T) / I_{d/2-1}(1/T) of the isotropic-noise model, exact.

    At small T it is (d - 1) T / 2 to first order (equipartition); the next term is -(d - 1)(d - 3) T² / 8, and at d = 3
    the correction is exponentially small instead: U = 1 - coth(1/T) + T.

    Args:
        dimension: d >= 2, of the space.
        temperature: T > 0, in units of the loss. Any shape.

    Returns:
        Mean losses between 0 and 1, of the shape of ``temperature``.

    Raises:
        ValueError: ``dimension`` below 2, or a temperature that is not positive and finite.

    Source:
        Sadrtdinov et al. 2025 (ideal gas), isotropic noise model.
    """
    half = space_dimension(dimension) / 2
    return plain(_one_minus_ratio(half - 1, 1 / positive("temperature", temperature)))


def vmf_entropy(dimension: int, temperature: Numbers) -> Any:
    """Differential entropy of the von Mises-Fisher law on the unit sphere, exact, in nats.

    At small T it is (d - 1)/2 ln(2 pi e T), with an error of -(d - 1)(d - 3) T / 4 + O(T²) (exponentially small at
    d = 3); at large T it tends to ln of the sphere's area.

    Args:
        dimension: d >= 2, of the space.
        temperature: T > 0, in units of the loss. Any shape.

    Returns:
        Nats, of the shape of ``temperature``.

    Raises:
        ValueError: ``dimension`` below 2, or a temperature that is not positive and finite.

    Source:
        Sadrtdinov et al. 2025 (ideal gas), isotropic noise model.
    """
    half = space_dimension(dimension) / 2
    kappa = 1 / positive("temperature", temperature)
    # kappa^-order I_order(kappa), scaled: finite as kappa goes to 0
    normaliser = _log_bessel(half - 1, kappa) - (half - 1) * np.log(kappa)
    return plain(half * np.log(2 * np.pi) + normaliser + kappa * _one_minus_ratio(half - 1, kappa))


def vmf_sample(mean: Numbers, temperature: float, size: int, generator: np.random.Generator) -> Array:
    """Draw independent directions from a von Mises-Fisher law.

    Args:
        mean: Mean direction ``[d]``, d >= 2; its length does not matter. The isotropic-noise model has -mu.
        temperature: Temperature T, positive, the inverse of the concentration.
        size: How many directions are drawn.
        generator: numpy's generator that the directions are drawn with.

    Returns:
        Unit vectors, one a row, ``[size, d]``.

    Raises:
        ValueError: ``mean`` is zero or no vector of at least two entries, ``temperature`` is not positive, or ``size``
            is below 1.

    Source:
        Wood 1994, with 1 - cos computed directly, so that tiny temperatures keep their digits.
    """
    axis = numbers("mean", mean)
    if axis.ndim != 1 or axis.size < 2 or not axis.any():
        raise ValueError(f"mean has shape {axis.shape} and norm {np.linalg.norm(axis):g}; give a direction [d], d >= 2")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    axis = axis / np.linalg.norm(axis)
    sink = _one_minus_cosine(axis.size, float(1 / positive("temperature", temperature)), size, generator)[:, None]
    # a uniform direction orthogonal to the axis
    side = generator.standard_normal((size, axis.size))
    for _ in range(2):  # the second pass removes what rounding left
        side -= (side @ axis)[:, None] * axis
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    return np.asarray((1 - sink) * axis + np.sqrt(sink * (2 - sink)) * side)


def _one_minus_cosine(dimension: int, kappa: float, size: int, generator: np.random.Generator) -> Array:
    """1 - <mean, x> of ``size`` draws, by rejection from a beta-distributed envelope."""
    slope = (dimension - 1) / (2 * kappa + np.sqrt(4 * kappa**2 + (dimension - 1) ** 2))
    # 1 - x0 and the envelope's log height, with x0 = (1 - slope) / (1 + slope)
    gap = 2 * slope / (1 + slope)
    height = -kappa * gap + (dimension - 1) * np.log(4 * slope / (1 + slope) ** 2)
    drawn, found = [], 0
    while found < size:
        z = generator.beta((dimension - 1) / 2, (dimension - 1) / 2, size)
        sink = 2 * slope * z / (1 - (1 - slope) * z)
        # 1 - x0 w = (1 - x0) + x0 (1 - w)
        score = -kappa * sink + (dimension - 1) * np.log(gap + (1 - gap) * sink) - height
        kept = sink[score >= np.log1p(-generator.random(size))]
        drawn.append(kept)
        found += len(kept)
    return np.concatenate(drawn)[:size]


def _one_minus_ratio(order: float, kappa: Array) -> Array:
    """1 - I_{order+1}(kappa) / I_order(kappa), without cancellation.

    From a high order, where Debye's expansion holds, down by R_v = 1 / (2 (v + 1) / kappa + R_{v+1}) for the ratio
    R_v = I_{v+1} / I_v, written in q = 1 - R. Each step shrinks an error by R².
    """
    top = order + max(0, int(np.ceil(_HIGH_ORDER - order)))
    z = kappa / top
    root, series, slope = _debye(top, z)
    q = (1 + 1 / (root + z)) / (1 + root) + z / root**2 * slope / (top * series)
    for v in np.arange(top - 1, order - 0.5, -1.0):
        c = 2 * (v + 1) / kappa
        q = (c - q) / (1 + (c - q))
    return np.asarray(q)


def _log_bessel(order: float, kappa: Array) -> Array:
    """ln(exp(-kappa) I_order(kappa)), also where the function itself underflows."""
    if order >= _HIGH_ORDER:
        z = kappa / order
        root, series, _ = _debye(order, z)
        exponent = order * (1 / (root + z) + np.log(z / (1 + root)))  # 1 / (root + z) = root - z
        return np.asarray(exponent - 0.5 * np.log(2 * np.pi * order * root) + np.log(series))
    from scipy.special import gammaln, ive

    # scipy gives up beyond about 1e9; there Hankel's expansion is exact to rounding (DLMF 10.40.1).
    far = kappa > 1e8
    near = np.where(far, 1.0, kappa)
    scaled, y = ive(order, near), near**2 / 4
    power = y / (order + 1) * (1 + y / (2 * (order + 2)) * (1 + y / (3 * (order + 3))))
    small = order * np.log(near / 2) - gammaln(order + 1) - near + np.log1p(np.where(scaled < 1e-290, power, 0))
    logs = np.where(scaled < 1e-290, small, np.log(np.maximum(scaled, 1e-290)))
    term, tail = np.ones_like(kappa), np.zeros_like(kappa)
    for k in range(1, 5):
        term = -term * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k * np.where(far, kappa, 1e8))
        tail = tail + term
    return np.asarray(np.where(far, -0.5 * np.log(2 * np.pi * kappa) + np.log1p(tail), logs))


def _debye(order: float, z: Array) -> tuple[Array, Array, Array]:
    """sqrt(1 + z²) and two sums over k of order^-k: U_k(t) and U_k(t) / 2 + t U_k'(t), t = 1 / sqrt(1 + z²).

    I_order(order z) is proportional to the first (DLMF 10.41.3), and the second carries the logarithmic derivative
    (10.41.4 with the recurrence 10.41.9).
    """
    root = np.sqrt(1 + z * z)
    t, series, slope = 1 / root, np.ones_like(z), np.full_like(z, 0.5)
    for k, (scale, *coefficients) in enumerate(_DEBYE, 1):
        for j, coefficient in enumerate(coefficients):
            power = k + 2 * j
            term = coefficient / scale * t**power / order**k
            series, slope = series + term, slope + (0.5 + power) * term
    return root, series, slope
