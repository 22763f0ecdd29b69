"""Train at every starting ELR, go on at every final one, then measure averages and paths.

round "start"   every starting effective learning rate x seed, with snapshots at its end
round "drop"    from the end of each, at every final effective learning rate; the batch order goes on
measured/       averages, angles, paths and sharpness from the weights of both, one file a run of the first round
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.drop.analyse import analyse, threshold
from onsphere.lab.experiments.drop.measure import Measured, Origin, Place, measure_origins
from onsphere.lab.experiments.drop.page import printed, report
from onsphere.lab.experiments.drop.result import Continuation, DropResult
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.drop.words import answer, describe, describe_threshold
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.networks import Evaluation
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of


@takes(DropSpec)
def drop_elr(model: Model = "mlp", data: Data = "digits", **given: Any) -> DropResult:
    """Train at one ELR, go on at a smaller one, and see from which starting ELR the best minima come.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        **given: The fields of :class:`~onsphere.lab.experiments.drop.spec.DropSpec`, and ``out``, ``progress`` and
            ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_drop` continues the run.

    Source: Sadrtdinov, Kodryan et al., NeurIPS 2024; classes by the rule in :mod:`.analyse`.

    Example:
        >>> from onsphere.lab import drop_elr
        >>> drop_elr(data="fashion-mnist", pool=4, train=2000, label_noise=0)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: DropSpec, model: Model, data: Data, progress: Progress) -> Problem:
    """The problem of the first round, with the steps whose weights are averaged.

    Raises:
        InputError: There are not two such steps, or data, batch size, device or model are not usable.
    """
    problem = problem_of(spec, model, data)
    snapshots = spec.snapshots(len(problem.data.x_train))
    if spec.averaged and len(snapshots) < 2:
        raise InputError(
            f"--averaged: {spec.averaged} is not allowed: in {spec.steps} steps there are not two passes over "
            f"{len(problem.data.x_train)} images; give --every, a longer --steps, or 0 for no average"
        )
    return prepared(replace(problem, snapshots=snapshots), progress)


def measure(session: Session[DropSpec, Problem]) -> dict[str, Any]:
    """Train both rounds, measure what lies between them, and analyse the rows."""
    spec, problem = session.spec, session.given
    copies = [Copy(seed=seed, lr=elr) for elr in spec.all_starts() for seed in range(spec.seeds)]
    cells: list[Cell] = []

    def told(ended: list[ShardFolder]) -> str:
        cells.extend(read_cells(ended[-1], 0))
        return describe_threshold(threshold(cells))

    before = session.train(problem, "start", copies, "before the drop", told=told)
    after = _drop(session, before, copies)
    places = [Place(shard, row) for shard in before for row in range(len(shard.copies()))]
    continued: list[dict[float, Place]] = [{} for _ in places]
    for shard in after:
        for row, copy in enumerate(shard.copies()):
            continued[copy.start][copy.lr] = Place(shard, row)
    origins = [Origin(c.lr, c.seed, place, own) for c, place, own in zip(copies, places, continued, strict=True)]
    measured = measure_origins(session, origins)
    rows: dict[str, Any] = {
        "cells": sorted(cells, key=lambda cell: (cell.elr, cell.seed)),
        "continuations": _continuations(after, origins, measured),
        "paths": [path for one in measured for path in one.paths],
        "averages": [one.average for one in measured if one.average is not None],
    }
    return vars(analyse(**rows)) | rows | {"snapshots": list(problem.snapshots), "radius": problem.radius}


def _drop(session: Session[DropSpec, Problem], before: Sequence[ShardFolder], copies: list[Copy]) -> list[ShardFolder]:
    """The second round: every run of the first goes on at every final effective learning rate."""
    spec, path = session.spec, (session.run.folder / "starts.safetensors").resolve()
    if not path.exists():
        kept = [(shard.weights(), len(shard.copies())) for shard in before]
        names = session.given.trained
        stack_starts(path, [{name: one[name][k] for name in names} for one, count in kept for k in range(count)])
    problem = replace(session.given, steps=spec.drop_steps, snapshots=(), starts=path, offset=spec.steps)
    wanted = [Copy(seed=copy.seed, lr=end, start=row) for end in spec.ends for row, copy in enumerate(copies)]
    return session.train(problem, "drop", wanted, "after the drop")


def _continuations(
    after: Sequence[ShardFolder], origins: Sequence[Origin], measured: Sequence[Measured]
) -> list[Continuation]:
    """The runs after the drop, by final, then starting effective learning rate, then seed."""
    rows = []
    for shard in after:
        readings, (_, evaluations) = shard.readings(), shard.evaluations()
        late = readings.effective_gradient_norm[-(len(readings.values) // 4) :]
        finite = np.isfinite(readings.values).all(axis=(0, 2))
        for k, copy in enumerate(shard.copies()):
            found = measured[copy.start]
            angle = dict(found.angles)[copy.lr]
            rows.append(
                Continuation(
                    start=origins[copy.start].start,
                    end=copy.lr,
                    seed=copy.seed,
                    **Evaluation(*map(float, evaluations[-1, k])).to_dict(),
                    gradient_norm=float(late[:, k].mean()),
                    angle=math.nan if angle is None else angle,
                    sharpness=dict(found.sharpness)[copy.lr],
                    finite=bool(finite[k]),
                )
            )
    return sorted(rows, key=lambda row: (row.end, row.start, row.seed))


EXPERIMENT = Experiment(
    spec=DropSpec,
    result=DropResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: result.runs,
    printed=printed,
)
resume_drop = EXPERIMENT.resume
