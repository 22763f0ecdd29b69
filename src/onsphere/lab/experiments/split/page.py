"""The page of a memory split: the answer, splits of every budget, curves and laws of every width, the envelope."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from onsphere.lab.experiments.split.charts import (
    curves_chart,
    envelope_chart,
    fixed_chart,
    laws_chart,
    plane_chart,
    splits_chart,
    temperature_chart,
)
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
    (
        "law over size or budget",
        "the same over the parameters of one network, or over the budget of the best splits; it takes three points "
        "with errors or four without, and where these do not determine it there is none",
    ),
    ("temperature", "the one that CNLL was measured at, geometric mean over halvings and seeds"),
    ("top-5", "share of test images whose label is among the five most probable classes"),
    (
        "ECE, SCE, ACE, TACE",
        "expected, static, adaptive and thresholded adaptive calibration error, norm l1 and 15 bins: of the most "
        "probable class (ECE), or the mean over all classes, in bins of equal width (SCE) or of equally many images "
        "(ACE; TACE of probabilities above 0.001 alone); biased upwards, the more the fewer images there are",
    ),
    (
        "failed network",
        "not finite, or an accuracy within two standard deviations of the most frequent class's share; with "
        "--failed-accuracy, not above that",
    ),
    ("AUROC", "chance that a right prediction has a higher confidence than a wrong one; equal ones count half"),
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


_OPTIONS = {"lr": "lr", "weight_decay": "weight decay", "dropout": "dropout"}


def report(run: Run, result: SplitResult) -> Report:
    """What is to be read about a study."""
    envelope, curves, plane, laws = (f(result) for f in (envelope_chart, curves_chart, plane_chart, laws_chart))
    fixed, temperature = fixed_chart(result), temperature_chart(result)
    sections = [
        Section("splits", "Splits of the budget", [splits_chart(result), _splits(result)]),
        *([Section("envelope", "The envelope over budgets", [envelope])] if envelope else []),
        *([Section("plane", "Number and size of networks", [plane])] if plane else []),
        *([Section("curves", "Ensembles of one width", [curves, *_laws(result, result.laws)])] if curves else []),
        *([Section("laws", "Over size and budget", [laws, *_laws(result, result.wider_laws)])] if laws else []),
        *(
            [Section("temperatures", "Temperatures", [c for c in (fixed, temperature) if c])]
            if fixed or temperature
            else []
        ),
        *_calibration(result),
        *_differences(result),
        *_settings(result),
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
    schedule = "published schedule, lr" if spec.schedule == "paper" else f"{spec.schedule} lr"
    how = f"{spec.optimizer}, {schedule} {spec.lr_used:g}{decay}"
    how += f", dropout {spec.dropout:g}" if spec.dropout else ""
    how += ", settings by width" if spec.settings else ""
    if spec.geometry == "sphere":
        how = f"on the sphere at ELR {format_number(spec.elr)}"
    how += ", flips and crops" if spec.augment else ""
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


def _laws(result: SplitResult, laws: Sequence[Law]) -> list[Block]:
    """The laws as a table: those in the number of networks, or those in their size and in the budget."""

    def fitted(name: str, hint: str = "") -> Column:
        def cell(law: Law) -> Cell:
            if law.law is None:
                return Cell("")
            value, (low, high) = getattr(law.law, name), law.law.intervals[name]
            ends = f" [{format_number(low)}, {format_number(high)}]" if low != high else " (fixed)"
            return Cell(format_number(value) + ends, value)

        unit = "" if name == "exponent" else " (nats)"
        return Column(f"{name}{unit}", cell, f"{hint}with its 95 % interval")

    def subject(law: Law) -> str:
        return "budget" if law.along == "budget" else f"size, {counted(law.members, 'network')}"

    wider = any(law.along != "members" for law in laws)
    columns = [
        Column("law over", subject, kind="tight") if wider else Column("width", "width", form=","),
        Column("metric", lambda law: NAMES[law.metric], kind="text"),
        fitted("limit", "what infinitely large ones reach, " if wider else "what infinitely many networks reach, "),
        fitted("scale"),
        fitted("exponent"),
        Column("note", "note", kind="text"),
    ]
    caption = "The laws limit + scale · size^exponent. An interval without an end is not bounded by these data."
    if result.predicted:
        caption += " They are of the fit alone: other networks would move the whole law, by the standard errors above."
    return [table(laws, columns, caption)] if laws else []


def _calibration(result: SplitResult) -> list[Section]:
    """What is measured of splits and decides nothing; none in predictions and in results of earlier versions."""

    def fraction(name: str) -> Column:
        def cell(row: SplitRow) -> Cell:
            value, error = getattr(row, name), row.spread.get(name)
            if not math.isfinite(value):
                return Cell(MISSING, math.nan)
            return Cell(f"{100 * value:.2f}" + ("" if error is None else f" ± {100 * error:.2f}"), value)

        return Column(f"{names[name]} (%)", cell, "mean ± standard error")

    names = {"top5": "top-5", "ece": "ECE", "sce": "SCE", "ace": "ACE", "tace": "TACE", "auroc": "AUROC"}
    rows = [row for row in result.rows if math.isfinite(row.ece)]
    columns = [
        *(Column(name, name, form=",") for name in ("budget", "members", "width")),
        *map(fraction, names),
        Column("temperature", "temperature", "at which CNLL is measured"),
    ]
    caption = "At temperature 1. Small calibration errors, and large top-5 accuracies and AUROC, are good."
    return [Section("calibration", "Calibration", [table(rows, columns, caption)])] if rows else []


def _settings(result: SplitResult) -> list[Section]:
    """What the networks of every width were trained with, where widths differ."""
    spec = result.spec
    columns = [
        Column("width", lambda row: row[0], form=","),
        *(Column(name, lambda row, key=key: row[1][key]) for key, name in _OPTIONS.items()),  # type: ignore[misc]
    ]
    text = "The published settings hold at the published widths; each other width has those of the nearest, by ratio."
    rows = [(width, spec.settings_of(width)) for width in sorted(result.parameters)]
    shown: list[Block] = [*([Text(text, tone="note")] if spec.preset else []), table(rows, columns, "")]
    return [Section("settings", "Settings by width", shown)] if spec.settings else []


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
    at_most = result.spec.failed_accuracy
    text = Text(
        "They are left out of their ensembles, which have fewer networks for it."
        if at_most is None
        else f"Networks of an accuracy of at most {100 * at_most:g} % are dropped from their pool before it is cut "
        "into ensembles, as published; what is said of the others says nothing of how often training fails.",
        tone="warning",
    )
    shown: list[Block] = [text, table(result.failed, columns, "", sortable=False)]
    return [Section("failed", "Networks that failed to train", shown)] if result.failed else []
