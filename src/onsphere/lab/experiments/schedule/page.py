"""The page of a comparison: the verdict, test errors with intervals, schedules, courses, every setting."""

from __future__ import annotations

import math

from onsphere.lab.experiments.schedule.charts import (
    LOOKS,
    courses,
    courses_chart,
    errors_chart,
    schedules_chart,
    settings_chart,
)
from onsphere.lab.experiments.schedule.result import Measure, Method, ScheduleResult
from onsphere.lab.experiments.schedule.words import numbers
from onsphere.lab.frame import Report
from onsphere.lab.intervals import Interval, difference
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

_MEASUREMENTS = (
    ("ELR", "effective learning rate: on the sphere the step's own, in the whole space lr / norm²"),
    ("threshold", "where convergence ends: geometric middle of the bracket that the map gives"),
    ("proposed schedule", "start ELR = start factor · threshold, held; then down to end factor · threshold"),
    ("test error", "at the last step, batch statistics re-estimated over all training images"),
    ("interval", "95 % t-interval of the mean over seeds; seeds change initial weights, head and batches"),
    ("difference", "proposal minus method, seed by seed, then mean and standard error over seeds"),
    ("not worse", "that difference, against the best tuned method, is at most one standard error"),
    ("tuned", "the lowest mean error of its family on validation images (on the test set where there are none)"),
)


def report(run: Run, result: ScheduleResult) -> Report:
    """What is to be read about a comparison; the shards of the run hold the courses."""
    found, spec, tuned_on = courses(run, result), result.spec, result.tuned_on
    return Report(
        title="The proposed schedule against tuned rivals",
        subtitle=subtitle(spec),
        summary=[
            counted(len(result.methods), "method"),
            counted(spec.seeds, "seed"),
            f"tuned on the {tuned_on} images",
        ],
        sections=[
            Section("errors", "Test error", [errors_chart(result)]),
            Section("schedules", "Schedules", [schedules_chart(result, found)]),
            Section("courses", "Course of training", [courses_chart(found)]),
            Section("settings", "Every setting", [settings_chart(result), _settings(result)]),
        ],
        measured=_MEASUREMENTS,
        note="Every method takes the same number of steps.",
        left_out=() if spec.convergence is None else ("map",),  # what was read from it is among the fields
    )


def printed(result: ScheduleResult) -> list[Table | str]:
    """The tuned methods."""
    columns = [
        Column("method", "name", kind="text"),
        Column("numbers", numbers, kind="text"),
        _mean("test err %", "test_error"),
        Column("95 % interval", lambda m: _between(m.over_seeds("test_error"), "to")),
        _mean("test loss", "test_loss", digits=4),
        _gap("proposal − it", result),
        Column("train err %", lambda m: _percent(m.over_seeds("train_error").mean, ".1f")),
    ]
    return [table(result.tuned, columns)]


def _settings(result: ScheduleResult) -> Table:
    """One row a setting."""
    columns = [
        Column("method", lambda m: Cell(m.name, colour=str(LOOKS[m.family].colour)), "family", kind="tight"),
        Column("numbers", lambda m: Cell(numbers(m), m.lr), "learning rates; on the sphere effective ones", "tight"),
        Column("tuned", lambda m: "yes" if m.tuned else "", "whether it is the best of its family in tuning", "text"),
        _mean("test error (%)", "test_error"),
        Column("95 % interval", lambda m: _between(m.over_seeds("test_error")), "t-interval over seeds", kind="tight"),
        _gap("proposal − it", result, "points of test error, paired by seed: mean ± standard error"),
        _mean("test loss", "test_loss"),
        _mean("train error (%)", "train_error", "mean over seeds, labels as trained on"),
        _mean("train loss", "train_loss"),
    ]
    if result.tuned_on == "validation":
        columns.append(_mean("validation error (%)", "validation_error", "mean over seeds; tuning goes by it"))
    caption = "One row a setting. Click a heading to sort, click again to turn the order around."
    return table(result.methods, columns, caption)


def _mean(heading: str, measure: Measure, hint: str = "mean over seeds", digits: int = 3) -> Column:
    """The mean of a measure over seeds, of an error in percent."""

    def cell(method: Method) -> Cell:
        mean = method.over_seeds(measure).mean
        return _percent(mean) if measure.endswith("error") else Cell(format_number(mean, digits), mean)

    return Column(heading, cell, hint)


def _gap(heading: str, result: ScheduleResult, hint: str = "") -> Column:
    """The difference of the proposal from a method, paired by seed; nothing for the proposal itself."""
    own = next(method for method in result.methods if method.family == "proposed")

    def cell(method: Method) -> Cell:
        gap = difference(own.test_error, method.test_error)
        shown = "" if method is own else f"{_percent(gap.mean, '+.2f').text} ± {_percent(gap.standard_error).text}"
        return Cell(shown, gap.mean)

    return Column(heading, cell, hint)


def _between(measure: Interval, to: str = "–") -> Cell:
    return Cell(f"{_percent(measure.low).text} {to} {_percent(measure.high).text}", measure.low)


def _percent(fraction: float, form: str = ".2f") -> Cell:
    return Cell(format(100 * fraction, form) if math.isfinite(fraction) else MISSING, fraction)
