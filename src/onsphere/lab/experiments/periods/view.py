"""What the page of the periods draws: courses read back from the run's folder, thinned so that every spike stays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics import default_delta
from onsphere.lab.experiments.periods.analyse import Course, PeriodsRun, courses
from onsphere.lab.experiments.periods.result import PeriodsResult
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.copies import lr_factors
from onsphere.lab.store import Run

Array = NDArray[np.float64]

MOST_COURSES = 24  # on the page, over all settings
MOST_SEEDS = 5  # of a setting
BINS = 500  # of steps; each keeps its lowest and its highest value


@dataclass(frozen=True, eq=False)
class Shown:
    """One run that is drawn.

    Attributes:
        run: Its numbers.
        course: Its course.
        evaluation_steps: Steps of the evaluations.
        test_error: At these steps, fraction.
        noisy: Whether gradients are those of minibatches.
    """

    run: PeriodsRun
    course: Course
    evaluation_steps: Array
    test_error: Array
    noisy: bool

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay."""
        return self.run.lr, self.run.weight_decay

    @property
    def delta(self) -> float:
        """The setting's δ."""
        return float(default_delta(self.run.lr, self.run.weight_decay))

    @property
    def period(self) -> tuple[int, int] | None:
        """The last whole period, from jump to jump; None with fewer than two jumps."""
        return (self.run.jumps[-2], self.run.jumps[-1]) if len(self.run.jumps) > 1 else None

    def loop(self, first: int, last: int) -> tuple[Array, Array, Array]:
        """Steps, ELR and effective gradient norm between two steps; noisy gradients as geometric means over τ/30."""
        width = 2 * round(self.course.tau / 60) + 1 if self.noisy else 1
        logs = np.log(np.maximum(self.course.gradient, 1e-300))
        smooth = np.convolve(np.pad(logs, width // 2, mode="edge"), np.ones(width) / width, "valid")
        steps = np.arange(first, last + 1, dtype=np.float64)
        return steps, self.course.elr[first : last + 1], np.exp(smooth[first : last + 1])


def shown_runs(run: Run, result: PeriodsResult) -> list[Shown]:
    """The runs that are drawn: the first seeds of every setting, in the order of the result."""
    settings = len({(r.lr, r.weight_decay) for r in result.runs})
    seeds = max(1, min(MOST_SEEDS, MOST_COURSES // settings))
    wanted = {(r.lr, r.weight_decay, r.seed): i for i, r in enumerate(result.runs) if r.seed < seeds}
    invariant = tuple(result.engine["invariant"])
    noisy = result.spec["batch_size"] != "full"
    spec = result.spec  # of earlier versions without a schedule
    factors = lr_factors(spec.get("schedule", "constant"), spec["steps"], 0, spec["steps"])
    found = {}
    for folder in run.shard_folders("space"):
        shard = ShardFolder(folder)
        copies = shard.copies()
        if not any((c.lr, c.weight_decay, c.seed) in wanted for c in copies):
            continue
        steps, evaluations = shard.evaluations()
        for k, course in enumerate(courses(shard.readings(), copies, invariant, factors)):
            place = wanted.get((copies[k].lr, copies[k].weight_decay, copies[k].seed))
            if place is not None:
                at = steps.astype(np.float64)
                found[place] = Shown(result.runs[place], course, at, evaluations[:, k, 3], noisy)
    return [found[place] for place in sorted(found)]


def thinned(values: Array, bins: int = BINS) -> tuple[Array, Array]:
    """Steps and values of the lowest and the highest reading of each bin of steps, in the order of steps.

    Args:
        values: [T], one a step; zeros and what is not finite become gaps.
        bins: How many.
    """
    steps = np.arange(len(values), dtype=np.float64)
    clean = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    if len(values) <= 2 * bins:
        return steps, clean
    edges = np.unique(np.linspace(0, len(values), bins + 1).round().astype(int))
    keep = []
    for first, last in pairwise(edges):
        part = clean[first:last]
        if np.isnan(part).all():
            keep.append(first)
        else:
            keep += sorted({first + int(np.nanargmin(part)), first + int(np.nanargmax(part))})
    return steps[keep], clean[keep]
