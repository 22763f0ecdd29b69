"""What follows from the rows: the matrix, the convergence threshold, the best start, the class of each start.

Means and standard errors are over seeds. Two starts are compared seed by seed: the differences d_i of n seeds give the
95 % interval mean(d) ± t(n - 1) sd(d) / √n, and a difference is *clear* if zero lies outside.

Convergence threshold: the largest starting learning rate up to which most seeds converge in the first phase
(rules of :mod:`onsphere.lab.experiments.regimes.classify`); the true one lies between it and the next start.

Class of a start, after Sadrtdinov, Kodryan et al., NeurIPS 2024; the rule is ours:

    1    most seeds converge before the drop
    3    most seeds diverge before the drop
    2A   neither, and in most seeds all paths between the continuations at the smallest and the largest final rate and
         the average of the last snapshots are connected: one basin. Paths are great circles, chords in the whole space
    2B   neither, and they are not

A path is connected if its error barrier is at most 1 % of the training examples or, if that is more, two standard
errors √(p (1 - p) / N) of the mean error p of its ends over N examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.drop.result import (
    Analysis,
    Average,
    Best,
    BestAverage,
    BestConstant,
    Continuation,
    Difference,
    Label,
    MatrixCell,
    PathBarrier,
    PathKind,
    StageDifference,
    StagedStart,
    StartClass,
    Threshold,
)
from onsphere.lab.experiments.drop.spec import Staged
from onsphere.lab.experiments.regimes.classify import REGIMES, Cell, Regime
from onsphere.lab.intervals import quantile, standard_error
from onsphere.lab.options import InputError

CONNECTED_ERROR = 0.01  # of the training examples
CONNECTED_NOISE = 2.0  # standard errors
WITHIN = 10.0  # times the threshold: where Sadrtdinov et al. find the best starts

Errors = dict[int, float]  # by seed


def analyse(
    cells: Sequence[Cell],
    continuations: Sequence[Continuation],
    paths: Sequence[PathBarrier],
    averages: Sequence[Average] = (),
) -> Analysis:
    """The analysis of a whole experiment: runs before the drop and after it, paths between them, averages before it."""
    starts, ends = sorted({c.start for c in continuations}), sorted({c.end for c in continuations})
    limits = threshold(cells)
    best = [best_start([c for c in continuations if c.end == end], end, limits) for end in ends]
    lowest = min(best, key=lambda one: one.test_error)
    errors = errors_of(continuations)
    return Analysis(
        matrix=[_cell([c for c in continuations if (c.start, c.end) == (s, e)], s, e) for e in ends for s in starts],
        threshold=limits,
        best=best,
        classes=[classify_start(s, cells, paths) for s in starts],
        constant=None if lowest.gain is None else _best_constant(best, lowest, errors),
        average=_best_average(averages, errors[lowest.end][lowest.start]),
    )


def errors_of(rows: Sequence[Continuation]) -> dict[float, dict[float, Errors]]:
    """Test errors of the runs that stayed finite, by final, then starting rate, then seed."""
    found: dict[float, dict[float, Errors]] = {}
    for row in sorted(rows, key=lambda row: (row.start, row.seed)):
        if row.finite:
            found.setdefault(row.end, {}).setdefault(row.start, {})[row.seed] = row.test_error
    return found


def _best_constant(best: Sequence[Best], drop: Best, errors: Mapping[float, Mapping[float, Errors]]) -> BestConstant:
    """The best final rate without a drop, beside the best drop of all."""
    found = min(best, key=lambda one: one.no_drop)
    return BestConstant(found.end, found.no_drop, paired(errors[drop.end][drop.start], errors[found.end][found.end]))


def _best_average(averages: Sequence[Average], drop: Errors) -> BestAverage | None:
    """The best average of snapshots beside the best drop of all."""
    errors: dict[tuple[float, int | None], Errors] = {}
    for one in averages:
        errors.setdefault((one.start, one.snapshots), {})[one.seed] = one.test_error
    if not errors:
        return None
    best = min(errors, key=lambda which: _mean(list(errors[which].values())))
    values, (start, number) = list(errors[best].values()), best
    return BestAverage(start, _mean(values), standard_error(values), paired(errors[best], drop), number)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The mean of a - b over seeds and its interval; both have one value a seed."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean, reach = _mean(d), quantile(len(d)) * standard_error(d)
    return Difference(mean, mean - reach, mean + reach, len(d))


def paired(a: Errors, b: Errors) -> Difference:
    """The mean of a - b over the seeds that both have."""
    seeds = sorted(set(a) & set(b))
    return difference([a[s] for s in seeds], [b[s] for s in seeds])


def majority(cells: Sequence[Cell]) -> Regime:
    """The regime of most seeds; the one of the larger effective learning rates in a tie."""
    counts = {regime: sum(cell.regime == regime for cell in cells) for regime in REGIMES}
    return max(reversed(REGIMES), key=lambda regime: counts[regime])


def threshold(cells: Sequence[Cell]) -> Threshold:
    """The convergence threshold and the beginning of divergence, by the majority of seeds at each start."""
    elrs = sorted({cell.elr for cell in cells})
    labels = [majority([cell for cell in cells if cell.elr == elr]) for elr in elrs]
    converging = next((i for i, label in enumerate(labels) if label != "convergence"), len(elrs))
    diverging = len(elrs) - next((i for i, label in enumerate(reversed(labels)) if label != "divergence"), len(elrs))
    return Threshold(
        low=elrs[converging - 1] if converging else None,
        high=elrs[converging] if 0 < converging < len(elrs) else None,
        fitted=any(cell.interpolates for cell in cells),
        divergence=elrs[diverging] if diverging < len(elrs) else None,
    )


def best_start(rows: Sequence[Continuation], end: float, limits: Threshold) -> Best:
    """The best start for one final rate, whose continuations are ``rows``, and how sure that is.

    Raises:
        InputError: Every run that stays at ``end`` became non-finite.
    """
    errors = errors_of(rows).get(end, {})
    if end not in errors:
        raise InputError(
            f"--ends: {end:g} is not allowed: every run that stays at that rate became non-finite, so that there is "
            "nothing to compare a drop with; start a new run with smaller ones"
        )
    starts = list(errors)
    means = {s: _mean(list(own.values())) for s, own in errors.items()}
    start = min(starts, key=means.__getitem__)
    place = starts.index(start)
    beside = [starts[i] for i in (place - 1, place + 1) if 0 <= i < len(starts)]
    norms = {s: np.mean([r.gradient_norm for r in rows if r.start == s and r.finite]) for s in (start, end)}
    value = limits.value
    return Best(
        end=end,
        start=start,
        test_error=means[start],
        test_error_se=standard_error(list(errors[start].values())),
        no_drop=means[end],
        no_drop_se=standard_error(list(errors[end].values())),
        gain=None if start == end else paired(errors[start], errors[end]),
        neighbours=[(other, paired(errors[start], errors[other])) for other in beside],
        held_out=_held_out(errors, end),
        within=None if value is None else value <= start <= WITHIN * value,
        gradient_ratio=float(norms[start] / norms[end]),
    )


def _held_out(errors: Mapping[float, Errors], end: float) -> float | None:
    """Mean gain over no drop if every seed's start is chosen by the other seeds."""
    seeds = sorted(set.intersection(*(set(own) for own in errors.values())))
    if len(seeds) < 3:
        return None
    gains = []
    for seed in seeds:
        others = {s: np.mean([own[other] for other in seeds if other != seed]) for s, own in errors.items()}
        chosen = min(others, key=lambda s: others[s])
        gains.append(errors[chosen][seed] - errors[end][seed])
    return float(np.mean(gains))


