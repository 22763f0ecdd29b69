"""The result of a regime map: both boundaries, and one row a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from onsphere.lab.experiments.regimes.boundaries import VERBS, Boundary, BoundaryName
from onsphere.lab.experiments.regimes.classify import REGIMES, Cell
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.result import Rows, TrainedResult


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
    cells: Rows[Cell]
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
