"""The result of a drop experiment: every run of both phases, averages, paths, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import computed_field

from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.result import Real, Rows, TrainedResult

Label = Literal["1", "2A", "2B", "2", "3"]


@dataclass(frozen=True)
class Continuation:
    """One run after the drop: one start, one final effective learning rate, one seed.

    Attributes:
        start: Effective learning rate before the drop.
        end: Effective learning rate after it; equal to ``start`` in the control without a drop.
        seed: Index of the seed.
        train_loss: Mean over all training examples at the end, batch statistics re-estimated; so are the next three.
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
        pair: Its ends: continuations at the smallest (``low``) and largest (``high``) final ELR, or the ``average``.
        angle: Between the ends, radians.
        loss_barrier: Largest excess of the training loss over the line between the ends, at least 0.
        error_barrier: The same of the training error.
        allowed: The error barrier up to which the ends count as connected.
    """

    start: float
    seed: int
    pair: Literal["low-high", "average-low", "average-high"]
    angle: Real
    loss_barrier: Real
    error_barrier: Real
    allowed: Real

    @computed_field  # type: ignore[prop-decorator]
    @property
    def connected(self) -> bool:
        """Whether the error barrier is within what is allowed."""
        return self.error_barrier <= self.allowed


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds with its 95 % interval.

    Attributes:
        mean: The mean over seeds.
        low: Lower end of the interval; NaN with fewer than two seeds.
        high: Upper end of the interval.
        seeds: How many seeds there are.
    """

    mean: Real
    low: Real
    high: Real
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class MatrixCell:
    """One start and one final effective learning rate: means over the finite seeds and their standard errors ``*_se``.

    Attributes:
        start: Effective learning rate before the drop.
        end: Effective learning rate after it.
        seeds: How many runs stayed finite.
        test_error: The mean of that of each :class:`Continuation`; so are the others.
    """

    start: float
    end: float
    seeds: int
    test_error: Real
    test_error_se: Real
    test_loss: Real
    test_loss_se: Real
    train_loss: Real
    train_loss_se: Real
    train_error: Real
    train_error_se: Real
    gradient_norm: Real
    gradient_norm_se: Real
    angle: Real
    angle_se: Real
    sharpness: float | None
    sharpness_se: float | None


@dataclass(frozen=True)
class Threshold:
    """Where convergence of the first phase ends.

    Attributes:
        low: The largest start up to which most seeds converge, or None.
        high: The start after it, or None.
        fitted: Whether some run of the first phase fits the training set (error below 1 %). If not, convergence is
            judged by the falling loss alone and moves up with more steps.
        divergence: The smallest start from which on most seeds diverge, or None.
    """

    low: float | None
    high: float | None
    fitted: bool
    divergence: float | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float | None:
        """The end ``low``, where something above it does not converge; else None."""
        return self.low if self.high is not None else None


@dataclass(frozen=True)
class Best:
    """The best start for one final effective learning rate, by mean test error.

    Attributes:
        end: The final effective learning rate.
        start: The best effective learning rate before the drop.
        test_error: Mean test error from that start.
        test_error_se: Standard error of that mean.
        no_drop: Mean test error of training at ``end`` throughout, with as many steps.
        no_drop_se: The standard error of that.
        gain: Test error of the best start minus that without a drop; None if the best is without a drop.
        neighbours: The next smaller and next larger start, with the test error of the best minus theirs.
        held_out: Mean gain if the other seeds choose each seed's start, free of selection; None with fewer than three.
        within: Whether the start lies between the threshold and ten times it; None without a threshold.
        gradient_ratio: Gradient norm after the drop over that without a drop, of the means.
    """

    end: float
    start: float
    test_error: Real
    test_error_se: Real
    no_drop: Real
    no_drop_se: Real
    gain: Difference | None
    neighbours: list[tuple[float, Difference]]
    held_out: float | None
    within: bool | None
    gradient_ratio: Real


@dataclass(frozen=True)
class BestConstant:
    """The best of the final effective learning rates without any drop.

    Attributes:
        elr: The effective learning rate.
        test_error: Its mean test error after as many steps as a drop has.
        drop: Test error of the best drop of all minus that.
    """

    elr: float
    test_error: Real
    drop: Difference


@dataclass(frozen=True)
class BestAverage:
    """The start whose averages of snapshots, without any drop, have the lowest mean test error.

    Attributes:
        start: Its effective learning rate.
        test_error: Mean test error of the averages there.
        test_error_se: Standard error of that mean.
        over_drop: Test error of these averages minus that of the best drop of all.
    """

    start: float
    test_error: Real
    test_error_se: Real
    over_drop: Difference


@dataclass(frozen=True)
class StartClass:
    """The class of one start.

    Attributes:
        start: Its effective learning rate.
        label: One of 1, 2A, 2B, 3; 2 if no paths were measured.
        regimes: How many seeds were in which regime before the drop.
        connected: In how many seeds all paths are connected.
        measured: In how many seeds paths were measured.
        barriers: Mean error barrier of each pair over seeds.
        loss_barriers: Mean loss barrier of each pair over seeds.
        angles: Mean angle of each pair over seeds, radians.
    """

    start: float
    label: Label
    regimes: dict[str, int]
    connected: int
    measured: int
    barriers: dict[str, Real]
    loss_barriers: dict[str, Real]
    angles: dict[str, Real]


@dataclass(frozen=True)
class Analysis:
    """What follows from the rows, as :mod:`onsphere.lab.experiments.drop.analyse` says.

    Attributes:
        matrix: One cell a start and final effective learning rate, by final, then by start.
        threshold: Where convergence of the first phase ends.
        best: One entry a final effective learning rate.
        classes: One entry a start.
        constant: The best final effective learning rate without a drop, or None if no drop is better.
        average: The best average of snapshots, or None if there are none.
    """

    matrix: Rows[MatrixCell]
    threshold: Threshold
    best: Rows[Best]
    classes: list[StartClass]
    constant: BestConstant | None = None
    average: BestAverage | None = None

    def at(self, start: float, end: float) -> MatrixCell:
        """The cell of a start and a final effective learning rate."""
        return next(cell for cell in self.matrix if cell.start == start and cell.end == end)

    @property
    def lowest(self) -> Best:
        """The final effective learning rate whose best start has the lowest mean test error."""
        return min(self.best, key=lambda best: best.test_error)

    @property
    def sharp(self) -> bool:
        """Whether sharpness was measured."""
        return any(cell.sharpness is not None for cell in self.matrix)


@dataclass(frozen=True, repr=False, kw_only=True)
class DropResult(Analysis, TrainedResult):
    """What :func:`onsphere.lab.drop_elr` returns: rows, and the :class:`Analysis` that follows from them.

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
        starts = sorted({one.start for one in self.averages})
        return {start: [one.test_error for one in self.averages if one.start == start] for start in starts}

    def __repr__(self) -> str:
        lines = [f"DropResult: {self.runs} runs, {self.seconds:.0f} s"]
        for best in self.best:
            errors = f"{100 * best.test_error:.2f} % (without a drop {100 * best.no_drop:.2f} %)"
            lines.append(f"  to ELR {best.end:.3g}: best start {best.start:.3g}, test error {errors}")
        classes = ", ".join(f"{c.start:.3g} {c.label}" for c in self.classes)
        return "\n".join([*lines, f"  classes: {classes}", f"  page: {self.report}"])
