"""Which split of a budget is best and whether splitting pays: by networks of every split, or by four of each width.

Measured: for every metric, with d(n) = value(1) - value(n) (accuracy with the sign turned, so that above 0 the split is
better) and its mean and t-interval over seeds,

    advantage      some d(n) is above 0 with its whole 95 % interval, Bonferroni-corrected for how many n there are
    no advantage   every d(n) is below 0 with its whole 95 % interval
    unclear        otherwise, or fewer than two seeds, or no single network among the splits

    the budget:  true    an advantage by NLL or CNLL, and by neither of them none
                 false   no advantage by NLL and none by CNLL
                 unclear otherwise

Networks of different splits share neither initial weights nor batches in any useful way; pairing by seed only keeps the
test examples and the number of degrees of freedom honest.

Predicted, from laws through all subsets of four networks:

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
from itertools import combinations

import numpy as np

from onsphere.ensembles import PowerLawError, Split, SplitPrediction, predict_split
from onsphere.lab.experiments.split.pools.laws import law_of
from onsphere.lab.experiments.split.pools.measure import (
    CURVE_REPEATS,
    Pool,
    Scores,
    Stop,
    ask,
    mean,
    mean_temperature,
    scores,
)
from onsphere.lab.experiments.split.pools.points import Law, Point
from onsphere.lab.experiments.split.pools.study import Labels
from onsphere.lab.experiments.split.result import METRICS, SIGN, Advantage, Gain, Verdict, Word
from onsphere.lab.experiments.split.spec import PREDICTION_POOL
from onsphere.lab.intervals import LEVEL, quantile, standard_error

Values = Mapping[int, Sequence[float | None]]
Subsets = Mapping[tuple[int, ...], Scores]
DRAWS = 20_000


def verdicts(values: Mapping[str, Values]) -> tuple[Verdict, ...]:
    """What all metrics say; ``values[metric][members]``, one a seed."""
    return tuple(verdict(metric, values[metric]) for metric in METRICS)


def verdict(metric: str, values: Values) -> Verdict:
    """What one metric says; ``values[members]`` has one a seed, None where it is missing."""
    sign = SIGN[metric]
    known = [n for n in values if math.isfinite(mean(values[n]))]
    best = max(known, key=lambda n: sign * mean(values[n])) if known else min(values)
    others = [n for n in values if n > 1]
    gains = tuple(_gain(n, values.get(1, ()), values[n], sign, len(others)) for n in others)
    word: Word = "unclear"
    if any(g.low > 0 for g in gains):
        word = "advantage"
    elif gains and all(g.upper < 0 for g in gains):
        word = "no advantage"
    close = [n for n in values if n == best or not _gain(n, values[n], values[best], sign, 1).low > 0]
    return Verdict(metric, best, tuple(close), word, gains)


def _gain(
    members: int, single: Sequence[float | None], split: Sequence[float | None], sign: float, comparisons: int
) -> Gain:
    pairs = zip(single, split, strict=False)
    differences = [sign * (b - a) for a, b in pairs if a is not None and b is not None]
    if len(differences) < 2:
        return Gain(members, differences[0] if differences else math.nan, -math.inf, math.inf, math.inf)
    centre = float(np.mean(differences))
    wide, plain = (quantile(len(differences), k) * standard_error(differences) for k in (comparisons, 1))
    return Gain(members, centre, centre - wide, centre + wide, centre + plain)


def predicted_verdict(metric: str, best: int, chances: Mapping[int, float]) -> Verdict:
    """What a prediction says: an advantage where the single network is best with a chance of at most 2.5 %."""
    single, tail = chances.get(1), (1 - LEVEL) / 2
    word: Word = "unclear"
    if single is not None and len(chances) > 1 and not tail < single < 1 - tail:
        word = "advantage" if single <= tail else "no advantage"
    close = tuple(n for n, chance in chances.items() if n == best or chance > tail)
    return Verdict(metric, best, close, word, (), None if single is None else 1 - single)


def advantage(verdicts: Sequence[Verdict]) -> Advantage:
    """What NLL and CNLL together say; accuracy is reported beside them."""
    words = [v.word for v in verdicts if v.metric in ("nll", "cnll")]
    if "advantage" in words and "no advantage" not in words:
        return True
    return False if words and all(word == "no advantage" for word in words) else "unclear"


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
    """Every metric of every ensemble that the first four networks of each width can form.

    Raises:
        RuntimeError: So many networks of a width failed to train that it has no law.
    """
    found: dict[int, Subsets] = {}
    for width, pool in pools.items():
        usable = pool.usable(range(PREDICTION_POOL))
        if len(usable) < 3:
            failed = "; ".join(map(str, pool.failed))
            raise RuntimeError(f"width {width} has fewer than three trained networks to predict from: {failed}")
        own: dict[tuple[int, ...], Scores] = {}
        for chosen in (some for size in range(len(usable)) for some in combinations(usable, size + 1)):
            ask(stop)
            row = scores(pool, chosen, labels, CURVE_REPEATS)
            assert row is not None, "they are usable"
            own[chosen] = row
        found[width] = own
    return found


def predict(metric: str, splits: Sequence[Split], measured: Mapping[int, Subsets], seed: int) -> Prediction:
    """Predict the best of a budget's splits by one metric from the subsets of every width; ``seed`` is of draws."""
    whole = _fit(metric, splits, measured)
    left: dict[int, list[float]] = {s.members: [] for s in splits}
    for member in range(PREDICTION_POOL):
        for split in splits:
            rest = _without(member, measured[split.width])
            if len(rest) == len(measured[split.width]):  # this network failed; it is in no subset
                continue
            try:
                one = _fit(metric, [split], {split.width: rest})
            except PowerLawError:
                continue
            left[split.members].append(one.best.value)
    estimates = {
        p.split.members: Estimate(p.value, _jackknife(left[p.split.members]), str(p.basis)) for p in whole.splits
    }
    laws = [law_of(p.split.width, metric, p.law) for p in whole.splits]
    return Prediction(metric, whole.best.split.members, estimates, _chances(estimates, metric, seed), laws)


