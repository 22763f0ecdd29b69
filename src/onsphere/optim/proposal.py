"""Start and end of a schedule from a regime map.

    threshold = √(low · high),   start = start_factor · threshold,   end = end_factor · threshold

with ``low`` and ``high`` the bracket in which convergence ends. The factors are measured ones: docs/schedule.md says on
what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

Basis = Literal["boundary", "labels", "divergence"]

START_FACTOR, END_FACTOR = 4.0, 0.05
BELOW_DIVERGENCE = 0.5


@dataclass(frozen=True)
class ProposedElrs:
    """The start and end ELR that :func:`propose_elrs` proposes, and why.

    Attributes:
        start: Proposed effective learning rate of the start.
        end: Proposed effective learning rate of the end.
        threshold: Where convergence ends: the geometric middle of ``bracket``.
        bracket: The two ELRs between which convergence ends.
        basis: ``boundary``: the map says so; ``labels``: from the labels of its runs, though none interpolates;
            ``divergence``: a tenth of where divergence begins, for want of anything else.
        limited: Whether ``start`` was lowered to stay clear of divergence.
    """

    start: float
    end: float
    threshold: float
    bracket: tuple[float, float]
    basis: Basis
    limited: bool

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return asdict(self)


def propose_elrs(regimes: Any, *, start_factor: float = START_FACTOR, end_factor: float = END_FACTOR) -> ProposedElrs:
    """Start and end of a schedule from the boundaries of a regime map.

    With ``low`` and ``high`` the bracket in which convergence ends,

        threshold = √(low · high),   start = start_factor · threshold,   end = end_factor · threshold

    and the start is at most half of where divergence begins, if that is known, even if chaotic equilibrium is so narrow
    that this is below the threshold. A map without a run that interpolates does not resolve the bracket; then it is
    that of the labels of its runs, which belongs to its number of steps, or else the threshold is a tenth of where
    divergence begins. ``basis`` says which.

    Args:
        regimes: The result of ``onsphere.lab.map_regimes``, the JSON object of ``onsphere regimes --json``, its
            ``boundaries``, a pair (low, high), or one number, the threshold. A boundary may be a number, a pair,
            or have ``low`` and ``high``.
        start_factor: Start over threshold, at least 1.
        end_factor: End over threshold, above 0 and below 1.

    Raises:
        ValueError: A factor is out of range, or the map says neither where convergence ends nor where divergence
            begins.
    """
    if not 1 <= start_factor < math.inf:
        raise ValueError(f"start_factor is {start_factor!r}; it must be at least 1: training starts above convergence")
    if not 0 < end_factor < 1:
        raise ValueError(f"end_factor is {end_factor!r}; it must be above 0 and below 1: training ends in convergence")
    convergence, divergence = _boundaries(regimes)
    begins = _ends(divergence)[0]
    bracket, basis = _bracket(regimes, convergence, begins)
    threshold = math.sqrt(bracket[0] * bracket[1])
    start, limit = start_factor * threshold, math.inf if begins is None else BELOW_DIVERGENCE * begins
    return ProposedElrs(min(start, limit), end_factor * threshold, threshold, bracket, basis, start > limit)


def _boundaries(regimes: Any) -> tuple[Any, Any]:
    """The convergence boundary and the divergence boundary, which may be None."""
    if isinstance(regimes, str | bytes):
        raise ValueError("the map is a text; give the object itself: json.loads(text)")
    if isinstance(regimes, int | float | Sequence):
        return regimes, None
    inner = _entry(regimes, "boundaries")
    found = regimes if inner is None else inner
    convergence = _entry(found, "convergence")
    if convergence is None and _entry(found, "low") is not None:
        return found, None
    if convergence is None:
        raise ValueError(
            f"a {type(regimes).__name__} is no regime map; give the result or the JSON object of onsphere regimes, a "
            "pair (low, high) in which convergence ends, or one number"
        )
    return convergence, _entry(found, "divergence")


def _bracket(regimes: Any, convergence: Any, begins: float | None) -> tuple[tuple[float, float], Basis]:
    """Between which ELRs convergence ends, and how that is known."""
    low, high = _ends(convergence)
    if low is not None and high is not None:
        return (low, high), "boundary"
    cells = [(float(_entry(c, "elr")), _entry(c, "regime") == "convergence") for c in _entry(regimes, "cells") or ()]
    first = min((elr for elr, converges in cells if not converges), default=None)
    last = max((elr for elr, converges in cells if converges), default=None)
    if first is not None and last is not None:
        below = max((elr for elr, _ in cells if elr < first), default=first)
        above = min((elr for elr, _ in cells if elr > last), default=last)
        return (below, above), "labels"
    if begins is not None:
        return (begins / 10, begins / 10), "divergence"
    reason = _entry(convergence, "reason")
    raise ValueError(
        "the map does not say where convergence ends"
        + (f" ({reason})" if reason else "")
        + "; map again with more steps or other ELRs, or give the threshold as a number"
    )


def _ends(boundary: Any) -> tuple[float | None, float | None]:
    if boundary is None:
        return None, None
    if isinstance(boundary, int | float):
        ends: tuple[Any, ...] = (boundary, boundary)
    elif isinstance(boundary, Sequence):
        ends = tuple(boundary)
        if len(ends) != 2:
            raise ValueError(f"a boundary has {len(ends)} numbers; give low and high, or one number")
    else:
        ends = (_entry(boundary, "low"), _entry(boundary, "high"))
    for value in ends:
        if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"a boundary is at {value!r}; it must be a positive, finite number")
    return cast(tuple[float | None, float | None], ends)


def _entry(of: Any, name: str) -> Any:
    return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)
