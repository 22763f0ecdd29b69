"""Is the level that training settles at after a change of ELR the level of a run that had this ELR from the start?

With X(a → b) the log of a level (loss, effective gradient norm) over the second half of the steps after the change:

    gap          X(a → b) - X(b → b), seed by seed; in standard errors of its mean over seeds
    memory       of one seed, sum over pairs of gap · apart / sum over pairs of apart²,  apart = X(a → a) - X(b → b)

The memory is the share of the difference between two levels that is left: 1 if the change of ELR did nothing, 0 if the
run has forgotten the ELR it started with. With means over a few steps in place of X(a → b) it is a course in time.

Source: Kodryan et al., NeurIPS 2022, section 5 (chaotic equilibrium: the level belongs to the ELR, not to the way).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.stabilise.result import Level, MemoryPoint, Remaining
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.intervals import interval, standard_error
from onsphere.lab.population import ShardFolder

Array = NDArray[np.float64]

RUNNING = 16  # steps of the running mean that has to reach a level
REACHED = 2.0  # standard deviations of such running means around a level


@dataclass(frozen=True, eq=False)
class Course:
    """One run and its losses.

    Attributes:
        before: ELR before the change.
        after: Effective learning rate after the change.
        seed: Index of the seed.
        loss: Minibatch loss of every step, [T].
        gradient_norm: Effective gradient norm of every step, [T].
        test_error: Mean of the evaluations in the window of the level.
    """

    before: float
    after: float
    seed: int
    loss: Array
    gradient_norm: Array
    test_error: float


@dataclass(frozen=True, eq=False)
class Curve:
    """The loss after a change of ELR, mean over seeds.

    Attributes:
        before: ELR before the change.
        after: Effective learning rate after the change.
        steps: Middles of bins of steps since the change, [n].
        loss: Mean minibatch loss in each, [n].
    """

    before: float
    after: float
    steps: Array
    loss: Array


def window(change: int, steps: int) -> slice:
    """The steps over which a level is the mean: the second half of those after the change."""
    return slice(change + (steps - change) // 2, steps)


def courses(shard: ShardFolder, change: int) -> list[Course]:
    """The runs of an ended shard."""
    readings = shard.readings()
    loss, gradient = readings.loss, readings.effective_gradient_norm
    steps, evaluations = shard.evaluations()
    late = steps > window(change, len(loss)).start
    found = []
    for k, copy in enumerate(shard.copies()):
        before, after = (copy.phases[0].lr, copy.phases[-1].lr) if copy.phases else (copy.lr, copy.lr)
        error = float(evaluations[late, k, 3].mean())
        found.append(Course(before, after, copy.seed, loss[:, k], gradient[:, k], error))
    return found


def levels(runs: Sequence[Course], change: int) -> list[Level]:
    """Every change of ELR with the level reached, beside that of the runs that had the ELR from the start.

    Args:
        runs: All runs, those that stay at each ELR among them.
        change: Step after which the ELR changed.

    Returns:
        One row a pair of ELRs, by the ELR after the change, then that before it.
    """
    known = {(run.before, run.after, run.seed): run for run in runs}
    pairs = sorted({(run.after, run.before) for run in runs if run.before != run.after})
    found = []
    for after, before in pairs:
        seeds = sorted(run.seed for run in runs if (run.before, run.after) == (before, after))
        changed = [known[before, after, seed] for seed in seeds]
        stayed = [known[after, after, seed] for seed in seeds]
        reached = [_steps_to(run.loss, stay.loss, change) for run, stay in zip(changed, stayed, strict=True)]
        found.append(
            Level(
                before,
                after,
                len(seeds),
                *_gap(changed, stayed, "loss", change),
                *_gap(changed, stayed, "gradient_norm", change),
                float(np.mean([run.test_error for run in changed])),
                float(np.mean([run.test_error for run in stayed])),
                float(np.median(reached)) if np.isfinite(reached).all() else None,
            )
        )
    return found


def remaining(runs: Sequence[Course], change: int) -> dict[str, Remaining]:
    """The memory that is left in the window of the level, of the loss and of the effective gradient norm."""
    found = {}
    for name in ("loss", "gradient_norm"):
        values = _memory(runs, name, change, window(change, len(runs[0].loss)))
        left = interval(values)
        found[name] = Remaining(left.mean, left.standard_error, left.low, left.high, values)
    return found


def memory_course(runs: Sequence[Course], change: int) -> list[MemoryPoint]:
    """The memory of the loss by steps since the change, of rising and of falling ELRs apart."""
    steps = len(runs[0].loss)
    found = []
    for direction, sign in (("up", 1), ("down", -1)):
        kept = [run for run in runs if sign * run.after >= sign * run.before]
        for first, last in pairwise(edges(steps - change)):
            part = slice(change + first, change + last)
            mean, error = student(_memory(kept, "loss", change, part))
            found.append(MemoryPoint(direction, first, last, mean, error))
    return found


def loss_curves(shards: Iterable[ShardFolder], spec: StabiliseSpec) -> list[Curve]:
    """The loss after every change of ELR, read back from ended shards; runs that stay at an ELR are among them."""
    change = spec.change_used
    bins = edges(spec.steps - change)
    losses: dict[tuple[float, float], list[Array]] = {}
    for run in (run for shard in shards for run in courses(shard, change) if run.after in spec.elrs):
        binned = np.add.reduceat(run.loss[change:], bins[:-1]) / np.diff(bins)
        losses.setdefault((run.before, run.after), []).append(binned)
    middles = np.array([(first + last - 1) / 2 for first, last in pairwise(bins)])
    return [Curve(*pair, middles, np.mean(own, 0)) for pair, own in sorted(losses.items())]


def edges(steps: int) -> list[int]:
    """Edges of bins of steps since the change whose widths double: 0, 1, 2, 4, .. and the last step."""
    found, edge = [0], 1
    while edge < steps:
        found.append(edge)
        edge *= 2
    if len(found) > 2 and steps - found[-1] < (found[-1] - found[-2]) / 2:
        found.pop()  # too short a rest joins the bin before
    return [*found, steps]


def student(values: Sequence[float] | Array) -> tuple[float, float]:
    """Mean and standard error of independent values; NaN error with one."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), standard_error(array)


