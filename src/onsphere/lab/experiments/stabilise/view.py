"""What the page draws beside the rows of the result: the loss after each change, read back from the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.stabilise.analyse import Course, courses, edges
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.population import ShardFolder
from onsphere.lab.store import Run

Array = NDArray[np.float64]

FIRST = 0.7  # where a logarithmic axis shows step 0


@dataclass(frozen=True, eq=False)
class Curve:
    """The loss after a change of ELR, mean over seeds in bins of steps.

    Attributes:
        before: ELR before the change.
        after: ELR after it.
        steps: Middle of each bin since the change.
        loss: Mean minibatch loss.
    """

    before: float
    after: float
    steps: Array
    loss: Array


def curves(run: Run, result: StabiliseResult) -> list[Curve]:
    """All pairs of ELRs, those that stay among them."""
    spec = result.spec
    change = spec["change"] if spec["change"] is not None else spec["steps"] // 2
    runs: dict[tuple[float, float], list[Course]] = {}
    for folder in run.shard_folders():
        for course in courses(ShardFolder(folder), change):
            if course.after in spec["elrs"]:
                runs.setdefault((course.before, course.after), []).append(course)
    bins = edges(spec["steps"] - change)
    middles = np.array([max(FIRST, (first + last - 1) / 2) for first, last in pairwise(bins)])
    found = []
    for (before, after), group in sorted(runs.items()):
        means = np.mean([_binned(course.loss[change:], bins) for course in group], axis=0)
        found.append(Curve(before, after, middles, means))
    return found


def _binned(values: Array, bins: list[int]) -> Array:
    sums = np.add.reduceat(values, bins[:-1])
    return np.asarray(sums / np.diff(bins))
