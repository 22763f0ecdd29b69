"""The page of the periods: the answer, courses, the loop, the law, predictions beside measurements, follow-ups."""

from __future__ import annotations

from pathlib import Path

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.periods.answer import answer
from onsphere.lab.experiments.periods.charts import course_chart, law_chart, loop_chart
from onsphere.lab.experiments.periods.figures import figures_of
from onsphere.lab.experiments.periods.followup_charts import ensemble_chart, minima_chart, sharpness_chart, sphere_chart
from onsphere.lab.experiments.periods.result import PeriodsResult, summaries
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.tables import (
    comparison_table,
    equilibrium_table,
    minima_table,
    predictions_table,
    runs_table,
    sharpness_table,
)
from onsphere.lab.experiments.periods.view import shown_runs
from onsphere.lab.report.page import Block, Chart, Page, Section, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run

__all__ = ["answer", "command", "write_page"]

_MEASUREMENTS = (
    ("loss", "mean over the minibatch of a step, batch statistics of that minibatch"),
    (
        "ELR",
        "lr / norm², the norm that of all scale-invariant weights together; with momentum lr / ((1 − momentum) norm²)",
    ),
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


def write_page(run: Run, result: PeriodsResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    shown, line = shown_runs(run, result), subtitle(result)
    with style():
        drawn = {name: draw() for name, draw in figures_of(result, shown, line).items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    timings = read_engine(run)["timings"]
    engine = result.engine | {"timings (CPU s per copy and step)": timings}
    given = {name: value for name, value in result.spec.items() if value is not None}
    page = Page(
        title="The periods of training with weight decay",
        subtitle=line,
        answer=answer(result),
        summary=_summary(result),
        sections=[
            Section("course", "Course of training", [course_chart(shown), *_left_out(result, len(shown))]),
            *_section("loop", "One period as a loop", [loop_chart(shown)]),
            *_section("law", "Period against lr · wd", [law_chart(result)]),
            Section("predictions", "Predicted and measured", [predictions_table(result), equilibrium_table(result)]),
            *_section("sphere", "The same on the sphere", [sphere_chart(result)], [comparison_table(result)]),
            *_section(
                "minima",
                "Minima of different periods",
                [minima_chart(result), ensemble_chart(result)],
                [minima_table(result)],
            ),
            *_section("sharpness", "Sharpness at jumps", [sharpness_chart(result)], [sharpness_table(result)]),
            Section("runs", "All runs", [runs_table(result)], folded=len(result.runs) > 10),
            measured_section(
                ("quantity", "what it is"),
                _MEASUREMENTS,
                note="Angles are in radians, times in steps; log is the natural logarithm.",
            ),
            cost_section(result.seconds, len(result.runs) + len(result.sphere), engine, run.manifest["environment"]),
            repeat_section(command(result.spec), to_toml(given)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def _section(id: str, title: str, charts: list[Chart | None], more: list[Block] | None = None) -> list[Section]:
    """A section, if its charts could be drawn."""
    drawn: list[Block] = [chart for chart in charts if chart is not None]
    return [Section(id, title, [*drawn, *(more or [])])] if drawn else []


def _left_out(result: PeriodsResult, shown: int) -> list[Block]:
    left = len(result.runs) - shown
    return [Text(f"{counted(left, 'more run')} in the tables below, not drawn.", tone="note")] if left else []


def _summary(result: PeriodsResult) -> list[str]:
    jumps = sum(len(run.jumps) for run in result.runs)
    return [
        counted(len(result.runs), "run"),
        counted(len(summaries(result.runs)), "setting"),
        counted(jumps, "jump"),
        format_duration(result.seconds),
    ]


def subtitle(result: PeriodsResult) -> str:
    """What was trained on what, in a line."""
    spec = result.spec
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((32, 32) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    batch = "full batch" if spec["batch_size"] == "full" else f"batch {spec['batch_size']}"
    momentum = spec["momentum"] if spec["momentum"] is not None else (0.9 if spec["setup"] == "practical" else 0)
    optimiser = f"SGD, momentum {format_number(momentum)}" if momentum else "SGD"
    parts = [f"{spec['data']}, {images}{noise}", f"{spec['model']} {size}".strip(), spec["setup"].replace("-", " ")]
    return " · ".join([*parts, spec["loss"], f"{optimiser}, {spec['steps']} steps, {batch}"])


def command(spec: dict[str, object]) -> str:
    """The shell command that repeats the study: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.train_periods(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("periods", PeriodsSpec, spec, none={"train": "all"})
