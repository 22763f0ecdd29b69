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
from typing import Any, Literal

import numpy as np

from onsphere.lab.experiments.spectrum.result import PLACES, Kind, Pair, Place, SpectrumRun, Trend, Verdict
from onsphere.lab.intervals import quantile, standard_error

#: What is followed, and whether its change is a ratio or a difference.
QUANTITIES: Mapping[str, Kind] = {
    "batch_loss": "ratio",
    "gradient_norm": "ratio",
    "sharpness": "ratio",
    "train_loss": "ratio",
    "test_loss": "ratio",
    "test_error": "difference",
    "angle": "difference",
}
Values = dict[int, list[tuple[float, float]]]  # (ELR, value) of each seed, by ELR


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
    """The trend of one quantity.

    Args:
        where: At which place of the runs.
        quantity: The name of the quantity.
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


def interval(changes: Sequence[float], kind: Kind) -> tuple[float | None, float | None, float | None]:
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


def _verdict(kind: Kind, ranks: Sequence[float], low: float | None, high: float | None) -> Verdict:
    if low is None or high is None:
        return "not clear"
    nothing = 1.0 if kind == "ratio" else 0.0
    sign = 1 if low > nothing else -1 if high < nothing else 0
    if sign == 0 or (ranks and np.mean(ranks) * sign <= 0):
        return "not clear"
    return "rises" if sign > 0 else "falls"
