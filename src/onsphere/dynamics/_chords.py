"""How far the k-th neighbours of N independent directions are, of a uniform and of a von Mises-Fisher law.

With w = (c/2)² of a chord c, the share of the sphere of R^d within c of a point is I_w(D/2, D/2), D = d - 1: a
regularised incomplete beta function. A von Mises-Fisher law has a density p in the angle phi to its axis and is uniform
around it, so that its mass within c of a point at the angle a is, one dimension lower,

    P(c; a) = integral of p(phi) I_w((d-2)/2, (d-2)/2) dphi,      w = ((c/2)² - sin²((phi - a)/2)) / (sin phi sin a)

The mass up to the k-th of N - 1 others follows Beta(k, N - k), whatever the law; its mean logarithm is psi(k) - psi(N).
What an estimate of the entropy from chords is off by for one of these laws is therefore known:

    b = psi(N) - psi(k) + E[D ln c] + ln(volume of the unit ball of R^D) - S(law)

Source: derived here; checked by simulation in the tests.
"""

from __future__ import annotations

import numpy as np

from onsphere.dynamics._checks import Array
from onsphere.dynamics.von_mises_fisher import vmf_energy, vmf_entropy

__all__ = ["ball_log_volume", "chord_bias", "uniform_spread"]

#: Below this dimension the bias of a law that is not uniform is beyond what can be seen.
_LEAST = 4
_ANGLES, _AROUND, _MASSES, _HALVINGS = 12, (160, 64), 41, 9


def ball_log_volume(dimension: int) -> float:
    """Log of the volume of the unit ball of R^D."""
    from scipy.special import gammaln

    return float(dimension / 2 * np.log(np.pi) - gammaln(dimension / 2 + 1))


def chord_bias(points: Array, neighbours: int) -> float:
    """B of the von Mises-Fisher law whose mean is as long as that of these unit vectors ``[N, d]``."""
    from scipy.special import digamma

    count, dimension = points.shape
    offsets = points - points.mean(axis=0)
    variance = float(np.einsum("nd,nd->", offsets, offsets)) / (count - 1)  # 1 - m²
    logit, mass = _masses(count, neighbours)
    constant = digamma(count) - digamma(neighbours) + ball_log_volume(dimension - 1)
    if dimension < _LEAST or variance >= 1:
        from scipy.special import log_expit

        # The chord's excess over the cap's area is small and smooth, so that its mean is exact at d = 3: zero.
        excess = _uniform(dimension, logit) - log_expit(logit) - _sphere_log_area(dimension)
        return float(mass @ excess) + ball_log_volume(dimension - 1)
    temperature = _temperature(dimension, variance / (1 + np.sqrt(1 - variance)))
    chords = _mean_log_chord(dimension, temperature, count, neighbours)
    return float(constant + (dimension - 1) * chords - vmf_entropy(dimension, temperature))


def uniform_spread(dimension: int, count: int, neighbours: int) -> float:
    """Variance of D ln c of uniform directions."""
    logit, mass = _masses(count, neighbours)
    logs = _uniform(dimension, logit)
    return float(mass @ (logs - mass @ logs) ** 2)


def _masses(count: int, neighbours: int, nodes: int = 2001) -> tuple[Array, Array]:
    """Logits of the share up to the k-th of N - 1 others, and their weights.

    In the logit its law is smooth and has exponential tails, where the trapezoid rule converges fast.
    """
    from scipy.special import log_expit

    rest = count - neighbours
    logit = np.log(neighbours / rest) + (neighbours**-0.5 + rest**-0.5) * np.linspace(-40, 40, 8001)
    logs = neighbours * log_expit(logit) + rest * log_expit(-logit)
    inside = logit[logs > logs.max() - 25]
    logit = np.linspace(inside[0], inside[-1], nodes)
    logs = neighbours * log_expit(logit) + rest * log_expit(-logit)
    weights = np.exp(logs - logs.max())
    return logit, weights / weights.sum()


def _uniform(dimension: int, logit: Array) -> Array:
    """D ln c at which a cap holds this share of the sphere."""
    from scipy.special import betaincinv, expit

    half = (dimension - 1) / 2
    return np.asarray(half * np.log(4 * betaincinv(half, half, expit(logit))))


def _sphere_log_area(dimension: int) -> float:
    from scipy.special import gammaln

    return float(np.log(2) + dimension / 2 * np.log(np.pi) - gammaln(dimension / 2))


def _temperature(dimension: int, energy: float) -> float:
    """T of the law whose mean has the length 1 - energy."""
    from scipy.optimize import brentq

    small = 2 * energy / (dimension - 1)
    found = brentq(
        lambda log: float(vmf_energy(dimension, np.exp(log))) - energy, np.log(small) - 1, np.log(small) + 40
    )
    return float(np.exp(found))


def _angles(dimension: int, temperature: float, nodes: int) -> tuple[Array, Array]:
    """Angles to the axis where the law has its mass, and their weights."""

    # exp(cos(phi) / T) sin(phi)^(d-2), as 2 sin²(phi/2) = 1 - cos(phi) keeps its digits
    def logs_at(angles: Array) -> Array:
        return np.asarray(-2 * np.sin(angles / 2) ** 2 / temperature + (dimension - 2) * np.log(np.sin(angles)))

    scale = min(np.pi, 40 * np.sqrt((dimension - 1) * temperature))
    everywhere = np.linspace(0, scale, 4002)[1:-1]
    found = logs_at(everywhere)
    inside = everywhere[found > found.max() - 20]
    angles = np.linspace(inside[0], inside[-1], nodes)
    logs = logs_at(angles)
    weights = np.exp(logs - logs.max())
    return angles, weights / weights.sum()


def _mean_log_chord(dimension: int, temperature: float, count: int, neighbours: int) -> float:
    """E[ln c] of the k-th neighbour under the von Mises-Fisher law, by bisection for the chord of every mass."""
    from scipy.special import betainc, expit

    centres, weights = _angles(dimension, temperature, _ANGLES)
    around, density = _angles(dimension, temperature, _AROUND[dimension > 10])
    logit, mass = _masses(count, neighbours, _MASSES)
    wanted = expit(logit)
    half = (dimension - 2) / 2
    apart = np.sin((around - centres[:, None, None]) / 2) ** 2  # [centres, 1, around]
    sines = np.sin(around) * np.sin(centres)[:, None, None]

    def excess(log_chord: Array) -> Array:
        quarter = np.exp(2 * log_chord)[:, :, None] / 4
        held = betainc(half, half, np.clip((quarter - apart) / sines, 0, 1)) @ density
        return np.asarray(np.log(np.maximum(held, 1e-300)) - np.log(wanted))

    widest = min(np.log(2.0), np.log(4 * np.sin(around[-1] / 2)))
    low = np.full((len(centres), len(wanted)), widest - np.log(8.0 * count))
    high = np.full_like(low, widest)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = excess(middle) < 0
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    below, above = excess(low), excess(high)
    share = np.clip(-below / np.maximum(above - below, 1e-300), 0, 1)
    return float(weights @ (low + share * (high - low)) @ mass)
