"""The best split predicted from four networks at each width: laws through all their subsets, and what that saves.

    value(m) at width w    mean over all subsets of m of the width's networks, m = 1 .. 4
    value(n)               its power law at the n of the split (measured where n <= 4)
    its standard error     jackknife: all of it again without each network in turn
    chance of each split   how often it is best when every value is drawn with its error

Subsets share networks, so that their values have no independent errors and lie smoothly on the law; what differs from
pool to pool is the level of the whole law, and that is what the jackknife measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onsphere.ensembles import PowerLawError, Split, SplitPrediction, predict_split
from onsphere.lab.experiments.split.measure import METRICS, Law, Point, Scores, Stop, law_of, subsets
from onsphere.lab.experiments.split.pools import Pool
from onsphere.lab.experiments.split.spec import PREDICTION_POOL
from onsphere.lab.experiments.split.study import Labels

Subsets = Mapping[tuple[int, ...], Scores]
DRAWS = 20_000


@dataclass(frozen=True)
class Estimate:
    """A predicted value of a split.

    Attributes:
        value: Nats, or fraction of accuracy.
        standard_error: By jackknife over the networks of its width.
        basis: ``measured``, ``law``, ``fixed exponent`` or ``constant``.
    """

    value: float
    standard_error: float
    basis: str


@dataclass(frozen=True)
class Prediction:
    """What one metric predicts for one budget.

    Attributes:
        metric: ``nll``, ``cnll`` or ``accuracy``.
        best: Members of the predicted best split.
        estimates: The predicted values, by members.
        chances: Chance of each split to be the best, by members.
        laws: The laws of every width.
    """

    metric: str
    best: int
    estimates: dict[int, Estimate]
    chances: dict[int, float]
    laws: list[Law]


def measured_subsets(pools: Mapping[int, Pool], labels: Labels, stop: Stop) -> dict[int, Subsets]:
    """All subsets of the first four networks of every width.

    Raises:
        RuntimeError: So many networks of a width failed to train that it has no law.
    """
    found: dict[int, Subsets] = {}
    for width, pool in pools.items():
        usable = pool.usable(range(PREDICTION_POOL))
        if len(usable) < 3:
            failed = "; ".join(map(str, pool.failed))
            raise RuntimeError(f"width {width} has fewer than three trained networks to predict from: {failed}")
        found[width] = subsets(pool, usable, labels, stop)
    return found


def predict(metric: str, splits: Sequence[Split], measured: Mapping[int, Subsets], seed: int) -> Prediction:
    """Predict the best split of one budget by one metric.

    Args:
        metric: ``nll``, ``cnll`` or ``accuracy``.
        splits: The splits of the budget.
        measured: Subsets of every width.
        seed: Seed of the draws.
    """
    whole = _fit(metric, splits, measured)
    left: dict[int, list[float]] = {s.members: [] for s in splits}
    for member in range(PREDICTION_POOL):
        for split in splits:
            rest = {c: s for c, s in measured[split.width].items() if member not in c}
            if len(rest) == len(measured[split.width]):  # this network failed; it is in no subset
                continue
            try:
                one = _fit(metric, [split], {split.width: rest})
            except PowerLawError:
                continue
            left[split.members].append(one.best.value)
    errors = {n: _jackknife(values) for n, values in left.items()}
    estimates = {p.split.members: Estimate(p.value, errors[p.split.members], str(p.basis)) for p in whole.splits}
    best = whole.best.split.members
    laws = [law_of(p.split.width, metric, p.law) for p in whole.splits]
    return Prediction(metric, best, estimates, _chances(estimates, metric, seed), laws)


def points(width: int, measured: Subsets) -> list[Point]:
    """Ensembles of 1 to 4 networks of a width, means over all subsets; errors by jackknife."""
    sizes = _values_by_size(measured)
    members = sorted({m for chosen in measured for m in chosen})
    found = []
    for size in sizes:
        errors: dict[str, float | None] = {}
        for metric in METRICS:
            left = [
                _values_by_size({c: s for c, s in measured.items() if m not in c}).get(size, {}).get(metric)
                for m in members
            ]
            known = [v for v in left if v is not None]
            errors[metric] = _jackknife(known) if len(known) > 1 else None
        found.append(Point(width, size, 0, sizes[size], errors))
    return found


def _fit(metric: str, splits: Sequence[Split], measured: Mapping[int, Subsets]) -> SplitPrediction:
    values = {
        split.width: {n: v[metric] for n, v in _values_by_size(measured[split.width]).items()} for split in splits
    }
    return predict_split(splits, values, rising=metric == "accuracy", draws=1)


def _values_by_size(measured: Subsets) -> dict[int, dict[str, float]]:
    rows: dict[int, list[Scores]] = {}
    for chosen, values in measured.items():
        rows.setdefault(len(chosen), []).append(values)
    return {n: {name: float(np.mean([r[name] for r in own])) for name in METRICS} for n, own in rows.items()}


def _jackknife(values: Sequence[float]) -> float:
    k = len(values)
    if k < 2:
        return math.nan
    return float(math.sqrt((k - 1) / k * np.square(np.subtract(values, np.mean(values))).sum()))


def _chances(estimates: Mapping[int, Estimate], metric: str, seed: int) -> dict[int, float]:
    sign = 1.0 if metric == "accuracy" else -1.0
    generator = np.random.default_rng(seed)
    centre = np.array([e.value for e in estimates.values()])
    error = np.array([e.standard_error if math.isfinite(e.standard_error) else 0.0 for e in estimates.values()])
    drawn = centre + error * generator.standard_normal((DRAWS, len(centre)))
    counts = np.bincount((sign * drawn).argmax(axis=1), minlength=len(centre))
    return {n: float(c) / DRAWS for n, c in zip(estimates, counts, strict=True)}
