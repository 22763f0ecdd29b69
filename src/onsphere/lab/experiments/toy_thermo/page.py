"""The page of the thermodynamics toy: energy and gas law, the protocols by their closed forms, Maxwell's relations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onsphere.lab.chart.looks import elr_looks, series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Mark, Marker, Panel, Points, Rule
from onsphere.lab.experiments.toy_thermo.result import NAMES, ThermoRow, ToyThermoResult, subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_TITLE = "Training with isotropic noise as an ideal gas"
_HEADINGS = {"fixed_elr": "At a fixed ELR", "fixed_lr": "At a fixed lr", "sphere": "On a fixed sphere"}
_SHORT = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR, r"}
_MARKERS: dict[str, Marker] = {"fixed_elr": "circle", "fixed_lr": "diamond", "sphere": "square"}
#: What is moved along a curve, and what tells curves apart.
_KNOBS = {"fixed_elr": "weight decay", "fixed_lr": "weight decay", "sphere": "norm r"}
_RATES = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR"}
_SYMBOLS = {"energy": "U", "radius": "r", "pressure": "p", "entropy": "S"}
_CAPTIONS = {
    "fixed_elr": (
        "Lines: r² = T (d − 1) / wd with T = ELR σ² / 2; at one temperature S falls by (d − 1) / 2 when wd grows by a "
        "factor e."
    ),
    "fixed_lr": (
        "Lines: r⁴ = lr σ² (d − 1) / (2 wd). The weight decay moves the temperature too, "
        "T = √(lr wd σ² / (2 (d − 1))), and along a line the two effects on S all but cancel."
    ),
    "sphere": (
        "Lines: p = T (d − 1) / r² with T = ELR σ² / 2; at one temperature S rises by d − 1 when r grows by a factor e."
    ),
}
_MEASUREMENTS = (
    ("model", "loss 1 + ⟨μ, x⟩ / ‖x‖ with |μ| = 1; gradient noise isotropic in the tangent space, fresh at every step"),
    ("temperature T", "ELR σ² / 2; at a fixed lr √(lr wd σ² / (2 (d − 1)))"),
    ("internal energy U", "mean loss over steps and copies; law: von Mises-Fisher at T, (d − 1) T / 2 for small T"),
    ("norm r", "root mean square; law: r² = T (d − 1) / wd"),
    ("pressure p", "the weight decay; on the sphere (‖x'‖ − r) / (ELR r³), x' a step before its projection"),
    ("volume V", "r² / 2; gas law: p V = (d − 1) T / 2"),
    ("entropy S", "entropy of the directions, by k nearest neighbours, plus (d − 1) ⟨ln r⟩, nats"),
    ("error", "standard error from the spread over copies; that of S leaves the estimator's bias out"),
    ("Maxwell slope", "derivative of S at one temperature, by regression over the settings"),
)


def _off(name: str) -> Callable[[ThermoRow], float]:
    """How far a quantity is from its law, in percent."""
    return lambda row: 100 * (float(getattr(row, name)) / float(getattr(row, f"predicted_{name}")) - 1)


_COLUMNS = (
    Column("protocol", lambda row: NAMES[row.protocol], "what was held fixed", kind="tight"),
    Column("rate", "rate", "the lr at a fixed lr, otherwise the ELR"),
    Column("wd or r", "knob", "norm on the sphere, otherwise weight decay"),
    Column("T", "temperature", "temperature by the protocol's law", digits=4),
    Column("U", "energy", "mean loss", digits=4),
    Column("law", "predicted_energy", "von Mises-Fisher at T", digits=4),
    Column("off (%)", _off("energy"), "U against its law", digits=2),
    Column("r", "radius", "root mean square of the norm", digits=4),
    Column("law", "predicted_radius", "T (d − 1) = wd r²", digits=4),
    Column("p", "pressure", "weight decay; measured on the sphere", digits=4),
    Column("law", "predicted_pressure", "T (d − 1) / r²", digits=4),
    Column("p V off (%)", lambda row: 100 * row.gas_law, "against (d − 1) T / 2", digits=2),
    Column("S", "entropy", "entropy, nats", digits=4),
    Column("law", "predicted_entropy", "von Mises-Fisher at T, plus (d − 1) ln r", digits=4),
)
_MAXWELL = (
    Column("protocol", lambda row: NAMES[row.protocol], kind="tight"),
    Column("relation", "name", "derivative of the entropy at one temperature", kind="tight"),
    Column("measured", "slope", digits=4),
    Column("error", "error", "standard error", digits=2),
    Column("expected", "expected", "by the relation"),
    Column("off (%)", lambda row: 100 * row.relative_residual, "measured against expected", digits=2),
    Column("settings", "points"),
)


def report(run: Run, result: ToyThermoResult) -> Report:
    """What is to be read about the thermodynamics."""
    protocols = dict.fromkeys(row.protocol for row in result.rows)
    charts = {protocol: _protocol_chart(result, protocol) for protocol in protocols}
    sections = [
        Section("gas", "Energy and gas law", [_gas_chart(result)]),
        *(Section(f"protocol-{protocol}", _HEADINGS[protocol], [chart]) for protocol, chart in charts.items()),
    ]
    if result.maxwell:
        caption = "The slope of the entropy across weight decays (norms), the temperature's own effect regressed out."
        sections.append(Section("maxwell", "Maxwell relations", [table(result.maxwell, _MAXWELL, caption)]))
    caption = "One row a setting. Click a heading to sort, click again to turn the order around."
    sections.append(Section("rows", "All settings", [table(result.rows, _COLUMNS, caption)]))
    return Report(
        title=_TITLE,
        subtitle=subtitle(result),
        summary=[
            counted(len(result.rows), "setting"),
            counted(len(charts), "protocol"),
            f"{result.spec.copies} copies each",
        ],
        sections=sections,
        figures=[_side_by_side(charts)],
        measured=_MEASUREMENTS,
    )


def printed(result: ToyThermoResult) -> list[Table | str]:
    """The settings as a table, and the Maxwell relations."""
    columns = [Column("fixed", lambda row: _SHORT[row.protocol], kind="tight"), *_COLUMNS[1:3]]
    for name in ("energy", "radius", "pressure"):
        columns += [Column(_SYMBOLS[name], name, digits=4), Column("off %", _off(name), digits=2)]
    columns += [_COLUMNS[-2], Column("off", lambda row: row.entropy - row.predicted_entropy, digits=2)]
    relations: list[Table | str] = ["", table(result.maxwell, _MAXWELL)] if result.maxwell else []
    return [table(result.rows, columns), *relations]


def _gas_chart(result: ToyThermoResult) -> Chart:
    """Internal energy and p V against the temperature, and how far the energy is from its law."""
    ordered = sorted(result.rows, key=lambda row: row.temperature)
    heat = [row.temperature for row in ordered]
    energy: list[Mark] = [Line(heat, [row.predicted_energy for row in ordered], INKED, entry="law")]
    work: list[Mark] = [Line(heat, [(result.spec.dimension - 1) * t / 2 for t in heat], INKED, entry="law")]
    off: list[Mark] = []
    for protocol, look in series_looks(row.protocol for row in result.rows).items():
        rows = [row for row in result.rows if row.protocol == protocol]
        own, said, name = look.but(marker=_MARKERS[protocol], size=8), [_said(row) for row in rows], NAMES[protocol]
        at = [row.temperature for row in rows]
        bars = [100 * row.energy_error / row.predicted_energy for row in rows]
        energy.append(Points(at, [row.energy for row in rows], own, said, entry=name))
        work.append(Points(at, [row.pressure * row.radius**2 / 2 for row in rows], own, said, entry=name))
        off.append(Points(at, [_off("energy")(row) for row in rows], own, said, error=bars, entry=name))
    return Chart(
        id="gas-chart",
        title=_TITLE,
        x=Axis("temperature T", log=True),
        panels=[
            Panel(Axis("internal energy U", log=True), energy),
            Panel(Axis("p V", log=True), work),
            Panel(Axis("U − law (% of law)"), off, rules=[Rule(0)], height=0.7),
        ],
        height=820,
        caption=(
            "Top: mean loss over the von Mises-Fisher law. Middle: p V over the law of an ideal gas, (d − 1) T / 2; p "
            "is the weight decay, on the sphere what the growth of the norm in a step says. Bottom: bars are standard "
            "errors."
        ),
        label="Internal energy and p V against the temperature with their laws",
    )


def _protocol_chart(result: ToyThermoResult, protocol: str) -> Chart:
    """Norm (on the sphere: pressure) and entropy along the protocol's knob, one colour a rate."""
    quantity, title = ("pressure", "pressure p") if protocol == "sphere" else ("radius", "norm r")
    own = sorted((row for row in result.rows if row.protocol == protocol), key=lambda row: row.knob)
    marks: dict[str, list[Mark]] = {quantity: [], "entropy": []}
    for rate, look in elr_looks(row.rate for row in own).items():
        rows = [row for row in own if row.rate == rate]
        entry, dots = f"{_RATES[protocol]} {format_number(rate)}", look.but(marker=_MARKERS[protocol], size=8)
        knob, said = [row.knob for row in rows], [_said(row) for row in rows]
        for what, found in marks.items():
            law, values = ([getattr(row, name) for row in rows] for name in (f"predicted_{what}", what))
            errors = [getattr(row, f"{what}_error") for row in rows]
            found.append(Line(knob, law, look, entry=entry))
            found.append(Points(knob, values, dots, said, error=errors, entry=entry, listed=False))
    return Chart(
        id=f"{protocol.replace('_', '-')}-chart",
        title=f"{_TITLE}: {NAMES[protocol]}",
        legend="line: law",
        x=Axis(_KNOBS[protocol], log=True),
        panels=[Panel(Axis(title, log=True), marks[quantity]), Panel(Axis("entropy S (nats)"), marks["entropy"])],
        note="Lines: laws; bars: standard errors.",
        height=560,
        caption=_CAPTIONS[protocol],
        label=f"{title} and entropy against the {_KNOBS[protocol]}, {NAMES[protocol]}",
    )


def _side_by_side(charts: Mapping[str, Chart]) -> Chart:
    """The charts of all protocols side by side, for paper."""
    panels = [
        replace(chart.panels[row], x=chart.x, title=NAMES[protocol] if row == 0 else "")
        for row in (0, 1)
        for protocol, chart in charts.items()
    ]
    return replace(
        next(iter(charts.values())),
        id="protocols-chart",
        title=_TITLE,
        panels=panels,
        columns=len(charts),
        note="Lines: laws; colours: learning rates; bars: standard errors.",
        label="Norm or pressure, and entropy, of all protocols",
    )


def _said(row: ThermoRow) -> str:
    rate = f"{_RATES[row.protocol]} {format_number(row.rate)} · {_KNOBS[row.protocol]} {format_number(row.knob)}"
    lines = [f"<b>{NAMES[row.protocol]}</b> · {rate}", f"T {format_number(row.temperature)}"]
    for name, symbol in _SYMBOLS.items():
        measured, law = getattr(row, name), getattr(row, f"predicted_{name}")
        lines.append(f"{symbol} {format_number(measured, 4)} · law {format_number(law, 4)}")
    return "<br>".join(lines)
