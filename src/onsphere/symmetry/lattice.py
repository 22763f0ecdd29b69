"""From a null space to generators that people can read: disjoint 0/1 groups, then small integer exponents.

Scaling symmetries of networks have small rational entries. Row reduction of the constraints shows them; integer
programmes then find

    the joint sphere   max Σ size_i x_i        x in {0, 1}, C x = 0
    its groups         min Σ x_i, x_k = 1      within the joint sphere, one tensor k after another
    the rescalings     min Σ |x_i|, x_k >= 1   x integer, until they and the groups span the null space
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

__all__ = ["disjoint_groups", "generators_of", "integers", "largest_sphere", "remaining_generators", "row_reduced"]

_MAX_SEARCH_SECONDS = 20.0
_LARGEST_EXPONENT = 6
#: A multiple of every denominator up to 4, more than sums and powers in networks give.
_DENOMINATORS = 12
_SPANS = 1e-7


def row_reduced(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gauss-Jordan with full pivoting, noise rounded off to twelfths.

    The solver must see exact zeros and ones: given a dense orthonormal basis it has called a problem infeasible that
    the zero vector solves.
    """
    rows = rows.copy()
    for i in range(len(rows)):
        row, column = divmod(int(np.abs(rows[i:]).argmax()), rows.shape[1])
        rows[[i, i + row]] = rows[[i + row, i]]
        rows[i] /= rows[i, column]
        factors = rows[:, column].copy()
        factors[i] = 0
        rows -= factors[:, None] * rows[i]
    rational = np.round(_DENOMINATORS * rows) / _DENOMINATORS
    return np.where(np.abs(rows - rational) < 1e-6, rational, rows)


def largest_sphere(constraints: NDArray[np.float64], sizes: Sequence[int], allowed: Sequence[int]) -> list[int]:
    """Indices of the 0/1 vector that holds most numbers; a tie goes to the tensor that comes later.

    In a branch that writes a residual stream the scale can sit in its first layer or in its last: the last is what
    writes the stream.

    Args:
        constraints: The rows that symmetries are orthogonal to, row-reduced, [rank, n].
        sizes: Numbers in each tensor.
        allowed: Indices that may be chosen.
    """
    n = len(sizes)
    weights = np.array(sizes, dtype=np.float64)
    weights = weights / max(weights.sum(), 1) * (1 + 1e-4 * np.arange(n) / n)
    high = np.zeros(n)
    high[list(allowed)] = 1
    found = _solve(-weights, constraints, np.zeros(n), high)
    return [] if found is None else [i for i in range(n) if found[i] > 0.5]


def disjoint_groups(constraints: NDArray[np.float64], sphere: Sequence[int]) -> list[list[int]]:
    """The 0/1 vector ``sphere`` as a sum of 0/1 vectors of the null space that cannot be split, small ones first."""
    left = [i for i in sphere if np.abs(constraints[:, i]).any()]
    groups = [[i] for i in sphere if i not in set(left)]
    while left:
        smallest = sorted((_smallest_group(constraints, first, left) for first in left), key=lambda g: (len(g), g))
        for found in smallest:
            if set(found) <= set(left):
                groups.append(found)
                left = [i for i in left if i not in set(found)]
    return sorted(groups)


def generators_of(
    names: Sequence[str],
    groups: Sequence[Sequence[str]],
    rescalings: Sequence[Mapping[str, int | float]],
    without_effect: Sequence[str],
) -> NDArray[np.float64]:
    """The symmetries as rows of exponents, in the order of :attr:`Symmetries.generators`.

    Args:
        names: All parameters; their order is that of the columns.
        groups: Names that have the exponent 1 together.
        rescalings: Exponents by name, of any size.
        without_effect: Names that have the exponent 1 alone.

    Returns:
        A basis of all symmetries, ``[symmetries, parameters]``.
    """
    vectors = [*(dict.fromkeys(group, 1) for group in groups), *rescalings, *({name: 1} for name in without_effect)]
    column = {name: i for i, name in enumerate(names)}
    generators = np.zeros((len(vectors), len(names)))
    for row, vector in zip(generators, vectors, strict=True):
        row[[column[name] for name in vector]] = list(vector.values())
    return generators


