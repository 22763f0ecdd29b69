"""The best memory split, predicted from small pools: laws fitted at each width, extrapolated to as many as fit.

    for every split (n, width):   value(n) = limit + scale * n^exponent,   fitted to sizes 1, 2, 3, 4 of that width,
    best = the split with the least value(n);   its interval: how often each split is best among laws the data allow

Where n itself was measured, the measured value counts. Networks are trained for the pools alone, and how many
member-steps that saves is part of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onsphere.ensembles._inputs import Array, positive_integer
from onsphere.ensembles.budget import Split
from onsphere.ensembles.pools import PoolSize
from onsphere.ensembles.power_laws import PowerLaw, PowerLawError, fit_power_law
from onsphere.results import plain_values

__all__ = ["Basis", "PredictedSplit", "SplitPrediction", "pool_values", "predict_split"]

#: Values (or errors) by width and ensemble size.
Table = Mapping[int, Mapping[int, float]]
Basis = Literal["measured", "law", "fixed exponent", "constant"]


@dataclass(frozen=True)
class PredictedSplit:
    """What is predicted of one split of the budget.

    Attributes:
        split: The split this is about.
        value: The predicted metric of this split.
        interval: Lower and upper end; infinite where the data do not bound it.
        basis: Where the value comes from: ``"measured"``; a ``"law"`` of three parameters; a law with ``"fixed
            exponent"``, the fallback where the data do not determine one; ``"constant"``, the mean over sizes, where
            no law falls (or rises) through the values.
        law: The law that the value is from, or None.
        probability: That this is the best split, among what the data allow; None where some split has no interval.
    """

    split: Split
    value: float
    interval: tuple[float, float]
    basis: Basis
    law: PowerLaw | None
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; infinite ends are None."""
        return {
            "split": self.split.to_dict(),
            "value": self.value,
            "interval": plain_values(self.interval),
            "basis": self.basis,
            "law": None if self.law is None else self.law.to_dict(),
            "probability": self.probability,
        }


@dataclass(frozen=True)
class SplitPrediction:
    """The predicted best split of a budget.

    Attributes:
        splits: Predictions of all splits, in the order given.
        best: The one with the best predicted value.
        members_interval: Least and largest number of members of the best split, at ``confidence``; the range of all
            splits where the data determine less.
        confidence: Confidence level of all intervals.
        rising: Whether larger values are better.
        members_trained: Networks trained for the prediction.
        members_of_everything: Networks that training every split would take.
    """

    splits: tuple[PredictedSplit, ...]
    best: PredictedSplit
    members_interval: tuple[int, int]
    confidence: float
    rising: bool
    members_trained: int
    members_of_everything: int

    @property
    def saved(self) -> float:
        """Share of the member-steps of training everything that was saved; negative where nothing was.

        Every network is trained for as many steps, so that member-steps are in proportion to networks.
        """
        return 1 - self.members_trained / self.members_of_everything

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return {
            "splits": [s.to_dict() for s in self.splits],
            "best": self.best.to_dict(),
            "members_interval": list(self.members_interval),
            "confidence": self.confidence,
            "rising": self.rising,
            "members_trained": self.members_trained,
            "members_of_everything": self.members_of_everything,
            "saved": self.saved,
        }

    def __repr__(self) -> str:
        low, high = self.members_interval
        return (
            f"SplitPrediction: {self.best.split.members} members of width {self.best.split.width} are predicted best "
            f"({100 * self.confidence:g} %: {low} to {high} members), value {self.best.value:.4g}; trained "
            f"{self.members_trained} networks in place of {self.members_of_everything}"
        )


def pool_values(pool: Sequence[PoolSize], metric: str) -> tuple[dict[int, float], dict[int, float]]:
    """One metric of a pool, as :func:`predict_split` takes it.

    Args:
        pool: The pool's metrics by size, from :func:`~onsphere.ensembles.pool_metrics`.
        metric: ``"nll"``, ``"cnll"``, ``"accuracy"``, ``"brier"``, ``"ece"`` or ``"disagreement"``.

    Returns:
        The mean for every size, and its standard error for the sizes that have one.

    Raises:
        ValueError: The pool has no such metric.
    """
    if unknown := [p for p in pool if metric not in p.mean]:
        raise ValueError(f"metric is {metric!r}; a pool has {', '.join(unknown[0].mean)}")
    means = {p.size: value for p in pool if (value := p.mean[metric]) is not None}
    errors = {p.size: error for p in pool if (error := p.standard_error[metric]) is not None}
    return means, errors


