"""Whether a weak dependence on scale fades as an eps fades: then it may be one out of sight, and nothing can be said.

A norm's eps matters less the larger what it is added to. Along a direction that would be a symmetry without it,

    D(k) = ‖f(2^(k+1) c) - f(2^k c)‖ / ‖f‖      falls by 4 at every doubling (var + eps), or by 2 (std + eps).

Real dependences grow, stay, or end abruptly where a function saturates. Two fall as well and are told apart:

- a tensor which others, added to it, count less and less against. If those are trained, shrinking them is the same as
  growing it, and no trained tensor makes up for an eps: so, up to symmetries, its opposite must have negative entries;
- what is shrunk until a smooth function of it is linear. An eps is left behind by growing: so, up to symmetries, a
  direction must have no negative entries itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from onsphere.symmetry.lattice import row_reduced

__all__ = ["fading_direction"]

#: Singular values up to this count as a weak dependence.
_WEAK, _ZERO = 3e-2, 1e-9
#: How much D falls a doubling: by 4, by 2; the latter only where the first change is as small as an eps would make it.
_FALLS, _TOLERANCE, _SMALL = (4.0, 2.0), 0.12, 1e-3
_DOUBLINGS = 5
#: Changes below are rounding.
_FLOOR = 1e-12
_LARGEST_EXPONENT = 3


def fading_direction(
    singular_values: NDArray[np.float64],
    directions: NDArray[np.float64],
    changes: Callable[[NDArray[np.float64]], Iterator[float]],
) -> tuple[NDArray[np.float64], float, float] | None:
    """The first weak direction along which the output's change falls as an eps would have it.

    Args:
        singular_values: Singular values of the log-scale Jacobian, descending, [n].
        directions: Right singular vectors of that Jacobian, [n, n].
        changes: D(0), D(1), ... for exponents c (multiples of 1/12, [n]).

    Returns:
        The exponents, D(0) and the factor it falls by; None: there is none.
    """
    if not len(singular_values):
        return None
    null = directions[singular_values <= _ZERO]
    tried: set[tuple[float, ...]] = set()
    for vector in _candidates(singular_values, directions):
        for signed in (vector, -vector):
            key = tuple(np.round(signed, 3) + 0.0)
            outside = signed - null.T @ (null @ signed)
            if key in tried or np.linalg.norm(outside) < 1e-6:
                continue
            tried.add(key)
            found = _falls(changes(signed)) if _grows(signed, null) and not _grows(-signed, null) else None
            if found is not None:
                return signed, *found
    return None


def _candidates(values: NDArray[np.float64], directions: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Readable vectors of the null space with weak directions taken in, for every place where values fall clearly."""
    edges = np.concatenate([[1.0], values])
    cuts = [
        i
        for i in range(len(values))
        if _ZERO < values[i] < _WEAK and edges[i] > 5 * values[i]  # above i something clearly larger
    ]
    for cut in cuts:
        for row in row_reduced(directions[cut:]):
            twelfths = np.round(12 * row) / 12
            near = np.abs(row - twelfths).max() < 0.03
            vector = twelfths if near else np.where(np.abs(row) < 1e-3, 0.0, row)
            if np.abs(vector).max() <= _LARGEST_EXPONENT:
                yield vector


def _falls(changes: Iterator[float]) -> tuple[float, float] | None:
    """D(0) and by what D falls, if evenly."""
    first = last = next(changes)
    if not _FLOOR < first < 0.5:
        return None
    rates: list[float] = []
    for now in itertools.islice(changes, _DOUBLINGS - 1):
        if not now > 30 * _FLOOR:
            break
        rates.append(last / now)
        last = now
        if not 1.5 < rates[-1] < 5:
            return None
    for fall in _FALLS:
        small = fall == _FALLS[0] or first < _SMALL
        if len(rates) > 1 and small and all(abs(rate / fall - 1) < _TOLERANCE for rate in rates[-2:]):
            return first, fall
    return None


def _grows(vector: NDArray[np.float64], null: NDArray[np.float64]) -> bool:
    """Whether symmetries added to a direction make it non-negative."""
    if not len(null) or (vector >= 0).all():
        return bool((vector >= 0).all())
    from scipy.optimize import linprog

    found = linprog(np.zeros(len(null)), A_ub=-null.T, b_ub=vector + 1e-6, bounds=(None, None))
    return bool(found.status == 0)
