"""The result of a spectrum: what every run is like at matched loss and at its end, pairs of minima, trends.

How a quantity goes with the effective learning rate is told for each seed, over the ELRs that have a value:

    spearman   rank correlation of quantity and ELR (three or more ELRs)
    change     value at the largest ELR over value at the smallest (of errors and angles: minus)

The interval is that of the mean change over seeds (of its logarithm for ratios) by Student's t at 95 %; a trend is
clear if the interval leaves out "no change" and the mean rank correlation has the same sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np

from onsphere.lab import intervals
from onsphere.lab.experiments.regimes.classify import Regime
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.result import Rows, TrainedResult
from onsphere.results import frame

Kind = Literal["ratio", "difference"]
Place = Literal["matched", "end"]
Verdict = Literal["rises", "falls", "not clear"]
PLACES: tuple[Place, ...] = ("matched", "end")
#: What is followed, and whether its change is a ratio or a difference.
QUANTITIES: Mapping[str, Kind] = {
    **dict.fromkeys(("batch_loss", "gradient_norm", "sharpness", "train_loss", "test_loss"), "ratio"),
    **dict.fromkeys(("test_error", "angle"), "difference"),
}
_NOTHING: Mapping[Kind, float] = {"ratio": 1.0, "difference": 0.0}
Values = dict[int, list[tuple[float, float]]]  # (ELR, value) of each seed, by ELR


@dataclass(frozen=True)
class Point:
    """What a network is like at one step of its training; None for what is not finite.

    Attributes:
        step: How many steps were done.
        batch_loss: Mean loss over the minibatches of the gradient norm, batch statistics of each minibatch.
        gradient_norm: Mean effective norm of the stochastic gradient at fixed weights, batch statistics as above.
        gradient_norm_error: Its standard error over minibatches.
        sharpness: Top eigenvalue of the Hessian on the unit sphere, batch statistics of batches of 512.
        sharpness_error: Bound on its error (:mod:`onsphere.curvature.lanczos`).
        train_loss: Mean over all training images, batch statistics re-estimated over them; so are the next three.
        train_error: Fraction of training images.
        test_loss: Mean over all test images.
        test_error: Fraction of test images.
        angle: From the initial weights, radians.
    """

    step: int
    batch_loss: float | None
    gradient_norm: float | None
    gradient_norm_error: float | None
    sharpness: float | None
    sharpness_error: float | None
    train_loss: float | None
    train_error: float | None
    test_loss: float | None
    test_error: float | None
    angle: float | None


@dataclass(frozen=True)
class SpectrumRun:
    """One run of the grid.

    Attributes:
        elr: Effective learning rate of all steps.
        seed: Index of the seed.
        regime: Its label by the rules of :mod:`onsphere.lab.experiments.regimes.classify`.
        finite: Whether it stayed finite.
        matched: Where its train loss first came to the target; None if its running loss never reached it.
        end: At its last step; None if it did not stay finite.
    """

    elr: float
    seed: int
    regime: Regime
    finite: bool
    matched: Point | None
    end: Point | None

    def value(self, place: Place, quantity: str) -> float | None:
        """An attribute of :class:`Point` at a place of the run; None where there is none."""
        return getattr(self.matched if place == "matched" else self.end, quantity, None)


@dataclass(frozen=True)
class Pair:
    """The minima that two effective learning rates reach from the same initial weights.

    Attributes:
        seed: Index of the seed.
        low: The smaller effective learning rate.
        high: The larger effective learning rate.
        angle: Between the final weights, radians.
        loss_barrier: Rise of the train loss on the great circle above the line between the ends.
        error_barrier: The same of the train error, fraction.
        position: Where on the path the loss barrier is, 0 at ``low``.
    """

    seed: int
    low: float
    high: float
    angle: float
    loss_barrier: float | None
    error_barrier: float | None
    position: float


@dataclass(frozen=True)
class Trend:
    """How one quantity goes with the effective learning rate.

    Attributes:
        where: "matched" (at the target loss), "end", or "pairs" (barriers from the minimum of the smallest ELR).
        quantity: An attribute of :class:`Point`, or of :class:`Pair`.
        kind: What a change is: "ratio" or "difference".
        spearman: Rank correlation of each seed that has three or more ELRs.
        changes: Change of each seed from its smallest to its largest ELR (a difference where ``kind`` says so).
        mean: Mean change over seeds, geometric for ratios; None without any.
        low: Lower end of the 95 % interval of the mean; None with fewer than two seeds.
        high: Upper end of that interval.
        verdict: "rises", "falls" or "not clear".
    """

    where: Literal["matched", "end", "pairs"]
    quantity: str
    kind: Kind
    spearman: list[float]
    changes: list[float]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict

    @property
    def nothing(self) -> float:
        """The change that is none: 1 for ratios, 0 for differences."""
        return _NOTHING[self.kind]

    @property
    def mean_spearman(self) -> float | None:
        """Mean over seeds; None without any."""
        return fmean(self.spearman) if self.spearman else None

    @property
    def mean_rises(self) -> bool:
        """Whether the mean change goes up."""
        return self.mean is not None and self.mean > self.nothing

    @property
    def rising(self) -> int:
        """How many seeds have a change that goes up."""
        return sum(change > self.nothing for change in self.changes)

    @property
    def agreeing(self) -> int:
        """How many seeds have a change that goes the way of the mean."""
        return self.rising if self.mean_rises else len(self.changes) - self.rising

    def __str__(self) -> str:
        if self.mean is None:
            return f"{self.quantity} ({self.where}): no values"
        interval = "" if self.low is None else f" ({self.low:.3g} to {self.high:.3g})"
        rank = "" if self.mean_spearman is None else f", Spearman {self.mean_spearman:.2f}"
        return f"{self.quantity} ({self.where}): {self.verdict}, {self.kind} {self.mean:.3g}{interval}{rank}"


def trends_of(runs: Sequence[SpectrumRun], pairs: Sequence[Pair]) -> list[Trend]:
    """The trend of every quantity at matched loss and at the end, then that of the barriers.

    The barriers are those from the minimum of the smallest ELR to each other one, against the other's ELR.
    """
    found = [
        trend(place, quantity, kind, values_of(runs, place, quantity))
        for place in PLACES
        for quantity, kind in QUANTITIES.items()
    ]
    barriers: Values = {pair.seed: [] for pair in pairs}
    for seed, values in barriers.items():
        own = [pair for pair in pairs if pair.seed == seed]
        lowest = min(pair.low for pair in own)
        values += [(p.high, p.loss_barrier) for p in own if p.low == lowest and p.loss_barrier is not None]
    return [*found, trend("pairs", "loss_barrier", "difference", barriers)]


def values_of(runs: Sequence[SpectrumRun], place: Place, quantity: str) -> Values:
    """The values of a quantity at a place of the runs, where there are some."""
    values: Values = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.elr)):
        if (value := run.value(place, quantity)) is not None:
            values.setdefault(run.seed, []).append((run.elr, float(value)))
    return values


def trend(where: Literal["matched", "end", "pairs"], quantity: str, kind: Kind, values: Values) -> Trend:
    """The trend of one quantity, whose values are pairs (ELR, value) of each seed."""
    ranks, changes = [], []
    for _, points in sorted(values.items()):
        elrs, numbers = (list(part) for part in zip(*sorted(points), strict=True)) if points else ([], [])
        if len(elrs) >= 3 and (rank := _spearman(elrs, numbers)) is not None:
            ranks.append(rank)
        if len(elrs) >= 2 and (kind == "difference" or min(numbers[0], numbers[-1]) > 0):
            changes.append(numbers[-1] / numbers[0] if kind == "ratio" else numbers[-1] - numbers[0])
    mean, low, high = interval(changes, kind)
    nothing = _NOTHING[kind]
    sign = 0 if low is None or high is None else 1 if low > nothing else -1 if high < nothing else 0
    clear = sign != 0 and not (ranks and np.mean(ranks) * sign <= 0)
    verdict: Verdict = "not clear" if not clear else "rises" if sign > 0 else "falls"
    return Trend(where, quantity, kind, ranks, changes, mean, low, high, verdict)


def interval(changes: Sequence[float], kind: Kind) -> tuple[float | None, float | None, float | None]:
    """Mean and 95 % interval of the mean by Student's t; of logarithms for ratios. None for what cannot be told."""
    if not changes:
        return None, None, None
    back: Any = math.exp if kind == "ratio" else float
    found = intervals.interval(np.log(changes).tolist() if kind == "ratio" else changes)
    return (back(found.mean), *((back(found.low), back(found.high)) if len(changes) > 1 else (None, None)))


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation; None where one of the two is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else None


