"""Whether a budget is better split: differences between the single network and its splits, paired over seeds.

For every metric, with d(n) = value(1) - value(n) (accuracy with the sign turned, so that above 0 the split is better)
and its mean and t-interval over seeds,

    advantage      some d(n) is above 0 with its whole 95 % interval, Bonferroni-corrected for how many n there are
    no advantage   every d(n) is below 0 with its whole 95 % interval
    unclear        otherwise, or fewer than two seeds, or no single network among the splits

    the budget:  true    an advantage by NLL or CNLL, and by neither of them none
                 false   no advantage by NLL and none by CNLL
                 unclear otherwise

Networks of different splits share neither initial weights nor batches in any useful way; pairing by seed only keeps the
test examples and the number of degrees of freedom honest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onsphere.lab.experiments.split.measure import METRICS, mean
from onsphere.lab.intervals import LEVEL, quantile, standard_error
from onsphere.lab.result import Real

Word = Literal["advantage", "no advantage", "unclear"]
Advantage = Literal["unclear"] | bool
Values = Mapping[int, Sequence[float | None]]


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
    """What one metric says about one budget.

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


def verdict(metric: str, values: Values) -> Verdict:
    """What one metric says.

    Args:
        metric: ``nll``, ``cnll`` or ``accuracy``.
        values: ``values[members]``, one a seed, None where it is missing.
    """
    sign = 1.0 if metric == "accuracy" else -1.0
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


def predicted_verdict(metric: str, best: int, chances: Mapping[int, float]) -> Verdict:
    """What a prediction says: an advantage where the single network is best with a chance of at most 2.5 %."""
    single = chances.get(1)
    tail = (1 - LEVEL) / 2
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
    if words and all(word == "no advantage" for word in words):
        return False
    return "unclear"


def verdicts(values: Mapping[str, Values]) -> tuple[Verdict, ...]:
    """What all metrics say; ``values[metric][members]``, one a seed."""
    return tuple(verdict(metric, values[metric]) for metric in METRICS)


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
