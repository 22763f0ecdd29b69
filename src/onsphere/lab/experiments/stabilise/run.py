"""See the stationary state from inside: change the ELR, wait, compare; then look how far the runs have wandered.

round "stay"    every ELR x every seed, from start to end, weights kept at growing lags after the middle
round "change"  every ELR of the chaotic equilibrium into every other x every seed, changed in the middle
barriers        between the middle and later times of the runs that stay

How far runs wander from where their stationary phase began, and what lies between:

    angle          of the trained weights at step t + lag to those at step t
    random walk    steps in fresh random tangent directions have the expected cosine (1 + s²)^(-lag/2), s the effective
                   step; with the angular updates θ of the run itself the product of all cos θ
    barrier        of the training loss on the great circle between both, batch statistics re-estimated at each point
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session, trained
from onsphere.lab.experiments.regimes.classify import REGIMES, Cell, settled, summarise
from onsphere.lab.experiments.stabilise.analyse import Array, courses, levels, memory_course, remaining, student, window
from onsphere.lab.experiments.stabilise.page import printed, report
from onsphere.lab.experiments.stabilise.result import Distance, StabiliseResult, Stay, Way
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.experiments.stabilise.words import answer, describe
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Copy, Phase, Problem, ShardFolder, Stage
from onsphere.lab.training import Data, Model
from onsphere.landscape import barrier

EXAMPLES = 2000  # training images at most behind a barrier
FORGOTTEN = math.exp(-1)  # cosine


@takes(StabiliseSpec)
def stabilise(model: Model = "mlp", data: Data = "digits", **given: Any) -> StabiliseResult:
    """Change the ELR inside the chaotic equilibrium and see what is remembered; see how far runs wander.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.stabilise.spec.StabiliseSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is
            raised.

    Returns:
        The result; everything is also on disk.

    Source: Kodryan et al., NeurIPS 2022, sections 5 and 6.

    Example:
        >>> from onsphere.lab import stabilise
        >>> stabilise(elrs=[0.02, 0.05], seeds=3)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def measure(session: Session[StabiliseSpec, Problem]) -> dict[str, Any]:
    """Train the runs that stay and those that change, compare their levels, measure how far the former wander."""
    spec, change, lags = session.spec, session.spec.change_used, session.spec.lags()
    kept = replace(session.given, snapshots=tuple(change + lag for lag in lags))
    shards = session.train(kept, "stay", _staying(spec), "runs at one ELR")
    changed = session.train(session.given, "change", _changing(spec), "changes of the ELR")
    runs = [run for shard in (*shards, *changed) for run in courses(shard, change) if run.after in spec.elrs]
    runs.sort(key=lambda run: (run.after, run.before, run.seed))
    far = [row for shard in shards for row in distances(shard, change, lags)]
    ways = measure_ways(session, shards)
    return {
        "levels": levels(runs, change),
        "memory": remaining(runs, change),
        "memory_course": memory_course(runs, change),
        "stays": stays(shards, change, far, ways),
        "distances": far,
        "ways": ways,
    }


def distances(shard: ShardFolder, change: int, lags: Sequence[int]) -> list[Distance]:
    """Angles of every run of an ended shard to itself at step ``change``."""
    copies, readings = shard.copies(), shard.readings()
    updates = readings.angular_update(np.array([copy.lr for copy in copies]))
    walk = np.cumprod(np.cos(updates[change:]), axis=0)
    start = _directions(shard, change)
    found = []
    for lag in lags:
        here = _directions(shard, change + lag)
        angle = 2 * np.arctan2(np.linalg.norm(here - start, axis=1), np.linalg.norm(here + start, axis=1))
        cosine = (here * start).sum(1)
        for k, copy in enumerate(copies):
            reference = float(walk[lag - 1, k]) if lag else 1.0
            found.append(Distance(copy.lr, copy.seed, lag, float(cosine[k]), float(angle[k]), reference))
    return found


def way_lags(lags: Sequence[int]) -> list[int]:
    """Those lags at which barriers are measured: about 16, about 128, and the last."""
    return sorted({min(lags[1:], key=lambda lag: abs(math.log(lag / wanted))) for wanted in (16, 128, lags[-1])})