def points(width: int, measured: Subsets) -> list[Point]:
    """Ensembles of 1 to 4 networks of a width, means over all subsets; errors by jackknife."""
    left = [_by_size(_without(member, measured)) for member in sorted({m for chosen in measured for m in chosen})]
    found = []
    for size, means in _by_size(measured).items():
        known = {metric: [own[size][metric] for own in left if size in own] for metric in METRICS}
        errors = {metric: _jackknife(values) if len(values) > 1 else None for metric, values in known.items()}
        temperature = mean_temperature([row["temperature"] for some, row in measured.items() if len(some) == size])
        found.append(Point(width, size, 0, means, errors, temperature))
    return found


def _fit(metric: str, splits: Sequence[Split], measured: Mapping[int, Subsets]) -> SplitPrediction:
    values = {split.width: {n: v[metric] for n, v in _by_size(measured[split.width]).items()} for split in splits}
    return predict_split(splits, values, rising=metric == "accuracy", draws=1)


def _without(member: int, measured: Subsets) -> Subsets:
    return {chosen: values for chosen, values in measured.items() if member not in chosen}


def _by_size(measured: Subsets) -> dict[int, dict[str, float]]:
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
    generator = np.random.default_rng(seed)
    centre = np.array([e.value for e in estimates.values()])
    error = np.array([e.standard_error if math.isfinite(e.standard_error) else 0.0 for e in estimates.values()])
    drawn = centre + error * generator.standard_normal((DRAWS, len(centre)))
    counts = np.bincount((SIGN[metric] * drawn).argmax(axis=1), minlength=len(centre))
    return {n: float(c) / DRAWS for n, c in zip(estimates, counts, strict=True)}
