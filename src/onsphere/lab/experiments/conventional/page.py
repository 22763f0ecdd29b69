"""The page of ordinary training beside the sphere: the answer, phase diagrams, loss against ELR, courses, runs."""

from __future__ import annotations

from pathlib import Path

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.conventional.answer import answer, warnings_of
from onsphere.lab.experiments.conventional.charts import elr_chart, loss_chart, phase_chart, rate_chart
from onsphere.lab.experiments.conventional.figures import figures_of
from onsphere.lab.experiments.conventional.result import ConventionalResult
from onsphere.lab.experiments.conventional.spec import ConventionalSpec
from onsphere.lab.experiments.conventional.tables import runs_table
from onsphere.lab.experiments.conventional.view import curves_of, sphere_map_of
from onsphere.lab.report.page import Block, Page, Section, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run

__all__ = ["command", "subtitle", "write_page"]

_MEASUREMENTS = (
    (
        "sphere",
        "the scale-invariant weights on the unit sphere, everything else frozen, one fixed ELR a run; no weight decay",
    ),
    ("invariant", "the same network and weights in the whole space: SGD with --lr and --weight-decay"),
    (
        "all",
        "an ordinary network: norms with weights and biases, trained head, every parameter with --lr, --weight-decay, "
        "--momentum and --schedule, batch-norm eps 1e-5",
    ),
    ("ELR", "lr / ((1 − momentum) norm²), the norm that of all scale-invariant weights together, at every step"),
    ("last quarter", "of the steps: losses, gradients and angles are means over it, the ELR a geometric mean"),
    ("loss", "mean over minibatches, batch statistics of the minibatch"),
    ("gradient", "norm · ‖gradient‖ of the scale-invariant weights: the gradient at the unit sphere, of the minibatch"),
    (
        "label",
        "divergence: mean angle of a step above 1.2 rad (with momentum: training error above 0.9 of guessing); "
        "convergence: training error below 1 %, or loss still falling (last quarter below 0.93 of the one before); "
        "chaotic equilibrium: neither",
    ),
    (
        "regimes on the sphere",
        "the label of most seeds at the nearest ELR of the grid on the sphere, on the logarithmic scale",
    ),
    (
        "of sphere's",
        "loss over the sphere's at the same ELR, geometric mean over seeds, interpolated on logarithmic scales",
    ),
    ("test error", "with batch statistics re-estimated over all training images, at the last step"),
)


def write_page(run: Run, result: ConventionalResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; its shards hold the readings.
        result: Its result.

    Returns:
        The page.
    """
    line, curves, sphere = subtitle(result), curves_of(run, result), sphere_map_of(result)
    with style():
        drawn = {name: draw() for name, draw in figures_of(result, curves, sphere, line).items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    courses, rates = elr_chart(curves, sphere), rate_chart(result)
    timings = read_engine(run)["timings"]
    engine = {name: value for name, value in result.engine.items() if name != "invariant"}
    warnings: list[Block] = [Text(text, tone="warning") for text in warnings_of(result)]
    page = Page(
        title="Ordinary training, seen from the sphere",
        subtitle=line,
        answer=answer(result),
        summary=[
            counted(len(result.runs), "run"),
            counted(len(result.setups), "set-up"),
            format_duration(result.seconds),
        ],
        sections=[
            Section("phase", "Phase diagrams", [*warnings, phase_chart(curves)]),
            Section("loss", "Loss against the ELR", [loss_chart(result, sphere)]),
            *([Section("courses", "Where the ELR goes", [courses])] if courses is not None else []),
            *([Section("rates", "Against the learning rate", [rates])] if rates is not None else []),
            Section("runs", "All runs", [runs_table(result)], folded=len(result.runs) > 10),
            measured_section(
                ("word", "what it is"),
                _MEASUREMENTS,
                note="Angles are in radians, times in steps; log is the natural logarithm.",
            ),
            cost_section(
                result.seconds,
                len(result.runs),
                engine | {"timings (CPU s per copy and step)": timings},
                run.manifest["environment"],
            ),
            repeat_section(command(result.spec), to_toml(result.spec)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def subtitle(result: ConventionalResult) -> str:
    """What was trained on what, in a line."""
    spec = result.spec
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    widths = spec["widths"] or ((64, 64) if spec["model"] == "mlp" else ())
    width = spec["width"] or (32 if spec["model"] in ("convnet", "resnet18") else "")
    size = "-".join(map(str, widths)) or (f"of width {width}" if width else "")
    augmented = ", augmented" if spec["augment"] else ""
    parts = [f"{spec['data']}, {images}{noise}{augmented}", f"{spec['model']} {size}".strip(), spec["loss"]]
    decay = f"weight decay {format_number(spec['weight_decay'])}"
    momentum = f"ordinary: momentum {format_number(spec['momentum'])}, {spec['schedule']} lr"
    return " · ".join([*parts, f"{spec['steps']} steps, batch {spec['batch_size']}", decay, momentum])


def command(spec: dict[str, object]) -> str:
    """The shell command that repeats the run: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.compare_conventional(model, arrays, **fields)  # own arrays, in Python; fields below"
    return to_command("landscape conventional", ConventionalSpec, spec, none={"train": "all"})
