"""The page of a memory split: the answer, splits of every budget, curves and laws of every width, the envelope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_engine
from onsphere.lab.experiments.split.answer import NAMES, answer
from onsphere.lab.experiments.split.charts import curves_chart, envelope_chart, splits_chart
from onsphere.lab.experiments.split.figures import figures_of
from onsphere.lab.experiments.split.measure import CURVE_GROUPS
from onsphere.lab.experiments.split.result import SplitResult, SplitRow
from onsphere.lab.experiments.split.spec import PREDICTION_POOL, SplitSpec
from onsphere.lab.report.page import Block, Cell, Chart, Page, Section, Table, Text
from onsphere.lab.report.sections import cost_section, counted, measured_section, repeat_section
from onsphere.lab.report.words import MISSING, format_duration, format_number
from onsphere.lab.store import Run

__all__ = ["answer", "command", "write_page"]

_MEASUREMENTS = (
    ("ensemble", "the mean of its networks' probabilities on the test images"),
    ("NLL", "mean of −log of the probability given to the label, natural logarithm, in nats"),
    (
        "CNLL",
        "NLL at the temperature that is best on the other half of the test images: two folds, five random halvings for "
        "a split of a budget, one for a point of a curve; the temperature divides the averaged log-probabilities",
    ),
    ("accuracy", "share of test images whose most probable class is the label"),
    ("difference", "single network minus split, of the same seed; above 0 the split is better (accuracy: sign turned)"),
    (
        "advantage",
        "some difference is above 0 with its 95 % t-interval over seeds, Bonferroni-corrected for the number of "
        "splits; no advantage: every difference is below 0 with its plain 95 % interval; otherwise unclear. The "
        "page's finding is an advantage by NLL or CNLL that the other does not contradict, or no advantage by both",
    ),
    ("law", "limit + scale · size^exponent, least squares; intervals: 95 % profile likelihood"),
    ("failed network", "not finite, or an accuracy within two standard deviations of the most frequent class's share"),
)


def write_page(run: Run, result: SplitResult) -> Path:
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
    engine = result.engine | {"timings (CPU s per copy and step)": timings, "CPU s of the training": result.cpu_seconds}
    given = {name: value for name, value in result.spec.items() if value is not None}
    page = Page(
        title="A memory budget: one wide network or several thinner ones",
        subtitle=line,
        answer=answer(result),
        summary=_summary(result),
        sections=[
            Section("splits", "Splits of the budget", [splits_chart(result), splits_table(result)]),
            *_section("envelope", "The envelope over budgets", [envelope_chart(result)]),
            *_section("curves", "Ensembles of one width", [curves_chart(result)], _laws(result)),
            *_differences(result),
            *_failed(result),
            measured_section(
                ("quantity", "what it is"),
                _prediction_rows(result) + _MEASUREMENTS,
                note=f"Errors are standard errors of means over seeds, ensembles that share no network; those of a "
                f"curve's points over at most {CURVE_GROUPS} such ensembles. All seeds share training and test images.",
            ),
            cost_section(result.seconds, result.networks, engine, run.manifest["environment"]),
            repeat_section(command(result.spec), to_toml(given)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def splits_table(result: SplitResult) -> Table:
    """One row a split."""
    unit = result.spec["unit"]
    columns = [
        ("budget", f"{unit} of all members together"),
        ("members", "networks that share it"),
        ("width", "of each network"),
        ("parameters", "of one network"),
        ("off by", f"how far all members together are from the budget, in {unit}; widths are whole numbers"),
        *(
            (f"{NAMES[m]}{' (%)' if m == 'accuracy' else ''}", "mean ± standard error")
            for m in ("nll", "cnll", "accuracy")
        ),
    ]
    if result.predicted:
        columns.append(("NLL from", "measured, or extrapolated by a law (of free, or of fixed exponent -1)"))
    rows: list[list[Cell | str]] = []
    for own in result.budgets:
        for row in own.splits:
            cells: list[Cell | str] = [
                _number(row.budget),
                _number(row.members),
                _number(row.width),
                _number(row.parameters),
                Cell(f"{100 * row.rounding_error:+.1f} %", row.rounding_error),
            ]
            cells += [_metric(row, m, own.best[m] == row.members) for m in ("nll", "cnll", "accuracy")]
            rows.append([*cells, row.basis] if result.predicted else cells)
    return Table(
        columns, rows, caption="Best values of each budget are marked ★.", sortable=True, numeric=frozenset(range(8))
    )


def _metric(row: SplitRow, metric: str, best: bool) -> Cell:
    scale, digits = (100, 2) if metric == "accuracy" else (1, 4)
    value, spread = getattr(row, metric), row.standard_error[metric]
    if not math.isfinite(value):
        return Cell(MISSING, math.nan)
    text = f"{scale * value:.{digits}f}" + ("" if spread is None else f" ± {scale * spread:.{digits}f}")
    return Cell(("★ " if best else "") + text, value)


def _number(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def _laws(result: SplitResult) -> list[Block]:
    if not result.laws:
        return []
    columns = [
        ("width", ""),
        ("metric", ""),
        ("limit (nats)", "what infinitely many networks reach, with its 95 % interval"),
        ("scale (nats)", "with its 95 % interval"),
        ("exponent", "with its 95 % interval"),
        ("note", ""),
    ]
    rows: list[list[Cell | str]] = []
    for law in result.laws:
        found = law.law
        parts: list[Cell | str] = ["", "", ""]
        if found is not None:
            parts = [
                Cell(_with_interval(found[name], found["intervals"][name]), found[name])
                for name in ("limit", "scale", "exponent")
            ]
        rows.append([_number(law.width), NAMES[law.metric], *parts, law.note])
    more = (
        " They are of the fit alone: other networks would move the whole law, by the standard errors above."
        if result.predicted
        else ""
    )
    table = Table(
        columns,
        rows,
        caption="The laws limit + scale · size^exponent. An interval without an end is not bounded by these data."
        + more,
        sortable=True,
        numeric=frozenset({0, 2, 3, 4}),
    )
    return [table]


def _with_interval(value: float, ends: Sequence[float | None]) -> str:
    low, high = (MISSING if end is None else format_number(end) for end in ends)
    return f"{format_number(value)} [{low}, {high}]" if ends[0] != ends[1] else f"{format_number(value)} (fixed)"


def _differences(result: SplitResult) -> list[Section]:
    rows: list[list[Cell | str]] = []
    for own in result.budgets:
        for verdict in own.verdicts:
            scale, unit = (100, " points") if verdict.metric == "accuracy" else (1, "")
            for gain in verdict.gains:
                if not math.isfinite(gain.mean):
                    continue
                ends = [scale * gain.low, scale * gain.high]
                interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if math.isfinite(ends[0]) else MISSING
                rows.append(
                    [
                        _number(own.budget),
                        NAMES[verdict.metric],
                        _number(gain.members),
                        Cell(f"{scale * gain.mean:.4f}{unit}", scale * gain.mean),
                        interval,
                        verdict.word,
                    ]
                )
    if not rows:
        return []
    columns = [
        ("budget", ""),
        ("metric", ""),
        ("members", "of the split"),
        ("difference", "single network minus split; above 0 the split is better"),
        ("95 % interval", "over seeds, Bonferroni-corrected for the number of splits"),
        ("this metric says", ""),
    ]
    table = Table(columns, rows, sortable=True, numeric=frozenset({0, 2, 3, 4}))
    return [Section("differences", "Differences from the single network", [table])]


def _failed(result: SplitResult) -> list[Section]:
    if not result.failed:
        return []
    rows: list[list[Cell | str]] = [
        [_number(f.width), _number(f.member), f.reason, MISSING if f.accuracy is None else f"{100 * f.accuracy:.1f}"]
        for f in result.failed
    ]
    columns = [("width", ""), ("member", "its index and seed"), ("reason", ""), ("accuracy (%)", "on the test images")]
    text = Text("They are left out of their ensembles, which have fewer networks for it.", tone="warning")
    return [Section("failed", "Networks that failed to train", [text, Table(columns, rows)])]


def _prediction_rows(result: SplitResult) -> tuple[tuple[str, str], ...]:
    if not result.predicted:
        return ()
    return (
        (
            "predicted value",
            f"the law of its width through the means over all subsets of 1 to {PREDICTION_POOL} networks; measured "
            f"where the split has at most {PREDICTION_POOL}; its error by jackknife over the networks",
        ),
        ("probability", "how often a split is best when every predicted value is drawn with its error"),
        (
            "member-step",
            "one training step of one network, of whatever width; everything: seeds x members networks of every width",
        ),
    )


def _section(id: str, title: str, charts: list[Chart | None], more: list[Block] | None = None) -> list[Section]:
    drawn: list[Block] = [chart for chart in charts if chart is not None]
    return [Section(id, title, [*drawn, *(more or [])])] if drawn else []


def _summary(result: SplitResult) -> list[str]:
    widths = len({row.width for own in result.budgets for row in own.splits})
    return [
        counted(result.networks, "network"),
        counted(widths, "width"),
        f"{result.cost.member_steps:,} member-steps",
        format_duration(result.seconds),
    ]


def subtitle(result: SplitResult) -> str:
    """What was trained on what, in a line."""
    spec = result.spec
    images = f"{spec['train']} images" if spec["train"] else "all training images"
    shape = " x ".join(map(str, result.input_shape))
    noise = f", {100 * spec['label_noise']:g} % label noise" if spec["label_noise"] else ""
    layers = f", {spec['layers']} hidden layers" if spec["model"] in ("mlp", "plain-mlp") else ""
    if spec["geometry"] == "sphere":
        how = f"on the sphere at ELR {format_number(spec['elr'])}"
    else:
        lr = spec["lr"] if spec["lr"] is not None else (0.05 if spec["optimizer"] == "sgd" else 3e-3)
        decay = f", weight decay {format_number(spec['weight_decay'])}" if spec["weight_decay"] else ""
        how = f"{spec['optimizer']}, {spec['schedule']} lr {lr:g}{decay}"
    parts = [f"{spec['data']}, {images} of {shape}{noise}", f"{spec['model']}{layers}", how]
    return " · ".join([*parts, f"{spec['steps']} steps, batch {spec['batch_size']}", counted(spec["seeds"], "seed")])


def command(spec: dict[str, Any]) -> str:
    """The shell command that repeats the study: the fields that differ from the defaults."""
    if spec["data"] == "arrays":
        return "onsphere.lab.split_budget(model, arrays, **fields)  # own arrays, in Python; the fields are below"
    return to_command("split", SplitSpec, spec, none={"train": "all"})
