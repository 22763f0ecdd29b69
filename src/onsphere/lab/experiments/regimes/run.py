"""Map the three regimes: train a grid of effective learning rates, label each run, bisect the boundaries.

round 0      every effective learning rate of the grid x every seed
round 1 ...  for each seed, the geometric middle of each gap in which the label changes, until the gap is within
             ``refine_factor`` or ``refine`` rounds are done
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.regimes.classify import (
    NAMES,
    Cell,
    MapCell,
    find_boundaries,
    finite_mean,
    first_below,
    next_cells,
    settled,
    summarise,
)
from onsphere.lab.experiments.regimes.page import printed, report
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.experiments.regimes.words import answer, describe, describe_boundaries
from onsphere.lab.models.trained_head import TrainedHead
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, Spheres, Stage
from onsphere.lab.population.evaluate import SUBSETS
from onsphere.lab.population.running import momenta
from onsphere.lab.preparation import prepare_model, prepare_with_others
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of


@takes(RegimesSpec)
def map_regimes(model: Model = "mlp", data: Data = "digits", **given: Any) -> RegimesResult:
    """Find where convergence ends and where divergence begins, in effective learning rates.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        **given: The fields of :class:`~onsphere.lab.experiments.regimes.spec.RegimesSpec`, and ``out``, ``progress``
            and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_regimes` continues the run.

    Source: Kodryan et al. 2022, sections 4 and 5; labels as in :mod:`onsphere.lab.experiments.regimes.classify`.
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: RegimesSpec, model: Model, data: Data, progress: Progress) -> Problem:
    """The problem with its spheres, and with what is trained beside them."""
    trained = spec.head == "trained"
    spheres = Spheres(spec.spheres, free_lr=spec.head_lr_used if trained else 0.0)
    problem = problem_of(spec, model, data, spheres=spheres, subsets=True, running=spec.running_statistics)
    if trained:
        problem = replace(problem, model=TrainedHead(problem.model))
    ready = prepared(problem, progress, prepare_with_others if trained else prepare_model)
    if spec.running_statistics:
        try:
            momenta(ready.build(0))
        except ValueError as error:
            raise InputError(f"--running-statistics: {error}") from None
    return ready


def measure(session: Session[RegimesSpec, Problem]) -> dict[str, Any]:
    """Train the grid, then the refinements, until both boundaries are fine enough."""
    spec, cells, known, number = session.spec, list[MapCell](), dict[str, list[MapCell]](), 0

    def told(ended: list[ShardFolder]) -> str:
        known[ended[-1].folder.name] = map_cells(ended[-1], number, session.given, spec.converged_loss)
        return describe_boundaries([cell for cells in known.values() for cell in cells])

    with session.trainer(session.given, spec.elrs * spec.seeds) as trainer:
        wanted = [(elr, seed) for seed in range(spec.seeds) for elr in spec.grid()]
        for number in range(spec.refine + 1):
            title = f"round {number} of at most {spec.refine}: {len(wanted)} runs" if number else "grid"
            copies = [Copy(seed=seed, lr=elr, momentum=spec.momentum) for elr, seed in wanted]
            shards = session.round(trainer, f"round{number}", copies, title, told)
            cells += [cell for shard in shards for cell in known[shard.folder.name]]
            wanted = next_cells(cells, spec.refine_factor)
            if not wanted:
                break
            if number < spec.refine:
                session.so_far(_found(cells, session.given))
    return _found(cells, session.given)


def _found(cells: Sequence[MapCell], problem: Problem) -> dict[str, Any]:
    """What all cells so far say."""
    known = sorted(settled(cells), key=lambda cell: (cell.elr, cell.seed))
    return {"cells": known, "boundaries": find_boundaries(known), "radius": problem.radius}


def map_cells(shard: ShardFolder, round_number: int, problem: Problem, converged_loss: float) -> list[MapCell]:
    """The cells of an ended shard of a map, with what else was measured."""
    losses, epoch = shard.readings().loss, -(-len(problem.data.x_train) // problem.batch_size)
    steps, found = shard.evaluated()
    late = steps > problem.steps - problem.steps // 4

    def more(k: int) -> dict[str, Any]:
        known: dict[str, Any] = {name: finite_mean(found[name][late, k]) for name in SUBSETS if name in found}
        if "running_test_error" in found:
            known["running_test_error"] = float(found["running_test_error"][-1, k])
        return known | {"converged_step": first_below(losses[:, k], converged_loss, epoch)}

    cells = read_cells(shard, round_number, problem.data.classes)
    return [MapCell(**vars(cell), **more(k)) for k, cell in enumerate(cells)]


def read_cells(shard: ShardFolder, round_number: int, classes: int = 0) -> list[Cell]:
    """The cells of an ended shard; ``classes`` are needed where its copies have momentum."""
    copies = shard.copies()
    elrs, seeds = np.array([c.lr for c in copies]), np.array([c.seed for c in copies])
    guessed = classes if any(c.momentum for c in copies) else 0
    return summarise(shard.readings(), shard.evaluations(), elrs, seeds, round_number, guessed)


def stages(spec: RegimesSpec, problem: Problem) -> list[Stage]:
    """The grid, and a middle a boundary and seed in every round that brackets of the grid's ratio need."""
    copies = [Copy(seed, elr, momentum=spec.momentum) for seed in range(spec.seeds) for elr in spec.grid()]
    ratio = math.log(spec.elr_max / spec.elr_min) / max(1, spec.elrs - 1) if spec.elrs > 1 else 0.0
    rounds = min(spec.refine, max(0, math.ceil(math.log2(max(ratio, 1e-9) / math.log(spec.refine_factor)))))
    middles = [Copy(seed, spec.elr_min, momentum=spec.momentum) for seed in range(spec.seeds) for _ in NAMES]
    found = [Stage("grid", problem, copies)]
    return found + [Stage(f"round {n}", problem, middles, sure=False, joined=True) for n in range(1, rounds + 1)]


EXPERIMENT = Experiment(
    spec=RegimesSpec,
    result=RegimesResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.cells),
    printed=printed,
    stages=stages,
)
resume_regimes = EXPERIMENT.resume
