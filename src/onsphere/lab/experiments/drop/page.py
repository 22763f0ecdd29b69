"""The page of a drop: which start is best, the matrix, gradients and barriers; its table in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.drop.analyse import CONNECTED_ERROR, errors_of, paired
from onsphere.lab.experiments.drop.charts import after_chart, barrier_chart, error_chart, matrix_chart
from onsphere.lab.experiments.drop.result import Best, Difference, DropResult, MatrixCell, StartClass
from onsphere.lab.experiments.drop.words import interval
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import data_words, network_words
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_RULE = (
    "1: most seeds converge before the drop. 3: most seeds diverge before it. Between: 2A if in most seeds all paths "
    "between the continuations at the smallest and largest final ELR and the average of the snapshots are connected, "
    "2B if not. A path is connected if its error barrier on the training images is at most "
    f"{100 * CONNECTED_ERROR:g} % or, if that is more, two standard errors √(p(1 − p)/N) of the mean error p of its "
    "ends. The rule is ours; the classes are those of Sadrtdinov, Kodryan et al. (NeurIPS 2024)."
)
_MEASUREMENTS = (
    ("test error, losses", "all images at the last step, batch statistics re-estimated over all training images"),
    ("± and bars", "one standard error over seeds; the test images are the same for every seed"),
    (
        "difference",
        "of two starts seed by seed, with its 95 % interval by Student's t over seeds; clear if zero is outside. It is "
        "not widened for having looked at many starts: the gain “by others” is free of that",
    ),
    ("by others", "each seed's start is the one with the lowest mean test error of the other seeds"),
    (
        "convergence",
        "training error below 1 % in the last quarter before the drop, or mean loss of that quarter below 0.93 of the "
        "quarter before; it ends between the largest start up to which most seeds converge and the next one",
    ),
    ("gradient norm", "mean of norm · ‖gradient‖ of the minibatches over the last quarter of the steps after the drop"),
    ("top eigenvalue", "of the training-mode Hessian on the unit sphere at the last step, by Lanczos to 1 %"),
    ("angle", "between the weights at the drop and at the end"),
    ("average", "of the directions of the last snapshots before the drop, put back onto the sphere"),
    ("barrier", "largest excess of training error or loss over the line between the ends of a great circle"),
)


def report(run: Run, result: DropResult) -> Report:
    """What is to be read about a drop."""
    spec = result.spec
    barriers = [barrier_chart(result)] if result.paths else []
    steps = f"{spec.steps} + {spec.drop_steps} steps, batch {spec.batch_size}"
    return Report(
        title="Dropping the effective learning rate",
        subtitle=" · ".join([data_words(spec), network_words(spec), spec.loss, steps]),
        summary=[
            counted(result.runs, "run"),
            counted(len(result.starts), "start"),
            counted(len(result.ends), "final ELR"),
            f"{spec.seeds} seeds",
        ],
        sections=[
            Section("error", "Which start is best", [error_chart(result), _best_table(result)]),
            Section("matrix", "The whole matrix", [matrix_chart(result), _matrix_table(result)]),
            Section("after", "How flat it is after the drop", [after_chart(result)]),
            Section("classes", "Connected or not", [*barriers, _classes_table(result), Text(_RULE, tone="note")]),
        ],
        measured=_MEASUREMENTS,
    )


def printed(result: DropResult) -> list[Table | str]:
    """The matrix of test errors (means over seeds ± standard errors) with the class of each start."""

    def columns(end: float) -> list[Column]:
        return [
            Column(f"to {format_number(end)}", lambda one: _share(result.at(one.start, end))),
            Column("gradient", lambda one: result.at(one.start, end).gradient_norm),
        ]

    parts = [Column("from ELR", "start"), Column("class", "label", kind="tight")]
    parts += [column for end in result.ends for column in columns(end)]
    parts += [_average(result, "average")] if result.averages else []
    return [
        "test error in percent, mean ± standard error over seeds; gradient norm after the drop",
        table(result.classes, parts),
    ]


def _best_table(result: DropResult) -> Table:
    """The best start of every final ELR and how sure it is."""

    def beside(name: str, way: int) -> Column:
        def shown(best: Best) -> Cell:
            return _points(next((d for start, d in best.neighbours if way * (start - best.start) > 0), None))

        return Column(f"over {name}", shown, f"best minus the next {name} start, with its 95 % interval")

    columns = (
        Column("to ELR", "end", "effective learning rate after the drop"),
        Column("best start", "start", "the start with the lowest mean test error"),
        Column("test error (%)", _share, "its mean over seeds ± one standard error"),
        Column("no drop (%)", lambda b: _share(b, "no_drop"), "the final ELR throughout, with as many steps"),
        Column("gain (points)", lambda b: _points(b.gain), "best minus no drop, with its 95 % interval"),
        beside("smaller", -1),
        beside("larger", 1),
        Column(
            "by others",
            lambda b: _hundredths(b.held_out),
            "mean gain if every seed's start is chosen by the other seeds",
        ),
        Column("gradient ratio", "gradient_ratio", "gradient norm after the drop over that without a drop", digits=2),
    )
    caption = "Differences in percentage points of test error, best minus other: negative is better."
    return table(result.best, columns, caption, sortable=False)


def _matrix_table(result: DropResult) -> Table:
    """Every start and final ELR."""
    errors = errors_of(result.continuations)

    def gain(cell: MatrixCell) -> Cell:
        if cell.start == cell.end:
            return Cell("no drop", 0.0)
        return _points(paired(errors[cell.end].get(cell.start, {}), errors[cell.end][cell.end]))

    def train_loss(cell: MatrixCell) -> Cell:
        return Cell(f"{format_number(cell.train_loss)} ({100 * cell.train_error:.1f} %)", cell.train_loss)

    columns = [
        Column("from ELR", "start", "effective learning rate before the drop"),
        Column("to ELR", "end", "after it; equal: no drop"),
        Column("test error (%)", _share, "mean over seeds ± one standard error"),
        Column("minus no drop", gain, "in points, with its 95 % interval over seeds"),
        Column("test loss", _mean("test_loss"), "mean ± one standard error"),
        Column("train loss (error)", train_loss, "means over seeds"),
        Column(
            "gradient norm",
            _mean("gradient_norm"),
            "stochastic, over the last quarter after the drop ± one standard error",
        ),
        Column("top eigenvalue", _mean("sharpness"), "on the unit sphere ± one standard error"),
        Column("angle (rad)", "angle", "from the drop to the end"),
    ]
    shown = [column for column in columns if result.sharp or column.heading != "top eigenvalue"]
    return table(result.matrix, shown, "One row a pair of ELRs. Click a heading to sort.")


def _classes_table(result: DropResult) -> Table:
    """The class of every start with what it follows from."""
    ends = {
        "low-high": "the continuations at the smallest and largest final ELR",
        "average-low": "the average and the continuation at the smallest final ELR",
        "average-high": "the average and the continuation at the largest final ELR",
    }

    def regimes(one: StartClass) -> str:
        return ", ".join(f"{count} {REGIME_NAMES[name]}" for name, count in one.regimes.items())

    def barriers(pair: str) -> Column:
        heading, hint = f"{pair.replace('-', '–')} (%)", f"mean error barrier between {ends[pair]}"
        return Column(heading, lambda one: _hundredths(one.barriers.get(pair)), hint)

    columns = [
        Column("start", "start", "effective learning rate before the drop"),
        Column("class", "label", "1, 2A, 2B or 3 by the rule below", kind="text"),
        Column("seeds before the drop", regimes, "how many were in which regime", kind="text"),
        Column(
            "connected",
            lambda one: Cell(f"{one.connected} of {one.measured}" if one.measured else MISSING),
            "seeds in which all paths are connected",
        ),
        *map(barriers, ends),
        Column("low–high (rad)", lambda one: one.angles.get("low-high"), "mean angle between these continuations"),
        _average(result, "average (%)"),
    ]
    return table(result.classes, columns, "One row a start.", sortable=False)


def _average(result: DropResult, heading: str) -> Column:
    errors = result.average_errors()
    return Column(
        heading,
        lambda one: _hundredths(fmean(errors[one.start]) if one.start in errors else None),
        "test error of the average of the snapshots before the drop, mean over seeds",
    )


def _share(of: Best | MatrixCell, name: str = "test_error") -> Cell:
    """A test error in percent with its standard error."""
    value, error = getattr(of, name), getattr(of, f"{name}_se")
    return Cell(f"{100 * value:.2f} ± {100 * error:.2f}", value)


def _mean(name: str) -> Callable[[MatrixCell], Cell]:
    """What shows a mean of the matrix with its standard error."""

    def shown(cell: MatrixCell) -> Cell:
        value, error = getattr(cell, name), getattr(cell, f"{name}_se")
        if value is None or math.isnan(value):
            return Cell(MISSING, math.nan)
        return Cell(f"{format_number(value)} ± {format_number(error, 2)}", value)

    return shown


def _points(found: Difference | None) -> Cell:
    return Cell(MISSING, math.nan) if found is None else Cell(interval(found), found.mean)


def _hundredths(share: float | None) -> Cell:
    """A share in percent or in points, two decimals."""
    if share is None or math.isnan(share):
        return Cell(MISSING, math.nan)
    return Cell(f"{100 * share:.2f}", share)
