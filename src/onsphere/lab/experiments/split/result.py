"""The result of a study of memory splits: what every split reaches, which is best, how sure that is, what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onsphere.ensembles import Split
from onsphere.lab.experiments.split.decide import Advantage, Verdict
from onsphere.lab.experiments.split.measure import METRICS, Law, Point
from onsphere.lab.experiments.split.pools import Failed
from onsphere.lab.old_result import frame, vouched
from onsphere.lab.store import Run

_COST = ("member_steps", "everything", "share", "share_of_one_seed", "parameter_share")


@dataclass(frozen=True)
class SplitRow:
    """One way of spending a budget.

    Attributes:
        budget: Parameters (or bytes) of all members together.
        members: How many networks.
        width: Of each.
        parameters: Of one member.
        rounding_error: By which fraction of the budget all members together exceed it.
        accuracy: Fraction of test images, mean over seeds (in a prediction: predicted).
        nll: Nats.
        cnll: Nats, at the best temperature.
        standard_error: Of each of the three, over seeds (in a prediction: by jackknife); None for one seed.
        values: Of each of the three, one a seed; None where all networks of that seed failed. Empty in a prediction.
        basis: ``trained``, or where a prediction's NLL comes from: ``measured``, ``law``, ``fixed exponent``.
    """

    budget: int
    members: int
    width: int
    parameters: int
    rounding_error: float
    accuracy: float
    nll: float
    cnll: float
    standard_error: dict[str, float | None]
    values: dict[str, list[float | None]]
    basis: str = "trained"

    @classmethod
    def of(
        cls,
        split: Split,
        scores: Mapping[str, float],
        errors: Mapping[str, float | None],
        values: Mapping[str, list[float | None]] | None = None,
        basis: str = "trained",
    ) -> SplitRow:
        """A split with its scores."""
        return cls(
            budget=split.budget,
            members=split.members,
            width=split.width,
            parameters=split.parameters,
            rounding_error=split.rounding_error,
            accuracy=scores["accuracy"],
            nll=scores["nll"],
            cnll=scores["cnll"],
            standard_error={m: None if e is None or not math.isfinite(e) else e for m, e in errors.items()},
            values=dict(values or {}),
            basis=basis,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class BudgetAnswer:
    """What was found for one budget.

    Attributes:
        budget: Which.
        splits: By members.
        best: Members of the best split by each metric.
        advantage: Whether splitting pays: true, false or ``"unclear"`` (:mod:`onsphere.lab.experiments.split.decide`).
        verdicts: Of each metric.
    """

    budget: int
    splits: list[SplitRow]
    best: dict[str, int]
    advantage: Advantage
    verdicts: tuple[Verdict, ...]

    def verdict(self, metric: str) -> Verdict:
        """Of one metric."""
        return next(v for v in self.verdicts if v.metric == metric)

    def row(self, members: int) -> SplitRow:
        """The split of so many members."""
        return next(row for row in self.splits if row.members == members)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "budget": self.budget,
            "splits": [row.to_dict() for row in self.splits],
            "best": self.best,
            "advantage": self.advantage,
            "verdicts": [v.to_dict() for v in self.verdicts],
        }


@dataclass(frozen=True)
class Cost:
    """What was trained, and what training everything takes.

    A member-step is one training step of one network, whatever its width.

    Attributes:
        member_steps: Trained here.
        everything: Of training all networks that the same command without ``--predict`` trains, all seeds; a pool that
            serves several budgets counts once.
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
        weight = {w: n * parameters[w] for w, n in everything.items()}
        networks, most = sum(trained.values()), sum(everything.values())
        return cls(
            member_steps=networks * steps,
            everything=most * steps,
            share=networks / most,
            share_of_one_seed=networks * seeds / most,
            parameter_share=sum(n * parameters[w] for w, n in trained.items()) / sum(weight.values()),
        )


