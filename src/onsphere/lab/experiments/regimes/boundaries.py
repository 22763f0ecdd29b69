"""Where convergence ends and divergence begins: brackets for each seed and over all seeds, and where to look next.

A run is *below* the convergence boundary if it converges, and below the divergence boundary if it does not diverge.
Near the first boundary runs are metastable and seeds disagree, so a bracket never claims more than was seen:

    low    the largest effective learning rate at and under which every run is below the boundary
    high   the smallest effective learning rate at and over which every run is above it

The convergence boundary counts as resolved only if some run interpolates: a network that cannot fit its data is merely
slow at small effective learning rates, and its boundary would move with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from onsphere.lab.experiments.regimes.classify import Cell

Side = Callable[[Cell], bool]
BELOW: dict[str, Side] = {
    "convergence": lambda cell: cell.regime == "convergence",
    "divergence": lambda cell: cell.regime != "divergence",
}
BoundaryName = Literal["convergence", "divergence"]
NAMES: tuple[BoundaryName, ...] = ("convergence", "divergence")
VERBS: dict[BoundaryName, str] = {"convergence": "convergence ends", "divergence": "divergence begins"}


@dataclass(frozen=True)
class Bracket:
    """A boundary lies between ``low`` and ``high``; None where no run was on that side.

    Attributes:
        seed: Index of the seed.
        low: The largest effective learning rate at and under which every run of this seed is below the boundary.
        high: The smallest at and over which every run of this seed is above it.
    """

    seed: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Boundary:
    """One boundary over all seeds.

    Attributes:
        low: The largest effective learning rate at and under which every run of every seed is below the boundary.
        high: The smallest at and over which every run of every seed is above it.
        resolved: Whether both ends are known and mean what they say.
        reason: Why it is or is not, in words.
        per_seed: Each seed's own bracket.
    """

    low: float | None
    high: float | None
    resolved: bool
    reason: str
    per_seed: list[Bracket] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.resolved or self.low is None or self.high is None:
            return f"not resolved: {self.reason}"
        return f"{self.low:.2e} to {self.high:.2e}"


def bracket(cells: Iterable[Cell], name: BoundaryName) -> tuple[float | None, float | None]:
    """``low`` and ``high`` of a boundary over the given cells."""
    ordered = sorted(cells, key=lambda cell: cell.elr)
    below = BELOW[name]
    first_above = min((c.elr for c in ordered if not below(c)), default=math.inf)
    last_below = max((c.elr for c in ordered if below(c)), default=-math.inf)
    low = max((c.elr for c in ordered if c.elr < first_above), default=None)
    high = min((c.elr for c in ordered if c.elr > last_below), default=None)
    return low, high


def find_boundaries(cells: list[Cell]) -> dict[BoundaryName, Boundary]:
    """Both boundaries, over all seeds and for each."""
    seeds = sorted({cell.seed for cell in cells})
    return {name: _boundary(cells, seeds, name) for name in NAMES}


def _boundary(cells: list[Cell], seeds: list[int], name: BoundaryName) -> Boundary:
    per_seed = [Bracket(s, *bracket([c for c in cells if c.seed == s], name)) for s in seeds]
    low, high = bracket(cells, name)
    if name == "convergence" and not any(cell.interpolates for cell in cells):
        reason = "no run interpolates (training error < 1 %), so convergence cannot be told from slowness; train longer"
        return Boundary(None, None, False, reason, [Bracket(s, None, None) for s in seeds])
    if low is None:
        reason = f"no effective learning rate is below it for every seed; lower --elr-min (now {_least(cells):.3g})"
        return Boundary(low, high, False, reason, per_seed)
    if high is None:
        reason = f"no effective learning rate is above it for every seed; raise --elr-max (now {_most(cells):.3g})"
        return Boundary(low, high, False, reason, per_seed)
    return Boundary(low, high, True, _agreement(per_seed, low, high), per_seed)


def _agreement(per_seed: list[Bracket], low: float, high: float) -> str:
    own = [b.high / b.low for b in per_seed if b.low is not None and b.high is not None]
    if not own:
        return f"high/low {high / low:.2g}"
    return f"high/low {high / low:.2g} over all seeds, {min(own):.2g} to {max(own):.2g} within a seed"


def next_cells(cells: list[Cell], factor: float) -> list[tuple[float, int]]:
    """Which runs would narrow each seed's brackets: the geometric middle of every gap in which the label changes.

    Args:
        cells: All cells so far.
        factor: A gap with high / low at most this is narrow enough.

    Returns:
        Pairs (effective learning rate, seed), sorted, none of them in ``cells``.
    """
    wanted = set()
    # without a run that interpolates, the convergence boundary is not reported, so it is not worth refining
    names = NAMES if any(cell.interpolates for cell in cells) else ("divergence",)
    for seed in {cell.seed for cell in cells}:
        ordered = sorted((c for c in cells if c.seed == seed), key=lambda cell: cell.elr)
        for name in names:
            low, high = bracket(ordered, name)
            for left, right in pairwise(ordered):
                # the outermost changes bound the bracket; changes between them are the metastable zone itself
                outermost = left.elr == low or right.elr == high
                if outermost and BELOW[name](left) != BELOW[name](right) and right.elr / left.elr > factor:
                    wanted.add((math.sqrt(left.elr * right.elr), seed))
    return sorted(wanted)


def _least(cells: list[Cell]) -> float:
    return min(cell.elr for cell in cells)


def _most(cells: list[Cell]) -> float:
    return max(cell.elr for cell in cells)
