"""What follows from the rows of a drop: matrix, threshold, best starts, classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import computed_field

from onsphere.lab.experiments.drop.result.rows import Average, Continuation, PathBarrier
from onsphere.lab.result import Real, Rows

Label = Literal["1", "2A", "2B", "2", "3"]


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
    """One start and one final rate: means over the finite seeds and their standard errors ``*_se``.

    Attributes:
        start: Learning rate before the drop.
        end: Learning rate after it.
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
    """The best start for one final rate, by mean test error.

    Attributes:
        end: Learning rate after the drop.
        start: The best learning rate before the drop.
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
    """The best of the final rates without any drop.

    Attributes:
        elr: Learning rate from the first step to the last.
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
        start: Learning rate before the drop.
        test_error: Mean test error of the averages there.
        test_error_se: Standard error of that mean.
        over_drop: Test error of these averages minus that of the best drop of all.
        snapshots: How many snapshots these averages are of; None in a result of an older version.
    """

    start: float
    test_error: Real
    test_error_se: Real
    over_drop: Difference
    snapshots: int | None = None


@dataclass(frozen=True)
class StartClass:
    """The class of one start.

    Attributes:
        start: Learning rate before the drop.
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
class StageDifference:
    """A start in stages beside one of a single stage.

    Attributes:
        end: The final rate of both.
        rate: The rate of the single stage, as long as all stages together.
        difference: Test error from the start in stages minus that from the single one.
    """

    end: float
    rate: float
    difference: Difference


@dataclass(frozen=True)
class StagedStart:
    """A start in several stages, and what came of it; its rows say the rate of the last stage as ``start``.

    Attributes:
        name: How it was asked for.
        rates: The rate of each stage.
        lengths: The steps of each stage.
        continuations: The runs after the drop, by final rate, then seed.
        averages: The averages of its last snapshots before the drop, all of the last stage.
        paths: Barriers between continuations and average.
        matrix: Means over seeds, one a final rate.
        differences: Beside each of its rates as a single stage, for each final rate.
        connected: In how many seeds all paths are connected.
        measured: In how many seeds paths were measured.
    """

    name: str
    rates: list[float]
    lengths: list[int]
    continuations: Rows[Continuation]
    averages: list[Average]
    paths: list[PathBarrier]
    matrix: Rows[MatrixCell]
    differences: list[StageDifference]
    connected: int
    measured: int


@dataclass(frozen=True)
class AtLossCell:
    """The continuations of a start and final rate at matched train loss: means over seeds, standard errors ``*_se``.

    Attributes:
        start: Learning rate before the drop.
        end: Learning rate after it.
        seeds: How many runs came close enough to the loss.
        step: Mean steps after the drop.
        sharpness: Geometric mean of the top eigenvalues.
        sharpness_se: Its standard error by that of the logarithms.
    """

    start: float
    end: float
    seeds: int
    step: Real
    batch_loss: Real
    sharpness: Real
    sharpness_se: Real
    test_error: Real
    test_error_se: Real
    test_loss: Real
    test_loss_se: Real


@dataclass(frozen=True)
class Flatness:
    """Whether flat is good at one train loss: rank correlation of sharpness and test error over starts, by final rate.

    Attributes:
        end: Learning rate after the drop.
        starts: How many starts every seed has at the loss.
        correlation: Spearman's, mean over seeds with its interval; NaN where a seed has no two different values.
    """

    end: float
    starts: int
    correlation: Difference


@dataclass(frozen=True)
class Analysis:
    """What follows from the rows, as :mod:`onsphere.lab.experiments.drop.analyse` says.

    Attributes:
        matrix: One cell a start and final rate, by final, then by start.
        threshold: Where convergence of the first phase ends.
        best: One entry a final rate.
        classes: One entry a start.
        constant: The best final rate without a drop, or None if no drop is better.
        average: The best average of snapshots, or None if there are none.
    """

    matrix: Rows[MatrixCell]
    threshold: Threshold
    best: Rows[Best]
    classes: list[StartClass]
    constant: BestConstant | None = None
    average: BestAverage | None = None

    def at(self, start: float, end: float) -> MatrixCell:
        """The cell of a start and a final rate."""
        return next(cell for cell in self.matrix if cell.start == start and cell.end == end)

    @property
    def lowest(self) -> Best:
        """The final rate whose best start has the lowest mean test error."""
        return min(self.best, key=lambda best: best.test_error)

    @property
    def sharp(self) -> bool:
        """Whether sharpness was measured."""
        return any(cell.sharpness is not None for cell in self.matrix)
