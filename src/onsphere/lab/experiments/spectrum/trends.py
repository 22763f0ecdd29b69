"""How quantities go with the effective learning rate: rank correlation and change, seed by seed, with an interval.

For each seed, over the effective learning rates that have a value:

    spearman   rank correlation of quantity and ELR (three or more ELRs)
    change     value at the largest ELR over value at the smallest (of errors and angles: minus)

The interval is that of the mean change over seeds (of its logarithm for ratios) by Student's t at 95 %; a trend is
clear if the interval leaves out "no change" and the mean rank correlation has the same sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onsphere.lab.intervals import quantile, standard_error

if TYPE_CHECKING:
    from onsphere.lab.experiments.spectrum.result import Pair, SpectrumRun

Verdict = Literal["rises", "falls", "not clear"]
Where = Literal["matched", "end", "pairs"]

#: What is followed, and whether its change is a ratio or a difference.
QUANTITIES: Mapping[str, Literal["ratio", "difference"]] = {
    "batch_loss": "ratio",
    "gradient_norm": "ratio",
    "sharpness": "ratio",
    "train_loss": "ratio",
    "test_loss": "ratio",
    "test_error": "difference",
    "angle": "difference",
}


@dataclass(frozen=True)
class Trend:
    """How one quantity goes with the effective learning rate.

    Attributes:
        where: "matched" (at the target loss), "end", or "pairs" (barriers from the minimum of the smallest ELR).
        quantity: Which.
        kind: What a change is: "ratio" or "difference".
        spearman: Rank correlation of each seed that has three or more ELRs.
        changes: Change of each seed from its smallest to its largest ELR (a difference where ``kind`` says so).
        mean: Mean change over seeds, geometric for ratios; None without any.
        low: Lower end of the 95 % interval of the mean; None with fewer than two seeds.
        high: Upper end.
        verdict: "rises", "falls" or "not clear".
    """

    where: Where
    quantity: str
    kind: Literal["ratio", "difference"]
    spearman: list[float]
    changes: list[float]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict

    @property
    def mean_spearman(self) -> float | None:
        """Mean over seeds; None without any."""
        return float(np.mean(self.spearman)) if self.spearman else None

    @property
    def rising(self) -> int:
        """Seeds whose change goes up."""
        return sum(change > (1 if self.kind == "ratio" else 0) for change in self.changes)

    @property
    def mean_rises(self) -> bool:
        """Whether the mean change goes up."""
        return self.mean is not None and self.mean > (1 if self.kind == "ratio" else 0)

    def __str__(self) -> str:
        if self.mean is None:
            return f"{self.quantity} ({self.where}): no values"
        interval = "" if self.low is None else f" ({self.low:.3g} to {self.high:.3g})"
        rank = "" if self.mean_spearman is None else f", Spearman {self.mean_spearman:.2f}"
        return f"{self.quantity} ({self.where}): {self.verdict}, {self.kind} {self.mean:.3g}{interval}{rank}"


def trends_of(runs: Sequence[SpectrumRun]) -> list[Trend]:
    """Every quantity at matched loss and at the end."""
    found = []
    for where in ("matched", "end"):
        for quantity, kind in QUANTITIES.items():
            values: dict[int, list[tuple[float, float]]] = {}
            for run in runs:
                point = getattr(run, where)
                value = None if point is None else getattr(point, quantity)
                if value is not None:
                    values.setdefault(run.seed, []).append((run.elr, value))
            found.append(trend(where, quantity, kind, values))
    return found


def pair_trend(pairs: Sequence[Pair]) -> Trend:
    """The barrier from the minimum of the smallest ELR to each other one, against the other's ELR."""
    values: dict[int, list[tuple[float, float]]] = {}
    for seed in {pair.seed for pair in pairs}:
        own = [pair for pair in pairs if pair.seed == seed]
        lowest = min(pair.low for pair in own)
        here = [(p.high, p.loss_barrier) for p in own if p.low == lowest and p.loss_barrier is not None]
        values[seed] = [(elr, barrier) for elr, barrier in here if barrier is not None]
    return trend("pairs", "loss_barrier", "difference", values)


def trend(
    where: Where,
    quantity: str,
    kind: Literal["ratio", "difference"],
    values: Mapping[int, Sequence[tuple[float, float]]],
) -> Trend:
    """The trend of one quantity.

    Args:
        where: At which place of the runs.
        quantity: Its name.
        kind: What a change is.
        values: (ELR, value) of each seed.
    """
    ranks, changes = [], []
    for _, points in sorted(values.items()):
        elrs, numbers = (list(part) for part in zip(*sorted(points), strict=True)) if points else ([], [])
        if len(elrs) >= 3 and (rank := _spearman(elrs, numbers)) is not None:
            ranks.append(rank)
        if len(elrs) >= 2 and (kind == "difference" or min(numbers[0], numbers[-1]) > 0):
            changes.append(numbers[-1] / numbers[0] if kind == "ratio" else numbers[-1] - numbers[0])
    mean, low, high = interval(changes, kind)
    return Trend(where, quantity, kind, ranks, changes, mean, low, high, _verdict(kind, ranks, low, high))


def interval(
    changes: Sequence[float], kind: Literal["ratio", "difference"]
) -> tuple[float | None, float | None, float | None]:
    """Mean and 95 % interval of the mean by Student's t; of logarithms for ratios. None for what cannot be told."""
    if not changes:
        return None, None, None
    x = np.log(changes) if kind == "ratio" else np.asarray(changes, dtype=np.float64)
    back: Any = math.exp if kind == "ratio" else float
    mean = float(x.mean())
    if len(x) < 2:
        return back(mean), None, None
    half = quantile(len(x)) * standard_error(x)
    return back(mean), back(mean - half), back(mean + half)


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation; None where one of the two is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else None


def _verdict(kind: str, ranks: Sequence[float], low: float | None, high: float | None) -> Verdict:
    if low is None or high is None:
        return "not clear"
    nothing = 1.0 if kind == "ratio" else 0.0
    sign = 1 if low > nothing else -1 if high < nothing else 0
    if sign == 0 or (ranks and np.mean(ranks) * sign <= 0):
        return "not clear"
    return "rises" if sign > 0 else "falls"
