"""The page of a spectrum: the answer, sharpness, test metrics, distances, barriers, trends, runs."""

from __future__ import annotations

from pathlib import Path

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.spectrum.answer import answer, warnings_of
from onsphere.lab.experiments.spectrum.charts import angle_chart, error_chart, pairs_chart, sharpness_chart
from onsphere.lab.experiments.spectrum.figures import figures_of
from onsphere.lab.experiments.spectrum.result import SpectrumResult
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.experiments.spectrum.tables import runs_table, trends_table
from onsphere.lab.report.page import Block, Page, Section, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration
from onsphere.lab.store import Run

__all__ = ["command", "subtitle", "write_page"]

_MEASUREMENTS = (
    (
        "matched train loss",
        "mean over given minibatches at fixed weights, each with its own batch statistics; a run is trained a second "
        "time, to the same bits, around where its running mean of minibatch losses (--window steps) first reaches the "
        "target, and taken at the step whose loss is closest to it",
    ),
    (
        "gradient norm",
        "mean over minibatches of the effective gradient's norm (tangent part, at the unit sphere) at fixed weights, "
        "batch statistics of each minibatch; the minibatches are the same for every run of a seed",
    ),
    (
        "sharpness",
        "top eigenvalue of the Hessian of the train loss on the unit sphere, within 1 %, batch statistics of batches "
        "of 512 images; gradient descent is stable where ELR · sharpness is below 2",
    ),
    ("train and test loss, error", "batch statistics re-estimated over all training images"),
    ("angle", "between the scale-invariant weights of two networks, radians"),
    (
        "barrier",
        "largest rise of the train loss on the great circle between two minima above the line between their losses, "
        "batch statistics re-estimated at every point",
    ),
    ("Spearman", "rank correlation of a quantity and the ELR over the runs of one seed"),
    (
        "clear trend",
        "the 95 % interval (Student's t over seeds) of the mean change from the smallest to the largest ELR leaves "
        "out no change, and the mean rank correlation has the same sign",
    ),
)


def write_page(run: Run, result: SpectrumResult) -> Path:
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
    pairs = pairs_chart(result)
    between: list[Block] = [angle_chart(result), *([pairs] if pairs is not None else [])]
    timings = read_engine(run)["timings"]
    engine = result.engine | {"timings (CPU s per copy and step)": timings}
    warnings: list[Block] = [Text(text, tone="warning") for text in warnings_of(result)]
    page = Page(
        title="The spectrum of minima in regime 1",
        subtitle=line,
        answer=answer(result),
        summary=[
            counted(len(result.runs), "run"),
            counted(len(result.seeds), "seed"),
            counted(len(result.elrs), "ELR"),
            format_duration(result.seconds),
        ],
        sections=[
            Section("sharpness", "Sharpness", [*warnings, sharpness_chart(result)]),
            Section("test", "Test loss and error", [error_chart(result)]),
            Section("between", "Distances and barriers", between),
            Section("trends", "Trends", [trends_table(result)]),
            Section("runs", "All runs", [runs_table(result)], folded=len(result.runs) > 10),
            measured_section(
                ("quantity", "what it is"), _MEASUREMENTS, note="Times are in steps; log is the natural logarithm."
            ),
            cost_section(result.seconds, len(result.runs), engine, run.manifest["environment"]),
            repeat_section(command(result.spec), to_toml(result.spec)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def subtitle(result: SpectrumResult) -> str:
    """What was trained on what, in a line."""
    spec = result.spec
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((32, 32) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    parts = [f"{spec['data']}, {images}{noise}", f"{spec['model']} {size}".strip(), spec["loss"]]
    return " · ".join([*parts, f"{spec['steps']} steps, batch {spec['batch_size']}"])


def command(spec: dict[str, object]) -> str:
    """The shell command that repeats the run: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.map_spectrum(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("landscape spectrum", SpectrumSpec, spec, none={"train": "all"})
