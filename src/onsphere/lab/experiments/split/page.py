"""The page of a memory split: the answer, splits of every budget, curves and laws of every width, the envelope."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from onsphere.lab.experiments.split.charts import curves_chart, envelope_chart, splits_chart
from onsphere.lab.experiments.split.pools.measure import CURVE_GROUPS
from onsphere.lab.experiments.split.pools.points import Law
from onsphere.lab.experiments.split.result import SCALE, SplitResult, SplitRow
from onsphere.lab.experiments.split.spec import PREDICTION_POOL, SplitSpec
from onsphere.lab.experiments.split.words import NAMES
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Block, Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import data_words
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

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
_PREDICTION = (
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


def report(run: Run, result: SplitResult) -> Report:
    """What is to be read about a study."""
    envelope, curves = envelope_chart(result), curves_chart(result)
    sections = [
        Section("splits", "Splits of the budget", [splits_chart(result), _splits(result)]),
        *([Section("envelope", "The envelope over budgets", [envelope])] if envelope else []),
        *([Section("curves", "Ensembles of one width", [curves, *_laws(result)])] if curves else []),
        *_differences(result),
        *_failed(result),
    ]
    return Report(
        title="A memory budget: one wide network or several thinner ones",
        subtitle=subtitle(result.spec, result.input_shape),
        summary=[
            counted(result.networks, "network"),
            counted(len({row.width for row in result.rows}), "width"),
            f"{result.cost.member_steps:,} member-steps",
        ],
        sections=sections,
        measured=[*(_PREDICTION if result.predicted else ()), *_MEASUREMENTS],
        note=f"Errors are standard errors of means over seeds, ensembles that share no network; those of a "
        f"curve's points over at most {CURVE_GROUPS} such ensembles. All seeds share training and test images.",
        engine=asdict(result.engine) | {"CPU s of the training": result.cpu_seconds},
    )


def printed(result: SplitResult) -> list[Table | str]:
    """The splits, and where the ensemble of the best is."""
    columns = [
        *(Column(name, name, form=",") for name in ("budget", "members", "width")),
        Column("each", "parameters", form=","),
        *(Column(f"{NAMES[m]}{' %' if m == 'accuracy' else ''}", _score(m)) for m in NAMES),
        *([Column("basis", lambda row: Cell(row.basis))] if result.predicted else []),
    ]
    return [table(result.rows, columns), *([f"ensemble: {result.saved}"] if result.saved is not None else [])]


def subtitle(spec: SplitSpec, shape: tuple[int, ...]) -> str:
    """What was trained on what, in a line."""
    data = data_words(spec).replace("images", f"images of {' x '.join(map(str, shape))}", 1)
    layers = f", {spec.layers} hidden layers" if spec.model in ("mlp", "plain-mlp") else ""
    decay = f", weight decay {format_number(spec.weight_decay)}" if spec.weight_decay else ""
    how = f"{spec.optimizer}, {spec.schedule} lr {spec.lr_used:g}{decay}"
    if spec.geometry == "sphere":
        how = f"on the sphere at ELR {format_number(spec.elr)}"
    steps = f"{spec.steps} steps, batch {spec.batch_size}"
    return " · ".join([data, f"{spec.model}{layers}", how, steps, counted(spec.seeds, "seed")])


def _splits(result: SplitResult) -> Table:
    """One row a split."""
    unit, best = result.spec.unit, {answer.budget: answer.best for answer in result.budgets}
    columns = [
        Column("budget", "budget", f"{unit} of all members together", form=","),
        Column("members", "members", "networks that share it", form=","),
        Column("width", "width", "of each network", form=","),
        Column("parameters", "parameters", "of one network", form=","),
        Column(
            "off by",
            lambda row: Cell(f"{100 * row.rounding_error:+.1f} %", row.rounding_error),
            f"how far all members together are from the budget, in {unit}; widths are whole numbers",
        ),
        *(
            Column(f"{NAMES[m]}{' (%)' if m == 'accuracy' else ''}", _score(m, best), "mean ± standard error")
            for m in NAMES
        ),
    ]
    if result.predicted:
        hint = "measured, or extrapolated by a law (of free, or of fixed exponent -1)"
        columns.append(Column("NLL from", "basis", hint, kind="text"))
    return table(result.rows, columns, "Best values of each budget are marked ★.")


def _score(metric: str, best: dict[int, dict[str, int]] | None = None) -> Callable[[SplitRow], Cell]:
    """A metric with its standard error, starred where it is the best of its budget."""
    scale, digits = SCALE[metric], 2 if metric == "accuracy" else 4

    def cell(row: SplitRow) -> Cell:
        value, spread = row.score(metric), row.standard_error[metric]
        if not math.isfinite(value):
            return Cell(MISSING, math.nan)
        star = "★ " if best is not None and best[row.budget][metric] == row.members else ""
        errors = "" if spread is None else f" ± {scale * spread:.{digits}f}"
        return Cell(f"{star}{scale * value:.{digits}f}{errors}", value)

    return cell


def _laws(result: SplitResult) -> list[Block]:
    def fitted(name: str, hint: str = "") -> Column:
        def cell(law: Law) -> Cell:
            if law.law is None:
                return Cell("")
            value, (low, high) = getattr(law.law, name), law.law.intervals[name]
            ends = f" [{format_number(low)}, {format_number(high)}]" if low != high else " (fixed)"
            return Cell(format_number(value) + ends, value)

        unit = "" if name == "exponent" else " (nats)"
        return Column(f"{name}{unit}", cell, f"{hint}with its 95 % interval")

    columns = [
        Column("width", "width", form=","),
        Column("metric", lambda law: NAMES[law.metric], kind="text"),
        fitted("limit", "what infinitely many networks reach, "),
        fitted("scale"),
        fitted("exponent"),
        Column("note", "note", kind="text"),
    ]
    caption = "The laws limit + scale · size^exponent. An interval without an end is not bounded by these data."
    if result.predicted:
        caption += " They are of the fit alone: other networks would move the whole law, by the standard errors above."
    return [table(result.laws, columns, caption)] if result.laws else []


def _differences(result: SplitResult) -> list[Section]:
    rows = [
        (answer.budget, verdict, gain)
        for answer in result.budgets
        for verdict in answer.verdicts
        for gain in verdict.gains
        if math.isfinite(gain.mean)
    ]

    def shown(row: Any) -> Cell:
        difference = SCALE[row[1].metric] * row[2].mean
        return Cell(f"{difference:.4f}{' points' if row[1].metric == 'accuracy' else ''}", difference)

    def between(row: Any) -> Cell:
        scale, gain = SCALE[row[1].metric], row[2]
        return Cell(f"{scale * gain.low:.4f} to {scale * gain.high:.4f}" if math.isfinite(gain.low) else MISSING)

    columns = [
        Column("budget", lambda row: row[0], form=","),
        Column("metric", lambda row: NAMES[row[1].metric], kind="text"),
        Column("members", lambda row: row[2].members, "of the split"),
        Column("difference", shown, "single network minus split; above 0 the split is better"),
        Column("95 % interval", between, "over seeds, Bonferroni-corrected for the number of splits"),
        Column("this metric says", lambda row: row[1].word, kind="text"),
    ]
    title = "Differences from the single network"
    return [Section("differences", title, [table(rows, columns, "")])] if rows else []


def _failed(result: SplitResult) -> list[Section]:
    columns = [
        Column("width", "width", form=","),
        Column("member", "member", "its index and seed", form=","),
        Column("reason", "reason", kind="text"),
        Column("accuracy (%)", "accuracy", "on the test images", kind="percent"),
    ]
    text = Text("They are left out of their ensembles, which have fewer networks for it.", tone="warning")
    shown: list[Block] = [text, table(result.failed, columns, "", sortable=False)]
    return [Section("failed", "Networks that failed to train", shown)] if result.failed else []