def predict_split(
    splits: Sequence[Split],
    values: Table,
    *,
    errors: Table | None = None,
    exponent: float | None = None,
    rising: bool = False,
    trained: Mapping[int, int] | None = None,
    repeats: int = 1,
    confidence: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> SplitPrediction:
    """Predict which split of a budget is best.

    Args:
        splits: The candidates, from :func:`~onsphere.ensembles.splits`.
        values: ``values[width][n]``, the metric of ensembles of n networks of that width, for every width in
            ``splits``: at least three sizes n (1, 2, 3, 4) where a split has more members than were measured.
        errors: Standard errors, ``errors[width][n]``. A fit uses a width's errors where all of its sizes have one,
            and the residuals otherwise.
        exponent: Exponent of all laws. None: fitted for each width, and -1, which the NLL has at a fixed temperature,
            where the sizes of a width do not determine one.
        rising: Whether larger values are better, as for accuracy.
        trained: How many networks of each width were trained; None: as many as its largest size.
        repeats: How often training everything would train each split, such as the number of seeds.
        confidence: Confidence level of the intervals, in (0, 1).
        draws: Laws drawn for the interval of the best split.
        seed: Seed of the draws.

    Returns:
        The prediction of every split, and which is best.

    Raises:
        ValueError: No splits, a width without values, values that are not finite, arguments out of range.
        PowerLawError: A width has fewer than three sizes and a split needs more members than were measured.

    Source:
        Lobacheva, Chirkova, Kodryan and Vetrov 2020 (the optimal memory split predicted by power laws).
    """
    splits = list(splits)
    if not splits:
        raise ValueError("splits is empty; give at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    repeats, draws = positive_integer("repeats", repeats), positive_integer("draws", draws)
    generator = np.random.default_rng(seed)
    found: list[PredictedSplit] = []
    sampled: list[Array | None] = []
    for split in splits:
        table = _sizes(split.width, values)
        known = {} if errors is None else dict(errors.get(split.width, {}))
        prediction, sample = _one(split, table, known, exponent, rising, confidence, draws, generator)
        found.append(prediction)
        sampled.append(sample)
    sign = -1.0 if rising else 1.0
    best = int(np.argmin([sign * p.value for p in found]))
    members = (min(s.members for s in splits), max(s.members for s in splits))
    if (determined := [s for s in sampled if s is not None]) and len(determined) == len(sampled):
        winners = (sign * np.stack(determined)).argmin(axis=0)
        chances = np.bincount(winners, minlength=len(splits)) / draws
        found = [replace(p, probability=float(c)) for p, c in zip(found, chances, strict=True)]
        counts = np.array([s.members for s in splits])[winners]
        tail = (1 - confidence) / 2
        low, high = np.quantile(counts, [tail, 1 - tail], method="inverted_cdf")
        members = (min(int(low), splits[best].members), max(int(high), splits[best].members))
    pools = {s.width: max(values[s.width]) for s in splits} if trained is None else dict(trained)
    return SplitPrediction(
        splits=tuple(found),
        best=found[best],
        members_interval=members,
        confidence=confidence,
        rising=rising,
        members_trained=sum(pools.values()),
        members_of_everything=repeats * sum(s.members for s in splits),
    )


def _sizes(width: int, values: Table) -> dict[int, float]:
    if not values.get(width):
        raise ValueError(f"there are no values for width {width}; there are some for {sorted(values)}")
    table = {positive_integer(f"a size of width {width}", n): float(v) for n, v in values[width].items()}
    if bad := [n for n, v in table.items() if not math.isfinite(v)]:
        raise ValueError(f"the value of {bad[0]} networks of width {width} is {table[bad[0]]}; it must be finite")
    return dict(sorted(table.items()))


def _one(
    split: Split,
    table: dict[int, float],
    errors: dict[int, float],
    exponent: float | None,
    rising: bool,
    confidence: float,
    draws: int,
    generator: np.random.Generator,
) -> tuple[PredictedSplit, Array | None]:
    """One split's prediction, and values that the data allow, [draws]; None if nothing bounds them."""
    n = split.members
    law, basis = _law(split.width, n, table, errors, exponent, rising, confidence)
    if n in table and errors.get(n, 0) > 0:
        return _normal(split, table[n], errors[n], "measured", law, confidence, draws, generator)
    if law is not None:
        limit, scale, power = law.sample(draws, generator).T
        value, low, high = law.predict(n)
        shift = table[n] - value if n in table else 0.0
        where: Basis = "measured" if n in table else basis
        return (
            PredictedSplit(split, value + shift, (low + shift, high + shift), where, law, None),
            limit + scale * float(n) ** power + shift,
        )
    if n in table and len(table) < 3:
        return PredictedSplit(split, table[n], (-math.inf, math.inf), "measured", None, None), None
    # No law falls through these sizes: what spreads the values is noise.
    level = np.array(list(table.values()))
    spread = float(level.std(ddof=1))
    if n in table:
        return _normal(split, table[n], spread, "measured", None, confidence, draws, generator)
    mean, error = float(level.mean()), spread / math.sqrt(len(level))
    return _normal(split, mean, error, "constant", None, confidence, draws, generator)


def _normal(
    split: Split,
    value: float,
    error: float,
    basis: Basis,
    law: PowerLaw | None,
    confidence: float,
    draws: int,
    generator: np.random.Generator,
) -> tuple[PredictedSplit, Array]:
    from scipy.stats import norm

    half = float(norm.ppf((1 + confidence) / 2)) * error
    sample = value + error * generator.standard_normal(draws)
    return PredictedSplit(split, value, (value - half, value + half), basis, law, None), sample


def _law(
    width: int,
    members: int,
    table: dict[int, float],
    errors: dict[int, float],
    exponent: float | None,
    rising: bool,
    confidence: float,
) -> tuple[PowerLaw | None, Basis]:
    """The law of one width; with exponent -1 where three parameters are too many, None where none fits."""
    if len(table) < 3:
        if members in table:
            return None, "measured"
        raise PowerLawError(
            f"width {width} was measured at {len(table)} ensemble sizes ({', '.join(map(str, table))}); predicting "
            f"{members} members takes a law, and a law at least 3 sizes"
        )
    sizes, measured = list(table), list(table.values())
    given = [errors[n] for n in sizes] if all(errors.get(n, 0) > 0 for n in sizes) else None
    attempts: list[tuple[float | None, Basis]] = [(exponent if exponent is not None else -1.0, "fixed exponent")]
    if exponent is None and (given is not None or len(sizes) > 3):
        attempts.insert(0, (None, "law"))
    for power, basis in attempts:
        try:
            law = fit_power_law(sizes, measured, errors=given, exponent=power, rising=rising, confidence=confidence)
        except PowerLawError:
            continue
        return law, basis
    return None, "constant"