def _gap(
    changed: Sequence[Course], stayed: Sequence[Course], series: str, change: int
) -> tuple[float, float, float, float]:
    """Means of both levels, and of the relative gap with its standard error."""
    part = window(change, len(changed[0].loss))
    first, second = (np.array([getattr(run, series)[part].mean() for run in group]) for group in (changed, stayed))
    return float(first.mean()), float(second.mean()), *student(np.log(first) - np.log(second))


def _memory(runs: Sequence[Course], series: str, change: int, part: slice) -> list[float]:
    """The memory of each seed, X(a → b) being the log of the mean over ``part``."""
    found = []
    for seed in sorted({run.seed for run in runs}):
        own = {(run.before, run.after): getattr(run, series) for run in runs if run.seed == seed}
        stays = {a: v for (a, b), v in own.items() if a == b}
        level = {elr: math.log(v[window(change, len(v))].mean()) for elr, v in stays.items()}
        above = below = 0.0
        for (a, b), values in own.items():
            if a != b:
                apart = level[a] - level[b]
                above += math.log(values[part].mean() / stays[b][part].mean()) * apart
                below += apart**2
        found.append(above / below if below else math.nan)
    return found


def _steps_to(changed: Array, stayed: Array, change: int) -> float:
    """Last step of the first running mean that is where those of the stationary run are; infinity if there is none."""
    kernel = np.ones(RUNNING) / RUNNING
    level = np.convolve(stayed[window(change, len(stayed))], kernel, "valid")
    running = np.convolve(changed[change:], kernel, "valid")
    inside = np.abs(running - level.mean()) <= REACHED * level.std()
    return float(np.argmax(inside) + RUNNING) if inside.any() else math.inf