@dataclass(frozen=True, repr=False, kw_only=True)
class SpectrumResult(TrainedResult):
    """What :func:`onsphere.lab.map_spectrum` returns.

    Attributes:
        target: Loss at which runs were compared; None if no run is in convergence and none was given.
        trends: How each quantity goes with the effective learning rate, at matched loss and at the end, and how the
            barrier between the minimum of the smallest ELR and another one goes with the other's ELR.
        runs: One row a run, by effective learning rate, then seed.
        pairs: One row a seed and pair of effective learning rates.
    """

    command: ClassVar[str] = "landscape spectrum"
    rows_field: ClassVar[str] = "runs"

    spec: SpectrumSpec
    target: float | None
    trends: Rows[Trend]
    runs: Rows[SpectrumRun]
    pairs: list[Pair]

    @property
    def elrs(self) -> list[float]:
        """The effective learning rates, ascending."""
        return sorted({run.elr for run in self.runs})

    @property
    def seeds(self) -> list[int]:
        """The indices of the seeds."""
        return sorted({run.seed for run in self.runs})

    def trend(self, where: str, quantity: str) -> Trend:
        """The trend of one quantity.

        Args:
            where: "matched", "end" or "pairs", as in :class:`Trend`.
            quantity: An attribute of :class:`Point`, or ``loss_barrier`` of pairs.
        """
        return next(t for t in self.trends if (t.where, t.quantity) == (where, quantity))

    @property
    def barriers(self) -> Trend:
        """The trend of the barriers from the minimum of the smallest ELR."""
        return self.trend("pairs", "loss_barrier")

    def to_frame(self) -> Any:
        """The runs as a pandas data frame, one row a run and place ("matched", "end").

        Raises:
            ImportError: pandas is not installed.
        """
        rows = [
            {"elr": run.elr, "seed": run.seed, "regime": run.regime, "where": where, **asdict(point)}
            for run in self.runs
            for where, point in (("matched", run.matched), ("end", run.end))
            if point is not None
        ]
        return frame(rows)

    def __repr__(self) -> str:
        first = f"SpectrumResult: {len(self.runs)} runs, {len(self.seeds)} seeds, {self.seconds:.0f} s"
        trends = (f"  {trend}" for trend in self.trends if trend.changes)
        return "\n".join([first, *trends, f"  page: {self.report}"])
