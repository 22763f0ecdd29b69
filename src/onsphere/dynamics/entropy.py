"""Differential entropy of sampled weights: k nearest neighbours on the sphere and in flat space, and graph lengths.

Kozachenko and Leonenko: the mass of the region that reaches from a point to its k-th nearest neighbour among N points
has mean logarithm psi(k) - psi(N), whatever the density. Taking the density as constant over the region,

    S = psi(N) - psi(k) + (1/N) sum_i ln V(distance of point i to its k-th nearest neighbour)

On the sphere S^(d-1), of dimension D = d - 1, the distance is the chord c, and

    ln V = D ln c + ln(volume of the unit ball of R^D) - b(d, N, k)

where b(d, N, k) is what this would be off by for a law that is known, the von Mises-Fisher one whose mean is as long as
that of the samples (:mod:`onsphere.dynamics._chords`). The estimate of such laws, the uniform one among them, is then
unbiased at every dimension and number of points. At d = 2 and 3 the b of the uniform law is taken, which at d = 3 is 0:
a cap's area there is pi c². For any law b vanishes as N grows.

Caps, or arcs, do as well where neighbours are near. In many dimensions they are not: independent samples whose mean has
the length m stand at cosine m² to each other, whatever their number. Chords then have the square 2 (1 - m²), and D ln c
scales as the entropy does, while the area of a cap of that angle does not: of the difference between von Mises-Fisher
laws of mean cosine .78 and .50 at d = 1,000 caps show .67 and arcs 1.12. For other laws the bias left is of order
(k/N)^(2/(d-1)): at d = 20 or more rely on differences between similar laws alone. There chords tell the total variance
of a cloud and answer for a round one, so that of a flat cloud the level is too high by far more than the stated error;
:mod:`onsphere.dynamics.entropy_bound` sees the shape. Beyond some 50 dimensions the error is too small by a third.

Entropies are differential, in nats, and relative to the area of the surface: they may be negative. Weights of norm r
rather than 1 have (d - 1) ln r more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics._checks import Array, Numbers, numbers, plain
from onsphere.dynamics._chords import ball_log_volume, chord_bias, uniform_spread
from onsphere.dynamics._protocols import space_dimension

__all__ = ["EntropyEstimate", "cap_log_area", "euclidean_entropy", "graph_entropy", "sphere_entropy", "sphere_log_area"]

#: Up to this many coordinates a k-d tree is faster than all pairs.
_TREE_DIMENSION = 10
#: Candidates beyond the asked neighbours, whose distances are recomputed without cancellation.
_SPARE = 4


@dataclass(frozen=True)
class EntropyEstimate:
    """An estimated differential entropy.

    Attributes:
        value: The estimated entropy, in nats.
        error: Standard error for independent points, itself right to about 20 %. The bias is not in it.
        points: How many points it was estimated from.
        dimension: Dimension of the surface they lie on: d - 1 on the unit sphere of R^d.
        neighbours: Which nearest neighbour the distances are to.
    """

    value: float
    error: float
    points: int
    dimension: int
    neighbours: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        return (
            f"EntropyEstimate: {self.value:.4f} +- {self.error:.4f} nats "
            f"({self.points} points, dimension {self.dimension}, neighbour {self.neighbours})"
        )


def sphere_entropy(points: Numbers, *, neighbours: int = 3) -> EntropyEstimate:
    """Differential entropy of directions on the unit sphere, from the chords to k-th nearest neighbours.

    Unbiased for uniform and von Mises-Fisher laws at every d and N (see the module). Takes about a second at d = 1,000
    on top of the distances, whatever N.

    Args:
        points: ``[N, d]``, d >= 2: independent samples of the weights, one a row. Only their directions count.
        neighbours: k. 1 has the least bias and the largest variance (the ideal-gas paper uses it).

    Returns:
        The estimate, on the surface of dimension d - 1.

    Raises:
        ValueError: Fewer than ``neighbours + 2`` points or two coordinates, a zero row, or so many coinciding points
            that a distance is zero.

    Source:
        Kozachenko and Leonenko 1987; on the sphere: Sadrtdinov et al. 2025 (ideal gas), who take hyperspherical angles.
    """
    array = _unit(_sample(points, neighbours, least=2))
    chords, nearest = _nearest(array, neighbours + 1)
    count, dimension = len(array), array.shape[1] - 1
    areas = ball_log_volume(dimension) + dimension * np.log(_apart(chords, neighbours)) - chord_bias(array, neighbours)
    return _estimate(areas, nearest, dimension, neighbours, uniform_spread(dimension + 1, count, neighbours))


def euclidean_entropy(points: Numbers, *, neighbours: int = 3) -> EntropyEstimate:
    """Differential entropy in flat space R^d by k nearest neighbours.

    Args:
        points: ``[N, d]``, d >= 1: independent samples, one a row.
        neighbours: Which nearest neighbour k the distances are taken to.

    Returns:
        The estimate, of dimension d.

    Raises:
        ValueError: As :func:`sphere_entropy`, but for one coordinate being enough and zero rows allowed.

    Source:
        Kozachenko and Leonenko 1987.
    """
    array = _sample(points, neighbours, least=1)
    distances, nearest = _nearest(array, neighbours + 1)
    dimension = array.shape[1]
    balls = ball_log_volume(dimension) + dimension * np.log(_apart(distances, neighbours))
    return _estimate(balls, nearest, dimension, neighbours, _log_mass_variance(neighbours))


def graph_entropy(points: Numbers, *, neighbours: int = 50, gamma: float = 1.0, absolute: bool = False) -> float:
    """Entropy of directions from the total length of their k-nearest-neighbour graph.

    With D = d - 1 and the sum over the directed edges from each point to its k nearest neighbours,

        S = (D / gamma) (ln sum length^gamma - ((D - gamma) / D) ln N)

    This is the Rényi entropy of order 1 - gamma / D plus a constant that depends on D, gamma and k alone, so that it
    cancels in differences. Lengths are chords (arcs grow too fast with temperature in many dimensions, see the module).

    Args:
        points: ``[N, d]``: samples of the weights, one a row. Only their directions count.
        neighbours: Number k of neighbours that each point is joined to; 50 in the paper's plots.
        gamma: Power of the lengths, in (0, D).
        absolute: Subtract the constant, (D / gamma) ln(sum_j Gamma(j + gamma / D) / Gamma(j)) - ln(volume of the unit
            ball), j = 1..k. It is that of flat space, right where neighbours are near: N large, d small.

    Returns:
        The entropy in nats; without ``absolute`` up to a constant.

    Raises:
        ValueError: As :func:`sphere_entropy`; or ``gamma`` outside (0, D), for which d must exceed 2 at gamma = 1.

    Source:
        Sadrtdinov et al. 2025 (free energy), with gamma = 1, k = 50 and N = 1,000; Costa and Hero 2004.
    """
    from scipy.special import gammaln, logsumexp

    array = _unit(_sample(points, neighbours, least=2))
    count, dimension = array.shape[0], array.shape[1] - 1
    if not 0 < gamma < dimension:
        raise ValueError(f"gamma is {gamma:g}; it must lie between 0 and d - 1 = {dimension}")
    chords, _ = _nearest(array, neighbours)
    if not chords.any():
        raise ValueError("all points coincide with their neighbours: the graph has no length; give distinct samples")
    with np.errstate(divide="ignore"):  # coinciding points add nothing
        total = float(logsumexp(gamma * np.log(chords)))
    entropy = dimension / gamma * (total - (dimension - gamma) / dimension * np.log(count))
    if absolute:
        order = np.arange(1, neighbours + 1)
        gammas = float(logsumexp(gammaln(order + gamma / dimension) - gammaln(order)))
        entropy -= dimension / gamma * gammas - ball_log_volume(dimension)
    return float(entropy)


def sphere_log_area(dimension: int) -> float:
    """Log of the area of the unit sphere of R^d, ln(2 pi^(d/2) / Gamma(d/2)): the entropy of uniform directions.

    Args:
        dimension: Dimension d of the space the sphere is in, at least 2.

    Raises:
        ValueError: ``dimension`` is no integer of at least 2.
    """
    from scipy.special import gammaln

    half = space_dimension(dimension) / 2
    return float(np.log(2) + half * np.log(np.pi) - gammaln(half))


def cap_log_area(dimension: int, chord: Numbers) -> Any:
    """Log of the area of a spherical cap, without underflow at small caps and many dimensions.

    With x = sin² of the cap's angle and I the regularised incomplete beta function, a cap up to a hemisphere is the
    share I_x((d - 1)/2, 1/2) / 2 of the sphere, a larger one the rest of the opposite cap.

    Args:
        dimension: d >= 2, of the space.
        chord: Straight distances from the cap's centre to its rim, in (0, 2]: 2 sin(angle / 2). Any shape.

    Returns:
        Log areas, of the shape of ``chord``.

    Raises:
        ValueError: ``dimension`` below 2, or a chord outside (0, 2].
    """
    from scipy.special import betainc, betaincc, betaln, hyp2f1

    half = (space_dimension(dimension) - 1) / 2
    square = numbers("chord", chord) ** 2
    if not ((square > 0) & (square <= 4 * (1 + 1e-12))).all():
        raise ValueError("chord lies outside (0, 2]; give distances between distinct points of the unit sphere")
    # sin² and cos² of the angle, each exact where it is small
    sin2, cos2 = np.clip(square * (1 - square / 4), 0, 1), np.minimum((1 - square / 2) ** 2, 1)
    share = np.where(sin2 < 0.5, betainc(half, 0.5, sin2), betaincc(0.5, half, cos2))
    with np.errstate(divide="ignore"):
        logs = np.asarray(np.log(np.where(square <= 2, share / 2, 1 - share / 2)))
    tiny = (share < 1e-280) & (square <= 2)
    if tiny.any():
        x = sin2[tiny]
        series = half * np.log(x) + 0.5 * np.log1p(-x) + np.log(hyp2f1(half + 0.5, 1, half + 1, x))
        logs[tiny] = series - np.log(2 * half) - betaln(half, 0.5)
    return plain(logs + sphere_log_area(dimension))


def _log_mass_variance(neighbours: int) -> float:
    """Variance of the log of the mass that reaches to the k-th neighbour, for many points."""
    from scipy.special import polygamma

    return float(polygamma(1, neighbours))


def _estimate(
    logs: Array, nearest: NDArray[np.intp], dimension: int, neighbours: int, spread: float
) -> EntropyEstimate:
    """The estimate from ln volumes ``[N, 2]`` of the regions to neighbours k and k + 1, and who the neighbours are.

    ``spread`` is the variance of these logs where the density is constant.
    """
    from scipy.special import digamma

    count = len(logs)
    term, after = logs.T
    # Without point j the points that had it among their k nearest reach to their next neighbour instead.
    moved = np.bincount(nearest[:, :neighbours].ravel(), np.repeat(after - term, neighbours), minlength=count)
    without = (moved - term) / (count - 1)
    jackknife = (count - 1) / count * ((without - without.mean()) ** 2).sum()
    # The jackknife counts what comes from single points, Var(ln density) / N, once, and what comes from how points lie
    # to each other at least twice (Efron and Stein 1981): halving that share leaves an upper bound.
    single = min(max(term.var() - spread, 0.0) / count, jackknife)
    value = digamma(count) - digamma(neighbours) + term.mean()
    return EntropyEstimate(float(value), float(np.sqrt((jackknife + single) / 2)), count, dimension, neighbours)


def _apart(distances: Array, neighbours: int) -> Array:
    """The distances to neighbours k and k + 1, ``[N, 2]``, if none is zero (ValueError)."""
    zero = int((distances[:, neighbours - 1] == 0).sum())
    if zero:
        raise ValueError(
            f"{zero} points coincide with {neighbours} or more others, where a density has no entropy; remove repeated "
            "samples (store them further apart in time, in more digits), or raise neighbours"
        )
    return distances[:, neighbours - 1 :]


def _nearest(points: Array, neighbours: int) -> tuple[Array, NDArray[np.intp]]:
    """Distances ``[N, k]`` and indices ``[N, k]`` of the k nearest other points, nearest first."""
    if points.shape[1] <= _TREE_DIMENSION:
        from scipy.spatial import cKDTree

        near, index = cKDTree(points).query(points, k=neighbours + 1)
        # Among coinciding points a point need not come first in its own list: move it out wherever it stands.
        own = index == np.arange(len(points))[:, None]
        own[~own.any(axis=1), -1] = True
        distances = near[~own].reshape(-1, neighbours)
        nearest = index[~own].reshape(-1, neighbours).astype(np.intp)
    else:
        distances, nearest = _nearest_of_all(points, neighbours)
    return distances, nearest


def _nearest_of_all(points: Array, neighbours: int) -> tuple[Array, NDArray[np.intp]]:
    """As :func:`_nearest`, from all pairs: candidates by dot products, their distances from differences."""
    count = len(points)
    wanted = min(neighbours + _SPARE, count - 1)
    squares = np.einsum("nd,nd->n", points, points)
    distances, nearest = np.empty((count, neighbours)), np.empty((count, neighbours), dtype=np.intp)
    rows = max(1, min(512, 2**24 // max(count, points.shape[1])))
    for start in range(0, count, rows):
        block = points[start : start + rows]
        rough = squares - 2 * block @ points.T
        rough[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        candidates = np.argpartition(rough, wanted - 1, axis=1)[:, :wanted]
        gaps = np.stack([np.linalg.norm(points[column] - block, axis=1) for column in candidates.T], axis=1)
        order = np.argsort(gaps, axis=1)[:, :neighbours]
        distances[start : start + rows] = np.take_along_axis(gaps, order, axis=1)
        nearest[start : start + rows] = np.take_along_axis(candidates, order, axis=1)
    return distances, nearest


def _sample(points: Numbers, neighbours: int, *, least: int) -> Array:
    array = numbers("points", points)
    if array.ndim != 2 or array.shape[1] < least:
        raise ValueError(f"points has shape {array.shape}; it must be [N, d], one sample a row, with d >= {least}")
    if isinstance(neighbours, bool) or not isinstance(neighbours, int | np.integer) or neighbours < 1:
        raise ValueError(f"neighbours is {neighbours!r}; it must be a positive integer")
    if len(array) < neighbours + 2:
        raise ValueError(
            f"points holds {len(array)} samples; neighbours = {neighbours} needs at least {neighbours + 2} of them"
        )
    return array


def _unit(points: Array) -> Array:
    largest = np.abs(points).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise ValueError(f"row {int(np.argmin(largest))} of points is zero; it has no direction")
    scaled = points / largest
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))
