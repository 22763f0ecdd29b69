"""Follow the sharpness along a path of training, branch off with other ELRs, see which come through.

round "path"        every ELR of --path-elrs x every seed, weights kept at growing distances
sharpness           of the paths, at those steps
round "continue"    from the checkpoints of the first ELR's paths, every ELR of --elrs
sharpness           where the continuations ended
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onsphere.curvature import Eigenvalues, top_eigenvalues
from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.zones.page import printed, report
from onsphere.lab.experiments.zones.result import Continuation, PathPoint, ZonesResult, course, judge, zone
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.experiments.zones.words import answer, describe
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.result import Real
from onsphere.lab.training import Data, Model, prepared, problem_of
from onsphere.normalisation import without_running_statistics


@takes(ZonesSpec)
def map_zones(model: Model = "mlp", data: Data = "digits", **given: Any) -> ZonesResult:
    """Measure sharpness along paths of training and continue them from checkpoints with other ELRs.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.zones.spec.ZonesSpec`, and ``out``, ``progress`` and
            ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is raised.

    Returns:
        The result; everything is also on disk.

    Source: Kodryan et al., NeurIPS 2022, section 5 (zones of high sharpness between regimes); Cohen et al., ICLR 2021
    (the threshold 2 / ELR); Lewkowycz et al. 2020 (rising first, then ending in flatter places).

    Example:
        >>> from onsphere.lab import map_zones
        >>> map_zones(seeds=1, elrs=[2e-3, 8e-3, 3.2e-2])  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: ZonesSpec, model: Model, data: Data, progress: Progress) -> Problem:
    """The problem of the paths, which go on as far as their last continuation."""
    return prepared(problem_of(spec, model, data, steps=spec.steps + spec.continue_steps), progress)


def measure(session: Session[ZonesSpec, Problem]) -> dict[str, Any]:
    """Train the paths, measure them, train the continuations, judge them."""
    spec, branches = session.spec, session.spec.branches()
    copies = [Copy(seed, elr) for elr in spec.path_elrs for seed in range(spec.seeds)]
    most = len(branches) * len(spec.elrs) * spec.seeds  # one plan for both rounds
    path = replace(session.given, snapshots=tuple(spec.reading_steps()))
    shards = session.train(path, "path", copies, "paths", most=most)
    points = measure_paths(session, shards)
    ended = branch(session, [(s, k, c) for s in shards for k, c in enumerate(s.copies()) if c.lr == spec.path_elrs[0]])
    return {
        "path": points,
        "continuations": continuations(session, shards, points, ended),
        "zones": [zone([p for p in points if (p.elr, p.seed) == (copy.lr, copy.seed)]) for copy in copies],
    }


def branch(session: Session[ZonesSpec, Problem], main: Sequence[tuple[ShardFolder, int, Copy]]) -> list[ShardFolder]:
    """Train the continuations, which begin at the checkpoints of the main paths: shard, row there and copy of each."""
    spec, starts = session.spec, session.run.folder / "starts.safetensors"
    kept = [(shard, k, copy, step) for shard, k, copy in main for step in spec.branches()]
    if not starts.exists():
        snapshots = [(shard.snapshot(step), k) for shard, k, _, step in kept]
        stack_starts(starts, [{name: one[name][k] for name in session.given.trained} for one, k in snapshots])
    wanted = [Copy(copy.seed, elr, start=row) for row, (_, _, copy, _) in enumerate(kept) for elr in spec.elrs]
    offset = spec.steps + spec.continue_steps
    problem = replace(session.given, starts=starts, offset=offset, steps=spec.continue_steps)
    return session.train(problem, "continue", wanted, "continuations")


def continuations(
    session: Session[ZonesSpec, Problem],
    shards: Sequence[ShardFolder],
    points: Sequence[PathPoint],
    ended: Sequence[ShardFolder],
) -> list[Continuation]:
    """What became of every continuation, by checkpoint, ELR and seed."""
    spec, branches, problem = session.spec, session.spec.branches(), session.given
    at = {(point.seed, point.step): point for point in points if point.elr == spec.path_elrs[0]}
    losses = {
        copy.seed: shard.readings().loss[:, k]
        for shard in shards
        for k, copy in enumerate(shard.copies())
        if copy.lr == spec.path_elrs[0]
    }
    epoch, quarter = max(1, len(problem.data.x_train) // problem.batch_size), max(1, spec.continue_steps // 4)
    found = []
    for shard, sharpness in zip(ended, end_sharpness(session, ended), strict=True):
        loss, evaluations = shard.readings().loss, shard.evaluations()[1]
        for k, copy in enumerate(shard.copies()):
            step = branches[copy.start % len(branches)]
            start, last = at[copy.seed, step], step + spec.continue_steps
            path_end = float(np.mean(losses[copy.seed][last - quarter : last]))
            peak, end, outcome = judge(start.loss, course(loss[:, k], epoch), path_end)
            found.append(
                Continuation(
                    checkpoint=step,
                    seed=copy.seed,
                    elr=copy.lr,
                    loss=start.loss,
                    sharpness=start.sharpness,
                    peak=peak,
                    end=end,
                    path_end=path_end,
                    end_sharpness=sharpness[k],
                    test_error=float(evaluations[-1, k, 3]),
                    outcome=outcome,
                )
            )
    return sorted(found, key=lambda row: (row.checkpoint, row.elr, row.seed))


def _meter(session: Session[ZonesSpec, Problem]) -> Callable[..., tuple[float, Eigenvalues]]:
    """Measures loss and top eigenvalue at a copy's weights; ``start`` are eigenvalues found nearby."""
    problem, loss_fn = session.given, criterion(session.given)
    size = min(session.spec.examples, len(problem.data.x_train))
    x, y = batches(problem, examples=size, size=size)[0]

    def meter(
        weights: Mapping[str, Tensor], row: int, seed: int, start: Eigenvalues | None = None
    ) -> tuple[float, Eigenvalues]:
        model = without_running_statistics(network(problem, weights, row, seed).train())
        names = list(problem.trained)
        found = top_eigenvalues(model, loss_fn, (x, y), parameters=names, sphere=True, start=start)
        with torch.no_grad():
            return float(loss_fn(model(x), y)), found

    return meter


def measure_paths(session: Session[ZonesSpec, Problem], shards: Sequence[ShardFolder]) -> list[PathPoint]:
    """Sharpness along every path, each search starting from the vector that the last one found."""
    steps, meter = session.spec.reading_steps(), _meter(session)
    session.progress.begin("sharpness along the paths", len(steps) * sum(len(shard.copies()) for shard in shards))

    def along(shard: ShardFolder, k: int, copy: Copy) -> list[PathPoint]:
        rows, last = [], None
        for step in session.each(steps):
            loss, last = meter(shard.snapshot(step), k, copy.seed, last)
            found = (last.values[0], last.errors[0], bool(last.converged[0]))
            rows.append(PathPoint(copy.lr, copy.seed, step, loss, *found))
        return rows

    found: list[PathPoint] = []
    for shard in shards:
        for k, copy in enumerate(shard.copies()):
            name, own = f"sharpness/{shard.folder.name}-{k:03d}", partial(along, shard, k, copy)
            found += session.kept(name, list[PathPoint], own, units=len(steps))
    return found


def end_sharpness(session: Session[ZonesSpec, Problem], shards: Sequence[ShardFolder]) -> list[list[float]]:
    """Sharpness at the final weights of every copy of each shard; NaN where a copy became non-finite."""
    meter = _meter(session)
    session.progress.begin("sharpness at the ends", sum(len(shard.copies()) for shard in shards))

    def ends(shard: ShardFolder) -> list[float]:
        weights = shard.weights()
        return [
            meter(weights, k, copy.seed)[1].values[0] if bool(weights["alive"][k]) else math.nan
            for k, copy in session.each(list(enumerate(shard.copies())))
        ]

    found: list[list[float]] = []
    for shard in shards:
        name, units = f"sharpness/{shard.folder.name}", len(shard.copies())
        found.append(session.kept(name, list[Real], partial(ends, shard), units=units, key="values"))
    return found


def stages(spec: ZonesSpec, problem: Problem) -> list[Stage]:
    """The paths, then the continuations of the first ELR's."""
    copies = [Copy(seed, elr) for elr in spec.path_elrs for seed in range(spec.seeds)]
    wanted = [Copy(seed, elr) for seed in range(spec.seeds) for _ in spec.branches() for elr in spec.elrs]
    path = replace(problem, snapshots=tuple(spec.reading_steps()))
    after = replace(problem, steps=spec.continue_steps)
    return [Stage("paths", path, copies, most=max(len(copies), len(wanted))), Stage("continuations", after, wanted)]


EXPERIMENT = Experiment(
    spec=ZonesSpec,
    result=ZonesResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.zones) + len(result.continuations),
    printed=printed,
    stages=stages,
    beside="the sharpness along the paths",
)
resume_zones = EXPERIMENT.resume
