"""The page of the periods: the answer, courses, the loop, the law, predictions beside measurements, follow-ups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from onsphere.lab.chart.spec import Chart
from onsphere.lab.experiments.periods.charts.again import (
    ensemble_chart,
    fixed_chart,
    minima_chart,
    sharpness_chart,
    traces_chart,
)
from onsphere.lab.experiments.periods.charts.course import course_chart, drawn, loop_chart
from onsphere.lab.experiments.periods.charts.settings import law_chart, sphere_chart, width_chart
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun, Setting, summaries
from onsphere.lab.experiments.periods.science.rows import Minima, Sharpness, Traces
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.frame import Report
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import Array
from onsphere.lab.report.page import Block, Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import MOMENTUM, data_words, network_words, tensor_words
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]


_MEASUREMENTS = (
    ("loss", "mean over the minibatch of a step, batch statistics of that minibatch"),
    ("ELR", f"lr / norm²; {MOMENTUM}"),
    ("effective gradient norm", "norm · ‖gradient‖: the gradient's norm at the unit sphere, of the step's minibatch"),
    ("1 − cos", "of the angle between the weights before and after a step, from tan = ELR · gradient / (1 − lr · wd)"),
    ("jump", "a peak of the ELR that a fall by more than a factor 1.25 follows; none is counted in the burn-in"),
    ("δ-jump", "a step with 1 − cos above δ = max(0.02, 7 lr · wd), none within τ/5 of the one before"),
    ("period", "steps from one jump to the next; the median over a run"),
    ("τ", "1 / (2 lr · wd): steps in which decay alone raises the ELR by the factor e"),
    (
        "recovery",
        "steps from the lowest ELR after a jump to the next jump; predicted by the norm recurrence without gradients: "
        "ln(ratio of both ELRs) / (−2 ln(1 − lr · wd))",
    ),
    (
        "rms angle",
        "root mean square of the angle of a step, over the window that starts after 3 τ (within the second "
        "quarter of the run); at equilibrium √(2 lr · wd)",
    ),
    ("equilibrium ELR", "√(2 lr · wd) over the root mean square effective gradient, both in that window"),
    ("test error", "with batch statistics re-estimated over all training images at the weights of that step"),
)


def _median(name: str) -> Callable[[Setting], float | None]:
    return lambda setting: setting.median(name)


def _off(measured: str, predicted: str) -> Callable[[Setting], float | None]:
    """How far the median of the first is from that of the second, percent."""

    def percent(setting: Setting) -> float | None:
        one, other = setting.median(measured), setting.median(predicted)
        return 100 * (one / other - 1) if one and other else None

    return percent


def _jumps(setting: Setting) -> Cell:
    low, high = setting.jumps
    return Cell(str(low) if low == high else f"{low}–{high}", (low + high) / 2)


def _longer(setting: Setting) -> float | None:
    ratio = setting.median("recovery_ratio")
    return None if ratio is None else 100 * (ratio - 1)


def _angle(run: PeriodsRun) -> float | None:
    return None if run.rms_angular_update is None else run.rms_angular_update / run.predicted_angular_update


def _disagreement(one: Minima) -> float:
    return 100 * mean(one.disagreement[i][j] for i in range(len(one.steps)) for j in range(i))


def _points(row: Traces) -> Iterator[tuple[Any, ...]]:
    """The points of a run, a row of the table each: the run, the step, norm, traces with their errors."""
    columns = (row.steps, row.norm, row.hessian, row.hessian_error, row.ggn, row.ggn_error)
    return ((row, *values) for values in zip(*columns, strict=True))


def _control(row: Sharpness) -> list[float]:
    return [value for value in row.control if value is not None]


_SETTING = (Column("lr", "lr"), Column("wd", "weight_decay", "weight decay"))
_RUN = (*_SETTING, Column("seed", "seed"))

PREDICTIONS = (
    *_SETTING,
    Column(
        "behaviour",
        "behaviour",
        "periodic: at least three jumps; equilibrium: a steady ELR without jumps after 3 τ",
        kind="text",
    ),
    Column("jumps", _jumps, "fewest and most in a run"),
    Column("period", _median("period"), "median distance of jumps, steps"),
    Column("of τ", _median("period_tau"), "period times 2 lr wd", digits=2),
    Column("first jump", _median("first_jump"), "step, measured"),
    Column("predicted", _median("predicted_first_jump"), "from the lowest ELR before the first jump"),
    Column("recovery", _median("measured_recovery"), "steps from the lowest ELR after a jump to the next one"),
    Column("predicted", _median("predicted_recovery"), "by the norm recurrence without gradients"),
    Column("off (%)", _longer, "median over recoveries of measured over predicted", digits=2),
)
EQUILIBRIUM = (
    *_SETTING,
    Column("rms angle", _median("rms_angular_update"), "radians, after 3 τ"),
    Column("√(2 lr wd)", _median("predicted_angular_update"), "its value at equilibrium"),
    Column("off (%)", _off("rms_angular_update", "predicted_angular_update")),
    Column("ELR", _median("mean_elr"), "geometric mean after 3 τ"),
    Column("balance", _median("predicted_elr"), "the ELR at which decay and the mean squared gradient balance"),
    Column("off (%)", _off("mean_elr", "predicted_elr")),
    Column("spread", _median("elr_spread"), "standard deviation of log ELR"),
    Column(
        "jumpiness",
        _median("jumpiness"),
        "mean squared effective step over its equilibrium, less 1: 0 for steps of one size",
    ),
    Column("loss", _median("loss"), "mean of minibatches after 3 τ"),
)
RUNS = (
    *_RUN,
    Column("behaviour", "behaviour", kind="text"),
    Column("jumps", lambda run: len(run.jumps), "by the zigzag rule"),
    Column("δ-jumps", "delta_jumps", "steps with 1 − cos above δ"),
    Column("period", "period", "steps"),
    Column("recovery", "recovery_ratio", "measured over predicted"),
    Column("ELR drop", "elr_drop", "median factor of a jump"),
    Column("rms angle", _angle, "over √(2 lr wd)"),
    Column("ELR spread", "elr_spread", "standard deviation of log ELR"),
    Column("loss", "loss", "mean of minibatches after 3 τ"),
    Column("test err (%)", "test_error", "at the end", kind="percent"),
)
#: Where some labels are wrong.
_APART = (
    Column("right labels (%)", "clean_error", "error on training images with right labels, at the end", kind="percent"),
    Column("wrong labels (%)", "corrupted_error", "error on those with wrong ones, by these", kind="percent"),
)
COMPARISON = (
    *_SETTING,
    Column("ELR", "elr", "geometric mean in the whole space after 3 τ"),
    Column("loss", "loss", "mean minibatch loss there, geometric mean over seeds"),
    Column("on the sphere", "sphere_loss", "at the same ELR, by interpolation on logarithmic scales"),
    Column("ratio", "ratio"),
    Column("δ-jumps", "delta_jumps", "a run, in the whole space"),
    Column("on the sphere", "sphere_delta_jumps", "δ-jumps a run at that ELR"),
)
MINIMA = (
    *_RUN,
    Column("minima", lambda one: len(one.steps), "periods whose minimum was kept"),
    Column("angle", lambda one: mean(one.consecutive), "mean between consecutive minima, radians"),
    Column("disagreement (%)", _disagreement, "mean over all pairs: test images labelled differently"),
    Column("test err, first (%)", lambda one: 100 * one.test_error[0], "of the first period's minimum"),
    Column("test err, mean (%)", lambda one: 100 * mean(one.test_error), "of all minima"),
    Column(
        "ensemble (%)",
        lambda one: 100 * one.ensemble_error[-1],
        "test error of the averaged predictions of all minima",
    ),
)
FIXED = (
    *_RUN,
    Column("norm", "norm", "at the checkpoint"),
    Column("ELR", "elr", "lr / ((1 − lr · wd) norm²), fixed"),
    Column("loss, fixed", "loss", "mean of minibatches over the window of the free run's equilibrium"),
    Column("loss, free", "free_loss", "the same with the norm free"),
    Column("δ-jumps, fixed", "delta_jumps", "steps with 1 − cos above δ"),
    Column("δ-jumps, free", "free_delta_jumps", "the same with the norm free"),
    Column("test err, fixed (%)", "test_error", "at the end", kind="percent"),
    Column("test err, free (%)", "free_test_error", "at the end", kind="percent"),
)
TRACES = (
    Column("lr", lambda point: point[0].lr),
    Column("wd", lambda point: point[0].weight_decay, "weight decay"),
    Column("step", lambda point: point[1]),
    Column("norm", lambda point: point[2]),
    Column("trace of H", lambda point: point[3], "Hessian of the training-mode loss on a fixed batch"),
    Column("±", lambda point: point[4], "standard error over probes", digits=2),
    Column("trace of G", lambda point: point[5], "Gauss-Newton matrix"),
    Column("±", lambda point: point[6], "standard error over probes", digits=2),
)
SHARPNESS = (
    *_RUN,
    Column("jump", "jump", "step"),
    Column("threshold", "threshold", "2, or 2 (1 + α) / (1 − α) with momentum α"),
    Column("highest before", "highest", "ELR · sharpness in the steps before the jump, without the jump itself"),
    Column("passed", "crossing", "steps before the jump at which it was first seen above the threshold"),
    Column(
        "control, mean",
        lambda row: mean(_control(row)) if _control(row) else None,
        "midway between the jump before (or step 0) and this one",
    ),
    Column("control, highest", lambda row: max(_control(row), default=None)),
)


def report(run: Run, result: PeriodsResult) -> Report:
    """What is to be read about the periods; the shards of the run hold the courses."""
    settings, shown = summaries(result.runs), drawn(run, result)
    left = len(result.runs) - len(shown)
    note = [Text(f"{counted(left, 'more run')} in the tables below, not drawn.", tone="note")] if left else []
    jumps = sum(len(one.jumps) for one in result.runs)
    return Report(
        title="The periods of training with weight decay",
        subtitle=subtitle(result.spec),
        summary=[
            *(counted(len(result.runs), "run"), counted(len(settings), "setting"), counted(jumps, "jump")),
            f"ELR of {counted(len(result.engine.invariant), 'tensor')}",
        ],
        sections=[
            Section("course", "Course of training", [course_chart(shown), *note]),
            *_section("loop", "One period as a loop", [loop_chart(shown)]),
            *_section("law", "Period against lr · wd", [law_chart(result)]),
            *_section("width", "Over the width", [width_chart(result)]),
            Section(
                "predictions",
                "Predicted and measured",
                [
                    table(settings, _with_width(PREDICTIONS, result), f"Medians over seeds. {SORT}"),
                    table(settings, _with_width(EQUILIBRIUM, result), "The equilibrium, medians over seeds."),
                ],
            ),
            *_section(
                "sphere",
                "The same on the sphere",
                [sphere_chart(result)],
                table(result.comparison, COMPARISON, "Whole space and sphere."),
            ),
            *_section(
                "traces",
                "Traces along training",
                [traces_chart(result)],
                table([point for row in result.traces for point in _points(row)], TRACES, "Traces along training."),
            ),
            *_section(
                "fixed",
                "With the norm fixed",
                [fixed_chart(shown, fixed_losses(run, result))],
                table(result.fixed, FIXED, f"The norm fixed at the checkpoint's, and free. {SORT}"),
            ),
            *_section(
                "minima",
                "Minima of different periods",
                [minima_chart(result), ensemble_chart(result)],
                table(result.minima, MINIMA, "Minima of a run's periods."),
            ),
            *_section(
                "sharpness",
                "Sharpness at jumps",
                [sharpness_chart(result)],
                table(result.sharpness, SHARPNESS, "ELR · sharpness at jumps."),
            ),
            Section(
                "runs",
                "All runs",
                [table(result.runs, _with_width(_runs(result), result), f"One row a run. {SORT}")],
                folded=len(result.runs) > 10,
            ),
        ],
        measured=[("tensors", tensor_words(result.spec.elr_of, result.engine.invariant)), *_MEASUREMENTS],
    )


def printed(result: PeriodsResult) -> list[Table | str]:
    """The settings as a table, medians over seeds."""
    columns = [PREDICTIONS[i] for i in (0, 1, 3, 4, 5, 8, 9)]
    columns += [EQUILIBRIUM[2], replace(EQUILIBRIUM[3], heading="predicted"), EQUILIBRIUM[5]]
    return [table(summaries(result.runs), _with_width(columns, result))]


def _with_width(columns: Sequence[Column], result: PeriodsResult) -> list[Column]:
    """The same columns, with the width foremost where there are several."""
    return [*([Column("width", "width")] if result.spec.each_width else []), *columns]


def _section(id: str, title: str, drawable: list[Chart | None], *more: Block) -> list[Section]:
    """A section, if its charts could be drawn."""
    found = [chart for chart in drawable if chart is not None]
    return [Section(id, title, [*found, *more])] if found else []


def _runs(result: PeriodsResult) -> tuple[Column, ...]:
    apart = any(run.corrupted_error is not None for run in result.runs)
    return (*RUNS, *(_APART if apart else ()))


def fixed_losses(run: Run, result: PeriodsResult) -> dict[tuple[float, float, int], Array]:
    """The minibatch losses [T] of the runs whose norm is fixed, by lr, weight decay, seed."""
    losses = [loss for folder in run.shard_folders("fixed") for loss in ShardFolder(folder).readings().loss.T]
    order = [(lr, decay, seed) for lr, decay in result.spec.settings() for seed in range(result.spec.seeds)]
    return dict(zip(order, losses, strict=False))


def subtitle(spec: PeriodsSpec) -> str:
    """What was trained on what, in a line."""
    batch = "full batch" if spec.batch_size == "full" else f"batch {spec.batch_size}"
    momentum = f", momentum {format_number(spec.momentum_used)}" if spec.momentum_used else ""
    network = network_words(spec, spec.widths_used)
    if spec.each_width:
        network = f"{spec.model} of widths {', '.join(map(str, spec.each_width))}"
    words = [data_words(spec), network, spec.setup.replace("-", " "), spec.loss]
    points = ", ".join(spec.drops or ())
    plans = {
        "constant": "",
        "cosine": ", cosine lr",
        "steps": f", lr in steps {points}",
        "linear": f", lr through {points}",
    }
    scale = f", initial norm × {format_number(spec.norm_scale)}" if spec.norm_scale != 1 else ""
    after = (
        f", from {f'step {spec.at}' if spec.at else 'the end'} of {spec.continue_from}" if spec.continue_from else ""
    )
    return " · ".join([*words, f"SGD{momentum}, {spec.steps} steps, {batch}{plans[spec.schedule]}{scale}{after}"])
