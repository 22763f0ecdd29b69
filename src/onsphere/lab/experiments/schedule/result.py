"""The result of a comparison of schedules: one row a method, means over seeds with intervals, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from onsphere.lab.experiments.schedule.methods import FAMILIES, NAMES, Family
from onsphere.lab.intervals import Interval, difference, interval
from onsphere.lab.old_result import frame, vouched
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain

MEASURES = ("test_error", "test_loss", "train_error", "train_loss", "validation_error")


@dataclass(frozen=True)
class Method:
    """A method with its numbers, trained with every seed.

    Attributes:
        family: Which method: ``proposed``, ``constant``, ``cosine``, ``space-constant``, ``space-cosine``.
        lr: First learning rate, on the sphere the effective one.
        end_lr: Last one; 0 for a cosine.
        weight_decay: In the whole space; 0 on the sphere.
        tuned: Whether it is the best of its family where methods were tuned.
        test_error: Of each seed at the end, fraction; NaN where the run became non-finite.
        test_loss: Likewise.
        train_error: Likewise, on all training images as they are labelled.
        train_loss: Likewise.
        validation_error: Likewise, on the validation images; empty without them.
    """

    family: Family
    lr: float
    end_lr: float
    weight_decay: float
    tuned: bool
    test_error: tuple[float, ...]
    test_loss: tuple[float, ...]
    train_error: tuple[float, ...]
    train_loss: tuple[float, ...]
    validation_error: tuple[float, ...] = ()

    @property
    def on_sphere(self) -> bool:
        """Whether it trains on the sphere."""
        return not self.family.startswith("space")

    @property
    def name(self) -> str:
        """The method in words."""
        return NAMES[self.family]

    def over_seeds(self, measure: str) -> Interval:
        """Mean, standard error and t-interval of a measure."""
        return interval(getattr(self, measure))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, means and intervals included."""
        found = asdict(self) | {"name": self.name}
        measures = [name for name in MEASURES if getattr(self, name)]
        return found | {"means": {name: self.over_seeds(name).to_dict() for name in measures}}


@dataclass(frozen=True)
class Verdict:
    """The proposal against the best tuned rival; differences are proposal minus rival in test error, paired by seed.

    Attributes:
        family: Family of the best rival: the lowest mean test error of the tuned ones.
        difference: Mean over seeds.
        standard_error: Of that mean.
        low: Lower end of its 95 % t-interval.
        high: Upper end.
        not_worse: Whether the difference is at most one standard error.
        better: Whether the whole interval is below 0.
        differences: The same against the tuned method of every family, by family.
    """

    family: Family
    difference: float
    standard_error: float
    low: float
    high: float
    not_worse: bool
    better: bool
    differences: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class ScheduleResult:
    """What :func:`onsphere.lab.compare_schedules` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        proposal: ``start_elr``, ``end_elr``, ``threshold``, ``hold``, ``tail``, ``shape``, ``limited``, ``basis``.
        boundaries: ``convergence`` (low, high) and ``divergence`` (a number or None), as they were used.
        methods: Every method, families together, the proposal first.
        tuned_on: ``validation`` or ``test``: where the best of each family was chosen.
        verdict: The proposal against the best of the others.
        spec: What was asked for.
        engine: How it was executed.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
    """

    run: Path
    report: Path
    proposal: dict[str, Any]
    boundaries: dict[str, Any]
    methods: list[Method]
    tuned_on: str
    verdict: Verdict
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float

    @property
    def tuned(self) -> list[Method]:
        """The proposal and the best of each family."""
        return [method for method in self.methods if method.tuned]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds."""
        found: dict[str, Any] = plain(
            {
                "command": "schedule",
                "run": str(self.run),
                "report": str(self.report),
                "proposal": self.proposal,
                "boundaries": self.boundaries,
                "verdict": self.verdict.to_dict(),
                "tuned_on": self.tuned_on,
                "methods": [method.to_dict() for method in self.methods],
                "spec": self.spec,
                "engine": self.engine,
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
            }
        )
        return found

    @classmethod
    @vouched
    def load(cls, run: Run) -> ScheduleResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        kept = ("proposal", "boundaries", "tuned_on", "spec", "engine", "seconds", "cpu_seconds")
        methods = [_method(row) for row in stored["methods"]]
        values = {name: stored[name] for name in kept}
        return cls(
            run=run.folder, report=run.folder / "report.html", methods=methods, verdict=verdict(methods), **values
        )

    def to_frame(self) -> Any:
        """One row a method and seed, as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        rows = []
        for method in self.methods:
            labels = {name: getattr(method, name) for name in ("family", "lr", "end_lr", "weight_decay", "tuned")}
            measures = [name for name in MEASURES if getattr(method, name)]
            rows += [
                labels | {"seed": seed} | {name: getattr(method, name)[seed] for name in measures}
                for seed in range(len(method.test_error))
            ]
        return frame(rows)

    def __repr__(self) -> str:
        start, end = self.proposal["start_elr"], self.proposal["end_elr"]
        lines = [f"ScheduleResult: ELR {start:.3g} to {end:.3g}, {len(self.methods)} methods, {self.seconds:.0f} s"]
        for method in self.tuned:
            error = method.over_seeds("test_error")
            lines.append(f"  {method.name}: test error {100 * error.mean:.2f} % ± {100 * error.standard_error:.2f}")
        return "\n".join([*lines, f"  page: {self.report}"])


def choose(methods: Sequence[Method]) -> tuple[list[Method], str]:
    """Mark the best of each family: lowest mean validation error, or test error where there is no validation set.

    Returns:
        The methods, and where they were tuned: ``validation`` or ``test``.
    """
    where = "validation" if all(method.validation_error for method in methods) else "test"

    def key(method: Method) -> float:
        mean = method.over_seeds(f"{where}_error").mean
        return mean if math.isfinite(mean) else math.inf

    best = [min((m for m in methods if m.family == family), key=key) for family in FAMILIES]
    return [replace(method, tuned=any(method is chosen for chosen in best)) for method in methods], where


def verdict(methods: Sequence[Method]) -> Verdict:
    """The proposal against the tuned rivals."""
    tuned = {method.family: method for method in methods if method.tuned}
    own = tuned.pop("proposed")
    gaps = {family: difference(own.test_error, rival.test_error) for family, rival in tuned.items()}

    def level_of(method: Method) -> float:
        mean = method.over_seeds("test_error").mean
        return mean if math.isfinite(mean) else math.inf

    best = min(tuned, key=lambda family: level_of(tuned[family]))
    gap, survived_alone = gaps[best], math.isfinite(level_of(own)) and math.isinf(level_of(tuned[best]))
    return Verdict(
        family=best,
        difference=gap.mean,
        standard_error=gap.standard_error,
        low=gap.low,
        high=gap.high,
        not_worse=gap.mean <= gap.standard_error or survived_alone,
        better=gap.high < 0,
        differences={family: gaps[family].to_dict() for family in gaps},
    )


def _method(row: dict[str, Any]) -> Method:
    values = {field.name: row[field.name] for field in fields(Method)}
    for name in MEASURES:
        values[name] = tuple(math.nan if value is None else value for value in values[name])
    return Method(**values)
