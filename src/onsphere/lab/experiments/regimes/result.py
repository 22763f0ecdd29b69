"""The result of a regime map: both boundaries, one row a run, cost, and where it lies on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.regimes.boundaries import VERBS, Boundary, BoundaryName, find_boundaries
from onsphere.lab.experiments.regimes.classify import REGIMES, Cell
from onsphere.lab.old_result import frame, vouched
from onsphere.lab.store import Run


@dataclass(frozen=True, repr=False)
class RegimesResult:
    """What :func:`onsphere.lab.map_regimes` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        boundaries: ``convergence`` and ``divergence``.
        cells: One row a run, by effective learning rate, then seed.
        spec: What was asked for.
        engine: How it was executed: mode, chunk, compiled, workers.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
        radius: Radius of the sphere, or None where each run kept its initial norm.
    """

    run: Path
    report: Path
    boundaries: dict[BoundaryName, Boundary]
    cells: list[Cell]
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float
    radius: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds."""
        return {
            "command": "regimes",
            "run": str(self.run),
            "report": str(self.report),
            "boundaries": {name: boundary.to_dict() for name, boundary in self.boundaries.items()},
            "cells": [cell.to_dict() for cell in self.cells],
            "spec": self.spec,
            "radius": self.radius,
            "engine": self.engine,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @classmethod
    @vouched
    def load(cls, run: Run) -> RegimesResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        floats = {name for name, kind in Cell.__annotations__.items() if kind == "float"}
        rows: list[dict[str, Any]] = [
            {k: float("nan") if v is None and k in floats else v for k, v in row.items()} for row in stored["cells"]
        ]
        cells = [Cell(**row) for row in rows]
        kept = ("spec", "engine", "seconds", "cpu_seconds", "radius")
        return cls(
            run=run.folder,
            report=run.folder / "report.html",
            boundaries=find_boundaries(cells),
            cells=cells,
            **{name: stored[name] for name in kept},
        )

    def to_frame(self) -> Any:
        """The cells as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([cell.to_dict() for cell in self.cells])

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
        runs, seeds = len(self.cells), len({cell.seed for cell in self.cells})
        lines = [f"RegimesResult: {runs} runs, {seeds} seeds, {self.seconds:.0f} s"]
        lines += [f"  {VERBS[name]}: ELR {boundary}" for name, boundary in self.boundaries.items()]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)
