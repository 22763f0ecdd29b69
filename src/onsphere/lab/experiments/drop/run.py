"""Train at every starting rate, go on at every final one, then measure averages and paths.

round "start"   every starting (effective) learning rate x seed, with snapshots at its end
round "drop"    from the end of each, at every final rate; the batch order goes on, the optimiser begins anew
measured/       averages, angles, paths and sharpness from the weights of both, one file a run of the first round

Training is on the sphere at effective learning rates, or ordinary (``--training space``). The average is that of the
last snapshots before the drop; paths lie between the continuations at the smallest and the largest final rate and the
average. What they are in either geometry says :mod:`onsphere.lab.networks.minima`.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (averages and barriers after a drop; the practical setting).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, combinations
from typing import Any

import numpy as np

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.drop.analyse import allowed_barrier, analyse, staged_start, threshold
from onsphere.lab.experiments.drop.analyse.labels import gradient_norms, slow_ones_apart, space_cells
from onsphere.lab.experiments.drop.analyse.matched import at_matched_loss, cells_at_loss, flatness_of
from onsphere.lab.experiments.drop.analyse.norms import group_norms
from onsphere.lab.experiments.drop.page import printed, report
from onsphere.lab.experiments.drop.result import Average, Continuation, DropResult, PathBarrier, PathKind
from onsphere.lab.experiments.drop.spec import ORDINARY_EPS, DropSpec, Staged
from onsphere.lab.experiments.drop.words import answer, describe, describe_threshold
from onsphere.lab.experiments.periods.science.setups import Ready, ready
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.networks import Evaluation
from onsphere.lab.networks.minima import Minima, Place, Point
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Phase, Problem, ShardFolder, Stage, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, prepared, problem_of


@dataclass(frozen=True)
class Measured:
    """What the weights of one run before the drop and of those that continue it say.

    Attributes:
        average: The average of its snapshots, or None; of several the first.
        paths: The paths between its ends.
        angles: Final rates, and the angle from the drop to the end, radians; None if not finite or not defined.
        sharpness: Final rates, and the sharpness at the end; None where not measured.
        more: The averages of further numbers of snapshots.
    """

    average: Average | None
    paths: list[PathBarrier]
    angles: list[tuple[float, float | None]]
    sharpness: list[tuple[float, float | None]]
    more: list[Average] = field(default_factory=list)


@takes(DropSpec)
def drop_elr(model: Model = "mlp", data: Data = "digits", **given: Any) -> DropResult:
    """Train at one rate, go on at a smaller one, and see from which start the best minima come.

    On the sphere, a network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`); in
    ordinary training (``training="space"``) one of your own is taken as it is.

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


def prepare(spec: DropSpec, model: Model, data: Data, progress: Progress) -> Ready:
    """The problem of the first round, with the steps whose weights are averaged.

    Raises:
        InputError: There are fewer such steps than an average takes, or they reach beyond the last stage; something is
            asked of a network that has no scale-invariant weights; data, batch size, device or model are not usable.
    """
    sphere = spec.training == "sphere"
    problem = problem_of(spec, model, data, eps=None if sphere else ORDINARY_EPS, augment=spec.augment)
    snapshots = spec.snapshots(len(problem.data.x_train))
    needed = max(spec.averages) if len(spec.averages) > 1 else 2
    if spec.averages and len(snapshots) < needed:
        raise InputError(
            f"--averaged: {','.join(map(str, spec.averages))} is not allowed: in {spec.steps} steps there "
            f"are not {needed} snapshots {spec.apart(len(problem.data.x_train))} steps apart; give --every, a longer "
            "--steps, or 0 for no average"
        )
    for staged in spec.staged():
        if snapshots and snapshots[0] <= spec.steps - staged.lengths[-1]:
            raise InputError(
                f"--stages: {staged.name!r} is not allowed: its last stage has {staged.lengths[-1]} steps, fewer than "
                f"the {spec.steps - snapshots[0] + 1} from which snapshots are averaged; make it longer, or --every or "
                "--averaged smaller"
            )
    problem = replace(problem, snapshots=snapshots)
    if sphere:
        problem = prepared(problem, progress)
        return Ready(problem, problem.trained)
    problem = replace(problem, geometry="space", radius=None, optimizer=spec.optimizer)
    found = ready(problem, "all-parameters", progress, any_network=True)
    asked = {"sharpness": spec.sharpness, "matched-loss": spec.matched_loss is not None, "norms": spec.norms}
    for name in (name for name, there in asked.items() if there and not found.invariant):
        raise InputError(
            f"--{name}: is not allowed with this network: it is measured on the scale-invariant weights, of "
            "which there are none"
        )
    return found


def measure(session: Session[DropSpec, Ready]) -> dict[str, Any]:
    """Train both rounds, measure what lies between them, and analyse the rows."""
    spec, given = session.spec, session.given
    copies, single = _copies(spec), len(spec.all_starts()) * spec.seeds
    cells: list[Cell] = []

    def told(ended: list[ShardFolder]) -> str:
        shard = ended[-1]
        found = read_cells(shard, 0) if spec.training == "sphere" else space_cells(given, shard)
        cells.extend(cell for cell, copy in zip(found, shard.copies(), strict=True) if not copy.phases)
        return describe_threshold(threshold(slow_ones_apart(cells)), spec.rate)

    before = session.train(given.problem, "start", copies, "before the drop", told=told)
    after = _drop(session, before, copies)
    places = [Place(shard, row) for shard in before for row in range(len(shard.copies()))]
    continued: list[dict[float, Place]] = [{} for _ in places]  # by final rate
    for shard in after:
        for row, copy in enumerate(shard.copies()):
            continued[copy.start][copy.lr] = Place(shard, row)
    session.progress.begin("averages and paths", len(places))
    measured = [
        session.kept(f"measured/{number:05d}", Measured, partial(_measured, session, *origin), units=0, key="")
        for number, origin in session.each(list(enumerate(zip(copies, places, continued, strict=True))))
    ]
    measured = [_counted(one, len(given.problem.snapshots)) for one in measured]
    continuations = _continuations(given, after, copies, measured)
    rows: dict[str, Any] = {
        "cells": sorted(slow_ones_apart(cells), key=lambda cell: (cell.elr, cell.seed)),
        **_rows(continuations, measured, range(single)),
    }
    staged = []
    for number, one in enumerate(spec.staged()):
        own = range(single + number * spec.seeds, single + (number + 1) * spec.seeds)
        staged.append(staged_start(one, **_rows(continuations, measured, own), single=rows["continuations"]))
    problem, invariant = given.problem, None if spec.training == "sphere" else list(given.invariant)
    at_loss = []
    if spec.matched_loss is not None:
        at_loss = at_matched_loss(session, _second(session), after, copies[:single])
    facts: dict[str, Any] = {
        "snapshots": list(problem.snapshots),
        "radius": problem.radius,
        "invariant": invariant,
        "staged": staged,
    }
    if spec.norms:
        facts |= group_norms(given, copies[:single], places)
    facts |= {"at_loss": at_loss, "at_loss_cells": cells_at_loss(at_loss), "flatness": flatness_of(at_loss)}
    return vars(analyse(**rows)) | rows | facts


def _copy(spec: DropSpec, seed: int, rate: float, start: int = 0) -> Copy:
    """A run at a rate, begun at a row of the problem's starts."""
    return Copy(seed, rate, weight_decay=spec.decay_used, momentum=spec.momentum_used, start=start)


def _staged_copy(spec: DropSpec, seed: int, staged: Staged) -> Copy:
    """A run in stages; its label is the last one's rate."""
    begins = accumulate((0, *staged.lengths[:-1]))
    phases = tuple(Phase(begin, rate) for begin, rate in zip(begins, staged.rates, strict=True))
    return replace(_copy(spec, seed, staged.rates[-1]), phases=phases)


def _counted(one: Measured, number: int) -> Measured:
    """With the number of snapshots in its average, which an older version did not write down."""
    if one.average is None or one.average.snapshots is not None:
        return one
    return replace(one, average=replace(one.average, snapshots=number))


def _rows(
    continuations: Sequence[tuple[int, Continuation]], measured: Sequence[Measured], own: Sequence[int]
) -> dict[str, Any]:
    """The rows of some of the runs before the drop, by their numbers."""
    mine = [measured[number] for number in own]
    return {
        "continuations": [row for number, row in continuations if number in own],
        "paths": [path for one in mine for path in one.paths],
        "averages": [
            *(one.average for one in mine if one.average is not None),
            *(average for one in mine for average in one.more),
        ],
    }


def _drop(session: Session[DropSpec, Ready], before: Sequence[ShardFolder], copies: list[Copy]) -> list[ShardFolder]:
    """The second round: every run of the first goes on at every final rate."""
    spec, problem = session.spec, session.given.problem
    path = (session.run.folder / "starts.safetensors").resolve()
    if not path.exists():
        kept = [(shard.weights(), len(shard.copies())) for shard in before]
        names = problem.trained
        stack_starts(path, [{name: one[name][k] for name in names} for one, count in kept for k in range(count)])
    wanted = [_copy(spec, copy.seed, end, row) for end in spec.ends for row, copy in enumerate(copies)]
    return session.train(_second(session), "drop", wanted, "after the drop")


def _second(session: Session[DropSpec, Ready]) -> Problem:
    """The problem of the second round."""
    path = (session.run.folder / "starts.safetensors").resolve()
    steps, offset = session.spec.drop_steps, session.spec.steps
    return replace(session.given.problem, steps=steps, snapshots=(), starts=path, offset=offset)


def _measured(session: Session[DropSpec, Ready], copy: Copy, origin: Place, continued: dict[float, Place]) -> Measured:
    """The average, the paths, angles and sharpness of one run before the drop and of those that continue it."""
    spec, given, names = session.spec, session.given, session.given.problem.trained
    minima = Minima(given.problem, given.invariant, copy.seed, spec.examples)
    after = {end: place.weights(names) for end, place in sorted(continued.items()) if place.alive}
    before, points = origin.weights(names), list[Point]()
    if origin.alive:
        points = [origin.snapshot(step, names) for step in given.problem.snapshots]

    def path(pair: Any, kind: PathKind, a: Point, b: Point) -> PathBarrier:
        found = minima.path(a, b, spec.points, kind)
        assert found.errors is not None and found.error_barrier is not None  # labels are classes
        allowed = allowed_barrier(float(found.errors[0]), float(found.errors[-1]), found.examples)
        barriers = (found.loss_barrier, found.error_barrier)
        row = PathBarrier(copy.lr, copy.seed, pair, minima.angle(a, b), *barriers, allowed, kind)
        if not spec.test_barriers:
            return row
        test = minima.path(a, b, spec.points, kind, "test")
        return replace(row, test_loss_barrier=test.loss_barrier, test_error_barrier=test.error_barrier)

    means = [(minima.mean(points[-number:]), points[-number:]) for number in spec.averages] if points else []
    ends = {"average": means[0][0]} if means else dict[str, Point]()
    finals = sorted(continued)
    for name, end in zip(("low", "high"), sorted({finals[0], finals[-1]}), strict=False):
        if end in after:
            ends[name] = after[end]
    averages = []
    for mean, own in means:
        spread = sum(minima.angle(mean, point) for point in own) / len(own)
        found = minima.evaluated(mean).to_dict()
        averages.append(Average(copy.lr, copy.seed, **found, spread=spread, snapshots=len(own)))
    kinds: list[PathKind] = [minima.kind, "chord"] if spec.chords else [minima.kind]
    between = [(kind, a, b) for kind in kinds for a, b in combinations(ends, 2)] if spec.barriers else []
    return Measured(
        average=averages[0] if averages else None,
        more=averages[1:],
        paths=[path(f"{a}-{b}", kind, ends[a], ends[b]) for kind, a, b in between],
        angles=[(end, minima.angle(before, after[end]) if end in after else None) for end in continued],
        sharpness=[
            (end, minima.sharpness(after[end]) if spec.sharpness and end in after else None) for end in continued
        ],
    )


def _continuations(
    given: Ready, after: Sequence[ShardFolder], copies: Sequence[Copy], measured: Sequence[Measured]
) -> list[tuple[int, Continuation]]:
    """The runs after the drop, by final, then starting rate, then seed, each with the number of its origin."""
    rows = []
    for shard in after:
        readings, (_, evaluations) = shard.readings(), shard.evaluations()
        late = gradient_norms(readings, given)[-(len(readings.values) // 4) :]
        finite = np.isfinite(readings.values).all(axis=(0, 2))
        for k, copy in enumerate(shard.copies()):
            found = measured[copy.start]
            angle = dict(found.angles)[copy.lr]
            row = Continuation(
                start=copies[copy.start].lr,
                end=copy.lr,
                seed=copy.seed,
                **Evaluation(*map(float, evaluations[-1, k])).to_dict(),
                gradient_norm=float(late[:, k].mean()),
                angle=math.nan if angle is None else angle,
                sharpness=dict(found.sharpness)[copy.lr],
                finite=bool(finite[k]),
            )
            rows.append((copy.start, row))
    return sorted(rows, key=lambda each: (each[1].end, each[1].start, each[1].seed))


def stages(spec: DropSpec, given: Ready) -> list[Stage]:
    """The runs before the drop, and each at every final rate after it."""
    copies = _copies(spec)
    after = replace(given.problem, steps=spec.drop_steps, snapshots=())
    wanted = [_copy(spec, copy.seed, end) for end in spec.ends for copy in copies]
    return [Stage("before the drop", given.problem, copies), Stage("after the drop", after, wanted)]


def _copies(spec: DropSpec) -> list[Copy]:
    """The runs before the drop: those at one rate, then those in stages."""
    single = [_copy(spec, seed, rate) for rate in spec.all_starts() for seed in range(spec.seeds)]
    return single + [_staged_copy(spec, seed, staged) for staged in spec.staged() for seed in range(spec.seeds)]


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
    stages=stages,
    beside="averages, paths and sharpness, measured after training",
)
resume_drop = EXPERIMENT.resume
