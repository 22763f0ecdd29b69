"""The result of a study of the periods: one row a run, one summary a setting, and what the follow-ups found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, ClassVar, Literal

from onsphere.lab.experiments.periods.science.rows import (
    Comparison,
    FixedNorm,
    Minima,
    OfRun,
    OfSetting,
    Sharpness,
    SphereRun,
    Traces,
)
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.result import Engine, Rows, TrainedResult

Place = tuple[float, float, int | None]  # lr, weight decay, width where there are several
Behaviour = Literal["periodic", "equilibrium", "undecided", "non-finite"]


@dataclass(frozen=True)
class PeriodsRun(OfRun):
    """One run in numbers.

    Attributes:
        behaviour: "periodic" (at least three jumps), "equilibrium" (from ``start`` on no jump and a steady ELR, over at
            least 2 τ), "non-finite", or "undecided".
        finite: Whether loss and weights stayed finite.
        jumps: Steps of the jumps.
        delta_jumps: How many steps made a δ-jump, with a pause of τ/5 after each; None with momentum or a schedule.
        period: Median distance of consecutive jumps, steps; None with fewer than two.
        period_tau: This period in units of τ = 1 / (2 lr weight_decay).
        first_jump: Step of the first jump.
        predicted_first_jump: Predicted from the lowest ELR before it.
        measured_recovery: Median steps from the lowest ELR after a jump to the next jump.
        predicted_recovery: Median of what the norm recurrence predicts for the same recoveries.
        recovery_ratio: Median of measured over predicted.
        elr_jump: Median ELR at the jumps.
        elr_drop: Median factor by which a jump divides the ELR.
        rms_angular_update: Root mean square of the angle of a step after ``start``, radians; None with momentum or a
            schedule.
        predicted_angular_update: Its value at equilibrium; with a schedule at the mean lr after ``start``.
        start: First step of the window in which the equilibrium is measured.
        mean_elr: Geometric mean of the ELR there.
        predicted_elr: The ELR that balances the mean squared effective gradient there; None with a schedule.
        elr_spread: Standard deviation of log ELR there.
        jumpiness: Excess of the mean squared effective step over its equilibrium; None with momentum or a schedule.
        loss: Mean minibatch loss there.
        train_loss: Loss on all training images, at the end.
        train_error: Fraction of all training images, at the end.
        test_error: Fraction of all test images, at the end.
        width: Width of its network, where there are several.
        clean_error: Fraction of the training images whose labels are right, at the end; None without label noise.
        corrupted_error: The same of those whose labels are wrong, by the wrong labels: 1 - their memorised share.
    """

    behaviour: Behaviour
    finite: bool
    jumps: list[int]
    delta_jumps: int | None
    period: float | None
    period_tau: float | None
    first_jump: int | None
    predicted_first_jump: float | None
    measured_recovery: float | None
    predicted_recovery: float | None
    recovery_ratio: float | None
    elr_jump: float | None
    elr_drop: float | None
    rms_angular_update: float | None
    predicted_angular_update: float
    start: int
    mean_elr: float | None
    predicted_elr: float | None
    elr_spread: float | None
    jumpiness: float | None
    loss: float | None
    train_loss: float | None
    train_error: float | None
    test_error: float | None
    width: int | None = None
    clean_error: float | None = None
    corrupted_error: float | None = None

    @property
    def place(self) -> Place:
        """Learning rate, weight decay and width."""
        return self.lr, self.weight_decay, self.width

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class PeriodsEngine(Engine):
    """What executed the copies, and what ELR, norm and gradient are those of.

    Attributes:
        invariant: Names of the scale-invariant tensors.
    """

    invariant: list[str]


@dataclass(frozen=True, repr=False, kw_only=True)
class PeriodsResult(TrainedResult):
    """What :func:`onsphere.lab.train_periods` returns.

    Attributes:
        runs: One row a run, by lr, weight decay, seed.
        comparison: Each setting against the sphere, if asked for.
        sphere: The runs on the sphere, if asked for.
        minima: The minima of the periods, one entry a run that has two or more, if asked for.
        sharpness: ELR times sharpness around the first jumps of each setting's first seed, if asked for.
        traces: Traces along each setting's first seed, if asked for.
        fixed: The runs with their norm fixed at the checkpoint's, if asked for.
    """

    command: ClassVar[str] = "periods"
    rows_field: ClassVar[str] = "runs"

    spec: PeriodsSpec
    engine: PeriodsEngine
    runs: Rows[PeriodsRun]
    comparison: list[Comparison] = field(default_factory=list)
    sphere: list[SphereRun] = field(default_factory=list)
    minima: list[Minima] = field(default_factory=list)
    sharpness: list[Sharpness] = field(default_factory=list)
    traces: list[Traces] = field(default_factory=list)
    fixed: list[FixedNorm] = field(default_factory=list)

    def __repr__(self) -> str:
        lines = [f"PeriodsResult: {len(self.runs)} runs, {self.seconds:.0f} s"]
        lines += [f"  {setting}" for setting in summaries(self.runs)]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Setting(OfSetting):
    """The runs of one learning rate and weight decay.

    Attributes:
        runs: The runs of the setting, one a seed.
        width: Width of their networks, where there are several.
    """

    runs: list[PeriodsRun]
    width: int | None = None
    clean_error: float | None = None
    corrupted_error: float | None = None

    @property
    def place(self) -> Place:
        """Learning rate, weight decay and width."""
        return self.lr, self.weight_decay, self.width

    @property
    def product(self) -> float:
        """Learning rate times weight decay."""
        return self.lr * self.weight_decay

    @property
    def behaviour(self) -> str:
        """What most runs do, or "mixed"."""
        kinds = {run.behaviour for run in self.runs}
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def median(self, name: str) -> float | None:
        """Median over the runs that have a value; None without any."""
        values = [getattr(run, name) for run in self.runs]
        present = [value for value in values if value is not None]
        return median(present) if present else None

    @property
    def jumps(self) -> tuple[int, int]:
        """Fewest and most jumps in a run."""
        counts = [len(run.jumps) for run in self.runs]
        return min(counts), max(counts)

    def __str__(self) -> str:
        low, high = self.jumps
        counted = f"{low} jumps" if low == high else f"{low}-{high} jumps"
        width = "" if self.width is None else f", width {self.width}"
        words = f"lr {self.lr:g}, wd {self.weight_decay:g}{width}: {self.behaviour}, {counted}"
        period = self.median("period")
        return words if period is None else f"{words}, period {period:.0f} steps"


def round_name(width: int | None) -> str:
    """What the shards in the whole space are called."""
    return "space" if width is None else f"width{width}"


def summaries(runs: Sequence[PeriodsRun]) -> list[Setting]:
    """The settings, in the order of the runs."""
    groups: dict[Place, list[PeriodsRun]] = {}
    for run in runs:
        groups.setdefault(run.place, []).append(run)
    return [Setting(lr, decay, rows, width) for (lr, decay, width), rows in groups.items()]
