"""What a run in the whole space is: its measured ELR, its regime by the sphere's rules, its place on the sphere.

With ρ the norm of the scale-invariant weights, g their effective gradient norm, α the momentum, Q4 the last quarter:

    ELR              lr_t / ((1 - α) ρ²), measured at every step
    angular update   atan2(ELR g, 1 - lr_t weight_decay); without momentum only, whose steps are not along a gradient
    label            as on the sphere (:mod:`onsphere.lab.experiments.regimes.classify`); with momentum, "divergence"
                     is instead a training error in Q4 above 0.9 (1 - 1 / classes), that of guessing
    sphere_loss      the loss that belongs on the sphere to the mean ELR of Q4 (:mod:`.sphere_map`)

Source: Kodryan et al., NeurIPS 2022, section 6 (conventional training).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.conventional.result import ConventionalRun
from onsphere.lab.experiments.conventional.spec import Setup
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.regimes.classify import Cell, Regime, classify
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.population.course import Course, courses_of

GUESSING = 0.9  # of the error of guessing
Array = NDArray[np.float64]


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
        )
        for cell in cells
    ]


def space_runs(
    problem: Problem, shard: ShardFolder, setup: Setup, invariant: Sequence[str], sphere: SphereMap | None
) -> list[ConventionalRun]:
    """The runs of an ended shard in the whole space."""
    steps, evaluations = shard.evaluations()
    late = evaluations[steps > problem.steps - problem.steps // 4]
    factors = problem.lr_factors(0, problem.steps)
    return [
        _run(course, setup, late[:, k], evaluations[-1, k], factors, problem.steps, problem.data.classes, sphere)
        for k, course in enumerate(courses_of(shard, invariant, problem.schedule))
    ]


def _run(
    course: Course,
    setup: Setup,
    late: Array,
    final: Array,
    factors: Array,
    steps: int,
    classes: int,
    sphere: SphereMap | None,
) -> ConventionalRun:
    quarter = steps // 4
    last, before = slice(steps - quarter, None), slice(steps - 2 * quarter, steps - quarter)
    copy = course.copy
    angle = None
    if copy.momentum == 0:
        decay = copy.lr * copy.weight_decay * factors[: len(course.elr)]
        angle = _mean(np.arctan2(course.effective_step, 1 - decay)[last])
    train_error = _mean(late[:, 1])
    trend = _mean(course.loss[last]) / _mean(course.loss[before])
    regime, reason = label(angle, train_error, trend, course.finite, classes)
    elr = float(np.exp(np.log(course.elr[last]).mean())) if len(course.elr[last]) else math.nan
    known = sphere is not None and math.isfinite(elr) and course.finite
    return ConventionalRun(
        setup=setup,
        lr=copy.lr,
        seed=copy.seed,
        regime=regime,
        reason=reason,
        finite=course.finite,
        loss=_finite(_mean(course.loss[last])),
        train_loss=_finite(_mean(late[:, 0])),
        train_error=_finite(train_error),
        test_error=_finite(float(final[3])),
        gradient_norm=_finite(_mean(course.gradient[last])),
        angular_update=None if angle is None else _finite(angle),
        elr=_finite(elr),
        lowest_elr=_finite(float(course.elr.min())) if len(course.elr) else None,
        highest_elr=_finite(float(course.elr.max())) if len(course.elr) else None,
        sphere_regime=sphere.regime(elr) if sphere is not None and known else None,
        sphere_loss=sphere.loss(elr) if sphere is not None and known else None,
        shares=sphere.shares(course.elr) if sphere is not None and len(course.elr) else None,
    )


def label(
    angular_update: float | None, train_error: float, trend: float, finite: bool, classes: int
) -> tuple[Regime, str]:
    """The regime of a run and why; without an angular update by the error of guessing."""
    if angular_update is not None:
        return classify(angular_update=angular_update, train_error=train_error, trend=trend, finite=finite)
    guessing = GUESSING * (1 - 1 / classes)
    if finite and train_error > guessing:
        return "divergence", f"guesses: training error {100 * train_error:.2g} % > {100 * guessing:.2g} %"
    regime, reason = classify(angular_update=math.nan, train_error=train_error, trend=trend, finite=finite)
    return regime, reason.replace(", angular update nan rad", "")


def _mean(values: Array) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else math.nan


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
