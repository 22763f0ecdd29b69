"""The result of a study of memory splits: what every split reaches, which is best, how sure that is, what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import computed_field

from onsphere.lab.experiments.split.pools.points import AtTemperatures, Law, Point
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.result import Real, Rows, TrainedResult
from onsphere.results import frame

METRICS = ("accuracy", "nll", "cnll")
#: What a metric is multiplied by to be large where a split is good, and to be read: accuracy in percent.
SIGN = {"accuracy": 1.0, "nll": -1.0, "cnll": -1.0}
SCALE = {"accuracy": 100, "nll": 1, "cnll": 1}
#: What is measured of splits besides, and decides nothing.
MORE = ("temperature", "top5", "ece", "ace", "sce", "tace", "auroc")


Word = Literal["advantage", "no advantage", "unclear"]
Advantage = Literal["unclear"] | bool


@dataclass(frozen=True)
class Failed:
    """A network that did not learn.

    Attributes:
        width: The width of its pool.
        member: Its index in the pool, which is its seed.
        reason: ``non-finite``, ``chance``, or ``accuracy``: not above the accuracy that was asked for.
        accuracy: A fraction of the test images; None where its logits are not finite.
    """

    width: int
    member: int
    reason: str
    accuracy: float | None

    def __str__(self) -> str:
        told = {"non-finite": "became non-finite", "chance": "predicts at chance"}
        what = told.get(self.reason) or f"reached an accuracy of {100 * (self.accuracy or 0):.3g} % only"
        return f"member {self.member} of width {self.width} {what}"


@dataclass(frozen=True)
class Gain:
    """What a split gains over the single network.

    Attributes:
        members: Members of the split.
        mean: Nats, or fraction of accuracy; above 0 the split is better. NaN where seeds are missing.
        low: Lower end of the 95 % interval, Bonferroni-corrected for the number of splits.
        high: Upper end of that interval.
        upper: Upper end of the plain 95 % interval.
    """

    members: int
    mean: Real
    low: Real
    high: Real
    upper: Real


@dataclass(frozen=True)
class Verdict:
    """What one metric says about one budget, by the rules of :mod:`onsphere.lab.experiments.split.pools.decide`.

    Attributes:
        metric: ``nll``, ``cnll`` or ``accuracy``.
        best: Members of the best split.
        close: Members of the splits that are not worse than it beyond their plain 95 % interval, the best among them.
        word: ``advantage``, ``no advantage`` or ``unclear``.
        gains: What every split with more than one member gains.
        probability: In a prediction, that a split with more than one member is best; None otherwise.
    """

    metric: str
    best: int
    close: tuple[int, ...]
    word: Word
    gains: tuple[Gain, ...]
    probability: float | None = None


@dataclass(frozen=True)
class SplitRow:
    """One way of spending a budget.

    Attributes:
        budget: Parameters (or bytes) of all members together.
        members: How many networks share it.
        width: Width of each network.
        parameters: Parameters of one member.
        rounding_error: By which fraction of the budget all members together exceed it.
        accuracy: Fraction of test images, mean over seeds (in a prediction: predicted).
        nll: Negative log-likelihood in nats.
        cnll: Negative log-likelihood in nats at the best temperature.
        standard_error: Standard error of each of the three, over seeds (in a prediction: by jackknife); None for one
            seed.
        values: The three for every seed; None where all networks of that seed failed. Empty in a prediction.
        basis: ``trained``, or where a prediction's NLL comes from: ``measured``, ``law``, ``fixed exponent``.
        temperature: The best temperature, geometric mean over seeds. This and what follows is NaN in a prediction and
            in results that were made before it was kept.
        top5: Fraction of test images whose label is among the five most probable classes; NaN with at most five.
        ece: Expected calibration error; see :mod:`onsphere.ensembles.calibration_errors`, 15 bins, norm l1.
        ace: Adaptive calibration error, in bins of equally many images.
        sce: Static calibration error, in bins of equal width.
        tace: Thresholded adaptive calibration error, of probabilities above 1e-3.
        auroc: Area under the curve that tells right from wrong predictions by their confidence.
        spread: Standard errors of those that have one, over seeds.
    """

    budget: int
    members: int
    width: int
    parameters: int
    rounding_error: float
    accuracy: Real
    nll: Real
    cnll: Real
    standard_error: dict[str, float | None]
    values: dict[str, list[float | None]]
    basis: str = "trained"
    temperature: Real = math.nan
    top5: Real = math.nan
    ece: Real = math.nan
    ace: Real = math.nan
    sce: Real = math.nan
    tace: Real = math.nan
    auroc: Real = math.nan
    spread: dict[str, float | None] = field(default_factory=dict)

    def score(self, metric: str) -> float:
        """One of the three."""
        return float(getattr(self, metric))


@dataclass(frozen=True)
class BudgetAnswer:
    """What was found for one budget.

    Attributes:
        budget: Parameters (or bytes) of all members together.
        splits: The splits, by members.
        best: Members of the best split by each metric.
        advantage: Whether splitting pays: true, false or ``"unclear"``, by the rules of
            :mod:`onsphere.lab.experiments.split.pools.decide`.
        verdicts: What each metric says.
    """

    budget: int
    splits: list[SplitRow]
    best: dict[str, int]
    advantage: Advantage
    verdicts: tuple[Verdict, ...]

    def verdict(self, metric: str) -> Verdict:
        """What one metric says."""
        return next(v for v in self.verdicts if v.metric == metric)

    def row(self, members: int) -> SplitRow:
        """The split of so many members."""
        return next(row for row in self.splits if row.members == members)

    @property
    def has_single(self) -> bool:
        """Whether the single network is among the splits."""
        return any(row.members == 1 for row in self.splits)


@dataclass(frozen=True)
class Cost:
    """What was trained, and what training everything takes.

    A member-step is one training step of one network, whatever its width.

    Attributes:
        member_steps: Member-steps that were trained.
        everything: Member-steps of all networks that the same command without ``--predict`` trains, all seeds; a pool
            that serves several budgets counts once.
        share: The one over the other.
        share_of_one_seed: Over training everything with a single seed.
        parameter_share: As ``share``, a member-step weighed with the network's parameters: nearer to the time it takes.
    """

    member_steps: int
    everything: int
    share: float
    share_of_one_seed: float
    parameter_share: float


@dataclass(frozen=True, repr=False, kw_only=True)
class SplitResult(TrainedResult):
    """What :func:`onsphere.lab.split_budget` returns.

    Attributes:
        predicted: Whether only four networks a width were trained.
        budgets: One answer a budget, ascending.
        curves: Ensembles of every size measured at every width.
        laws: The power laws fitted to them, a width each.
        failed: Networks that failed to train; they are left out of their ensembles.
        networks: How many were trained.
        cost: What that is of training everything.
        input_shape: Shape of one example, after pooling.
        saved: The ensemble's file, or None.
        wider_laws: Laws over the size of a network and over the budget.
        fixed_temperatures: NLL at fixed temperatures of the ensembles of ``curves``.
    """

    command: ClassVar[str] = "split"
    foremost: ClassVar[tuple[str, ...]] = ("splits", "best", "advantage")

    spec: SplitSpec
    predicted: bool
    budgets: Rows[BudgetAnswer]
    curves: list[Point]
    laws: list[Law]
    failed: list[Failed]
    networks: int
    cost: Cost
    input_shape: tuple[int, ...]
    saved: str | None
    wider_laws: list[Law] = field(default_factory=list)
    fixed_temperatures: list[AtTemperatures] = field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def splits(self) -> list[SplitRow]:
        """The splits of the first budget."""
        return self.budgets[0].splits

    @computed_field  # type: ignore[prop-decorator]
    @property
    def best(self) -> dict[str, int]:
        """Members of the best split of the first budget by each metric."""
        return self.budgets[0].best

    @computed_field  # type: ignore[prop-decorator]
    @property
    def advantage(self) -> Advantage:
        """Whether splitting the first budget pays."""
        return self.budgets[0].advantage

    @property
    def parameters(self) -> dict[int, int]:
        """Parameters of one network, by width."""
        return {row.width: row.parameters for row in self.rows}

    @property
    def rows(self) -> list[SplitRow]:
        """The splits of all budgets."""
        return [row for answer in self.budgets for row in answer.splits]

    def to_frame(self) -> Any:
        """The splits of all budgets as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame(
            [
                {name: value for name, value in vars(row).items() if name not in ("standard_error", "values", "spread")}
                | {f"{m}_standard_error": row.standard_error[m] for m in METRICS}
                for row in self.rows
            ]
        )

    def __repr__(self) -> str:
        lines = [f"SplitResult: {self.networks} networks, {self.seconds:.0f} s"]
        for answer in self.budgets:
            best = ", ".join(f"{n} by {metric}" for metric, n in answer.best.items())
            word = {True: "yes", False: "no", "unclear": "unclear"}[answer.advantage]
            lines.append(f"  {answer.budget:,}: advantage {word}; best members: {best}")
        lines += [f"  {failed}" for failed in self.failed[:5]]
        return "\n".join([*lines, f"  page: {self.report}"])
