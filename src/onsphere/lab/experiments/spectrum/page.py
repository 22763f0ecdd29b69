"""The page of a spectrum: sharpness, test metrics, distances and barriers, trends, runs; its table in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.spectrum.charts import (
    angle_chart,
    error_chart,
    means,
    overview,
    pairs_chart,
    sharpness_chart,
)
from onsphere.lab.experiments.spectrum.result import Place, SpectrumResult, SpectrumRun, Trend
from onsphere.lab.experiments.spectrum.words import NAMES, change_text, place_name, warnings_of
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import MISSING
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

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


def _at(place: Place, quantity: str) -> Callable[[SpectrumRun], float | None]:
    return lambda run: run.value(place, quantity)


_RUNS = (
    Column("ELR", "elr"),
    Column("seed", "seed"),
    Column("regime", lambda run: REGIME_NAMES[run.regime], "label by the rules of onsphere regimes", kind="text"),
    Column("at step", _at("matched", "step"), "where the train loss first came to the target"),
    Column(
        "batch loss",
        _at("matched", "batch_loss"),
        "there, mean over the minibatches of the gradient norm: what is matched to the target",
    ),
    Column("gradient", _at("matched", "gradient_norm"), "there, mean effective gradient norm"),
    Column("sharpness", _at("matched", "sharpness"), "there"),
    Column("test loss", _at("matched", "test_loss"), "there"),
    Column("train loss", _at("end", "train_loss"), "at the end"),
    Column("gradient", _at("end", "gradient_norm"), "at the end"),
    Column("sharpness", _at("end", "sharpness"), "at the end"),
    Column("test loss", _at("end", "test_loss"), "at the end"),
    Column("test error (%)", _at("end", "test_error"), "at the end", kind="percent"),
    Column("angle", _at("end", "angle"), "from init, at the end, rad"),
)


def report(run: Run, result: SpectrumResult) -> Report:
    """What is to be read about a spectrum."""
    warnings = [Text(text, tone="warning") for text in warnings_of(result)]
    runs = table(result.runs, _RUNS, f"All runs: at matched train loss, then at the end. {SORT}")
    return Report(
        title="The spectrum of minima in regime 1",
        subtitle=subtitle(result.spec, widths=result.spec.widths_used),
        summary=[
            counted(len(result.runs), "run"),
            counted(len(result.seeds), "seed"),
            counted(len(result.elrs), "ELR"),
        ],
        sections=[
            Section("sharpness", "Sharpness", [*warnings, sharpness_chart(result)]),
            Section("test", "Test loss and error", [error_chart(result)]),
            Section(
                "between",
                "Distances and barriers",
                [angle_chart(result), *([pairs_chart(result)] if result.pairs else [])],
            ),
            Section("trends", "Trends", [_trends(result)]),
            Section("runs", "All runs", [runs], folded=len(result.runs) > 10),
        ],
        measured=_MEASUREMENTS,
        note="Times are in steps; log is the natural logarithm.",
        figures=[overview(result)],
    )


def printed(result: SpectrumResult) -> list[Table | str]:
    """Means over seeds, and what stands in the way of reading them."""

    def column(heading: str, place: Place, quantity: str, scale: float = 1.0) -> Column:
        known = dict(zip(*means(result, place, quantity), strict=True))
        return Column(heading, lambda elr: scale * known[elr] if elr in known else None)

    columns = [
        Column("ELR", lambda elr: elr),
        column("gradient at match", "matched", "gradient_norm"),
        column("sharpness at match", "matched", "sharpness"),
        column("train loss", "end", "train_loss"),
        column("test loss", "end", "test_loss"),
        column("test err %", "end", "test_error", 100),
        column("angle (rad)", "end", "angle"),
    ]
    return [table(result.elrs, columns), *warnings_of(result)]


def _trends(result: SpectrumResult) -> Table:
    """One row a quantity and place."""

    def ranks(trend: Trend) -> str:
        own = trend.spearman
        return f"{trend.mean_spearman:.2f} ({min(own):.2f} to {max(own):.2f})" if own else MISSING

    columns = (
        Column("measured at", lambda trend: place_name(result, trend.where), kind="tight"),
        Column("quantity", lambda trend: NAMES[trend.quantity], kind="text"),
        Column(
            "with the ELR", "verdict", "clear: the 95 % interval of the mean change leaves out no change", kind="tight"
        ),
        Column(
            "Spearman",
            ranks,
            "rank correlation of the quantity and the ELR, mean over seeds (lowest to highest)",
            kind="tight",
        ),
        Column(
            "from the smallest to the largest ELR",
            change_text,
            "mean over seeds (95 % interval by Student's t), geometric for factors",
            kind="text",
        ),
        Column(
            "seeds",
            lambda trend: f"{trend.agreeing} of {len(trend.changes)}",
            "that go the way of the mean change",
            kind="tight",
        ),
    )
    known = [trend for trend in result.trends if trend.mean is not None]
    return table(known, columns, "How each quantity goes with the ELR.", sortable=False)
