"""The page of a comparison: the verdict, schedules, test errors with intervals, courses, every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.schedule.answer import answer, numbers
from onsphere.lab.experiments.schedule.charts import (
    COLOURS,
    courses_chart,
    errors_chart,
    schedules_chart,
    settings_chart,
)
from onsphere.lab.experiments.schedule.figures import errors_figure, schedules_figure
from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.experiments.schedule.view import courses
from onsphere.lab.intervals import Interval, difference
from onsphere.lab.report.page import Cell, Page, Section, Table
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run

__all__ = ["command", "write_page"]

_TITLE = "The proposed schedule against tuned rivals"

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


def write_page(run: Run, result: ScheduleResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    found, line = courses(run, result), subtitle(result.spec)
    with style():
        drawn = {
            "schedules": schedules_figure(result, found, _TITLE, line),
            "errors": errors_figure(result, _TITLE, line),
        }
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    timings = read_engine(run)["timings"]
    seeds = int(result.spec["seeds"])
    runs = seeds * len(result.methods)
    page = Page(
        title=_TITLE,
        subtitle=line,
        answer=answer(result),
        summary=[
            counted(len(result.methods), "method"),
            counted(seeds, "seed"),
            f"tuned on the {result.tuned_on} images",
            format_duration(result.seconds),
        ],
        sections=[
            Section("errors", "Test error", [errors_chart(result)]),
            Section("schedules", "Schedules", [schedules_chart(result, found)]),
            Section("courses", "Course of training", [courses_chart(found)]),
            Section("settings", "Every setting", [settings_chart(result), _table(result)]),
            measured_section(
                ("quantity", "what it is"), _MEASUREMENTS, note="Every method takes the same number of steps."
            ),
            cost_section(
                result.seconds,
                runs,
                result.engine | {"timings (CPU s per copy and step)": timings},
                run.manifest["environment"],
            ),
            repeat_section(command(result.spec), to_toml(_repeated(result.spec))),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def subtitle(spec: dict[str, Any]) -> str:
    """What was trained on what, in a line."""
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((64, 64) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    parts = [f"{spec['data']}, {images}{noise}", f"{spec['model']} {size}".strip(), spec["loss"]]
    return " · ".join([*parts, f"{spec['steps']} steps, batch {spec['batch_size']}"])


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the comparison: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.compare_schedules(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("schedule", ScheduleSpec, _repeated(spec), none={"train": "all"})


def _repeated(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields without the map's folder, once what was read from it is among them."""
    return {name: value for name, value in spec.items() if name != "map" or spec["convergence"] is None}


def _table(result: ScheduleResult) -> Table:
    validated = result.tuned_on == "validation"
    columns = [
        ("method", "family"),
        ("numbers", "learning rates; on the sphere effective ones"),
        ("tuned", "whether it is the best of its family in tuning"),
        ("test error (%)", "mean over seeds"),
        ("95 % interval", "t-interval over seeds"),
        ("proposal − it", "points of test error, paired by seed: mean ± standard error"),
        ("test loss", "mean over seeds"),
        ("train error (%)", "mean over seeds, labels as trained on"),
        ("train loss", "mean over seeds"),
        *([("validation error (%)", "mean over seeds; tuning goes by it")] if validated else []),
    ]
    own = next(method for method in result.methods if method.family == "proposed")
    return Table(
        columns,
        [_row(method, own, validated) for method in result.methods],
        caption="One row a setting. Click a heading to sort, click again to turn the order around.",
        sortable=True,
        numeric=frozenset({3, 5, 6, 7, 8, 9} if validated else {3, 5, 6, 7, 8}),
        tight=frozenset({0, 1, 4}),
    )


def _row(method: Method, own: Method, validated: bool) -> list[Cell | str]:
    error = method.over_seeds("test_error")
    gap = difference(own.test_error, method.test_error)
    cells: list[Cell | str] = [
        Cell(method.name, colour=COLOURS[method.family][0]),
        Cell(numbers(method), method.lr),
        "yes" if method.tuned else "",
        _percent(error),
        Cell(f"{100 * error.low:.2f} – {100 * error.high:.2f}", error.low),
        Cell("" if method is own else f"{100 * gap.mean:+.2f} ± {100 * gap.standard_error:.2f}", gap.mean),
        _plain(method.over_seeds("test_loss")),
        _percent(method.over_seeds("train_error")),
        _plain(method.over_seeds("train_loss")),
    ]
    return [*cells, _percent(method.over_seeds("validation_error"))] if validated else cells


def _percent(measure: Interval) -> Cell:
    return Cell(f"{100 * measure.mean:.2f}", measure.mean)


def _plain(measure: Interval) -> Cell:
    return Cell(format_number(measure.mean), measure.mean)
