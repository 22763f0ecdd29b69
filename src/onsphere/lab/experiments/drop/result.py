"""The result of a drop experiment: every run of both phases, averages, paths, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import computed_field

from onsphere.lab.experiments.drop.findings import Analysis, Pair
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.result import Real, Rows, TrainedResult


@dataclass(frozen=True)
class Continuation:
    """One run after the drop: one start, one final effective learning rate, one seed.

    Losses and errors are over all examples at the last step, batch statistics re-estimated over the training set.

    Attributes:
        start: Effective learning rate before the drop.
        end: Effective learning rate after it; equal to ``start`` in the control without a drop.
        seed: Index of the seed.
        train_loss: Mean over training examples.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
        gradient_norm: Mean effective norm of the stochastic gradient over the last quarter of the steps after the drop.
        angle: Between the weights at the drop and at the end, radians.
        sharpness: Top eigenvalue of the training-mode Hessian on the unit sphere at the end, or None if not asked for.
        finite: False if the run became non-finite.
    """

    start: float
    end: float
    seed: int
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real
    gradient_norm: Real
    angle: Real
    sharpness: float | None
    finite: bool


@dataclass(frozen=True)
class Average:
    """The average of the last snapshots before the drop, on the sphere; losses and errors as in a continuation.

    Attributes:
        start: Effective learning rate at which the snapshots were taken.
        seed: Index of the seed.
        train_loss: Mean over training examples.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
        spread: Mean angle between the snapshots and their average, radians.
    """

    start: float
    seed: int
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real
    spread: Real


@dataclass(frozen=True)
class PathBarrier:
    """The great circle between two ends of one start and seed, on all training examples.

    Attributes:
        start: Effective learning rate before the drop.
        seed: Index of the seed.
        pair: Its ends: ``low`` and ``high`` are the continuations at the smallest and at the largest final effective
            learning rate, ``average`` is that of the snapshots.
        angle: Between the ends, radians.
        loss_barrier: Largest excess of the training loss over the line between the ends, at least 0.
        error_barrier: The same of the training error.
        allowed: The error barrier up to which the ends count as connected.
    """

    start: float
    seed: int
    pair: Pair
    angle: Real
    loss_barrier: Real
    error_barrier: Real
    allowed: Real

    @computed_field  # type: ignore[prop-decorator]
    @property
    def connected(self) -> bool:
        """Whether the error barrier is within what is allowed."""
        return self.error_barrier <= self.allowed


@dataclass(frozen=True, repr=False, kw_only=True)
class DropResult(Analysis, TrainedResult):
    """What :func:`onsphere.lab.drop_elr` returns: rows, and the :class:`~.findings.Analysis` that follows from them.

    Attributes:
        cells: The runs before the drop, by effective learning rate, then seed.
        continuations: The runs after it, by final, then starting effective learning rate, then seed.
        averages: The average of each run's last snapshots before the drop.
        paths: Barriers between continuations and average of each run.
        snapshots: Steps whose weights are averaged.
        radius: Radius of the sphere, or None where each run kept its initial norm.
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

    @property
    def analysis(self) -> Analysis:
        """Matrix, threshold, best starts and classes."""
        return self

    @property
    def starts(self) -> list[float]:
        """Effective learning rates before the drop, ascending."""
        return sorted({row.start for row in self.continuations})

    @property
    def ends(self) -> list[float]:
        """Effective learning rates after the drop, ascending."""
        return sorted({row.end for row in self.continuations})

    @property
    def runs(self) -> int:
        """How many runs there were before and after the drop."""
        return len(self.cells) + len(self.continuations)

    def average_errors(self) -> dict[float, list[float]]:
        """Test errors of the averages, one a seed, by start, ascending."""
        found: dict[float, list[float]] = {}
        for one in sorted(self.averages, key=lambda one: one.start):
            found.setdefault(one.start, []).append(one.test_error)
        return found

    def __repr__(self) -> str:
        lines = [f"DropResult: {self.runs} runs, {self.seconds:.0f} s"]
        lines += [
            f"  to ELR {best.end:.3g}: best start {best.start:.3g}, test error {100 * best.test_error:.2f} % "
            f"(without a drop {100 * best.no_drop:.2f} %)"
            for best in self.best
        ]
        lines += [f"  classes: {', '.join(f'{c.start:.3g} {c.label}' for c in self.classes)}"]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)
