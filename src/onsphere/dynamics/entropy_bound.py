"""What the entropy of directions cannot exceed: a bound from their covariance, which sees the shape of the cloud.

Chords between samples in many dimensions tell how wide a cloud is and not what shape it has: of two clouds of one total
variance a flat one has the lower entropy and the same chords. Nearest neighbours then answer for the round one. A
covariance bounds the entropy from above, whatever the law (Gaussians have the most of one covariance), and a covariance
that is known along some axes alone bounds it as well (Fischer's inequality). With y the part of x orthogonal to a fixed
unit vector e, n_b axes of the mean variance v_b in block b, and the axes from other samples than the variances,

    S(x) = h(y) - E ln <e, x> <= sum_b (n_b / 2) ln(2 pi e v_b) - E ln <e, x>

Axes are the principal ones of one half of the samples in blocks of 1, 1, 2, 4, 8, ..., and all others as one block; the
variances are those of the other half. Both ways around are averaged. With few samples the last block holds most of the
dimensions, and the bound is loose: it never answers for a lower entropy than there is, beyond its error.

Source: derived here from textbook inequalities (Cover and Thomas 2006, theorems 8.6.5 and 17.9.1 and what follows).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers
from onsphere.dynamics.entropy import _sample, _unit

__all__ = ["EntropyBound", "entropy_bound"]

_LEAST = 8


@dataclass(frozen=True)
class EntropyBound:
    """An upper bound on a differential entropy.

    Attributes:
        value: The bound, in nats.
        error: Its standard error for independent points.
        spherical: The same bound from the total variance alone, of a cloud that is as wide in all directions.
        effective_dimension: (tr C)² / tr C² of the covariance C, unbiased in both traces: at most the dimension, which
            a round cloud has. A cloud that is far below it is flat, and estimates from chords are too high.
        points: How many points it is from.
        dimension: Dimension of the surface that they lie on.
    """

    value: float
    error: float
    spherical: float
    effective_dimension: float
    points: int
    dimension: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return asdict(self)


def entropy_bound(points: Numbers) -> EntropyBound:
    """Bound the differential entropy of directions on the unit sphere from above, by their covariance.

    Args:
        points: ``[N, d]``, N >= 8, d >= 2: samples of the weights, one a row, in the order of time. Only directions
            count. The first half and the second must be independent of each other.

    Returns:
        The bound, on the surface of dimension d - 1.

    Raises:
        ValueError: Too few points or coordinates, a zero row, points that all coincide, or points that do not lie in
            one half of the sphere, which has no such coordinates.
    """
    array = _unit(_sample(points, _LEAST - 2, least=2))
    halves = np.array_split(array, 2)
    values, errors, spherical = zip(*(_one_way(*pair) for pair in (halves, halves[::-1])), strict=True)
    return EntropyBound(
        value=float(np.mean(values)),
        error=float(np.hypot(*errors) / 2),
        spherical=float(np.mean(spherical)),
        effective_dimension=_effective_dimension(array),
        points=len(array),
        dimension=array.shape[1] - 1,
    )


def _one_way(found: Array, measured: Array) -> tuple[float, float, float]:
    """The bound, its error and that from the total variance alone, with axes of the one and variances of the other."""
    centre = found.mean(axis=0)
    axis = centre / np.linalg.norm(centre)
    cosines = measured @ axis
    if not cosines.min() > 0:
        raise ValueError(
            "the points do not lie in one half of the sphere around their mean; a covariance does not bound the "
            "entropy of directions that are that far apart"
        )
    flat, other = (x - np.outer(x @ axis, axis) for x in (found, measured))
    flat, other = flat - flat.mean(axis=0), other - other.mean(axis=0)
    count, dimension = len(other), other.shape[1] - 1
    axes = np.linalg.svd(flat, full_matrices=False)[2][: min(len(flat) - 1, dimension)]
    axes = axes - np.outer(axes @ axis, axis)  # rounding
    along, total = (other @ axes.T) ** 2, (other**2).sum(axis=1)
    sizes = _blocks(axes.shape[0])
    shares = np.stack([part.sum(axis=1) for part in np.split(along, np.cumsum(sizes)[:-1], axis=1)], axis=1)
    if dimension > axes.shape[0]:
        sizes = [*sizes, dimension - axes.shape[0]]
        shares = np.column_stack([shares, np.maximum(total - along.sum(axis=1), 0.0)])
    many = np.array(sizes, dtype=np.float64)
    variances = shares.sum(axis=0) / (count - 1) / many
    if not variances.min() > 0:
        raise ValueError("the points do not vary in all directions that there are; give distinct samples")
    turned = np.log(cosines)
    value = float((many / 2) @ np.log(2 * np.pi * np.e * variances) - turned.mean())
    influence = (shares / variances / 2).sum(axis=1) - turned
    round_ = float(dimension / 2 * np.log(2 * np.pi * np.e * total.sum() / (count - 1) / dimension) - turned.mean())
    return value, float(influence.std(ddof=1) / np.sqrt(count)), round_


def _blocks(axes: int) -> list[int]:
    """Sizes of the blocks: 1, 1, 2, 4, ..., the last one what is left."""
    sizes, size = [1], 1
    while sum(sizes) < axes:
        sizes.append(min(size, axes - sum(sizes)))
        size *= 2
    return sizes


def _effective_dimension(points: Array) -> float:
    """(tr C)² / tr C² by sums over pairs of different points about their mean, unbiased for Gaussians to 1 / N²."""
    offsets = points - points.mean(axis=0)
    gram = offsets @ offsets.T
    count, own = len(points), np.diag(gram)
    trace = own.sum() / (count - 1)
    # E of the mean square of a sample covariance of N - 1 degrees of freedom: tr C² (1 + 1/(N-1)) + (tr C)² / (N-1)
    free = count - 1
    square = ((gram**2).sum() / free**2 - trace**2 / free) * free**2 / ((free - 1) * (free + 2))
    return float(trace**2 / square) if square > 0 else float(points.shape[1] - 1)
