"""The result of a comparison of schedules: one row a method, means over seeds with intervals, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from pydantic import computed_field

from onsphere.lab.experiments.schedule.spec import NAMES, Family, ScheduleSpec
from onsphere.lab.intervals import Interval, difference, interval
from onsphere.lab.keyed import Keyed
from onsphere.lab.result import Real, Rows, TrainedResult
from onsphere.results import frame

Measure = Literal["test_error", "test_loss", "train_error", "train_loss", "validation_error"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class Method:
    """A method with its numbers, trained with every seed.

    Attributes:
        family: Which method: ``proposed``, ``constant``, ``cosine``, ``space-constant``, ``space-cosine``.
        lr: First learning rate, on the sphere the effective one.
        end_lr: Last one; 0 for a cosine.
        weight_decay: In the whole space; 0 on the sphere.
        tuned: Whether it is the best of its family where methods were tuned.
        test_error: Fraction of test images at the end, for each seed; NaN where the run became non-finite.
        test_loss: Loss on the test images at the end, for each seed.
        train_error: Fraction of all training images as they are labelled at the end, for each seed.
        train_loss: Loss on all training images at the end, for each seed.
        validation_error: Fraction of validation images at the end, for each seed; empty without them.
    """

    family: Family
    lr: float
    end_lr: float
    weight_decay: float
    tuned: bool
    test_error: tuple[Real, ...]
    test_loss: tuple[Real, ...]
    train_error: tuple[Real, ...]
    train_loss: tuple[Real, ...]
    validation_error: tuple[Real, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name(self) -> str:
        """The method in words."""
        return NAMES[self.family]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def means(self) -> dict[str, Interval]:
        """Mean, standard error and t-interval of every measure that there is."""
        return {name: self.over_seeds(name) for name in MEASURES if getattr(self, name)}

    @property
    def on_sphere(self) -> bool:
        """Whether it trains on the sphere."""
        return not self.family.startswith("space")

    def over_seeds(self, measure: Measure) -> Interval:
        """Mean, standard error and t-interval of a measure."""
        return interval(getattr(self, measure))

    def level(self, measure: Measure) -> float:
        """Mean of a measure; infinite where a seed became non-finite, so that it is never the lowest."""
        mean = self.over_seeds(measure).mean
        return mean if math.isfinite(mean) else math.inf


@dataclass(frozen=True)
class Proposal(Keyed):
    """The proposed schedule.

    Attributes:
        start_elr: Effective learning rate that is held first.
        end_elr: Effective learning rate at the end.
        threshold: ELR at which convergence ends.
        hold: Fraction of the steps at the start ELR.
        tail: Fraction of the steps at the end ELR.
        shape: The way from start to end.
        limited: Whether the start was lowered to stay clear of divergence.
        basis: What the threshold follows from: ``boundary``, ``labels`` or ``divergence``.
    """

    start_elr: float
    end_elr: float
    threshold: float
    hold: float
    tail: float
    shape: str
    limited: bool
    basis: str


@dataclass(frozen=True)
class Boundaries(Keyed):
    """The boundaries as they were used.

    Attributes:
        convergence: ELRs between which convergence ends.
        divergence: ELR at which divergence begins, where it is known.
    """

    convergence: tuple[float, float]
    divergence: float | None


@dataclass(frozen=True)
class Verdict:
    """The proposal against the best tuned rival; differences are proposal minus rival in test error, paired by seed.

    Attributes:
        family: Family of the best rival: the lowest mean test error of the tuned ones.
        difference: Mean of the differences over seeds.
        standard_error: Standard error of that mean.
        low: Lower end of its 95 % t-interval.
        high: Upper end of its 95 % t-interval.
        not_worse: Whether the difference is at most one standard error.
        better: Whether the whole interval is below 0.
        differences: Those from the tuned method of every family, by family.
    """

    family: Family
    difference: Real
    standard_error: Real
    low: Real
    high: Real
    not_worse: bool
    better: bool
    differences: dict[Family, Interval]


@dataclass(frozen=True, repr=False, kw_only=True)
class ScheduleResult(TrainedResult):
    """What :func:`onsphere.lab.compare_schedules` returns.

    Attributes:
        proposal: The schedule that was proposed.
        boundaries: The boundaries of the regimes that it follows from.
        verdict: The proposal against the best of the others.
        tuned_on: ``validation`` or ``test``: where the best of each family was chosen.
        methods: Every method, families together, the proposal first.
    """

    command: ClassVar[str] = "schedule"

    spec: ScheduleSpec
    proposal: Proposal
    boundaries: Boundaries
    verdict: Verdict
    tuned_on: Literal["validation", "test"]
    methods: Rows[Method]

    @property
    def tuned(self) -> list[Method]:
        """The proposal and the best of each family."""
        return [method for method in self.methods if method.tuned]

    def to_frame(self) -> Any:
        """One row a method and seed, as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        labels = ("family", "lr", "end_lr", "weight_decay", "tuned")
        return frame(
            [
                {name: getattr(method, name) for name in labels}
                | {"seed": seed}
                | {name: getattr(method, name)[seed] for name in method.means}
                for method in self.methods
                for seed in range(len(method.test_error))
            ]
        )

    def __repr__(self) -> str:
        start, end = self.proposal.start_elr, self.proposal.end_elr
        lines = [f"ScheduleResult: ELR {start:.3g} to {end:.3g}, {len(self.methods)} methods, {self.seconds:.0f} s"]
        for method in self.tuned:
            error = method.over_seeds("test_error")
            lines.append(f"  {method.name}: test error {100 * error.mean:.2f} % ± {100 * error.standard_error:.2f}")
        return "\n".join([*lines, f"  page: {self.report}"])


def choose(methods: Sequence[Method]) -> tuple[list[Method], Literal["validation", "test"]]:
    """Mark the best of each family: lowest mean validation error, or test error where there is no validation set.

    Returns:
        The methods, and where they were tuned: ``validation`` or ``test``.
    """
    validated = all(method.validation_error for method in methods)
    measure: Measure = "validation_error" if validated else "test_error"
    best = [min((m for m in methods if m.family == family), key=lambda m: m.level(measure)) for family in NAMES]
    marked = [replace(method, tuned=any(method is chosen for chosen in best)) for method in methods]
    return marked, "validation" if validated else "test"


def verdict(methods: Sequence[Method]) -> Verdict:
    """The proposal against the tuned rivals."""
    tuned = {method.family: method for method in methods if method.tuned}
    own = tuned.pop("proposed")
    gaps = {family: difference(own.test_error, rival.test_error) for family, rival in tuned.items()}
    best = min(tuned, key=lambda family: tuned[family].level("test_error"))
    gap = gaps[best]
    survived_alone = math.isfinite(own.level("test_error")) and math.isinf(tuned[best].level("test_error"))
    return Verdict(
        family=best,
        difference=gap.mean,
        standard_error=gap.standard_error,
        low=gap.low,
        high=gap.high,
        not_worse=gap.mean <= gap.standard_error or survived_alone,
        better=gap.high < 0,
        differences=gaps,
    )
