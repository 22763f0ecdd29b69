"""What the page draws: the courses of the tuned methods, read back from the run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.population import Copy, ShardFolder
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
        method: Which.
        steps: Step numbers of the points, ``[T]``.
        elr: Effective learning rate there, geometric mean over seeds, ``[T]``.
        loss: Minibatch loss around there, geometric mean over seeds and a bin of steps, ``[T']``.
        loss_steps: Where, ``[T']``.
        evaluation_steps: Steps of the evaluations, ``[E]``.
        test_error: Mean over seeds, fraction, ``[E]``.
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
    found = []
    for name, on_sphere in (("sphere", True), ("space", False)):
        methods = [method for method in result.methods if method.on_sphere == on_sphere]
        wanted = {i: method for i, method in enumerate(methods) if method.tuned}
        seeds, collected = int(result.spec["seeds"]), {i: [] for i in wanted}  # type: ignore[var-annotated]
        for index, one in enumerate(_copies(run, name)):
            if index // seeds in wanted:
                collected[index // seeds].append(one)
        found += [_course(method, collected[i], on_sphere) for i, method in wanted.items()]
    return found


@dataclass(frozen=True, eq=False)
class _One:
    copy: Copy
    loss: Array
    squared_norm: Array
    evaluation_steps: Array
    test_error: Array


def _copies(run: Run, name: str) -> Iterator[_One]:
    """Every copy of a round, in the order in which they were given."""
    for folder in run.shard_folders(name):
        shard = ShardFolder(folder)
        readings = shard.readings()
        loss, squared = readings.loss, readings.moment("norm2").sum(-1)
        steps, values = shard.evaluations()
        for k, copy in enumerate(shard.copies()):
            yield _One(copy, loss[:, k], squared[:, k], steps.astype(np.float64), values[:, k, 3])


def _course(method: Method, copies: list[_One], on_sphere: bool) -> Course:
    total = len(copies[0].loss)
    lrs = phase_lrs(copies[0].copy.phases, total, 0, total)
    points = np.unique(np.linspace(0, total - 1, BINS).round().astype(int))
    elr = lrs[points]
    if not on_sphere:
        with np.errstate(divide="ignore", over="ignore"):
            elr = elr / np.exp(np.mean([np.log(one.squared_norm[points]) for one in copies], axis=0))
    drawn = np.where(elr > _LEAST * np.nanmax(elr), elr, np.nan)
    steps = np.arange(total)
    with np.errstate(divide="ignore"):
        loss = np.exp(np.mean([np.log(one.loss) for one in copies], axis=0))
    loss_steps, binned = binned_mean(steps, loss, bins=BINS)
    return Course(
        method=method,
        steps=points.astype(np.float64),
        elr=drawn,
        loss=binned,
        loss_steps=loss_steps,
        evaluation_steps=copies[0].evaluation_steps,
        test_error=np.mean([one.test_error for one in copies], axis=0),
    )
