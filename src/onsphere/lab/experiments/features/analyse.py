"""What follows from the accuracies: how sparse a network's features are, and whether starts differ in it.

Let a_i be the accuracy of a network on N test examples of which feature i alone is left (all others redrawn from other
examples, each from another one), and C = 2 the number of classes. Feature i *carries* the label if a_i is above chance:

    a_i > 1/C + z √((1/C)(1 - 1/C) / N),   z the normal quantile of 1 - 0.01/m, m features: a false one in 100 networks

    e_i = a_i - 1/C if feature i carries the label, else 0        what it alone adds to chance
    effective number = (Σ e_i)² / Σ e_i²                          participation ratio; 0 if no feature carries it

It is the number of features if all add the same, and 1 if one adds everything (the inverse participation ratio of Bell
and Dean 1970, there of atoms in a vibration; that it is applied to accuracies is ours). Usefulness is the mean
Σ e_i b_i / Σ e_i of the best accuracies b_i that any network could have from feature i alone: above the mean of all
b_i, the network prefers the better ones.

The published finding in our words: starts slightly above the convergence threshold leave few features, and useful ones;
smaller and much larger starts leave many (Sadrtdinov, Kodryan et al., NeurIPS 2024). Three groups of starts decide it,
chosen by the runs before the drop alone, so that no start is picked for its outcome:

    small    up to T / 3, T the threshold: the largest start up to which most seeds converge
    above    from T (not included) up to 5 T; their subregime 2A is a factor of 4.7 wide (3e-4 to 1.4e-3)
    large    beyond

Starts between T / 3 and T are in no group: so close to the threshold runs are metastable, and seeds differ.

For every seed the effective numbers of a group are averaged, and the differences above - small and above - large are
taken seed by seed, with 95 % t-intervals that hold together (Bonferroni). *Seen*: both lie below zero. *Not seen*: one
of them lies above zero. *Not decided*: anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from onsphere.lab.experiments.drop.analyse import majority, threshold
from onsphere.lab.experiments.drop.result import Difference
from onsphere.lab.experiments.features.result import (
    Analysis,
    BandDifference,
    Contrast,
    FeatureRun,
    Group,
    GroupName,
    Part,
    PartAccuracy,
    StartSummary,
)
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.intervals import Interval, interval, quantile, standard_error

FALSE_SHARE = 0.01  # of networks in which some feature that says nothing counts as carrying
SLIGHTLY = 5.0  # times the threshold
CLEARLY = 3.0  # below the threshold
CLASSES = 2


def carrying_limit(examples: int, features: int, classes: int = CLASSES) -> float:
    """The accuracy above which a feature counts as carrying the label."""
    from scipy.stats import norm

    chance = 1 / classes
    z = float(norm.ppf(1 - FALSE_SHARE / features))
    return chance + z * math.sqrt(chance * (1 - chance) / examples)


def sparsity(accuracies: Sequence[float], limit: float, best: Sequence[float]) -> tuple[int, float, float]:
    """How many features carry the label, the effective number of them, and their usefulness.

    Args:
        accuracies: What each feature alone allows, fractions.
        limit: The accuracy above which a feature counts (:func:`carrying_limit`).
        best: The best accuracy that each feature allows.

    Returns:
        Count, effective number (0 where none counts), usefulness (NaN where none counts).
    """
    excess = [a - 1 / CLASSES if a > limit else 0.0 for a in accuracies]
    total = sum(excess)
    if not total:
        return 0, 0.0, math.nan
    useful = sum(e * b for e, b in zip(excess, best, strict=True)) / total
    return sum(e > 0 for e in excess), total**2 / sum(e * e for e in excess), useful


def analyse(
    cells: Sequence[Cell],
    runs: Sequence[FeatureRun],
    accuracies: Sequence[PartAccuracy],
    parts: Sequence[Part],
    control: float,
) -> Analysis:
    """The analysis of a whole experiment: runs before the drop and after it, accuracies of every part after it.

    ``control`` is the start from which there was no drop.
    """
    limits = threshold(cells)
    synthetic = runs[0].count is not None
    found = [
        summary(start, cells, [r for r in runs if r.start == start], [a for a in accuracies if a.start == start], parts)
        for start in sorted({run.start for run in runs})
    ]
    groups = grouped([one.start for one in found], limits.value) if synthetic else []
    finite = {(run.start, run.seed) for run in runs if run.finite}
    rows = [row for row in accuracies if (row.start, row.seed) in finite]
    return Analysis(
        starts=found,
        threshold=limits,
        groups=[_group(name, members, runs) for name, members in groups],
        contrasts=[c for other in ("small", "large") if (c := contrast(dict(groups), other, runs)) is not None],
        differences=[] if synthetic else band_differences(rows, control),
    )


def summary(
    start: float, cells: Sequence[Cell], runs: Sequence[FeatureRun], own: Sequence[PartAccuracy], parts: Sequence[Part]
) -> StartSummary:
    """Means over the seeds of one start, and their intervals."""

    def over_seeds(value: Callable[[FeatureRun], float | None]) -> list[float]:
        return [math.nan if (found := value(run)) is None else float(found) for run in runs]

    ranked = [sorted((a.alone for a in own if a.seed == run.seed), reverse=True) for run in runs]
    return StartSummary(
        start=start,
        regime=majority([cell for cell in cells if cell.elr == start]),
        test_error=interval(over_seeds(lambda run: run.test_error)),
        train_loss=interval(over_seeds(lambda run: run.train_loss)),
        count=interval(over_seeds(lambda run: run.count)),
        effective=interval(over_seeds(lambda run: run.effective)),
        usefulness=_known(over_seeds(lambda run: run.usefulness)),
        alone=[interval([a.alone for a in own if a.part == part.part]) for part in parts],
        without=[interval([a.without for a in own if a.part == part.part]) for part in parts],
        ranked=[fmean(values) for values in zip(*ranked, strict=True)],
    )


def grouped(starts: Sequence[float], value: float | None) -> list[tuple[GroupName, list[float]]]:
    """The starts clearly below, slightly above and far above a threshold; nothing without one."""
    if value is None:
        return []
    members: dict[GroupName, list[float]] = {
        "small": [start for start in starts if start <= value / CLEARLY],
        "above": [start for start in starts if value < start <= SLIGHTLY * value],
        "large": [start for start in starts if start > SLIGHTLY * value],
    }
    return [(name, group) for name, group in members.items() if group]


def contrast(groups: dict[GroupName, list[float]], other: GroupName, runs: Sequence[FeatureRun]) -> Contrast | None:
    """The effective number of the starts slightly above the threshold minus that of another group, seed by seed."""
    if "above" not in groups or other not in groups:
        return None
    first, second = (_by_seed(groups[name], runs) for name in ("above", other))
    seeds = [s for s in first if s in second and math.isfinite(first[s] + second[s])]
    return Contrast(other, _difference([first[seed] - second[seed] for seed in seeds], comparisons=2))


def band_differences(rows: Sequence[PartAccuracy], control: float) -> list[BandDifference]:
    """Every start and band beside the control, by start, then band; their intervals hold all at once (Bonferroni)."""
    known = {(row.start, row.part, row.seed): row for row in rows}
    pairs = sorted({(row.start, row.part) for row in rows if row.start != control})
    found = []
    for start, part in pairs:
        both = [
            (row, other)
            for row in rows
            if (row.start, row.part) == (start, part) and (other := known.get((control, part, row.seed))) is not None
        ]
        alone = _difference([a.alone - b.alone for a, b in both], len(pairs))
        found.append(
            BandDifference(start, part, alone, _difference([a.without - b.without for a, b in both], len(pairs)))
        )
    return found


def _difference(values: Sequence[float], comparisons: int) -> Difference:
    mean = fmean(values) if values else math.nan
    # accuracies count examples, so that a few seeds may have the very same difference: that tells no spread
    spread = standard_error(values) if len(set(values)) > 1 else math.nan
    reach = quantile(len(values), comparisons) * spread
    return Difference(mean, mean - reach, mean + reach, len(values))


def _group(name: GroupName, members: list[float], runs: Sequence[FeatureRun]) -> Group:
    values = list(_by_seed(members, runs).values())
    useful = list(_by_seed(members, runs, lambda run: run.usefulness).values())
    return Group(name, members, interval(values), _known(useful))


def _known(values: Sequence[float]) -> Interval:
    """The interval over the values that there are; all NaN for fewer than two."""
    known = [value for value in values if math.isfinite(value)]
    return interval(known if len(known) > 1 else [math.nan])


def _by_seed(
    members: Sequence[float], runs: Sequence[FeatureRun], value: Callable[[FeatureRun], float | None] | None = None
) -> dict[int, float]:
    """The mean over a group's starts for every seed; NaN if a run has no number."""
    found: dict[int, list[float]] = {}
    for run in runs:
        if run.start in members:
            number = run.effective if value is None else value(run)
            found.setdefault(run.seed, []).append(math.nan if number is None else number)
    return {seed: fmean(values) for seed, values in sorted(found.items())}