@dataclass(frozen=True, repr=False)
class SplitResult:
    """What :func:`onsphere.lab.split_budget` returns.

    Attributes:
        run: The run's folder.
        report: The page.
        budgets: One answer a budget, ascending.
        curves: Ensembles of every size measured at every width.
        laws: Fitted to them.
        failed: Networks that failed to train; they are left out of their ensembles.
        networks: How many were trained.
        cost: What that is of training everything.
        predicted: Whether only four networks a width were trained.
        input_shape: Of one example, after pooling.
        saved: The ensemble's file, or None.
        spec: What was asked for.
        engine: How it was executed: mode, chunk, compiled, workers.
        seconds: Wall-clock seconds of this call.
        cpu_seconds: Processor seconds of the training, those of earlier, interrupted calls included.
    """

    run: Path
    report: Path
    budgets: list[BudgetAnswer]
    curves: list[Point]
    laws: list[Law]
    failed: list[Failed]
    networks: int
    cost: Cost
    predicted: bool
    input_shape: tuple[int, ...]
    saved: str | None
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float
    cpu_seconds: float

    @property
    def best(self) -> dict[str, int]:
        """Members of the best split of the first budget by each metric."""
        return self.budgets[0].best

    @property
    def advantage(self) -> Advantage:
        """Whether splitting the first budget pays."""
        return self.budgets[0].advantage

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints; ``splits``, ``best``, ``advantage`` are the first budget's."""
        first = self.budgets[0].to_dict()
        return {
            "command": "split",
            "run": str(self.run),
            "report": str(self.report),
            "splits": first["splits"],
            "best": first["best"],
            "advantage": first["advantage"],
            "predicted": self.predicted,
            "budgets": [answer.to_dict() for answer in self.budgets],
            "curves": [p.to_dict() for p in self.curves],
            "laws": [law.to_dict() for law in self.laws],
            "failed": [asdict(f) for f in self.failed],
            "networks": self.networks,
            "cost": asdict(self.cost),
            "input_shape": list(self.input_shape),
            "saved": self.saved,
            "spec": self.spec,
            "engine": self.engine,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @classmethod
    @vouched
    def load(cls, run: Run) -> SplitResult:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        stored = run.result()
        kept = ("networks", "predicted", "saved", "spec", "engine", "seconds", "cpu_seconds")
        return cls(
            run=run.folder,
            report=run.folder / "report.html",
            budgets=[_answer(values) for values in stored["budgets"]],
            curves=[Point(**values | {"mean": _floats(values["mean"])}) for values in stored["curves"]],
            laws=[Law(**values) for values in stored["laws"]],
            failed=[Failed(**values) for values in stored["failed"]],
            cost=Cost(**stored["cost"]),
            input_shape=tuple(stored["input_shape"]),
            **{name: stored[name] for name in kept},
        )

    def to_frame(self) -> Any:
        """The splits of all budgets as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        rows = [row for answer in self.budgets for row in answer.splits]
        return frame(
            [
                {k: v for k, v in row.to_dict().items() if k not in ("standard_error", "values")}
                | {f"{m}_standard_error": row.standard_error[m] for m in METRICS}
                for row in rows
            ]
        )

    def __repr__(self) -> str:
        lines = [f"SplitResult: {self.networks} networks, {self.seconds:.0f} s"]
        for answer in self.budgets:
            best = ", ".join(f"{n} by {metric}" for metric, n in answer.best.items())
            lines.append(f"  {answer.budget:,}: advantage {describe_advantage(answer.advantage)}; best members: {best}")
        lines += [f"  {failed}" for failed in self.failed[:5]]
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)


def describe_advantage(advantage: Advantage) -> str:
    """``yes``, ``no`` or ``unclear``."""
    return "unclear" if advantage == "unclear" else "yes" if advantage else "no"


def _answer(values: Mapping[str, Any]) -> BudgetAnswer:
    rows = [SplitRow(**_floats(row, ("accuracy", "nll", "cnll"))) for row in values["splits"]]
    verdicts = tuple(Verdict.of(v) for v in values["verdicts"])
    return BudgetAnswer(values["budget"], rows, values["best"], values["advantage"], verdicts)


def _floats(values: Mapping[str, Any], names: Sequence[str] | None = None) -> dict[str, Any]:
    """JSON has no NaN, so that None stands for it."""
    return {k: math.nan if v is None and (names is None or k in names) else v for k, v in values.items()}
