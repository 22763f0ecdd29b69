"""The interactive charts of the thermodynamics toy: energy and gas law, then each protocol against its closed forms."""

from __future__ import annotations

from typing import Any

from onsphere.lab.chart.theme import elr_colours, series_colours
from onsphere.lab.experiments.toy_thermo.result import NAMES, ThermoRow, ToyThermoResult
from onsphere.lab.report.charts import INK, layout_of, legend_of, linear_axis, log_axis, rule
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["KNOBS", "RATES", "SYMBOLS", "by_rate", "gas_chart", "protocol_chart", "work"]

#: plotly's and matplotlib's marker of each protocol.
SYMBOLS = {"fixed_elr": ("circle", "o"), "fixed_lr": ("diamond", "D"), "sphere": ("square", "s")}
#: What is moved along a curve, and what tells curves apart.
KNOBS = {"fixed_elr": "weight decay", "fixed_lr": "weight decay", "sphere": "norm r"}
RATES = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR"}


def gas_chart(result: ToyThermoResult) -> Chart:
    """Internal energy and p V against the temperature, and how far the energy is from its law."""
    d = int(result.spec["dimension"])
    ordered = sorted(result.rows, key=lambda row: row.temperature)
    heat = [row.temperature for row in ordered]
    law = {"type": "scatter", "x": heat, "mode": "lines", "line": {"color": INK, "width": 1.4}, "name": "law"}
    law |= {"legendgroup": "law", "hoverinfo": "skip"}
    traces: list[dict[str, Any]] = [
        law | {"y": [row.predicted_energy for row in ordered]},
        law | {"y": [(d - 1) * t / 2 for t in heat], "yaxis": "y2", "meta": {"legend": False}},
    ]
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    colours = zip(series_colours(len(protocols)), series_colours(len(protocols), dark=True), strict=True)
    for protocol, (light, dark) in zip(protocols, colours, strict=True):
        rows = [row for row in result.rows if row.protocol == protocol]
        off = [100 * (row.energy / row.predicted_energy - 1) for row in rows]
        error = [100 * row.energy_error / row.predicted_energy for row in rows]
        bars = {"error_y": {"type": "data", "array": error, "thickness": 1, "width": 3}}
        panels: tuple[tuple[str, list[float], dict[str, Any]], ...] = (
            ("y", [row.energy for row in rows], {}),
            ("y2", [work(row) for row in rows], {}),
            ("y3", off, bars),
        )
        for axis, values, more in panels:
            traces.append(
                {
                    "type": "scatter",
                    "x": [row.temperature for row in rows],
                    "y": values,
                    "yaxis": axis,
                    "mode": "markers",
                    "marker": {"color": light, "size": 8, "symbol": SYMBOLS[protocol][0]},
                    "name": NAMES[protocol],
                    "legendgroup": protocol,
                    "text": [_row_text(row) for row in rows],
                    "hovertemplate": "%{text}<extra></extra>",
                    "meta": {"legend": axis == "y", "dark": dark},
                }
                | more
            )
    layout = layout_of(820, legend_of("")) | {
        "xaxis": log_axis("temperature T") | {"anchor": "y3", "dtick": "D2"},
        "yaxis": log_axis("internal energy U") | {"domain": [0.66, 1], "dtick": "D2"},
        "yaxis2": log_axis("p V") | {"domain": [0.3, 0.62], "dtick": "D2"},
        "yaxis3": linear_axis("U − law (% of law)") | {"domain": [0, 0.24]},
        "shapes": [rule(0, "y3")],
    }
    return Chart(
        id="gas-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Top: mean loss over the von Mises-Fisher law. Middle: p V over the law of an ideal gas, (d − 1) T / 2; p "
            "is the weight decay, on the sphere what the growth of the norm in a step says. Bottom: bars are standard "
            "errors."
        ),
        label="Internal energy and p V against the temperature with their laws",
    )


def protocol_chart(result: ToyThermoResult, protocol: str) -> Chart:
    """Norm (on the sphere: pressure) and entropy along the protocol's knob, one colour a rate."""
    on_sphere = protocol == "sphere"
    quantity, name = ("pressure", "pressure p") if on_sphere else ("radius", "norm r")
    groups = by_rate(result, protocol)
    light, dark = elr_colours(groups), elr_colours(groups, dark=True)
    traces: list[dict[str, Any]] = []
    for rate, rows in groups.items():
        title = f"{RATES[protocol]} {format_number(rate)}"
        for axis, what in (("y", quantity), ("y2", "entropy")):
            shared = {
                "type": "scatter",
                "x": [row.knob for row in rows],
                "yaxis": axis,
                "name": title,
                "legendgroup": title,
            }
            values = [getattr(row, what) for row in rows]
            traces += [
                shared
                | {
                    "y": [getattr(row, f"predicted_{what}") for row in rows],
                    "mode": "lines",
                    "line": {"color": light[rate], "width": 1.4},
                    "hoverinfo": "skip",
                    "meta": {"legend": axis == "y", "dark": dark[rate]},
                },
                shared
                | {
                    "y": values,
                    "mode": "markers",
                    "marker": {"color": light[rate], "size": 8, "symbol": SYMBOLS[protocol][0]},
                    "text": [_row_text(row) for row in rows],
                    "hovertemplate": "%{text}<extra></extra>",
                    "meta": {"legend": False, "dark": dark[rate]},
                    "error_y": {
                        "type": "data",
                        "array": [getattr(row, f"{what}_error") for row in rows],
                        "thickness": 1,
                        "width": 3,
                    },
                },
            ]
    knob = "norm r" if on_sphere else "weight decay"
    layout = layout_of(560, legend_of("line: law")) | {
        "xaxis": log_axis(knob) | {"anchor": "y2", "dtick": "D2"},
        "yaxis": log_axis(name) | {"domain": [0.54, 1], "dtick": "D2"},
        "yaxis2": linear_axis("entropy S (nats)") | {"domain": [0, 0.46]},
    }
    return Chart(
        id=f"{protocol.replace('_', '-')}-chart",
        figure={"data": traces, "layout": layout},
        caption=_CAPTIONS[protocol],
        label=f"{name} and entropy against the {knob}, {NAMES[protocol]}",
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


def by_rate(result: ToyThermoResult, protocol: str) -> dict[float, list[ThermoRow]]:
    """The protocol's rows by their lr or ELR, each along its knob, both ascending."""
    groups: dict[float, list[ThermoRow]] = {}
    for row in sorted((row for row in result.rows if row.protocol == protocol), key=lambda row: row.knob):
        groups.setdefault(row.rate, []).append(row)
    return dict(sorted(groups.items()))


def work(row: ThermoRow) -> float:
    """Pressure times volume, V = r² / 2."""
    return row.pressure * row.radius**2 / 2


def _row_text(row: ThermoRow) -> str:
    def pair(name: str, symbol: str) -> str:
        measured, law = getattr(row, name), getattr(row, f"predicted_{name}")
        return f"{symbol} {format_number(measured, 4)} · law {format_number(law, 4)}"

    rate = f"{RATES[row.protocol]} {format_number(row.rate)} · {KNOBS[row.protocol]} {format_number(row.knob)}"
    lines = [f"<b>{NAMES[row.protocol]}</b> · {rate}", f"T {format_number(row.temperature)}"]
    symbols = (("energy", "U"), ("radius", "r"), ("pressure", "p"), ("entropy", "S"))
    return "<br>".join([*lines, *(pair(name, symbol) for name, symbol in symbols)])
