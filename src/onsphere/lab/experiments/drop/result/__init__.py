"""The result of a drop experiment: every run of both phases, averages, paths, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from onsphere.lab.experiments.drop.result.analysis import (
    Analysis,
    AtLossCell,
    Best,
    BestAverage,
    BestConstant,
    Difference,
    Flatness,
    Label,
    MatrixCell,
    StageDifference,
    StagedStart,
    StartClass,
    Threshold,
)
from onsphere.lab.experiments.drop.result.rows import AtLoss, Average, Continuation, GroupNorms, PathBarrier, PathKind
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.result import Rows, TrainedResult

__all__ = ["Analysis", "AtLoss", "AtLossCell", "Average", "Best", "BestAverage", "BestConstant", "Continuation"]
__all__ += ["Difference", "DropResult", "Flatness", "GroupNorms", "Label", "MatrixCell", "PathBarrier", "PathKind"]
__all__ += ["StageDifference", "StagedStart", "StartClass", "Threshold"]


@dataclass(frozen=True, repr=False, kw_only=True)
class DropResult(Analysis, TrainedResult):
    """What :func:`onsphere.lab.drop_elr` returns: rows, and the :class:`Analysis` that follows from them.

    Attributes:
        cells: The runs before the drop, by rate, then seed.
        continuations: The runs after it, by final, then starting rate, then seed.
        averages: The averages of each run's last snapshots before the drop, those of the first number first.
        paths: Barriers between continuations and average of each run.
        snapshots: Steps whose weights are averaged.
        radius: Radius of the sphere, or None where each run kept its initial norm, and in ordinary training.
        invariant: Names of the scale-invariant tensors in ordinary training; None on the sphere, where all are.
        staged: The starts in several stages.
        norms: The norms of the groups of weights at initialisation and before the drop, by start.
        norm_edges: The ends of the bins of their histograms, ascending.
        at_loss: The continuations at matched train loss, by final rate, then start, then seed.
        at_loss_cells: Their means over seeds.
        flatness: Whether sharpness and test error go together at that loss, for each final rate.
    """

    command: ClassVar[str] = "landscape drop"
    rows_field: ClassVar[str] = "continuations"

    spec: DropSpec
    cells: Rows[Cell]
    continuations: Rows[Continuation]
    averages: list[Average]
    paths: list[PathBarrier]
    snapshots: list[int]
    radius: float | None
    invariant: list[str] | None = None
    staged: list[StagedStart] = field(default_factory=list)
    norms: list[GroupNorms] = field(default_factory=list)
    norm_edges: list[float] = field(default_factory=list)
    at_loss: list[AtLoss] = field(default_factory=list)
    at_loss_cells: list[AtLossCell] = field(default_factory=list)
    flatness: list[Flatness] = field(default_factory=list)

    @property
    def analysis(self) -> Analysis:
        """Matrix, threshold, best starts and classes."""
        return self

    @property
    def angled(self) -> bool:
        """Whether there are scale-invariant weights, over which angles and gradient norms are taken."""
        return self.invariant is None or bool(self.invariant)

    @property
    def tested(self) -> bool:
        """Whether the paths were also measured on test images."""
        return any(path.test_error_barrier is not None for path in self.paths)

    @property
    def starts(self) -> list[float]:
        """Learning rates before the drop, ascending."""
        return sorted({row.start for row in self.continuations})

    @property
    def ends(self) -> list[float]:
        """Learning rates after the drop, ascending."""
        return sorted({row.end for row in self.continuations})

    @property
    def runs(self) -> int:
        """How many runs there were before and after the drop."""
        ends = len(self.ends)
        staged = sum(len(one.continuations) * (ends + 1) // ends for one in self.staged)
        return len(self.cells) + len(self.continuations) + staged

    @property
    def numbers(self) -> list[int]:
        """How many snapshots the averages are of, ascending."""
        return sorted({one.snapshots or len(self.snapshots) for one in self.averages})

    @property
    def number(self) -> int:
        """How many snapshots those averages are of that paths lead to."""
        return self.averages[0].snapshots or len(self.snapshots) if self.averages else len(self.snapshots)

    def average_errors(self, number: int | None = None) -> dict[float, list[float]]:
        """Test errors of the averages of so many snapshots (None: :attr:`number`), one a seed, by start, ascending."""
        own = [one for one in self.averages if (one.snapshots or len(self.snapshots)) == (number or self.number)]
        starts = sorted({one.start for one in own})
        return {start: [one.test_error for one in own if one.start == start] for start in starts}

    def __repr__(self) -> str:
        lines = [f"DropResult: {self.runs} runs, {self.seconds:.0f} s"]
        for best in self.best:
            errors = f"{100 * best.test_error:.2f} % (without a drop {100 * best.no_drop:.2f} %)"
            lines.append(f"  to {self.spec.rate} {best.end:.3g}: best start {best.start:.3g}, test error {errors}")
        classes = ", ".join(f"{c.start:.3g} {c.label}" for c in self.classes)
        return "\n".join([*lines, f"  classes: {classes}", f"  page: {self.report}"])
