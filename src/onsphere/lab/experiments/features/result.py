"""What was found about learned features: every run after the drop, the accuracy of every part, what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onsphere.lab.experiments.drop.result import Difference, Threshold
from onsphere.lab.experiments.features.spec import FeaturesSpec
from onsphere.lab.experiments.regimes.classify import Cell, Regime
from onsphere.lab.intervals import Interval
from onsphere.lab.result import Real, Rows, TrainedResult

GroupName = Literal["small", "above", "large"]
Verdict = Literal["seen", "not seen", "not decided"]


@dataclass(frozen=True)
class Part:
    """A part of the input: a redundant feature, or a band of frequencies.

    Attributes:
        part: Its number, from 0.
        name: What it is called.
        noise: Standard deviation of a feature's noise; None for a band.
        best: Best accuracy that a feature alone allows; None for a band.
        low: Least frequency of a band; None for a feature.
        high: Frequency at which a band ends; None for a feature.
    """

    part: int
    name: str
    noise: float | None = None
    best: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PartAccuracy:
    """Test accuracies of one run after the drop, for one part of the input.

    Attributes:
        start: Effective learning rate before the drop.
        seed: Index of the seed.
        part: Number of the part.
        alone: Accuracy where nothing but this part is left of an example.
        without: Accuracy where everything but this part is left.
    """

    start: float
    seed: int
    part: int
    alone: Real
    without: Real


@dataclass(frozen=True)
class FeatureRun:
    """One run after the drop.

    Attributes:
        start: Effective learning rate before the drop.
        seed: Index of the seed.
        train_loss: Mean over all training examples at the end, batch statistics re-estimated; so are the next three.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
        count: How many features carry the label; None for bands.
        effective: Effective number of features; None for bands and runs that became non-finite.
        usefulness: Mean best accuracy of the features that the network uses; None for bands and where none carries.
        finite: False if the run became non-finite.
    """

    start: float
    seed: int
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real
    count: int | None
    effective: float | None
    usefulness: float | None
    finite: bool


@dataclass(frozen=True)
class StartSummary:
    """One start: means over seeds with 95 % intervals.

    Attributes:
        start: Effective learning rate before the drop.
        regime: That of most seeds before the drop.
        test_error: Share of wrong predictions on test examples after it.
        train_loss: Mean over training examples after it.
        count: How many features carry the label; NaN for bands.
        effective: Effective number of features; NaN for bands.
        usefulness: Mean best accuracy of the features used; NaN for bands.
        alone: Accuracy with each part alone.
        without: Accuracy without each part.
        ranked: Accuracies of the parts alone, the largest of every seed first, means over seeds.
    """

    start: float
    regime: Regime
    test_error: Interval
    train_loss: Interval
    count: Interval
    effective: Interval
    usefulness: Interval
    alone: list[Interval]
    without: list[Interval]
    ranked: list[Real]


@dataclass(frozen=True)
class Group:
    """Starts that lie alike to the convergence threshold.

    Attributes:
        name: ``small`` (clearly below it), ``above`` (slightly above it) or ``large``.
        starts: Its effective learning rates.
        effective: Effective number of features, the mean over its starts, over seeds.
        usefulness: Mean best accuracy of the features used, likewise.
    """

    name: GroupName
    starts: list[float]
    effective: Interval
    usefulness: Interval


@dataclass(frozen=True)
class Contrast:
    """The starts slightly above the threshold beside another group.

    Attributes:
        other: The group of starts that it is compared with.
        difference: Effective number slightly above the threshold minus that of the other group, paired by seed.
    """

    other: GroupName
    difference: Difference


@dataclass(frozen=True)
class BandDifference:
    """One start and one band beside training at the final effective learning rate throughout.

    Attributes:
        start: Effective learning rate before the drop.
        part: Number of the band.
        alone: Accuracy with the band alone minus that of the control, paired by seed.
        without: The same of the accuracy without the band.
    """

    start: float
    part: int
    alone: Difference
    without: Difference


@dataclass(frozen=True)
class Analysis:
    """What follows from the rows, as :mod:`onsphere.lab.experiments.features.analyse` says.

    Attributes:
        starts: One entry a start, ascending.
        threshold: Where convergence of the first phase ends.
        groups: Starts clearly below, slightly above and far above it; empty for bands and without a threshold.
        contrasts: The middle group beside the others, where both are there.
        differences: Every band and start beside the control; empty for features.
    """

    starts: Rows[StartSummary]
    threshold: Threshold
    groups: list[Group]
    contrasts: list[Contrast]
    differences: list[BandDifference]

    @property
    def verdict(self) -> Verdict:
        """Whether starts slightly above the threshold leave fewer features than smaller and larger ones."""
        if any(one.difference.low > 0 for one in self.contrasts):
            return "not seen"
        both = len(self.contrasts) == 2 and all(one.difference.high < 0 for one in self.contrasts)
        return "seen" if both else "not decided"


@dataclass(frozen=True, repr=False, kw_only=True)
class FeaturesResult(Analysis, TrainedResult):
    """What :func:`onsphere.lab.learn_features` returns: rows, and the :class:`Analysis` that follows from them.

    Attributes:
        parts: The features or bands.
        runs: The runs after the drop, by start, then seed.
        accuracies: Their accuracies with and without every part, by start, seed and part.
        cells: The runs before the drop, by effective learning rate, then seed.
        limit: The accuracy above which a feature alone counts as carrying the label; None for bands.
        radius: Radius of the sphere, or None where each run kept its initial norm.
    """

    command: ClassVar[str] = "landscape features"
    rows_field: ClassVar[str] = "accuracies"

    spec: FeaturesSpec
    parts: Rows[Part]
    runs: Rows[FeatureRun]
    accuracies: Rows[PartAccuracy]
    cells: Rows[Cell]
    limit: float | None
    radius: float | None

    def __repr__(self) -> str:
        lines = [f"FeaturesResult: {len(self.cells) + len(self.runs)} runs, {self.seconds:.0f} s"]
        for one in self.starts:
            number = "" if self.limit is None else f", effective number of features {one.effective.mean:.3g}"
            lines.append(f"  from ELR {one.start:.3g}: test error {100 * one.test_error.mean:.2f} %{number}")
        return "\n".join([*lines, f"  page: {self.report}"])
