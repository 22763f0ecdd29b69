"""Train the same network in three set-ups and set the ordinary runs against the sphere.

round "sphere"     scale-invariant weights on the sphere at fixed ELRs x seeds
round "invariant"  the same network in the whole space: learning rates x seeds, with weight decay
round "all"        an ordinary network: every parameter trained, affine norms and head, momentum, schedule

With ρ the norm of the scale-invariant weights, g their effective gradient norm, α the momentum, Q4 the last quarter:

    ELR              lr_t / ((1 - α) ρ²), measured at every step; ρ and g are those of the tensors that count, which
                     ``elr_of`` makes the same in all set-ups (else the ordinary network's gains and biases count too)
    angular update   atan2(ELR g, 1 - lr_t weight_decay); without momentum only, whose steps are not along a gradient
    label            as on the sphere (:mod:`onsphere.lab.experiments.regimes.classify`); with momentum, "divergence"
                     is instead a training error in Q4 above 0.9 (1 - 1 / classes), that of guessing
    sphere_loss      the loss that belongs on the sphere to the mean ELR of Q4 (:class:`.result.SphereMap`)

Source: Kodryan et al., NeurIPS 2022, section 6 (conventional training).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onsphere.lab.calling import takes
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.conventional.page import printed, report
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun, SphereMap, distance
from onsphere.lab.experiments.conventional.spec import ORDINARY_EPS, SETUPS, ConventionalSpec, Setup
from onsphere.lab.experiments.conventional.words import answer, describe
from onsphere.lab.experiments.periods.science.setups import Ready, ready
from onsphere.lab.experiments.regimes.classify import Cell, classify, finite_mean, settled
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.intervals import geometric_mean
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage
from onsphere.lab.population.course import courses_of
from onsphere.lab.progress import Progress
from onsphere.lab.training import Data, Model, problem_of

TITLES = {"sphere": "sphere", "invariant": "whole space", "all": "ordinary network"}


@takes(ConventionalSpec)
def compare_conventional(model: Model = "mlp", data: Data = "digits", **given: Any) -> ConventionalResult:
    """Set ordinary training against the sphere: its effective learning rate, its regime, its loss.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network of one's own is taken as it is in the set-up "all" and made scale-invariant in the
            others; reference networks get affine norms and a trained head in "all".
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        **given: The fields of :class:`~onsphere.lab.experiments.conventional.spec.ConventionalSpec`, and ``out``,
            ``progress`` and ``stop`` of :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>`.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_conventional` continues the run.

    Source: Kodryan et al., NeurIPS 2022, section 6 (conventional training).
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: ConventionalSpec, model: Model, data: Data, progress: Progress) -> dict[Setup, Ready]:
    """The problem of each set-up that was asked for."""
    problem, found = problem_of(spec, model, data, augment=spec.augment), dict[Setup, Ready]()
    if {"sphere", "invariant"} & set(spec.setups):
        sphere = ready(problem, "scale-invariant", progress, spec.counted)
        whole = replace(sphere, problem=replace(sphere.problem, geometry="space", radius=None))
        found |= {"sphere": sphere, "invariant": whole}
    if "all" in spec.setups:
        options = problem.model_options | {"eps": ORDINARY_EPS}
        ordinary = replace(problem, geometry="space", radius=None, schedule=spec.schedule, model_options=options)
        found["all"] = ready(ordinary, "all-parameters", progress, spec.counted)
    if spec.counted is not None:
        _check_same(spec.elr_of, {setup: found[setup] for setup in spec.setups})
    return found


def _check_same(elr_of: str, found: Mapping[Setup, Ready]) -> None:
    """Refuse a choice under which set-ups are not measured alike (InputError)."""
    names = {setup: set(one.invariant) for setup, one in found.items()}
    if "sphere" in found and names["sphere"] != set(trained := found["sphere"].problem.trained):
        raise InputError(
            f"--elr-of: {elr_of!r} counts {len(names['sphere'])} of {len(trained)} tensors that are on the sphere "
            "together, which fixes the ELR of all of them; leave it out, or leave out the set-up sphere"
        )
    other = next((setup for setup in names if names[setup] != names[next(iter(names))]), None)
    if other is not None:
        first = next(iter(names))
        differing = ", ".join(sorted(names[first] ^ names[other])[:3])
        raise InputError(
            f"--elr-of: {elr_of!r} does not count the same tensors in the set-ups {first} and {other} ({differing}), "
            "so that their ELRs could not be compared"
        )


def measure(session: Session[ConventionalSpec, Mapping[Setup, Ready]]) -> dict[str, Any]:
    """Train every set-up and label its runs, those in the whole space by the map of the sphere."""
    spec, runs = session.spec, list[ConventionalRun]()
    sphere: SphereMap | None = None
    for setup in spec.setups:
        given = session.given[setup]
        shards = session.train(given.problem, setup, copies_of(spec, setup), TITLES[setup])
        if setup == "sphere":
            runs += sphere_runs(settled([cell for shard in shards for cell in read_cells(shard, 0)]))
            sphere = SphereMap.of(runs)
        else:
            own = [run for shard in shards for run in space_runs(given.problem, shard, setup, given.invariant, sphere)]
            runs += settled_runs(own)
        session.progress.finding(describe(runs))
        if setup != spec.setups[-1]:
            session.so_far(_found(session, runs))
    return _found(session, runs)


