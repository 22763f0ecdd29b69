"""The page of a drop: the answer, test error over the start, the matrix, gradients and barriers, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.drop.analyse import CONNECTED_ERROR
from onsphere.lab.experiments.drop.answer import answer
from onsphere.lab.experiments.drop.charts import after_chart, barrier_chart, error_chart, matrix_chart
from onsphere.lab.experiments.drop.figures import figures_of
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.drop.tables import best_table, classes_table, matrix_table
from onsphere.lab.report.page import Block, Page, Section, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run

__all__ = ["answer", "command", "subtitle", "write_page"]

_TITLE = "Dropping the effective learning rate"
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


def write_page(run: Run, result: DropResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run.
        result: Its result.

    Returns:
        The page.
    """
    line = subtitle(result)
    with style():
        drawn = {name: draw() for name, draw in figures_of(result, line).items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    timings = read_engine(run)["timings"]
    engine = result.engine | {"timings (CPU s per copy and step)": timings}
    barriers = barrier_chart(result)
    classes: list[Block] = [*([barriers] if barriers else []), classes_table(result), Text(_RULE, tone="note")]
    page = Page(
        title=_TITLE,
        subtitle=line,
        answer=answer(result),
        summary=_summary(result),
        sections=[
            Section("error", "Which start is best", [error_chart(result), best_table(result)]),
            Section("matrix", "The whole matrix", [matrix_chart(result), matrix_table(result)]),
            Section("after", "How flat it is after the drop", [after_chart(result)]),
            Section("classes", "Connected or not", classes),
            measured_section(
                ("quantity", "what it is"),
                _MEASUREMENTS,
                note="Angles are in radians, times in steps; log is the natural logarithm.",
            ),
            cost_section(
                result.seconds, len(result.cells) + len(result.continuations), engine, run.manifest["environment"]
            ),
            repeat_section(
                command(result.spec), to_toml({name: v for name, v in result.spec.items() if v is not None})
            ),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def _summary(result: DropResult) -> list[str]:
    return [
        counted(len(result.cells) + len(result.continuations), "run"),
        counted(len(result.starts), "start"),
        f"{counted(len(result.ends), 'final ELR')}",
        f"{result.spec['seeds']} seeds",
        format_duration(result.seconds),
    ]


def subtitle(result: DropResult) -> str:
    """What was trained on what, in a line."""
    spec = result.spec
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((64, 64) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    steps = f"{spec['steps']} + {format_number(spec['drop_steps'])} steps, batch {spec['batch_size']}"
    return " · ".join([f"{spec['data']}, {images}{noise}", f"{spec['model']} {size}".strip(), spec["loss"], steps])


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the experiment: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.drop_elr(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("landscape drop", DropSpec, spec, none={"train": "all"})
