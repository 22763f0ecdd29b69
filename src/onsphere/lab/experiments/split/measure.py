"""What the ensembles of a pool are worth: accuracy, NLL and CNLL of groups of its networks, from stored logits.

Group g of ensembles of n networks has the pool's members g n to (g + 1) n - 1, so that no two ensembles of a split
share a network. Networks that failed to train are left out of their ensemble, which then has fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from onsphere.ensembles import (
    PowerLaw,
    PowerLawError,
    Split,
    accuracy,
    average_probabilities,
    calibrated_nll,
    fit_power_law,
    nll,
)
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.split.pools import Pool
from onsphere.lab.experiments.split.study import Labels
from onsphere.lab.intervals import standard_error
from onsphere.lab.keyed import Keyed
from onsphere.lab.result import Real, plain_of, typed

METRICS = ("accuracy", "nll", "cnll")
Scores = dict[str, float]
Stop = Callable[[], bool]

#: Random halvings of the test set behind a CNLL: of a split, as in the papers; of a point of a curve.
REPEATS, CURVE_REPEATS = 5, 1
#: Ensembles behind a point of a curve that is no split of a budget.
CURVE_GROUPS = 3


@dataclass(frozen=True)
class Point:
    """Ensembles of one size of one width.

    Attributes:
        width: Width of the networks.
        size: How many of them an ensemble has.
        groups: How many ensembles; 0 where all subsets of a small pool were taken.
        mean: Accuracy (fraction), NLL and CNLL (nats).
        standard_error: Standard error of each mean; None where it is not known.
    """

    width: int
    size: int
    groups: int
    mean: dict[str, Real]
    standard_error: dict[str, float | None]


@dataclass(frozen=True)
class Fit(Keyed):
    """A fitted law as the result keeps it; see :class:`onsphere.ensembles.PowerLaw`.

    Attributes:
        limit: What infinitely many networks reach.
        scale: Factor of the power.
        exponent: Exponent of the size, negative.
        intervals: Ends for each of the three; None where the data do not bound it.
        confidence: Confidence of the intervals.
        residual: Root mean square deviation of the values, in their unit.
        sizes: The sizes fitted to.
        fixed_exponent: Whether the exponent was given rather than fitted.
    """

    limit: float
    scale: float
    exponent: float
    intervals: dict[str, tuple[float | None, float | None]]
    confidence: float
    residual: Real
    sizes: tuple[float, ...]
    fixed_exponent: bool


@dataclass(frozen=True)
class Law:
    """The law of one width and metric, limit + scale * size^exponent.

    Attributes:
        width: Width of the networks.
        metric: ``nll``, ``cnll`` or ``accuracy``.
        law: The fit; None where none fits.
        note: Why there is none, or that its exponent was fixed.
    """

    width: int
    metric: str
    law: Fit | None
    note: str

    def __call__(self, sizes: Any) -> Any:
        """The law at ensemble sizes; NaN without one."""
        n = np.asarray(sizes, dtype=np.float64)
        if self.law is None:
            return np.full_like(n, np.nan)
        return self.law.limit + self.law.scale * n**self.law.exponent


def scores(pool: Pool, members: Sequence[int], labels: Labels, repeats: int = REPEATS) -> Scores | None:
    """Accuracy, NLL and CNLL of the ensemble of some members; None if none of them is usable."""
    usable = pool.usable(members)
    if not usable:
        return None
    logs = average_probabilities(pool.logits[usable])
    calibrated = calibrated_nll(logs[None], labels, repeats=repeats)
    return {"accuracy": accuracy(logs, labels), "nll": nll(logs, labels), "cnll": float(calibrated)}


def of_split(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> dict[str, list[float | None]]:
    """Every metric of each seed's ensemble; None where all of its networks failed."""
    n, rows = split.members, []
    for seed in range(seeds):
        _ask(stop)
        rows.append(scores(pool, range(seed * n, (seed + 1) * n), labels))
    return columns(rows)


def columns(rows: Sequence[Scores | None]) -> dict[str, list[float | None]]:
    """Every metric of some ensembles."""
    return {name: [None if row is None else row[name] for row in rows] for name in METRICS}


def curve(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> list[Point]:
    """Ensembles of 1, 2, 4, ... networks of a split's pool, fewer than the split has, each seed's first one."""
    found, size = [], 1
    while size < split.members:
        rows = []
        for seed in range(min(seeds, CURVE_GROUPS)):
            _ask(stop)
            first = seed * split.members
            rows.append(scores(pool, range(first, first + size), labels, CURVE_REPEATS))
        found.append(point(split.width, size, columns(rows)))
        size *= 2
    return [p for p in found if p.groups]


def point(width: int, size: int, values: Mapping[str, Sequence[float | None]]) -> Point:
    """Mean and standard error of every metric over ensembles."""
    means = {name: mean(own) for name, own in values.items()}
    errors = {name: error_of_known(own) for name, own in values.items()}
    return Point(width, size, sum(value is not None for value in values["nll"]), means, errors)


def mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are known; NaN if none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else math.nan


def error_of_known(values: Sequence[float | None]) -> float | None:
    """Standard error of the mean of the values that are known; None for fewer than two, or if one is not finite."""
    error = standard_error([v for v in values if v is not None])
    return error if math.isfinite(error) else None


def subsets(pool: Pool, members: Sequence[int], labels: Labels, stop: Stop) -> dict[tuple[int, ...], Scores]:
    """Every metric of every ensemble that some members can form."""
    found = {}
    for size in range(1, len(members) + 1):
        for chosen in combinations(members, size):
            _ask(stop)
            row = scores(pool, chosen, labels, CURVE_REPEATS)
            assert row is not None, "callers give usable members"
            found[chosen] = row
    return found


def fit(width: int, metric: str, points: Sequence[Point]) -> Law:
    """The law through the points of one width: free exponent where they determine one, else -1, else none."""
    sizes = [p.size for p in points]
    values = [p.mean[metric] for p in points]
    errors = [p.standard_error[metric] for p in points]
    given = [e for e in errors if e] if all(errors) else None
    rising = metric == "accuracy"
    reason = ""
    for exponent in (None, -1.0):
        if exponent is None and given is None and len(sizes) <= 3:
            continue
        try:
            law = fit_power_law(sizes, values, errors=given, exponent=exponent, rising=rising)
        except PowerLawError as error:
            reason = str(error)
            continue
        return law_of(width, metric, law)
    return Law(width, metric, None, reason)


def law_of(width: int, metric: str, law: PowerLaw | None) -> Law:
    """A fitted law as the result keeps it."""
    if law is None:
        return Law(width, metric, None, "no law fits")
    return Law(width, metric, typed(Fit, plain_of(law.to_dict())), "exponent fixed at -1" if law.fixed_exponent else "")


def _ask(stop: Stop) -> None:
    if stop():
        raise Interrupted