def allowed_barrier(first: float, second: float, examples: int) -> float:
    """The error barrier up to which two ends with these errors, on so many examples, count as connected."""
    p = (first + second) / 2
    return max(CONNECTED_ERROR, CONNECTED_NOISE * math.sqrt(p * (1 - p) / examples))


def path_of(paths: Sequence[PathBarrier]) -> PathKind:
    """The kind of path that classes follow from: the great circle where there is one, else the chord."""
    return "geodesic" if any(path.path == "geodesic" for path in paths) else "chord"


def classify_start(start: float, cells: Sequence[Cell], paths: Sequence[PathBarrier]) -> StartClass:
    """The class of a start by the rule of this module."""
    before = [cell for cell in cells if cell.elr == start]
    own = [path for path in paths if path.start == start and path.path == path_of(paths)]
    connected, measured = connected_seeds(own)
    regime = majority(before)
    label: Label = "2"
    if regime != "chaotic_equilibrium":
        label = "1" if regime == "convergence" else "3"
    elif measured:
        label = "2A" if connected > measured / 2 else "2B"

    def means(name: str) -> dict[str, float]:
        return {p.pair: _mean([getattr(other, name) for other in own if other.pair == p.pair]) for p in own}

    return StartClass(
        start=start,
        label=label,
        regimes={name: count for name in REGIMES if (count := sum(cell.regime == name for cell in before))},
        connected=connected,
        measured=measured,
        barriers=means("error_barrier"),
        loss_barriers=means("loss_barrier"),
        angles=means("angle"),
    )


def connected_seeds(paths: Sequence[PathBarrier]) -> tuple[int, int]:
    """In how many seeds all of these paths are connected, and how many seeds there are."""
    own = [path for path in paths if path.path == path_of(paths)]
    seeds = sorted({path.seed for path in own})
    return sum(all(path.connected for path in own if path.seed == seed) for seed in seeds), len(seeds)


def staged_start(
    staged: Staged,
    continuations: Sequence[Continuation],
    averages: Sequence[Average],
    paths: Sequence[PathBarrier],
    single: Sequence[Continuation],
) -> StagedStart:
    """A start in stages from its own rows, and beside the starts of a single stage."""
    errors, own = errors_of(single), errors_of(continuations)
    last, ends = staged.rates[-1], sorted({row.end for row in continuations})
    rates = sorted(set(staged.rates))
    connected, measured = connected_seeds(paths)
    return StagedStart(
        name=staged.name,
        rates=list(staged.rates),
        lengths=list(staged.lengths),
        continuations=sorted(continuations, key=lambda row: (row.end, row.seed)),
        averages=list(averages),
        paths=list(paths),
        matrix=[_cell([row for row in continuations if row.end == end], last, end) for end in ends],
        differences=[
            StageDifference(end, rate, paired(own.get(end, {}).get(last, {}), errors.get(end, {}).get(rate, {})))
            for end in ends
            for rate in rates
        ],
        connected=connected,
        measured=measured,
    )


def _cell(rows: Sequence[Continuation], start: float, end: float) -> MatrixCell:
    finite = [row for row in rows if row.finite]
    values: dict[str, Any] = {}
    for name in ("test_error", "test_loss", "train_loss", "train_error", "gradient_norm", "angle", "sharpness"):
        numbers = [value for row in finite if (value := getattr(row, name)) is not None]
        missing = name == "sharpness" and not numbers
        values[name] = None if missing else _mean(numbers)
        values[f"{name}_se"] = None if missing else standard_error(numbers)
    return MatrixCell(start=start, end=end, seeds=len(finite), **values)


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
