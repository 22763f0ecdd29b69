"""The result of a drop experiment: every run of both phases, averages, paths, and where it lies on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.drop.analyse import analyse
from onsphere.lab.experiments.drop.findings import Analysis
from onsphere.lab.experiments.drop.rows import Average, Continuation, PathBarrier
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.old_result import frame, restored, vouched
from onsphere.lab.store import Run


@dataclass(frozen=True, repr=False)
class DropResult:
    """What :func:`onsphere.lab.drop_elr` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        cells: The runs before the drop, by effective learning rate, then seed.
        continuations: The runs after it, by final, then starting effective learning rate, then seed.
        averages: The average of each run's last snapshots before the drop.
        paths: Barriers between continuations and average of each run.
        spec: What was asked for.
        engine: How it was executed: mode, chunk, compiled, workers.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
        radius: Radius of the sphere, or None where each run kept its initial norm.
        snapshots: Steps whose weights are averaged.
    """

    run: Path
    report: Path
    cells: list[Cell]
    continuations: list[Continuation]
    averages: list[Average]
    paths: list[PathBarrier]
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float
    radius: float | None
    snapshots: list[int]

    @cached_property
    def analysis(self) -> Analysis:
        """Matrix, threshold, best starts and classes."""
        return analyse(self.cells, self.continuations, self.paths, self.averages)

    @property
    def starts(self) -> list[float]:
        """Effective learning rates before the drop, ascending."""
        return sorted({row.start for row in self.continuations})

    @property
    def ends(self) -> list[float]:
        """Effective learning rates after the drop, ascending."""
        return sorted({row.end for row in self.continuations})

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds."""
        return {
            "command": "landscape drop",
            "run": str(self.run),
            "report": str(self.report),
            **self.analysis.to_dict(),
            "cells": [cell.to_dict() for cell in self.cells],
            "continuations": [asdict(row) for row in self.continuations],
            "averages": [asdict(row) for row in self.averages],
            "paths": [asdict(row) | {"connected": row.connected} for row in self.paths],
            "snapshots": self.snapshots,
            "spec": self.spec,
            "radius": self.radius,
            "engine": self.engine,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @classmethod
    @vouched
    def load(cls, run: Run) -> DropResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        paths = [{k: v for k, v in row.items() if k != "connected"} for row in stored["paths"]]
        kept = ("spec", "engine", "seconds", "cpu_seconds", "radius", "snapshots")
        return cls(
            run=run.folder,
            report=run.folder / "report.html",
            cells=[restored(Cell, row) for row in stored["cells"]],
            continuations=[restored(Continuation, row) for row in stored["continuations"]],
            averages=[restored(Average, row) for row in stored["averages"]],
            paths=[restored(PathBarrier, row) for row in paths],
            **{name: stored[name] for name in kept},
        )

    def to_frame(self) -> Any:
        """The continuations as a pandas data frame, one row a run.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([asdict(row) for row in self.continuations])

    def __repr__(self) -> str:
        runs = len(self.cells) + len(self.continuations)
        lines = [f"DropResult: {runs} runs, {self.seconds:.0f} s"]
        lines += [
            f"  to ELR {best.end:.3g}: best start {best.start:.3g}, test error {100 * best.test_error:.2f} % "
            f"(without a drop {100 * best.no_drop:.2f} %)"
            for best in self.analysis.best
        ]
        lines += [f"  classes: {', '.join(f'{c.start:.3g} {c.label}' for c in self.analysis.classes)}"]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)
