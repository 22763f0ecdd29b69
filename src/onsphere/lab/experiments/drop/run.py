"""Train at every starting ELR, go on at every final one, then measure averages and paths.

round "start"   every starting effective learning rate x seed, with snapshots at its end
round "drop"    from the end of each, at every final effective learning rate; the batch order goes on
measured/       averages, angles, paths and sharpness from the weights of both, one file a run of the first round

The average is that of the last snapshots before the drop, put back onto the sphere. Paths are great circles between
the continuations at the smallest and the largest final effective learning rate and the average; losses and errors on
them are those of training examples, batch statistics re-estimated at every point.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (averages and barriers after a drop).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor, nn

from onsphere.curvature import top_eigenvalues
from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.drop.analyse import allowed_barrier, analyse, threshold
from onsphere.lab.experiments.drop.page import printed, report
from onsphere.lab.experiments.drop.result import Average, Continuation, DropResult, PathBarrier
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.drop.words import answer, describe, describe_threshold
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.networks import Evaluation, batches, criterion, evaluate, network
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of
from onsphere.landscape import angle, average, barrier

SHARPNESS_TOLERANCE = 1e-2  # relative
Point = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where the weights of one copy lie: the folder of its shard, and its row there."""

    shard: ShardFolder
    row: int

    def weights(self, names: Sequence[str]) -> Point:
        """Those of some names at the end of training."""
        return self._read(self.shard.folder / "weights.safetensors", names)

    def snapshot(self, step: int, names: Sequence[str]) -> Point:
        """Those of some names after a step."""
        return self._read(self.shard.snapshot_path(step), names)

    @property
    def alive(self) -> bool:
        """Whether the copy stayed finite."""
        return bool(self.weights(("alive",))["alive"])

    def _read(self, path: Path, names: Sequence[str]) -> Point:
        """The copy's tensors, without reading those of the others."""
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name)[self.row : self.row + 1][0].clone() for name in names}


@dataclass(frozen=True)
class Measured:
    """What the weights of one run before the drop and of those that continue it say.

    Attributes:
        average: The average of its snapshots, or None.
        paths: The paths between its ends.
        angles: Final effective learning rates, and the angle from the drop to the end, radians; None if not finite.
        sharpness: Final effective learning rates, and the sharpness at the end; None where not measured.
    """

    average: Average | None
    paths: list[PathBarrier]
    angles: list[tuple[float, float | None]]
    sharpness: list[tuple[float, float | None]]


@takes(DropSpec)
def drop_elr(model: Model = "mlp", data: Data = "digits", **given: Any) -> DropResult:
    """Train at one ELR, go on at a smaller one, and see from which starting ELR the best minima come.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: The data, as it takes them.
        **given: The fields of :class:`~onsphere.lab.experiments.drop.spec.DropSpec`, and ``out``, ``progress`` and
            ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is raised.

    Returns:
        The result; everything is also on disk.

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
    continued: list[dict[float, Place]] = [{} for _ in places]  # by final effective learning rate
    for shard in after:
        for row, copy in enumerate(shard.copies()):
            continued[copy.start][copy.lr] = Place(shard, row)
    session.progress.begin("averages and paths", len(places))
    measured = [
        session.kept(f"measured/{number:05d}", Measured, partial(_measured, session, *origin), units=0, key="")
        for number, origin in session.each(list(enumerate(zip(copies, places, continued, strict=True))))
    ]
    rows: dict[str, Any] = {
        "cells": sorted(cells, key=lambda cell: (cell.elr, cell.seed)),
        "continuations": _continuations(after, copies, measured),
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


def _measured(
    session: Session[DropSpec, Problem], copy: Copy, origin: Place, continued: dict[float, Place]
) -> Measured:
    """The average, the paths, angles and sharpness of one run before the drop and of those that continue it."""
    spec, problem, names, loss = session.spec, session.given, session.given.trained, criterion(session.given)
    after = {end: place.weights(names) for end, place in sorted(continued.items()) if place.alive}
    images = batches(problem, "train", examples=spec.examples)
    before, points = origin.weights(names), list[Point]()
    if origin.alive:
        points = [origin.snapshot(step, names) for step in problem.snapshots]

    def built(point: Point) -> nn.Module:
        return network(problem, {name: tensor[None] for name, tensor in point.items()}, 0, copy.seed)

    def path(pair: Any, a: Point, b: Point) -> PathBarrier:
        found = barrier(built(a), built(a), built(b), loss, images, points=spec.points, parameters=names)
        assert found.errors is not None and found.error_barrier is not None  # labels are classes
        allowed = allowed_barrier(float(found.errors[0]), float(found.errors[-1]), found.examples)
        barriers = (found.loss_barrier, found.error_barrier)
        return PathBarrier(copy.lr, copy.seed, pair, found.angle, *barriers, allowed)

    def sharpness(end: float) -> float | None:
        if not spec.sharpness or end not in after:
            return None
        options: dict[str, Any] = {"parameters": list(names), "sphere": True, "tolerance": SHARPNESS_TOLERANCE}
        return top_eigenvalues(built(after[end]), loss, images, **options).values[0]

    mean, ends = average(points) if points else None, dict[str, Point]()
    if mean is not None:
        ends["average"] = mean
    finals = sorted(continued)
    for name, end in zip(("low", "high"), sorted({finals[0], finals[-1]}), strict=False):
        if end in after:
            ends[name] = after[end]
    averaged = None
    if mean is not None:
        spread = sum(angle(mean, point) for point in points) / len(points)
        averaged = Average(copy.lr, copy.seed, **evaluate(problem, built(mean)).to_dict(), spread=spread)
    return Measured(
        average=averaged,
        paths=[path(f"{a}-{b}", ends[a], ends[b]) for a, b in combinations(ends, 2)] if spec.barriers else [],
        angles=[(end, angle(before, after[end]) if end in after else None) for end in continued],
        sharpness=[(end, sharpness(end)) for end in continued],
    )


def _continuations(
    after: Sequence[ShardFolder], copies: Sequence[Copy], measured: Sequence[Measured]
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
                    start=copies[copy.start].lr,
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
