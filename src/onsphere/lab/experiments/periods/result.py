"""The result of a study of the periods: one row a run, one summary a setting, and what the follow-ups found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from onsphere.lab.experiments.periods.analyse import PeriodsRun
from onsphere.lab.old_result import frame, vouched
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain


@dataclass(frozen=True)
class SphereRun:
    """One run of the same network at a fixed ELR on the sphere.

    Attributes:
        lr: Learning rate of the setting that it is compared with.
        weight_decay: Weight decay of that setting.
        elr: The fixed effective learning rate.
        seed: Seed.
        loss: Mean minibatch loss over the same window of steps.
        delta_jumps: Steps after the burn-in with 1 - cos above the setting's δ, with a pause of τ/5 after each.
        test_error: At the end, fraction.
        finite: Whether loss and weights stayed finite.
    """

    lr: float
    weight_decay: float
    elr: float
    seed: int
    loss: float | None
    delta_jumps: int
    test_error: float | None
    finite: bool


@dataclass(frozen=True)
class Comparison:
    """A setting in the whole space against the sphere at its ELR.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight decay.
        elr: Geometric mean of the ELR over the window and the seeds.
        loss: Geometric mean over seeds of the mean minibatch loss in the window.
        sphere_loss: The same on the sphere, interpolated to ``elr`` on logarithmic scales.
        ratio: The first over the second.
        delta_jumps: Mean number of δ-jumps a run after the burn-in.
        sphere_delta_jumps: The same on the sphere at the ELR nearest to ``elr``.
    """

    lr: float
    weight_decay: float
    elr: float | None
    loss: float | None
    sphere_loss: float | None
    ratio: float | None
    delta_jumps: float | None
    sphere_delta_jumps: float | None


@dataclass(frozen=True)
class Minima:
    """The loss minima of one run's periods.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight decay.
        seed: Seed.
        steps: Step of each minimum, M of them.
        test_error: Of each, fraction, M.
        train_loss: Of each, on all training images, M.
        angles: Between the scale-invariant weights of each pair, radians, M x M.
        disagreement: Fraction of test images that each pair labels differently, M x M.
        ensemble_error: Test error of the averaged predictions of the last m minima, m = 1 .. M.
    """

    lr: float
    weight_decay: float
    seed: int
    steps: list[int]
    test_error: list[float]
    train_loss: list[float]
    angles: list[list[float]]
    disagreement: list[list[float]]
    ensemble_error: list[float]


@dataclass(frozen=True)
class Sharpness:
    """ELR times sharpness around one jump: what it comes to before the jump, and midway since the one before.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight decay.
        seed: Seed.
        jump: Step of the jump.
        threshold: Above which gradient descent is unstable: 2 without momentum.
        steps: Steps before the jump at which it was measured, the jump itself the last.
        elr_times_sharpness: There; None where it is not finite.
        control_steps: As many steps in the middle of the gap between the jump before (or step 0) and this one.
        control: ELR times sharpness there.
    """

    lr: float
    weight_decay: float
    seed: int
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


@dataclass(frozen=True, repr=False)
class PeriodsResult:
    """What :func:`onsphere.lab.train_periods` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        runs: One row a run, by lr, weight decay, seed.
        comparison: Each setting against the sphere, if asked for.
        sphere: The runs on the sphere, if asked for.
        minima: The minima of the periods, one entry a run that has two or more, if asked for.
        sharpness: ELR times sharpness around the first jumps of each setting's first seed, if asked for.
        spec: What was asked for.
        engine: How it was executed: mode, chunk, compiled, workers.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
    """

    run: Path
    report: Path
    runs: list[PeriodsRun]
    comparison: list[Comparison]
    sphere: list[SphereRun]
    minima: list[Minima]
    sharpness: list[Sharpness]
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds; None for what is not finite."""
        values = {
            "command": "periods",
            "run": str(self.run),
            "report": str(self.report),
            **{name: [asdict(row) for row in getattr(self, name)] for name in _TABLES},
            "spec": self.spec,
            "engine": self.engine,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        return dict(plain(values))

    @classmethod
    @vouched
    def load(cls, run: Run) -> PeriodsResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        tables: dict[str, Any] = {
            name: [row(**values) for values in stored.get(name, [])] for name, row in _TABLES.items()
        }
        kept = {name: stored[name] for name in ("spec", "engine", "seconds", "cpu_seconds")}
        return cls(run=run.folder, report=run.folder / "report.html", **tables, **kept)

    def to_frame(self) -> Any:
        """The runs as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([run.to_dict() for run in self.runs])

    def __repr__(self) -> str:
        lines = [f"PeriodsResult: {len(self.runs)} runs, {self.seconds:.0f} s"]
        lines += [f"  {setting}" for setting in summaries(self.runs)]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)


_TABLES: dict[str, Callable[..., Any]] = {
    "runs": PeriodsRun,
    "comparison": Comparison,
    "sphere": SphereRun,
    "minima": Minima,
    "sharpness": Sharpness,
}


@dataclass(frozen=True, repr=False)
class Setting:
    """The runs of one learning rate and weight decay.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight decay.
        runs: One a seed.
    """

    lr: float
    weight_decay: float
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


def summaries(runs: list[PeriodsRun]) -> list[Setting]:
    """The settings, in the order of the runs."""
    groups: dict[tuple[float, float], list[PeriodsRun]] = {}
    for run in runs:
        groups.setdefault((run.lr, run.weight_decay), []).append(run)
    return [Setting(lr, decay, rows) for (lr, decay), rows in groups.items()]


def describe(runs: list[PeriodsRun]) -> str:
    """The result so far in one line."""
    settings = [str(setting) for setting in summaries(runs)]
    more = f"; and {len(settings) - 3} more" if len(settings) > 3 else ""
    return "; ".join(settings[:3]) + more
