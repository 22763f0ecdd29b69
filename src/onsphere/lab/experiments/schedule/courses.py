"""The courses of the tuned methods along their steps, read back from the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.copies import Copy
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.report.smoothing import binned_mean
from onsphere.lab.store import Run

Array = NDArray[np.float64]

BINS = 160
_LEAST = 1e-3  # of its largest ELR, below which a cosine's tail is not drawn


@dataclass(frozen=True, eq=False)
class Course:
    """The course of one method, over seeds.

    Attributes:
        method: The method that was trained so.
        steps: Step numbers of the points, [T].
        elr: Effective learning rate there, geometric mean over seeds, [T].
        loss: Minibatch loss, geometric mean over seeds and a bin of steps, [T'].
        loss_steps: Mean step of each bin, [T'].
        evaluation_steps: Steps of the evaluations, [E].
        test_error: Mean over seeds, fraction, [E].
    """

    method: Method
    steps: Array
    elr: Array
    loss: Array
    loss_steps: Array
    evaluation_steps: Array
    test_error: Array


def courses(run: Run, result: ScheduleResult) -> list[Course]:
    """The courses of the proposal and the tuned methods, in the order of the result."""
    return [*_round(run, "sphere", result), *_round(run, "space", result)]


def _round(run: Run, name: str, result: ScheduleResult) -> list[Course]:
    methods = [method for method in result.methods if method.on_sphere == (name == "sphere")]
    wanted, found = {i: method for i, method in enumerate(methods) if method.tuned}, dict[int, list[_One]]()
    index = 0
    for folder in sorted(run.shard_folders(name), key=lambda path: (len(path.name), path.name)):
        shard = ShardFolder(folder)
        readings, (steps, values) = shard.readings(), shard.evaluations()
        squared = readings.moment("norm2").sum(-1)
        for k, copy in enumerate(shard.copies()):
            if (method := index // result.spec.seeds) in wanted:
                one = _One(copy, readings.loss[:, k], squared[:, k], steps.astype(np.float64), values[:, k, 3])
                found.setdefault(method, []).append(one)
            index += 1
    return [_course(method, found[i]) for i, method in wanted.items()]


@dataclass(frozen=True, eq=False)
class _One:
    copy: Copy
    loss: Array
    squared_norm: Array
    evaluation_steps: Array
    test_error: Array


def _course(method: Method, copies: Sequence[_One]) -> Course:
    total = len(copies[0].loss)
    points = np.unique(np.linspace(0, total - 1, BINS).round().astype(int))
    elr = phase_lrs(copies[0].copy.phases, total, 0, total)[points]
    with np.errstate(divide="ignore", over="ignore"):
        if not method.on_sphere:
            elr = elr / np.exp(np.mean([np.log(one.squared_norm[points]) for one in copies], axis=0))
        loss = np.exp(np.mean([np.log(one.loss) for one in copies], axis=0))
    loss_steps, binned = binned_mean(np.arange(total), loss, bins=BINS)
    return Course(
        method=method,
        steps=points.astype(np.float64),
        elr=np.where(elr > _LEAST * np.nanmax(elr), elr, np.nan),
        loss=binned,
        loss_steps=loss_steps,
        evaluation_steps=copies[0].evaluation_steps,
        test_error=np.mean([one.test_error for one in copies], axis=0),
    )
