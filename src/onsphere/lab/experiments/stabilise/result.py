"""What was found about the stationary state: levels after changes, memory, wandering, barriers, random walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.result import Real, Rows, TrainedResult


@dataclass(frozen=True)
class Level:
    """One change of ELR: the level reached, and that of runs which had the ELR from the start; means over seeds.

    Attributes:
        before: ELR before the change.
        after: Effective learning rate after the change.
        seeds: How many runs there are.
        loss: Minibatch loss that they reached.
        loss_reference: That of the runs without a change.
        loss_gap: Mean over seeds of the log of their ratio.
        loss_gap_error: Its standard error over seeds.
        gradient_norm: Effective gradient norm reached.
        gradient_norm_reference: That of the runs without a change.
        gradient_norm_gap: Mean over seeds of the log of their ratio.
        gradient_norm_gap_error: Its standard error over seeds.
        test_error: Fraction, batch statistics re-estimated.
        test_error_reference: That of the runs without a change.
        steps_to_level: Steps after the change until the loss (a running mean over 16 steps, so at least 16) is within
            the reference's fluctuations; median over seeds, None if a run never got there.
    """

    before: float
    after: float
    seeds: int
    loss: Real
    loss_reference: Real
    loss_gap: Real
    loss_gap_error: Real
    gradient_norm: Real
    gradient_norm_reference: Real
    gradient_norm_gap: Real
    gradient_norm_gap_error: Real
    test_error: Real
    test_error_reference: Real
    steps_to_level: float | None

    @property
    def loss_gap_in_errors(self) -> float:
        """The gap of the loss in standard errors."""
        return self.loss_gap / self.loss_gap_error if self.loss_gap_error else float("nan")

    @property
    def gradient_norm_gap_in_errors(self) -> float:
        """The gap of the effective gradient norm in standard errors."""
        return self.gradient_norm_gap / self.gradient_norm_gap_error if self.gradient_norm_gap_error else float("nan")


@dataclass(frozen=True)
class Remaining:
    """The share of the difference between two levels that is left after the change: 0 memoryless, 1 nothing forgotten.

    Attributes:
        mean: Mean over the seeds.
        error: Standard error of the mean.
        low: Lower end of its 95 % interval (Student).
        high: Upper end of the interval.
        seeds: The value of each seed.
    """

    mean: Real
    error: Real
    low: Real
    high: Real
    seeds: list[Real]


@dataclass(frozen=True)
class MemoryPoint:
    """The memory over a bin of steps since the change.

    Attributes:
        direction: ``up`` (the ELR rose) or ``down``.
        first: First step of the bin, counted from the change.
        last: Step after its last one.
        memory: Share of the difference between the levels that is left, mean over seeds.
        error: Standard error of the mean.
    """

    direction: str
    first: int
    last: int
    memory: Real
    error: Real

    @property
    def middle(self) -> float:
        """The middle of the bin, in steps since the change."""
        return (self.first + self.last - 1) / 2


@dataclass(frozen=True)
class Stay:
    """The runs that stay at one ELR, means over seeds.

    Attributes:
        elr: Effective learning rate of the runs.
        regimes: How many seeds are in each regime.
        loss: Minibatch loss in the stationary phase.
        gradient_norm: Effective gradient norm there.
        test_error: Fraction, batch statistics re-estimated.
        angular_update: Mean angle per step, radians.
        angle: Angle to the start of the stationary phase at its end, radians.
        angle_error: Its standard error over seeds.
        steps_to_forget: Steps until the mean cosine to the start is 1/e; None if it never is.
        walk_steps_to_forget: The same of a random walk with the same angular updates.
        walk_excess: Cosine to the start minus that of the random walk, mean over lags: 0 for a random walk.
        walk_excess_error: Its standard error over seeds.
        barrier: Highest loss on the great circle from start to end above the line between both.
        barrier_error: Its standard error over seeds.
        middle: Loss in the middle of that circle minus the mean of its ends (negative: a valley between them).
        middle_error: Standard error of ``middle``.
    """

    elr: float
    regimes: dict[str, int]
    loss: Real
    gradient_norm: Real
    test_error: Real
    angular_update: Real
    angle: Real
    angle_error: Real
    steps_to_forget: float | None
    walk_steps_to_forget: float | None
    walk_excess: Real
    walk_excess_error: Real
    barrier: Real
    barrier_error: Real
    middle: Real
    middle_error: Real

    @property
    def wandering(self) -> str:
        """``global`` if the runs forget the direction they started from within the run, else ``local``."""
        return "local" if self.steps_to_forget is None else "global"


@dataclass(frozen=True)
class Distance:
    """One run at one time of its stationary phase.

    Attributes:
        elr: Effective learning rate of the runs.
        seed: Index of the seed.
        lag: Steps since the start of the stationary phase.
        cosine: Cosine to the start.
        angle: To the start, radians.
        walk_cosine: Product of the cosines of all angular updates since: what a random walk would have.
    """

    elr: float
    seed: int
    lag: int
    cosine: Real
    angle: Real
    walk_cosine: Real


@dataclass(frozen=True)
class Way:
    """The great circle from the start of a run's stationary phase to a later time.

    Attributes:
        elr: Effective learning rate of the runs.
        seed: Index of the seed.
        lag: Steps since the start of the stationary phase.
        angle: Length of the path, radians.
        barrier: Highest training loss above the line between the ends, at least 0.
        error_barrier: The same of the training error.
        middle: Training loss in the middle minus the mean of the ends.
    """

    elr: float
    seed: int
    lag: int
    angle: Real
    barrier: Real
    error_barrier: Real
    middle: Real


@dataclass(frozen=True, repr=False, kw_only=True)
class StabiliseResult(TrainedResult):
    """What :func:`onsphere.lab.stabilise` returns.

    Attributes:
        levels: One row a change of ELR.
        memory: Share of the difference between levels that is left, of ``loss`` and ``gradient_norm``.
        memory_course: The same of the loss against steps since the change.
        stays: One row an ELR: those of the chaotic equilibrium, then those of the divergence.
        distances: Angles to the start of the stationary phase.
        ways: Barriers to the start.
    """

    command: ClassVar[str] = "landscape stabilise"
    rows_field: ClassVar[str] = "levels"

    spec: StabiliseSpec
    levels: Rows[Level]
    memory: Annotated[dict[str, Remaining], Field(min_length=2)]
    memory_course: list[MemoryPoint]
    stays: Rows[Stay]
    distances: Rows[Distance]
    ways: list[Way]

    @property
    def runs(self) -> int:
        """How many runs were trained."""
        return self.spec.seeds * (len(self.spec.elrs) ** 2 + len(self.spec.divergence_elrs))

    @property
    def chaotic(self) -> list[Stay]:
        """The rows of ``--elrs``."""
        return [stay for stay in self.stays if stay.elr in self.spec.elrs]

    @property
    def diverged(self) -> list[Stay]:
        """The rows of ``--divergence-elrs``."""
        return [stay for stay in self.stays if stay.elr not in self.spec.elrs]

    def __repr__(self) -> str:
        left = self.memory["loss"]
        kinds = ", ".join(f"{stay.elr:g} {stay.wandering}" for stay in self.chaotic)
        return (
            f"StabiliseResult: {100 * left.mean:.2g} % of the difference in loss is left after a change of ELR "
            f"(95 % interval {100 * left.low:.2g} to {100 * left.high:.2g} %); wandering: {kinds}\n"
            f"  page: {self.report}"
        )
