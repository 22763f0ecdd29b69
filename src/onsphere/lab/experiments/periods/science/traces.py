"""Traces of the Hessian and of the Gauss-Newton matrix along training, at snapshots of each setting's first seed.

They are those of the training-mode loss on the fixed batch of :mod:`.sharpness`, by the tensors that count, estimated
with :data:`PROBES` products each (Hutchinson). At norm ρ a trace is 1/ρ² of that on the unit sphere, so that periods of
the norm show in it; ρ² times it is what the direction alone decides. For cross-entropy the Gauss-Newton matrix is the
Fisher information of the model's own predictions.

Source: Lobacheva, Kodryan et al., NeurIPS 2021 (published code: traces along training).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from onsphere.curvature import trace
from onsphere.lab.experiments.periods.result import PeriodsRun
from onsphere.lab.experiments.periods.science.again import Again, key_of
from onsphere.lab.experiments.periods.science.rows import Traces
from onsphere.lab.experiments.periods.science.sharpness import fixed_batch
from onsphere.lab.networks import criterion, network
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import Course, courses_of

PROBES = 30  # matrix-vector products of an estimate


def trace_steps(steps: int, points: int) -> tuple[int, ...]:
    """The start and so many evenly spaced steps of a run, its last one included."""
    return tuple(sorted({round(steps * i / points) for i in range(points + 1)})) if points else ()


def measure_traces(session: Again, shards: Sequence[ShardFolder], runs: Sequence[PeriodsRun]) -> list[Traces]:
    """Measure the first seed of every setting at the snapshots.

    Args:
        session: What was trained, and how.
        shards: The ended shards in the whole space.
        runs: What was measured of their copies.

    Raises:
        Interrupted: The run was asked to stop; shards whose numbers are on disk are not measured again.
    """
    points, work = len(session.given.problem.snapshots), []
    for shard in shards:
        found = enumerate(courses_of(shard, session.given.invariant, session.given.problem.schedule))
        own = {k: course for k, course in found if course.copy.seed == 0}
        if own:
            work.append((shard, own))
    session.progress.begin("traces along training", points * sum(len(own) for _, own in work))
    rows = []
    for shard, own in work:
        path = f"{session.run.shards.name}/{shard.folder.name}/traces"
        rows += session.kept(path, list[Traces], partial(_traces, session, shard, own), units=points * len(own))
    order = {run.key: i for i, run in enumerate(runs)}
    return sorted(rows, key=lambda row: order[row.key])


def _traces(session: Again, shard: ShardFolder, wanted: dict[int, Course]) -> list[Traces]:
    problem, invariant = session.given.problem, list(session.given.invariant)
    batch, loss = fixed_batch(problem), criterion(problem)
    found: dict[int, list[tuple[float, ...] | None]] = {k: [] for k in wanted}
    for step, k in session.each([(step, k) for step in problem.snapshots for k in wanted]):
        if step > len(wanted[k].loss):  # no longer finite
            found[k].append(None)
            continue
        model = network(problem, shard.snapshot(step), k, wanted[k].copy.seed)
        square = sum(float(model.get_parameter(name).detach().double().square().sum()) for name in invariant)
        hessian = trace(model, loss, batch, invariant, kind="hessian", probes=PROBES)
        ggn = trace(model, loss, batch, invariant, kind="ggn", probes=PROBES)
        found[k].append((square**0.5, hessian.value, hessian.standard_error, ggn.value, ggn.standard_error))
    return [_row(course, problem.snapshots, found[k]) for k, course in wanted.items()]


def _row(course: Course, steps: Sequence[int], found: Sequence[tuple[float, ...] | None]) -> Traces:
    lr, decay, seed = key_of(course)
    columns = [[None if one is None else one[i] for one in found] for i in range(5)]
    return Traces(lr, decay, seed, list(steps), *columns)
