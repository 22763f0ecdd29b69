"""The page of the free-energy toy: energy and entropy over the ELR, temperatures, signal-to-noise ratios."""

from __future__ import annotations

import math

from onsphere.dynamics.toys.objects import THRESHOLD
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import Axis, Chart, Line, Mark, Marker, Panel, Points, Rule
from onsphere.lab.experiments.toy_free_energy.result import NAMES, ObjectsRow, ToyFreeEnergyResult, bounded
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_TITLE = "Free energy on a sphere: under- and over-parameterised"
_MARKERS: dict[str, Marker] = {"under": "circle", "over": "square"}
_MEASUREMENTS = (
    ("model", "loss ⟨a, x⟩² / ‖x‖² of an object a, drawn anew at every step; d = 3, three objects or two"),
    ("energy U", "mean loss over all objects, steps and copies; law of small ELRs: least loss + ELR TrΣ / 4"),
    (
        "entropy S",
        "of the directions by k nearest neighbours, nats; none where copies have converged or keep to a few. "
        "Around an ELR of 1/2 a step all but puts them onto a circle: thin sets, on which S is far below its law",
    ),
    (
        "temperature T",
        "the interval at which the state has the least U − T S among those states of its model that have an entropy; "
        "none: at no temperature; law: ELR TrΣ / (2 (d − 1)) "
        "with TrΣ at the minimum",
    ),
    ("signal-to-noise", "|∇L| / √TrΣ over the directions visited, root mean squares"),
    ("converged", "share of the copies whose loss is below 1e-12 at the end"),
    ("error", "standard error from the spread over copies; that of S leaves the estimator's bias out"),
)


def _interval(row: ObjectsRow) -> Cell:
    if not math.isfinite(row.low):
        return Cell("0" if row.converged == 1 else MISSING, 0.0 if row.converged == 1 else math.nan)
    if not row.exists:
        return Cell("none", math.nan)
    high = format_number(row.high) if math.isfinite(row.high) else "∞"
    return Cell(f"{format_number(row.low)} to {high}", row.low)


_COLUMNS = (
    Column("model", lambda row: NAMES[row.model], kind="tight"),
    Column("ELR", "elr"),
    Column("U", "energy", "mean loss", digits=4),
    Column("law", "predicted_energy", "least loss + ELR TrΣ / 4", digits=4),
    Column("converged (%)", lambda row: 100 * row.converged, "copies whose loss has gone to zero"),
    Column("S", "entropy", "entropy, nats", digits=4),
    Column("law", "predicted_entropy", "of small ELRs", digits=4),
    Column("T", _interval, "least free energy at these temperatures", kind="tight"),
    Column("law", "temperature", "ELR TrΣ / (2 (d − 1))", digits=4),
    Column("S/N", "signal_to_noise", "signal-to-noise ratio", digits=3),
)


def report(run: Run, result: ToyFreeEnergyResult) -> Report:
    """What is to be read about the two models."""
    caption = "One row an ELR and model. Click a heading to sort, click again to turn the order around."
    return Report(
        title=_TITLE,
        subtitle=f"d = 3 · {' and '.join(NAMES[model] for model in result.spec.models)} · loss ⟨a, x⟩² / ‖x‖²",
        summary=[counted(len(result.rows), "setting"), f"{result.spec.copies} copies each"],
        sections=[
            Section("energy", "Energy and temperature", [_chart(result)]),
            Section("curve", "Energy over entropy", [_curve(result)]),
            Section("rows", "All settings", [table(result.rows, _COLUMNS, caption)]),
        ],
        measured=_MEASUREMENTS,
    )


def printed(result: ToyFreeEnergyResult) -> list[Table | str]:
    """The settings as a table."""
    return [table(result.rows, _COLUMNS)]


def _chart(result: ToyFreeEnergyResult) -> Chart:
    """Energy, temperature and signal-to-noise ratio over the ELR."""
    energy, heat, ratio = list[Mark](), list[Mark](), list[Mark]()
    for model, look in series_looks(result.spec.models).items():
        own, dots, name = result.of(model), look.but(marker=_MARKERS[model], size=8), NAMES[model]
        seen = [row for row in own if row.converged < 1]
        at, said = [row.elr for row in seen], [*map(_said, seen)]
        energy.append(
            Points(at, [r.energy for r in seen], dots, said, error=[r.energy_error for r in seen], entry=name)
        )
        known = [row for row in own if math.isfinite(row.signal_to_noise)]
        values = [row.signal_to_noise for row in known]
        ratio.append(Line([row.elr for row in known], values, dots, [*map(_said, known)], entry=name, listed=False))
        shown = bounded(own)
        middle = [math.sqrt(row.low * row.high) for row in shown]
        if shown:
            up = [row.high - m for row, m in zip(shown, middle, strict=True)]
            down = [m - row.low for row, m in zip(shown, middle, strict=True)]
            elrs = [row.elr for row in shown]
            heat.append(Points(elrs, middle, dots, [*map(_said, shown)], error=up, error_down=down, entry=name))
        if model == "under":
            elrs = [row.elr for row in own]
            energy.append(Line(elrs, [row.predicted_energy for row in own], look.but(dash="dash"), entry="law"))
            heat.append(Line(elrs, [row.temperature for row in own], look.but(dash="dash"), entry="law", listed=False))
    rules = [Rule(THRESHOLD, along="x")] if "over" in result.spec.models else []
    return Chart(
        id="objects-chart",
        title=_TITLE,
        x=Axis("effective learning rate (ELR)", log=True),
        panels=[
            Panel(Axis("energy U (loss)", log=True), energy, rules=rules),
            Panel(Axis("temperature T", log=True), heat, height=0.7),
            Panel(Axis("signal-to-noise ratio"), ratio, height=0.7),
        ],
        height=820,
        caption=(
            "Top: mean loss; an over-parameterised model that has converged to zero is not shown, the vertical line is "
            "the ELR up to which it does by the law. Middle: bars are the temperatures at which a state has the least "
            "free energy among those of its model. Dashed: laws of small ELRs. Bottom: |∇L| / √TrΣ."
        ),
        label="Energies, temperatures and signal-to-noise ratios against the effective learning rate",
    )


def _curve(result: ToyFreeEnergyResult) -> Chart:
    """Energy over entropy, whose slope is the temperature."""
    marks: list[Mark] = []
    for model, look in series_looks(result.spec.models).items():
        own = [row for row in result.of(model) if math.isfinite(row.entropy)]
        dots, said = look.but(marker=_MARKERS[model], size=8), [*map(_said, own)]
        marks.append(Line([r.entropy for r in own], [r.energy for r in own], dots, said, entry=NAMES[model]))
    return Chart(
        id="curve-chart",
        title="Energy over entropy",
        x=Axis("entropy S (nats)"),
        panels=[Panel(Axis("energy U (loss)"), marks)],
        caption="One point an ELR; its slope is the temperature, and where it is convex every state has one.",
        label="Energy against entropy",
    )


def _said(row: ObjectsRow) -> str:
    lines = [f"<b>{NAMES[row.model]}</b> · ELR {format_number(row.elr)}", f"U {format_number(row.energy, 4)}"]
    if math.isfinite(row.entropy):
        lines.append(f"S {format_number(row.entropy, 4)} nats")
    if math.isfinite(row.low):
        lines.append(f"T {_interval(row).text}")
    return "<br>".join(lines)