def measure_ways(session: Session[StabiliseSpec, Problem], shards: Sequence[ShardFolder]) -> list[Way]:
    """Barriers between the start of each run's stationary phase and later times, kept for each ended shard.

    Raises:
        Interrupted: The run was asked to stop; shards whose barriers are on disk are not measured again.
    """
    spec, problem, lags = session.spec, session.given, way_lags(session.spec.lags())
    loss_fn, data = criterion(problem), batches(problem, examples=EXAMPLES)
    session.progress.begin("barriers", sum(len(shard.copies()) for shard in shards) * len(lags))

    def ways(shard: ShardFolder) -> list[Way]:
        weights = {lag: shard.snapshot(spec.change_used + lag) for lag in (0, *lags)}
        found = []
        for k, copy in enumerate(shard.copies()):
            start = network(problem, weights[0], k, copy.seed)
            for lag in session.each(lags):
                end = network(problem, weights[lag], k, copy.seed)
                way = barrier(start, start, end, loss_fn, data, spec.points, parameters=list(problem.trained))
                middle = float(way.losses[spec.points // 2] - (way.losses[0] + way.losses[-1]) / 2)
                errors = math.nan if way.error_barrier is None else way.error_barrier
                found.append(Way(copy.lr, copy.seed, lag, way.angle, way.loss_barrier, errors, middle))
        return found

    return [
        way
        for one in shards
        for way in session.kept(
            f"barriers/{one.folder.name}", list[Way], partial(ways, one), units=len(one.copies()) * len(lags)
        )
    ]


def stays(shards: Sequence[ShardFolder], change: int, apart: Sequence[Distance], ways: Sequence[Way]) -> list[Stay]:
    """One row for each ELR at which runs stay, ascending.

    Args:
        shards: The shards that have ended.
        change: Step at which the stationary phase starts.
        apart: Distances of their runs.
        ways: Barriers of their runs.
    """
    cells: list[Cell] = []
    found: list[list[float]] = []
    for shard in shards:
        readings, evaluations, copies = shard.readings(), shard.evaluations(), shard.copies()
        elrs = np.array([c.lr for c in copies])
        cells += summarise(readings, evaluations, elrs, np.array([c.seed for c in copies]), 0)
        part = window(change, len(readings.values))
        loss, gradient = readings.loss[part].mean(0), readings.effective_gradient_norm[part].mean(0)
        update = readings.angular_update(elrs)[part].mean(0)
        error = evaluations[1][evaluations[0] > part.start, :, 3].mean(0)
        found += [[float(v[k]) for v in (loss, gradient, error, update)] for k in range(len(copies))]
    rows: dict[float, list[tuple[str, list[float]]]] = {}
    for cell, numbers in zip(settled(cells), found, strict=True):
        rows.setdefault(cell.elr, []).append((cell.regime, numbers))
    return [_stay(elr, rows[elr], apart, ways) for elr in sorted(rows)]


def steps_to_forget(lags: Sequence[int], cosines: Sequence[float]) -> float | None:
    """Steps until the cosine is 1/e, linearly between lags; None if it stays above.

    Args:
        lags: Ascending, the first 0.
        cosines: At these lags, the first 1.
    """
    for i in range(1, len(lags)):
        if cosines[i] < FORGOTTEN:
            part = (cosines[i - 1] - FORGOTTEN) / (cosines[i - 1] - cosines[i])
            return lags[i - 1] + part * (lags[i] - lags[i - 1])
    return None


def _stay(elr: float, rows: Sequence[tuple[str, list[float]]], apart: Sequence[Distance], ways: Sequence[Way]) -> Stay:
    own = [row for row in apart if row.elr == elr]
    lags = sorted({row.lag for row in own})
    cosines = [float(np.mean([row.cosine for row in own if row.lag == lag])) for lag in lags]
    walk = [float(np.mean([row.walk_cosine for row in own if row.lag == lag])) for lag in lags]
    by_seed = [[r.cosine - r.walk_cosine for r in own if r.seed == seed and r.lag] for seed in {r.seed for r in own}]
    last = [way for way in ways if way.elr == elr and way.lag == lags[-1]]
    loss, gradient, error, update = (float(np.mean([row[1][i] for row in rows])) for i in range(4))
    return Stay(
        elr,
        {regime: sum(row[0] == regime for row in rows) for regime in REGIMES},
        loss,
        gradient,
        error,
        update,
        *student([row.angle for row in own if row.lag == lags[-1]]),
        steps_to_forget(lags, cosines),
        steps_to_forget(lags, walk),
        *student([float(np.mean(values)) for values in by_seed]),
        *student([way.barrier for way in last]),
        *student([way.middle for way in last]),
    )


def _directions(shard: ShardFolder, step: int) -> Array:
    """Unit vectors of the trained weights of all copies, [K, P]."""
    flat = torch.cat([tensor.flatten(1).double() for _, tensor in sorted(shard.snapshot(step).items())], 1).numpy()
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def stages(spec: StabiliseSpec, problem: Problem) -> list[Stage]:
    """The runs that stay at one ELR, and those that change it."""
    kept = replace(problem, snapshots=tuple(spec.change_used + lag for lag in spec.lags()))
    return [
        Stage("runs at one ELR", kept, _staying(spec)),
        Stage("changes of the ELR", problem, _changing(spec)),
    ]


def _staying(spec: StabiliseSpec) -> list[Copy]:
    return [Copy(seed, elr) for elr in (*spec.elrs, *spec.divergence_elrs) for seed in range(spec.seeds)]


def _changing(spec: StabiliseSpec) -> list[Copy]:
    return [
        Copy(seed, after, phases=(Phase(0, before), Phase(spec.change_used, after)))
        for before, after in spec.changes()
        for seed in range(spec.seeds)
    ]


EXPERIMENT = Experiment(
    spec=StabiliseSpec,
    result=StabiliseResult,
    prepare=trained,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: result.runs,
    printed=printed,
    stages=stages,
    beside="the barriers along the runs, measured after training",
)
resume_stabilise = EXPERIMENT.resume
