"""The charts of the thermodynamics toy: energy and gas law, then each protocol against its closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onsphere.lab.chart.looks import elr_looks, series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Mark, Marker, Panel, Points, Rule
from onsphere.lab.experiments.toy_thermo.result import NAMES, ThermoRow, ToyThermoResult
from onsphere.lab.report.words import format_number

__all__ = ["gas_chart", "protocol_chart", "protocols_chart"]

_TITLE = "Training with isotropic noise as an ideal gas"
#: Marker of each protocol.
_MARKERS: dict[str, Marker] = {"fixed_elr": "circle", "fixed_lr": "diamond", "sphere": "square"}
#: What is moved along a curve, and what tells curves apart.
_KNOBS = {"fixed_elr": "weight decay", "fixed_lr": "weight decay", "sphere": "norm r"}
_RATES = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR"}


def gas_chart(result: ToyThermoResult) -> Chart:
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
        apart = [100 * (row.energy / row.predicted_energy - 1) for row in rows]
        bars = [100 * row.energy_error / row.predicted_energy for row in rows]
        energy.append(Points(at, [row.energy for row in rows], own, said, entry=name))
        work.append(Points(at, [row.pressure * row.radius**2 / 2 for row in rows], own, said, entry=name))
        off.append(Points(at, apart, own, said, error=bars, entry=name))
    return Chart(
        id="gas-chart",
        file="gas",
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


def protocol_chart(result: ToyThermoResult, protocol: str) -> Chart:
    """Norm (on the sphere: pressure) and entropy along the protocol's knob, one colour a rate."""
    quantity, name = ("pressure", "pressure p") if protocol == "sphere" else ("radius", "norm r")
    own = sorted((row for row in result.rows if row.protocol == protocol), key=lambda row: row.knob)
    looks = elr_looks(row.rate for row in own)

    def marks(what: str) -> list[Mark]:
        found: list[Mark] = []
        for rate, look in looks.items():
            rows = [row for row in own if row.rate == rate]
            entry, knob = f"{_RATES[protocol]} {format_number(rate)}", [row.knob for row in rows]
            found.append(Line(knob, [getattr(row, f"predicted_{what}") for row in rows], look, entry=entry))
            found.append(
                Points(
                    knob,
                    [getattr(row, what) for row in rows],
                    look.but(marker=_MARKERS[protocol], size=8),
                    [_said(row) for row in rows],
                    error=[getattr(row, f"{what}_error") for row in rows],
                    entry=entry,
                    listed=False,
                )
            )
        return found

    return Chart(
        id=f"{protocol.replace('_', '-')}-chart",
        title=f"{_TITLE}: {NAMES[protocol]}",
        legend="line: law",
        x=Axis(_KNOBS[protocol], log=True),
        panels=[Panel(Axis(name, log=True), marks(quantity)), Panel(Axis("entropy S (nats)"), marks("entropy"))],
        note="Lines: laws; bars: standard errors.",
        height=560,
        caption=_CAPTIONS[protocol],
        label=f"{name} and entropy against the {_KNOBS[protocol]}, {NAMES[protocol]}",
    )


def protocols_chart(result: ToyThermoResult, charts: Sequence[Chart]) -> Chart:
    """The charts of all protocols side by side, for paper."""
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    panels = [
        replace(chart.panels[row], x=chart.x, title=NAMES[protocol] if row == 0 else "")
        for row in (0, 1)
        for protocol, chart in zip(protocols, charts, strict=True)
    ]
    return replace(
        charts[0],
        id="protocols-chart",
        title=_TITLE,
        panels=panels,
        columns=len(charts),
        note="Lines: laws; colours: learning rates; bars: standard errors.",
        label="Norm or pressure, and entropy, of all protocols",
    )


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


def _said(row: ThermoRow) -> str:
    def pair(name: str, symbol: str) -> str:
        measured, law = getattr(row, name), getattr(row, f"predicted_{name}")
        return f"{symbol} {format_number(measured, 4)} · law {format_number(law, 4)}"

    rate = f"{_RATES[row.protocol]} {format_number(row.rate)} · {_KNOBS[row.protocol]} {format_number(row.knob)}"
    lines = [f"<b>{NAMES[row.protocol]}</b> · {rate}", f"T {format_number(row.temperature)}"]
    symbols = (("energy", "U"), ("radius", "r"), ("pressure", "p"), ("entropy", "S"))
    return "<br>".join([*lines, *(pair(name, symbol) for name, symbol in symbols)])