def _smallest_group(constraints: NDArray[np.float64], first: int, left: Sequence[int]) -> list[int]:
    """The smallest 0/1 vector within ``left`` that holds ``first``; neighbours are preferred."""
    n = constraints.shape[1]
    low, high = np.zeros(n), np.zeros(n)
    high[list(left)], low[first] = 1, 1
    solution = _solve(1 + 1e-3 * np.abs(np.arange(n) - first) / n, constraints, low, high)
    return list(left) if solution is None else [i for i in left if solution[i] > 0.5]


def remaining_generators(
    constraints: NDArray[np.float64], have: NDArray[np.float64], dimension: int, exclude: Sequence[int]
) -> NDArray[np.float64]:
    """Small integer vectors that complete ``have`` to a basis of the null space.

    Args:
        constraints: The rows that symmetries are orthogonal to, row-reduced, [rank, n].
        have: Vectors already chosen, [k, n].
        dimension: Dimension of the null space.
        exclude: Indices that stay zero: tensors without effect, which have vectors of their own.

    Returns:
        [dimension - k, n], sparse ones first; integers where such exist.
    """
    n = constraints.shape[1]
    missing = dimension - len(have)
    candidates: list[NDArray[np.float64]] = []
    if missing > 0:
        for i in range(n):
            if i not in exclude:
                found = _smallest_through(constraints, i, exclude)
                if found is not None:
                    candidates.append(found)
        candidates += list(integers(_basis(constraints)))
    candidates = [v * np.sign(v[np.flatnonzero(v)[0]]) for v in candidates]
    candidates.sort(key=_simplicity)
    chosen = np.zeros((0, n))
    spanned = have
    for vector in candidates:
        if len(chosen) == missing:
            break
        more = np.concatenate([spanned, vector[None]])
        if np.linalg.matrix_rank(more, tol=_SPANS) == len(more):
            spanned, chosen = more, np.concatenate([chosen, vector[None]])
    return chosen


def _simplicity(vector: NDArray[np.float64]) -> tuple[float, ...]:
    """Few tensors, small exponents, neighbours, early ones: what people would name first."""
    places = np.flatnonzero(vector)
    return (len(places), float(np.abs(vector).sum()), float(places[-1] - places[0]), *map(float, places))


def _smallest_through(
    constraints: NDArray[np.float64], index: int, exclude: Sequence[int]
) -> NDArray[np.float64] | None:
    """The integer vector of least Σ|x| with a positive entry at ``index``."""
    n = constraints.shape[1]
    high = np.full(2 * n, float(_LARGEST_EXPONENT))
    low = np.zeros(2 * n)
    high[[*exclude, *(n + i for i in exclude)]] = 0
    low[index], high[n + index] = 1, 0
    near = 1 + 1e-3 * np.abs(np.arange(n) - index) / n
    found = _solve(np.concatenate([near, near]), np.concatenate([constraints, -constraints], axis=1), low, high)
    return None if found is None else np.round(found[:n] - found[n:])


def _basis(constraints: NDArray[np.float64]) -> NDArray[np.float64]:
    """A row-reduced basis of the null space of row-reduced constraints."""
    n = constraints.shape[1]
    if not len(constraints):
        return np.eye(n)
    _, values, directions = np.linalg.svd(constraints, full_matrices=True)
    return row_reduced(directions[int((values > _SPANS).sum()) :])


def integers(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rational rows as the smallest integer multiples; others as they are."""
    scaled = rows.copy()
    for i, row in enumerate(rows):
        twelfths = np.round(_DENOMINATORS * row)
        if np.abs(_DENOMINATORS * row - twelfths).max() < 1e-6:
            scaled[i] = twelfths / gcd(*(int(x) for x in twelfths))
    return scaled


def _solve(
    cost: NDArray[np.float64],
    constraints: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp

    # Ties are told apart by parts of 1e-4 of the cost, which the solver's default tolerances would swallow.
    solution = milp(
        cost * 1e4,
        constraints=LinearConstraint(constraints, 0.0, 0.0) if len(constraints) else None,
        integrality=1,
        bounds=Bounds(low, high),
        options={"time_limit": _MAX_SEARCH_SECONDS, "mip_rel_gap": 0.0},
    )
    return None if solution.x is None else np.asarray(solution.x, dtype=np.float64)
