"""The page of the stationary state: what was found, levels and memory, wandering and barriers, the random walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.stabilise.answer import answer, unexpected
from onsphere.lab.experiments.stabilise.charts import (
    levels_chart,
    memory_chart,
    plane_chart,
    walk_chart,
    wander_chart,
    ways_chart,
)
from onsphere.lab.experiments.stabilise.figures import figures_of
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.experiments.stabilise.tables import levels_table, stays_table
from onsphere.lab.experiments.stabilise.view import curves
from onsphere.lab.report.page import Page, Section, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.words import format_duration
from onsphere.lab.store import Run

__all__ = ["write_page"]

_TITLE = "The stationary state from inside"

_MEASUREMENTS = (
    ("loss", "mean over the minibatch of a step, batch statistics of that minibatch"),
    ("effective gradient norm", "norm · ‖gradient‖: the gradient's norm at the unit sphere, of the step's minibatch"),
    ("level", "mean over the second half of the steps after the change, in all runs, changed or not"),
    ("gap", "log of the level after a change minus that of the same seed at this ELR from the start"),
    (
        "difference that is left",
        "least squares over all pairs of ELRs: sum of gap times difference of the two levels over sum of squared "
        "differences; its interval is that of a mean over seeds (Student)",
    ),
    (
        "steps to the level",
        "until a running mean over 16 steps is within 2 standard deviations of such means around the level of the "
        "same seed at this ELR from the start",
    ),
    ("angle to the start", "between all trained weights then and at the start of the stationary phase, float64"),
    (
        "random walk",
        "product of the cosines of all angular updates since: what steps in fresh random tangent directions expect",
    ),
    (
        "loss in the middle, barrier",
        "training loss on the great circle, batch statistics re-estimated at each point, relative to the line "
        "between the ends",
    ),
    ("test error", "batch statistics re-estimated over all training images, mean of the evaluations in the level"),
)


def write_page(run: Run, result: StabiliseResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    lines, named = curves(run, result), subtitle(StabiliseSpec.model_validate(result.spec))
    with style():
        drawn = {name: draw() for name, draw in figures_of(result, lines, _TITLE, named).items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    engine = result.engine | {"timings (CPU s per copy and step)": read_engine(run)["timings"]}
    given = {name: value for name, value in result.spec.items() if value is not None}
    warnings = [Text(text, tone="warning") for text in unexpected(result)]
    page = Page(
        title=_TITLE,
        subtitle=named,
        answer=answer(result),
        summary=_summary(result),
        sections=[
            Section("levels", "Levels after a change of the ELR", [*warnings, levels_chart(result, lines)]),
            Section("memory", "What is remembered", [memory_chart(result), plane_chart(result), levels_table(result)]),
            Section("wandering", "How far runs wander", [wander_chart(result), stays_table(result)]),
            Section("ways", "What lies between", [ways_chart(result)]),
            Section("walk", "The divergence against a random walk", [walk_chart(result)]),
            measured_section(
                ("quantity", "what it is"),
                _MEASUREMENTS,
                note="Angles are in radians, times in steps; log is the natural logarithm.",
            ),
            cost_section(result.seconds, _runs(result.spec), engine, run.manifest["environment"]),
            repeat_section(command(result.spec), to_toml(given)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the run: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.stabilise(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command(StabiliseResult.command, StabiliseSpec, spec, none={"train": "all"})


def _runs(spec: dict[str, Any]) -> int:
    return int(spec["seeds"] * (len(spec["elrs"]) ** 2 + len(spec["divergence_elrs"])))


def _summary(result: StabiliseResult) -> list[str]:
    return [
        counted(_runs(result.spec), "run"),
        f"{counted(len(result.levels), 'change')} of the ELR",
        counted(result.spec["seeds"], "seed"),
        format_duration(result.seconds),
    ]
