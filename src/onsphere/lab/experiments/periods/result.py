"""The result of a study of the periods: one row a run, one summary a setting, and what the follow-ups found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, ClassVar, Literal

from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.result import Engine, Rows, TrainedResult

Behaviour = Literal["periodic", "equilibrium", "undecided", "non-finite"]


@dataclass(frozen=True)
class OfSetting:
    """What is found about one setting.

    Attributes:
        lr: Learning rate of the setting.
        weight_decay: Weight decay of the setting.
    """

    lr: float
    weight_decay: float

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay."""
        return self.lr, self.weight_decay


@dataclass(frozen=True)
class OfRun(OfSetting):
    """What is found about one run in the whole space.

    Attributes:
        seed: The seed of the run.
    """

    seed: int

    @property
    def key(self) -> tuple[float, float, int]:
        """Learning rate, weight decay and seed."""
        return self.lr, self.weight_decay, self.seed


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

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class SphereRun(OfSetting):
    """One run of the same network at a fixed ELR on the sphere.

    Attributes:
        elr: The fixed effective learning rate.
        seed: The seed of the run.
        loss: Mean minibatch loss over the same window of steps.
        delta_jumps: Steps after the burn-in with 1 - cos above the setting's δ, with a pause of τ/5 after each.
        test_error: Test error at the end, fraction.
        finite: Whether loss and weights stayed finite.
    """

    elr: float
    seed: int
    loss: float | None
    delta_jumps: int
    test_error: float | None
    finite: bool


@dataclass(frozen=True)
class Comparison(OfSetting):
    """A setting in the whole space against the sphere at its ELR.

    Attributes:
        elr: Geometric mean of the ELR over the window and the seeds.
        loss: Geometric mean over seeds of the mean minibatch loss in the window.
        sphere_loss: This loss on the sphere, interpolated to ``elr`` on logarithmic scales.
        ratio: Loss in the whole space over that on the sphere.
        delta_jumps: Mean number of δ-jumps a run after the burn-in.
        sphere_delta_jumps: This number on the sphere at the ELR nearest to ``elr``.
    """

    elr: float | None
    loss: float | None
    sphere_loss: float | None
    ratio: float | None
    delta_jumps: float | None
    sphere_delta_jumps: float | None


@dataclass(frozen=True)
class Minima(OfRun):
    """The loss minima of one run's periods.

    Attributes:
        steps: Step of each minimum, M of them.
        test_error: Test error of each minimum, fraction, M.
        train_loss: Loss of each minimum on all training images, M.
        angles: Angles between the scale-invariant weights of each pair, radians, M x M.
        disagreement: Fraction of test images that each pair labels differently, M x M.
        ensemble_error: Test error of the averaged predictions of the last m minima, m = 1 .. M.
    """

    steps: list[int]
    test_error: list[float]
    train_loss: list[float]
    angles: list[list[float]]
    disagreement: list[list[float]]
    ensemble_error: list[float]

    @property
    def consecutive(self) -> list[float]:
        """Angles between the minima of consecutive periods, radians, M - 1 of them."""
        return [row[i + 1] for i, row in enumerate(self.angles[:-1])]


@dataclass(frozen=True)
class Sharpness(OfRun):
    """ELR times sharpness around one jump: what it comes to before the jump, and midway since the one before.

    Attributes:
        jump: Step of the jump.
        threshold: The value above which gradient descent is unstable: 2 without momentum.
        steps: Steps before the jump at which it was measured, the jump itself the last.
        elr_times_sharpness: ELR times sharpness at these steps; None where it is not finite.
        control_steps: As many steps in the middle of the gap between the jump before (or step 0) and this one.
        control: ELR times sharpness at the control steps.
    """

    jump: int
    threshold: float
    steps: list[int]
    elr_times_sharpness: list[float | None]
    control_steps: list[int]
    control: list[float | None]

    @property
    def highest(self) -> float | None:
        """The largest value before the jump, at whose own step the loss is high already."""
        return max((v for v in self.elr_times_sharpness[:-1] if v is not None), default=None)

    @property
    def crossing(self) -> int | None:
        """How many steps before the jump the threshold was first seen passed; None where it was not."""
        pairs = zip(self.steps[:-1], self.elr_times_sharpness[:-1], strict=True)
        return next((self.jump - step for step, v in pairs if v is not None and v > self.threshold), None)


@dataclass(frozen=True)
class FixedNorm(OfRun):
    """A run that goes on from a checkpoint with its norm fixed, beside the same one whose norm is free.

    Attributes:
        norm: Norm of the scale-invariant tensors at the checkpoint.
        elr: ELR that it fixes, lr / ((1 - lr weight_decay) norm²).
        loss: Mean minibatch loss over the window in which the free run's equilibrium is measured.
        free_loss: The same with the norm free.
        delta_jumps: Steps after the burn-in with 1 - cos above the setting's δ, with a pause of τ/5 after each.
        free_delta_jumps: The same with the norm free.
        test_error: Test error at the end, fraction.
        free_test_error: The same with the norm free.
    """

    norm: float
    elr: float
    loss: float | None
    free_loss: float | None
    delta_jumps: int
    free_delta_jumps: int | None
    test_error: float | None
    free_test_error: float | None


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
    """

    runs: list[PeriodsRun]

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
        words = f"lr {self.lr:g}, wd {self.weight_decay:g}: {self.behaviour}, {counted}"
        period = self.median("period")
        return words if period is None else f"{words}, period {period:.0f} steps"


def summaries(runs: Sequence[PeriodsRun]) -> list[Setting]:
    """The settings, in the order of the runs."""
    groups: dict[tuple[float, float], list[PeriodsRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    return [Setting(lr, decay, rows) for (lr, decay), rows in groups.items()]
