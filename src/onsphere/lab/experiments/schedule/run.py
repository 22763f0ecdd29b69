"""Compare schedules: find the boundaries, propose, train the proposal and its rivals, tune, judge.

rounds "map0" ...   a quick map, when neither a map nor numbers are given
round "sphere"      the proposal, constant ELRs and cosines from several peaks, every seed
round "space"       the same weights in the whole space: lr and weight decay, constant and cosine

Images to tune on are neither trained on nor reported: training images of a named data set that are left over.

    the data set's fixed order:   [ trained on: --train ][ validation: the next 5000 at most ][ not used ]

Where none are left over (own arrays, all images used) there is no validation set, and methods are tuned on the test
set, which favours the methods with more settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onsphere.lab import data as datasets
from onsphere.lab.calling import takes
from onsphere.lab.data import Dataset
from onsphere.lab.data.transforms import standardise_floats
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.schedule.methods import (
    QUICK_ELRS,
    QUICK_ROUNDS,
    QUICK_SEEDS,
    Setting,
    boundaries_of,
    copies_of,
    settings_of,
    with_map,
)
from onsphere.lab.experiments.schedule.page import printed, report
from onsphere.lab.experiments.schedule.result import Method, Proposal, ScheduleResult, choose, verdict
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.experiments.schedule.words import answer, describe
from onsphere.lab.population import Copy, Phase, Problem, ShardFolder, Stage
from onsphere.lab.population.engine import State
from onsphere.lab.population.evaluate import Evaluator
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, Trainer, prepared, problem_of

MOST, LEAST = 5000, 200  # images to tune on


@takes(ScheduleSpec)
def compare_schedules(model: Model | None = None, data: Data | None = None, **given: Any) -> ScheduleResult:
    """Train the schedule that a regime map proposes, and its tuned rivals, at equal steps.

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it; made fully
            scale-invariant if it is not. Default: that of the map, else ``mlp``.
        data: The data that all methods are trained on. Default: those of the map, else ``digits``.
        **given: The fields of :class:`~onsphere.lab.experiments.schedule.spec.ScheduleSpec`, where ``map`` may be the
            result of :func:`onsphere.lab.map_regimes` too, and ``out``, ``progress`` and ``stop``.

    Raises:
        InputError: A field, the map, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_schedules` continues the run.

    Source: Kodryan et al. 2022 (starting ELRs); the comparison is ours.

    Example:
        >>> from onsphere.lab import compare_schedules
        >>> compare_schedules(convergence=8e-3, seeds=3)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


@dataclass(frozen=True, eq=False)
class Arena:
    """What the methods are trained and tuned on.

    Attributes:
        sphere: The problem on the sphere.
        space: The same in the whole space.
        validation: The data with validation images as their test part, if images are left over.
    """

    sphere: Problem
    space: Problem
    validation: Dataset | None


def prepare(spec: ScheduleSpec, model: Model, data: Data, progress: Progress) -> Arena:
    """The problems, and the images to tune on."""
    sphere = prepared(problem_of(spec, model, data), progress)
    validation = validation_set(spec, data)
    if validation is None:
        progress.note("no images are left over for validation: methods are tuned on the test set")
    return Arena(sphere, replace(sphere, geometry="space", radius=None), validation)


def measure(session: Session[ScheduleSpec, Arena]) -> dict[str, Any]:
    """Find the boundaries, train all methods, choose the best of each family, judge."""
    spec, given = session.spec, session.given
    with session.trainer(given.sphere, spec.seeds * (1 + len(spec.constant) + len(spec.peaks))) as trainer:
        boundaries, found = boundaries_of(session, trainer)
        session.progress.finding(
            f"convergence ends at {found.threshold:.2g}; proposed: ELR {found.start:.2g} to {found.end:.2g}"
        )
        settings = settings_of(spec, found)
        in_space = [one for one in settings if not one.on_sphere]
        methods = trained(session, trainer, "sphere", [one for one in settings if one.on_sphere])
    with session.trainer(given.space, len(in_space)) as trainer:
        methods += trained(session, trainer, "space", in_space)
    chosen, tuned_on = choose(methods)
    rates, rule = (found.start, found.end, found.threshold), (spec.hold, spec.tail, spec.shape)
    return {
        "proposal": Proposal(*rates, *rule, limited=found.limited, basis=found.basis),
        "boundaries": boundaries,
        "verdict": verdict(chosen),
        "tuned_on": tuned_on,
        "methods": chosen,
    }


def trained(
    session: Session[ScheduleSpec, Arena], trainer: Trainer, name: str, settings: Sequence[Setting]
) -> list[Method]:
    """The methods of one round with what every seed reached."""
    seeds, validation = session.spec.seeds, session.given.validation
    place = "on the sphere" if name == "sphere" else "in the whole space"
    shards = session.round(trainer, name, copies_of(settings, seeds), f"{len(settings)} methods {place}")
    final = np.concatenate([shard.evaluations()[1][-1] for shard in shards])
    alive = np.concatenate([shard.weights()["alive"].numpy() for shard in shards])
    columns = [np.where(alive, column, np.nan).reshape(-1, seeds) for column in final.T[:4]]
    if validation is not None:
        problem = session.given.sphere if name == "sphere" else session.given.space
        checked = np.where(alive, validation_errors(shards, problem, validation), np.nan)
        columns.append(checked.reshape(-1, seeds))
    measures = ("train_loss", "train_error", "test_loss", "test_error", "validation_error")
    return [
        Method(
            family=one.family,
            lr=one.lr,
            end_lr=one.end_lr,
            weight_decay=one.weight_decay,
            tuned=False,
            **{name: tuple(column[i].tolist()) for name, column in zip(measures, columns, strict=False)},
        )
        for i, one in enumerate(settings)
    ]


def validation_set(spec: ScheduleSpec, data: Any) -> Dataset | None:
    """The training set with the left-over images as its test part, or None if there are too few.

    Args:
        spec: What was asked for.
        data: The data as given: only a named data set has images left over.
    """
    if not isinstance(data, str) or spec.train is None:
        return None
    shared: dict[str, Any] = {"data_dir": spec.data_dir, "pool": spec.pool, "test": 1, "seed": spec.seed}
    everything = datasets.load(data, label_noise=0.0, standardise=False, **shared)
    left = len(everything.x_train) - spec.train
    if left < LEAST:
        return None
    part = slice(spec.train, spec.train + min(left, MOST))
    inputs = everything.x_train[part].numpy()
    if spec.standardise:
        inputs = standardise_floats(everything.x_train[: spec.train].numpy(), inputs)[1]
    drawn: dict[str, Any] = {"label_noise": spec.label_noise, "label_noise_kind": spec.label_noise_kind}
    trained = datasets.load(data, train=spec.train, standardise=spec.standardise, **drawn, **shared)
    return replace(trained, x_test=torch.from_numpy(inputs), y_test=everything.y_train[part])


def validation_errors(shards: list[ShardFolder], problem: Problem, validation: Dataset) -> NDArray[np.float64]:
    """Error of every copy's final weights on the validation images, as the engine evaluates: float64 [copies]."""
    there = replace(problem, data=validation)
    errors = []
    for shard in shards:
        weights = shard.weights()
        constant = tuple(name for name in weights if name not in problem.trained and name != "alive")
        state = State(
            params=[weights[name].to(problem.device) for name in problem.trained],
            buffers=[],
            constants=[weights[name].to(problem.device) for name in constant],
            alive=weights["alive"],
            radius=torch.ones(len(weights["alive"])),
            step=problem.steps,
        )
        errors.append(Evaluator(there, constant)(state)[:, 3].numpy())
    return np.concatenate(errors)


def stages(spec: ScheduleSpec, given: Arena) -> list[Stage]:
    """The quick map where nothing says the boundaries, the methods on the sphere, those in the whole space."""
    lr, many = 1e-3, spec.seeds * (1 + len(spec.constant) + len(spec.peaks))
    found: list[Stage] = []
    if spec.convergence is None:
        grid = [Copy(seed, elr) for seed in range(QUICK_SEEDS) for elr in QUICK_ELRS]
        found.append(Stage("quick map", given.sphere, grid, most=many))
        for number in range(1, QUICK_ROUNDS + 1):
            middles = [Copy(seed, lr) for seed in range(QUICK_SEEDS)] * 2
            found.append(Stage(f"quick map, round {number}", given.sphere, middles, sure=False, joined=True))
    like = Setting("proposed", lr, lr, phases=(Phase(0, lr),))
    on_sphere = copies_of([like] * (many // spec.seeds), spec.seeds)
    found.append(Stage("methods on the sphere", given.sphere, on_sphere, joined=bool(found)))
    pairs = [(rate, decay) for rate in spec.lr for decay in spec.weight_decay] * 2
    in_space = copies_of([Setting("space-cosine", *pair, pair[1], (Phase(0, pair[0]),)) for pair in pairs], spec.seeds)
    return found + [Stage("methods in the whole space", given.space, in_space)] * bool(in_space)


EXPERIMENT = Experiment(
    spec=ScheduleSpec,
    result=ScheduleResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: result.spec.seeds * len(result.methods),
    printed=printed,
    fields=with_map,
    stages=stages,
)
resume_schedules = EXPERIMENT.resume
