"""The result of a study of memory splits: what every split reaches, which is best, how sure that is, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import computed_field

from onsphere.lab.experiments.split.decide import Advantage, Verdict
from onsphere.lab.experiments.split.measure import METRICS, Law, Point
from onsphere.lab.experiments.split.pools import Failed
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.result import Real, Rows, TrainedResult
from onsphere.results import frame


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
        advantage: Whether splitting pays: true, false or ``"unclear"`` (:mod:`onsphere.lab.experiments.split.decide`).
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

    @classmethod
    def of(
        cls,
        trained: Mapping[int, int],
        everything: Mapping[int, int],
        parameters: Mapping[int, int],
        seeds: int,
        steps: int,
    ) -> Cost:
        """From the networks of each width that were trained, and that training everything takes."""
        networks, most = sum(trained.values()), sum(everything.values())
        weights = [sum(n * parameters[w] for w, n in some.items()) for some in (trained, everything)]
        return cls(
            member_steps=networks * steps,
            everything=most * steps,
            share=networks / most,
            share_of_one_seed=networks * seeds / most,
            parameter_share=weights[0] / weights[1],
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class SplitResult(TrainedResult):
    """What :func:`onsphere.lab.split_budget` returns.

    Attributes:
        predicted: Whether only four networks a width were trained.
        budgets: One answer a budget, ascending.
        curves: Ensembles of every size measured at every width.
        laws: The power laws fitted to them.
        failed: Networks that failed to train; they are left out of their ensembles.
        networks: How many were trained.
        cost: What that is of training everything.
        input_shape: Shape of one example, after pooling.
        saved: The ensemble's file, or None.
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
                {name: value for name, value in vars(row).items() if name not in ("standard_error", "values")}
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
