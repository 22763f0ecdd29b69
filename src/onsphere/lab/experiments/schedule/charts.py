"""The charts of a comparison: test error by method, schedules, courses of training, every setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.chart.spec import Axis, Chart, Dash, Line, Look, Panel, Points, Rule
from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.experiments.schedule.spec import NAMES, Family
from onsphere.lab.experiments.schedule.words import numbers
from onsphere.lab.intervals import Interval
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.population.readings import Readings
from onsphere.lab.report.smoothing import binned_mean
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

Array = NDArray[np.float64]
LOOKS: Mapping[Family, Look] = {
    "proposed": Look(OKABE_ITO["vermillion"], "#E8743B", marker="diamond"),
    "constant": Look(OKABE_ITO["blue"], OKABE_ITO["sky"], marker="circle"),
    "cosine": Look(OKABE_ITO["green"], "#1FC79A", marker="square"),
    "space-constant": Look(OKABE_ITO["purple"], "#DD93BC", marker="triangle"),
    "space-cosine": Look(OKABE_ITO["orange"], OKABE_ITO["orange"], marker="down"),
}
_TITLE = "The proposed schedule against tuned rivals"
_BINS = 160
_LEAST = 1e-3  # of its largest ELR, below which a cosine's tail is not drawn
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, eq=False)
class Course:
    """The course of one method, over seeds.

    Attributes:
        method: The method that was trained so.
        steps: Step numbers of the points, [T].
        elr: Effective learning rate there, geometric mean over seeds, [T].
        loss: Minibatch loss, geometric mean over seeds and a bin of steps, [T'].
        loss_steps: Mean step of each bin, [T'].
        evaluation_steps: Steps of the evaluations, [E].
        test_error: Mean over seeds, fraction, [E].
    """

    method: Method
    steps: Array
    elr: Array
    loss: Array
    loss_steps: Array
    evaluation_steps: Array
    test_error: Array


def courses(run: Run, result: ScheduleResult) -> list[Course]:
    """The courses of the proposal and the tuned methods, in the order of the result."""
    return [*_round(run, "sphere", result), *_round(run, "space", result)]


def _round(run: Run, name: str, result: ScheduleResult) -> list[Course]:
    """The tuned methods of one round; its copies are settings outermost, then seeds."""
    methods = [method for method in result.methods if method.on_sphere == (name == "sphere")]
    rows = [(shard, k) for shard in map(ShardFolder, run.shard_folders(name)) for k in range(len(shard.copies()))]
    seeds, readings = result.spec.seeds, cache(ShardFolder.readings)
    return [
        _course(method, rows[i * seeds : (i + 1) * seeds], readings) for i, method in enumerate(methods) if method.tuned
    ]


def _course(
    method: Method, copies: Sequence[tuple[ShardFolder, int]], readings: Callable[[ShardFolder], Readings]
) -> Course:
    shard, first = copies[0]
    losses = [readings(shard).loss[:, k] for shard, k in copies]
    total = len(losses[0])
    points = np.unique(np.linspace(0, total - 1, _BINS).round().astype(int))
    elr = phase_lrs(shard.copies()[first].phases, total, 0, total)[points]
    with np.errstate(divide="ignore", over="ignore"):
        if not method.on_sphere:
            squared = [readings(shard).moment("norm2").sum(-1)[points, k] for shard, k in copies]
            elr = elr / np.exp(np.mean(np.log(squared), axis=0))
        loss = np.exp(np.mean(np.log(losses), axis=0))
    loss_steps, binned = binned_mean(np.arange(total), loss, bins=_BINS)
    evaluations = [(k, *shard.evaluations()) for shard, k in copies]
    return Course(
        method=method,
        steps=points.astype(np.float64),
        elr=np.where(elr > _LEAST * np.nanmax(elr), elr, np.nan),
        loss=binned,
        loss_steps=loss_steps,
        evaluation_steps=evaluations[0][1].astype(np.float64),
        test_error=np.mean([values[:, k, 3] for k, _, values in evaluations], axis=0),
    )


def errors_chart(result: ScheduleResult) -> Chart:
    """Test error of the tuned methods with 95 % intervals and every seed, and the paired differences."""
    tuned = list(reversed(result.tuned))
    errors: list[Points] = []
    gaps: list[Points] = []
    for row, method in enumerate(tuned):
        values, look = [100 * value for value in method.test_error], LOOKS[method.family]
        seeds = [f"{method.name}<br>seed {seed} · test error {value:.2f} %" for seed, value in enumerate(values)]
        rings = look.but(marker="circle", hollow=True, size=8)
        errors += [
            Points(values, [row] * len(values), rings, seeds),
            _mean(row, method, method.over_seeds("test_error"), "test error"),
        ]
        if method.family in result.verdict.differences:
            gaps.append(_mean(row, method, result.verdict.differences[method.family], "proposal minus it"))
    names = {float(row): f"{method.name}<br>{numbers(method)}" for row, method in enumerate(tuned)}
    rows = Axis("", range=(-0.6, len(tuned) - 0.4), ticks=names)
    return Chart(
        id="errors-chart",
        title=_TITLE,
        x=Axis("test error (%)"),
        panels=[
            Panel(rows, errors, title="means, 95 % intervals, seeds"),
            Panel(
                rows, gaps, x=Axis("proposal minus method (points)"), title="paired by seed", rules=[Rule(0, along="x")]
            ),
        ],
        columns=2,
        widths=(1.4, 1),
        share_y=True,
        caption=(
            "Left: rings are seeds, filled marks means with 95 % t-intervals over seeds. Right: the proposal minus the "
            "method, paired seed by seed (equal initial weights and batches); left of 0 the proposal is better."
        ),
        label="Test error of the proposed schedule and the tuned methods with intervals",
    )


def schedules_chart(result: ScheduleResult, courses: Sequence[Course]) -> Chart:
    """ELR against step for the proposal and the tuned methods, with the boundaries."""
    rules = [Rule(result.proposal.threshold, "convergence ends")]
    if result.boundaries.divergence is not None:
        rules.append(Rule(result.boundaries.divergence, "divergence begins"))
    lines = [_line(one, one.steps, one.elr, "ELR {y:.3g}") for one in courses]
    return Chart(
        id="schedules-chart",
        title=_TITLE,
        x=Axis("step"),
        panels=[Panel(Axis("effective learning rate (ELR)", log=True), lines, rules=rules)],
        legend="tuned methods",
        caption=(
            "On the sphere the ELR is what the schedule says; in the whole space it is lr / norm², as measured "
            "(geometric mean over seeds). A cosine falls to zero; its last thousandth is not drawn."
        ),
        label="Effective learning rate against step of the proposed schedule and its rivals",
    )


def courses_chart(courses: Sequence[Course]) -> Chart:
    """Minibatch loss and test error against step."""
    losses = [_line(one, one.loss_steps, one.loss, "minibatch loss {y:.3g}") for one in courses]
    errors = [_line(one, one.evaluation_steps, 100 * one.test_error, "test error {y:.2f} %") for one in courses]
    return Chart(
        id="courses-chart",
        title="Course of training of the proposed schedule and its tuned rivals",
        x=Axis("step"),
        panels=[
            Panel(Axis("minibatch loss", log=True), losses),
            Panel(Axis("test error (%)", range=_late(courses), over="earlier errors above"), errors),
        ],
        legend="tuned methods",
        caption=(
            "Means over seeds: the loss of the minibatches (geometric, over bins of steps) and the error on the test "
            "set with batch statistics re-estimated over the training set."
        ),
        label="Minibatch loss and test error against step",
    )


def settings_chart(result: ScheduleResult) -> Chart:
    """Test error of every setting against its (first) learning rate: the sphere left, the whole space right."""
    marks: dict[bool, list[Line]] = {True: [], False: []}
    for family in NAMES:
        own = sorted((method for method in result.methods if method.family == family), key=lambda m: m.lr)
        for number, decay in enumerate(sorted({method.weight_decay for method in own})):
            line = [method for method in own if method.weight_decay == decay]
            marks[line[0].on_sphere].append(_settings(family, decay, line, _DASHES[number % len(_DASHES)]))
    rates = [method.lr for method in result.methods if method.on_sphere]
    known = [(result.proposal.threshold, "convergence ends"), (result.boundaries.divergence, "divergence begins")]
    low, high = min(rates) / 1.4, max(rates) * 1.4
    rules = [Rule(elr, name, along="x") for elr, name in known if elr is not None and low < elr < high]
    error, space = Axis("test error (%)"), _rates("constant or peak lr", result, on_sphere=False)
    return Chart(
        id="settings-chart",
        title="Every setting of the methods",
        x=_rates("constant, start or peak ELR", result, on_sphere=True),
        panels=[
            Panel(error, marks[True], title="on the sphere", rules=rules),
            Panel(error, marks[False], x=space, title="in the whole space"),
        ],
        columns=2,
        widths=(1.5, 1),
        share_y=True,
        caption=(
            "Means over seeds, bars one standard error. Filled marks are those chosen in tuning. Dashed: where "
            "convergence ends and where divergence begins."
        ),
        label="Test error of every setting against its learning rate",
        note="filled: chosen in tuning; bars: one standard error",
    )


def _settings(family: Family, decay: float, line: Sequence[Method], dash: Dash) -> Line:
    errors, name = [method.over_seeds("test_error") for method in line], NAMES[family]
    name += f" {format_number(decay)}" if decay else ""
    return Line(
        [method.lr for method in line],
        [100 * error.mean for error in errors],
        LOOKS[family].but(
            width=1.4,
            dash=dash,
            hollow=tuple(not method.tuned for method in line),
            size=tuple(11.0 if method.tuned else 8.0 for method in line),
        ),
        f"{name}<br>{{x:.3g}} · test error {{y:.2f}} %",
        error=[100 * error.standard_error for error in errors],
        entry=name,
    )


def _rates(title: str, result: ScheduleResult, *, on_sphere: bool) -> Axis:
    """An axis over the learning rates that were tried, with ticks at 1 and 3 times powers of ten."""
    powers = [math.log10(method.lr) for method in result.methods if method.on_sphere == on_sphere]
    whole = range(math.floor(min(powers)), math.ceil(max(powers)) + 1)
    ticks = [step * 10.0**power for power in whole for step in (1, 3)]
    return Axis(title, log=True, ticks={tick: format_number(tick) for tick in ticks})


def _mean(row: int, method: Method, measure: Interval, what: str) -> Points:
    """A mean with its interval in the row of a method; nothing where a seed became non-finite."""
    look = LOOKS[method.family].but(size=11)
    hover = f"{method.name}<br>{what} {{x:.2f}}"
    return Points([100 * measure.mean], [row], look, hover, error_x=[100 * (measure.high - measure.mean)])


def _line(course: Course, x: Array, y: Array, what: str) -> Line:
    """The course of one method; that of the proposal is bolder."""
    method = course.method
    look = LOOKS[method.family].but(marker="", width=2.8 if method.family == "proposed" else 1.6)
    hover = f"{method.name}<br>step {{x:.0f}} · {what}"
    return Line(x, y, look, hover, entry=f"{method.name}, {numbers(method)}")


def _late(courses: Sequence[Course]) -> tuple[float, float] | None:
    """The range in which late test errors differ, in percent: up to three times the lowest."""
    values = np.concatenate([course.test_error[1:] for course in courses])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    top = min(high, 3 * low)
    return 100 * low - 6 * (high - low), 103 * (top if top > low else math.nextafter(low, 1))
