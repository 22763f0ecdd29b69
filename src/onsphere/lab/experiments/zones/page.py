"""The page of the zones: what was found, sharpness along paths, the map of outcomes, courses, the threshold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.regimes import page as regimes_page
from onsphere.lab.experiments.zones.answer import answer
from onsphere.lab.experiments.zones.charts import LOOKS, Course, course_chart, map_chart, path_chart, threshold_chart
from onsphere.lab.experiments.zones.figures import figures_of
from onsphere.lab.experiments.zones.result import ZonesResult
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.population import ShardFolder
from onsphere.lab.report.page import Cell, Page, Section, Table
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration, format_number, format_percent
from onsphere.lab.store import Run

__all__ = ["write_page"]

_TITLE = "The zone of high sharpness"

_MEASUREMENTS = (
    (
        "sharpness",
        "top Hessian eigenvalue on the unit sphere of the loss in training mode (batch statistics of the batch), on "
        "all training images up to --examples as one batch; Lanczos to a relative error of 1e-3",
    ),
    ("ELR · sharpness", "gradient descent is stable below 2 where the loss is a parabola"),
    ("loss of a continuation", "of its minibatches, as a running mean over an epoch; with full batches of every step"),
    ("goes up", "its highest loss is above 1.2 times the loss where it began"),
    (
        "comes through",
        "its mean loss over the last quarter is at most 1.05 times that of the path over the same steps",
    ),
    ("rise of sharpness", "highest ratio of sharpness to the lowest before it on the same path"),
    ("test error", "at the end of the continuation, batch statistics re-estimated over all training images"),
)


def write_page(run: Run, result: ZonesResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    named = subtitle(result.spec)
    with style():
        drawn = {name: draw() for name, draw in figures_of(result, _TITLE, named).items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    engine = result.engine | {"timings (CPU s per copy and step)": read_engine(run)["timings"]}
    given = {name: value for name, value in result.spec.items() if value is not None}
    paths = len(result.spec["path_elrs"]) * result.spec["seeds"]
    page = Page(
        title=_TITLE,
        subtitle=named,
        answer=answer(result),
        summary=[
            counted(paths, "path"),
            counted(len(result.continuations), "continuation"),
            format_duration(result.seconds),
        ],
        sections=[
            Section("path", "Sharpness along the paths", [path_chart(result)]),
            Section(
                "map", "Continued with other ELRs", [map_chart(result), course_chart(result, courses(run, result))]
            ),
            Section("threshold", "What ELR times sharpness tells", [threshold_chart(result)]),
            Section("continuations", "All continuations", [_table(result)], folded=True),
            measured_section(
                ("quantity", "what it is"),
                _MEASUREMENTS,
                note="Times are in steps; the figures of a path and of its continuations are those of the same seed.",
            ),
            cost_section(result.seconds, paths + len(result.continuations), engine, run.manifest["environment"]),
            repeat_section(command(result.spec), to_toml(given)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def subtitle(spec: dict[str, Any]) -> str:
    """What was trained on what, in a line."""
    return regimes_page.subtitle(spec).replace("batch full", "full batch")


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the run: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.map_zones(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command(ZonesResult.command, ZonesSpec, spec, none={"train": "all"})


def courses(run: Run, result: ZonesResult) -> list[Course]:
    """The losses of the first seed's continuations and of its path, read back from the run's folder."""
    spec = result.spec
    outcomes = {(row.checkpoint, row.elr): row.outcome for row in result.continuations if row.seed == 0}
    branches = sorted({row.checkpoint for row in result.continuations})
    length = spec["continue_steps"]
    steps = np.arange(length, dtype=np.float64)
    found = []
    for folder in run.shard_folders():
        shard = ShardFolder(folder)
        loss = shard.readings().loss
        for k, copy in enumerate(shard.copies()):
            if copy.seed != 0:
                continue
            if folder.name.startswith("continue-"):
                step = branches[copy.start % len(branches)]
                found.append(Course(step, copy.lr, steps, loss[:, k], outcomes[step, copy.lr]))
            elif copy.lr == spec["path_elrs"][0]:
                found += [Course(step, None, steps, loss[step : step + length, k]) for step in branches]
    return sorted(found, key=lambda course: (course.checkpoint, course.elr or 0.0))


def _table(result: ZonesResult) -> Table:
    columns = [
        ("step", "of the path where it begins"),
        ("seed", ""),
        ("ELR", ""),
        ("outcome", ""),
        ("loss", "where it begins"),
        ("ELR · sharpness", "where it begins"),
        ("highest", "highest loss over that where it begins"),
        ("end", "mean loss over the last quarter"),
        ("path", "that of the path over the same steps"),
        ("ELR · sharpness at the end", ""),
        ("test err (%)", "batch statistics re-estimated"),
    ]
    rows: list[list[Cell | str]] = [
        [
            Cell(str(row.checkpoint), row.checkpoint),
            Cell(str(row.seed), row.seed),
            _number(row.elr),
            Cell(row.outcome, row.outcome, LOOKS[row.outcome][0]),
            *(_number(value) for value in (row.loss, row.product, row.peak, row.end, row.path_end)),
            _number(row.elr * row.end_sharpness),
            Cell(format_percent(row.test_error), row.test_error),
        ]
        for row in result.continuations
    ]
    numeric = frozenset({0, 1, 2, *range(4, 11)})
    return Table(
        columns, rows, caption="Click a heading to sort.", sortable=True, numeric=numeric, tight=frozenset({3})
    )


def _number(value: float) -> Cell:
    return Cell(format_number(value), value if math.isfinite(value) else math.nan)
