"""The courses of the tuned methods along their steps, read back from the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.population.readings import Readings
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
    """The tuned methods of one round; its copies are settings outermost, then seeds."""
    methods = [method for method in result.methods if method.on_sphere == (name == "sphere")]
    rows = [(shard, k) for shard in map(ShardFolder, run.shard_folders(name)) for k in range(len(shard.copies()))]
    seeds, readings = result.spec.seeds, cache(ShardFolder.readings)
    return [
        _course(method, rows[i * seeds : (i + 1) * seeds], readings) for i, method in enumerate(methods) if method.tuned
    ]


def _course(
    method: Method, copies: Sequence[tuple[ShardFolder, int]], readings: Callable[[ShardFolder], Readings]
) -> Course:
    shard, first = copies[0]
    losses = [readings(shard).loss[:, k] for shard, k in copies]
    total = len(losses[0])
    points = np.unique(np.linspace(0, total - 1, BINS).round().astype(int))
    elr = phase_lrs(shard.copies()[first].phases, total, 0, total)[points]
    with np.errstate(divide="ignore", over="ignore"):
        if not method.on_sphere:
            squared = [readings(shard).moment("norm2").sum(-1)[points, k] for shard, k in copies]
            elr = elr / np.exp(np.mean(np.log(squared), axis=0))
        loss = np.exp(np.mean(np.log(losses), axis=0))
    loss_steps, binned = binned_mean(np.arange(total), loss, bins=BINS)
    evaluations = [(k, *shard.evaluations()) for shard, k in copies]
    return Course(
        method=method,
        steps=points.astype(np.float64),
        elr=np.where(elr > _LEAST * np.nanmax(elr), elr, np.nan),
        loss=binned,
        loss_steps=loss_steps,
        evaluation_steps=evaluations[0][1].astype(np.float64),
        test_error=np.mean([values[:, k, 3] for k, _, values in evaluations], axis=0),
    )
