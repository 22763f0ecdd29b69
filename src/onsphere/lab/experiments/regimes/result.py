"""The result of a regime map: both boundaries, one row a run, and what is known along the axis.

A boundary that is resolved vouches for both of its sides. One that is not, but has both ends, is tentative and vouches
for neither; with one end given the map ran out of ELRs on the other side, and that end holds if labels can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from onsphere.lab.experiments.regimes.classify import (
    NAMES,
    REGIMES,
    VERBS,
    Boundary,
    BoundaryName,
    Cell,
    MapCell,
    Regime,
)
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.result import Rows, TrainedResult

Boundaries = Mapping[BoundaryName, Boundary]


@dataclass(frozen=True, repr=False, kw_only=True)
class RegimesResult(TrainedResult):
    """What :func:`onsphere.lab.map_regimes` returns.

    Attributes:
        boundaries: Both boundaries by name, ``convergence`` and ``divergence``.
        cells: One row a run, by effective learning rate, then seed.
        radius: Radius of the sphere, or None where each run kept its initial norm.
    """

    command: ClassVar[str] = "regimes"
    rows_field: ClassVar[str] = "cells"

    spec: RegimesSpec
    boundaries: Annotated[dict[BoundaryName, Boundary], Field(min_length=2)]
    cells: Rows[MapCell]
    radius: float | None

    @property
    def elrs(self) -> list[float]:
        """Every effective learning rate that was tried, ascending."""
        return sorted({cell.elr for cell in self.cells})

    @property
    def seeds(self) -> list[int]:
        """Every seed, ascending."""
        return sorted({cell.seed for cell in self.cells})

    def counts(self, rounds: int | None = None) -> list[tuple[float, dict[str, int]]]:
        """For each effective learning rate, how many seeds ended in each regime.

        Args:
            rounds: Count only the first so many rounds (1: the grid); None counts all.
        """
        table: dict[float, dict[str, int]] = {}
        for cell in self.cells:
            if rounds is not None and cell.round >= rounds:
                continue
            table.setdefault(cell.elr, dict.fromkeys(REGIMES, 0))[cell.regime] += 1
        return sorted(table.items())

    def __repr__(self) -> str:
        lines = [f"RegimesResult: {len(self.cells)} runs, {len(self.seeds)} seeds, {self.seconds:.0f} s"]
        lines += [f"  {VERBS[name]}: ELR {boundary}" for name, boundary in self.boundaries.items()]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Region:
    """A stretch of the axis of effective learning rates that belongs to one regime for certain."""

    regime: Regime
    left: float
    right: float


def elr_range(cells: Sequence[Cell]) -> tuple[float, float]:
    """The shown stretch of the axis: all cells and a margin of 4 % of its logarithmic length."""
    low, high = min(cell.elr for cell in cells), max(cell.elr for cell in cells)
    margin = (high / low) ** 0.04 if high > low else math.sqrt(10)
    return low / margin, high * margin


def regions(cells: Sequence[Cell], boundaries: Boundaries) -> list[Region]:
    """The stretches whose regime is certain, left to right; at most one a regime."""
    left, right = elr_range(cells)
    convergence, divergence = (_known(boundaries[name], name, cells) for name in NAMES)
    candidates: tuple[tuple[Regime, float | None, float | None], ...] = (
        ("convergence", left, convergence[0]),
        ("chaotic_equilibrium", convergence[1], divergence[0]),
        ("divergence", divergence[1], right),
    )
    return [
        Region(regime, start, stop)
        for regime, start, stop in candidates
        if start is not None and stop is not None and start < stop
    ]


def _known(boundary: Boundary, name: BoundaryName, cells: Sequence[Cell]) -> tuple[float | None, float | None]:
    """Up to which ELR the regime below a boundary is certain, and from which on the regime above it."""
    # Convergence cannot be told from slowness unless some run fits its training data.
    labelled = name == "divergence" or any(cell.interpolates for cell in cells)
    below = boundary.low if boundary.resolved or (labelled and boundary.high is None) else None
    above = boundary.high if boundary.resolved or (labelled and boundary.low is None) else None
    return below, above


def gaps(cells: Sequence[Cell], boundaries: Boundaries) -> list[tuple[float, float]]:
    """Stretches neither in a certain region nor in a resolved bracket: there the map is silent."""
    left, right = elr_range(cells)
    taken = [(region.left, region.right) for region in regions(cells, boundaries)]
    taken += [(low, high) for low, high, boundary in brackets(boundaries) if boundary.resolved]
    found, cursor = [], left
    for start, stop in [*sorted(taken), (right, right)]:
        # A sliver under 5 % of the axis is the margin beside the last ELR, not a finding.
        if start > cursor and math.log(start / cursor) > 0.05 * math.log(right / left):
            found.append((cursor, start))
        cursor = max(cursor, stop)
    return found


def brackets(boundaries: Boundaries) -> list[tuple[float, float, Boundary]]:
    """The ends of the boundaries that have both, one of each distinct bracket."""
    found: dict[tuple[float, float], Boundary] = {}
    for boundary in (boundaries[name] for name in NAMES):
        if boundary.low is not None and boundary.high is not None:
            found.setdefault((boundary.low, boundary.high), boundary)
    return [(*ends, boundary) for ends, boundary in found.items()]