def _found(session: Session[ConventionalSpec, Mapping[Setup, Ready]], runs: list[ConventionalRun]) -> dict[str, Any]:
    """What the runs so far say."""
    runs = sorted(runs, key=lambda run: (SETUPS.index(run.setup), run.lr, run.seed))
    done = [setup for setup in session.spec.setups if setup != "sphere" and any(run.setup == setup for run in runs)]
    return {
        "distances": [distance(s, [run for run in runs if run.setup == s]) for s in done],
        "runs": runs,
        "engine": {"invariant": {name: one.invariant for name, one in session.given.items()}},
    }


def copies_of(spec: ConventionalSpec, setup: Setup) -> list[Copy]:
    """The runs of a set-up."""
    decay = 0.0 if setup == "sphere" else spec.weight_decay
    momentum = spec.momentum if setup == "all" else 0.0
    return [Copy(seed, lr, decay, momentum) for lr in spec.rates(setup) for seed in range(spec.seeds)]


def sphere_runs(cells: Sequence[Cell]) -> list[ConventionalRun]:
    """The labelled runs on the sphere in the form of the others."""
    return [
        ConventionalRun(
            setup="sphere",
            lr=cell.elr,
            seed=cell.seed,
            regime=cell.regime,
            reason=cell.reason,
            finite=cell.finite,
            loss=_finite(cell.loss),
            train_loss=_finite(cell.train_loss),
            train_error=_finite(cell.train_error),
            test_error=_finite(cell.test_error),
            gradient_norm=_finite(cell.gradient_norm),
            angular_update=_finite(cell.angular_update),
            elr=cell.elr,
            lowest_elr=cell.elr,
            highest_elr=cell.elr,
            sphere_regime=None,
            sphere_loss=None,
            shares=None,
            trend=_finite(cell.trend),
        )
        for cell in cells
    ]


def space_runs(
    problem: Problem, shard: ShardFolder, setup: Setup, invariant: Sequence[str], sphere: SphereMap | None
) -> list[ConventionalRun]:
    """The runs of an ended shard in the whole space."""
    steps, quarter = problem.steps, problem.steps // 4
    last, before = slice(steps - quarter, None), slice(steps - 2 * quarter, steps - quarter)
    evaluated, evaluations = shard.evaluations()
    late, factors = evaluations[evaluated > steps - quarter], problem.lr_factors(0, steps)
    found = []
    for k, course in enumerate(courses_of(shard, invariant, problem.schedule)):
        copy, angle = course.copy, None
        if copy.momentum == 0:
            decay = copy.lr * copy.weight_decay * factors[: len(course.elr)]
            angle = finite_mean(np.arctan2(course.effective_step, 1 - decay)[last])
        loss, train_error = finite_mean(course.loss[last]), finite_mean(late[:, k, 1])
        trend = loss / finite_mean(course.loss[before])
        regime, reason = classify(
            angular_update=angle,
            train_error=train_error,
            trend=trend,
            finite=course.finite,
            classes=problem.data.classes,
        )
        elr = geometric_mean(course.elr[last]) if len(course.elr[last]) else math.nan
        there = sphere if math.isfinite(elr) and course.finite else None
        found.append(
            ConventionalRun(
                setup=setup,
                lr=copy.lr,
                seed=copy.seed,
                regime=regime,
                reason=reason,
                finite=course.finite,
                loss=_finite(loss),
                train_loss=_finite(finite_mean(late[:, k, 0])),
                train_error=_finite(train_error),
                test_error=_finite(evaluations[-1, k, 3]),
                gradient_norm=_finite(finite_mean(course.gradient[last])),
                angular_update=_finite(angle),
                elr=_finite(elr),
                lowest_elr=_finite(course.elr.min()) if len(course.elr) else None,
                highest_elr=_finite(course.elr.max()) if len(course.elr) else None,
                sphere_regime=there.regime(elr) if there is not None else None,
                sphere_loss=there.loss(elr) if there is not None else None,
                shares=sphere.shares(course.elr) if sphere is not None and len(course.elr) else None,
                trend=_finite(trend),
            )
        )
    return found


def settled_runs(runs: Sequence[ConventionalRun]) -> list[ConventionalRun]:
    """The runs of one set-up, falls that are swings about a level labelled by that (:func:`settled`)."""
    cells = [
        Cell(
            elr=run.lr,
            seed=run.seed,
            regime=run.regime,
            reason=run.reason,
            loss=_known(run.loss),
            train_loss=_known(run.train_loss),
            loss_at_init=math.nan,
            train_error=_known(run.train_error),
            test_error=_known(run.test_error),
            angular_update=_known(run.angular_update),
            trend=_known(run.trend),
            gradient_norm=_known(run.gradient_norm),
            finite=run.finite,
            round=0,
        )
        for run in runs
    ]
    return [
        replace(run, regime=cell.regime, reason=cell.reason) for run, cell in zip(runs, settled(cells), strict=True)
    ]


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def stages(spec: ConventionalSpec, given: Mapping[Setup, Ready]) -> list[Stage]:
    """The runs of every set-up."""
    return [Stage(TITLES[setup], given[setup].problem, copies_of(spec, setup)) for setup in spec.setups]


EXPERIMENT = Experiment(
    spec=ConventionalSpec,
    result=ConventionalResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=lambda result: describe(result.runs),
    runs=lambda result: len(result.runs),
    printed=printed,
    stages=stages,
)
resume_conventional = EXPERIMENT.resume
