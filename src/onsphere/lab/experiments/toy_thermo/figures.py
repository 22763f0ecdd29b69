"""The printed figures of the thermodynamics toy: energy and gas law, and the protocols side by side."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.chart.theme import elr_colours, series_colours
from onsphere.lab.experiments.toy_thermo.charts import KNOBS, RATES, SYMBOLS, by_rate, work
from onsphere.lab.experiments.toy_thermo.result import NAMES, ToyThermoResult
from onsphere.lab.report.words import format_number

__all__ = ["gas_figure", "protocols_figure"]


def gas_figure(result: ToyThermoResult, title: str, subtitle: str) -> Figure:
    """Internal energy and p V against the temperature, over their laws. Call inside ``figures.style()``."""
    figure = new_figure(7.6, 3.4)
    figure_title(figure, title, subtitle)
    panels: Any = figure.subplots(1, 2)
    energy, gas = panels
    d = int(result.spec["dimension"])
    ordered = sorted(result.rows, key=lambda row: row.temperature)
    heat = [row.temperature for row in ordered]
    energy.plot(heat, [row.predicted_energy for row in ordered], color=INK, linewidth=1.0, label="von Mises-Fisher")
    gas.plot(heat, [(d - 1) * t / 2 for t in heat], color=INK, linewidth=1.0, label="(d − 1) T / 2")
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    for protocol, colour in zip(protocols, series_colours(len(protocols)), strict=True):
        rows = [row for row in result.rows if row.protocol == protocol]
        look: dict[str, Any] = {"marker": SYMBOLS[protocol][1], "color": colour, "linestyle": "none", "markersize": 4}
        at = [row.temperature for row in rows]
        energy.plot(at, [row.energy for row in rows], **look, label=NAMES[protocol])
        gas.plot(at, [work(row) for row in rows], **look)
    for axes, letter, name, label in (
        (energy, "a", "internal energy", "mean loss U"),
        (gas, "b", "gas law", "p V"),
    ):
        panel_letter(axes, letter, name)
        axes.set_xlabel("temperature T")
        axes.set_ylabel(label)
        log_axis(axes, "x")
        log_axis(axes, "y")
        axes.legend(loc="upper left")
    return figure


def protocols_figure(result: ToyThermoResult, title: str, subtitle: str) -> Figure:
    """Norm or pressure, and entropy, along each protocol's knob. Call inside ``figures.style()``."""
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    figure = new_figure(max(3.0 * len(protocols), 4.2), 4.6)
    figure_title(figure, title, f"{subtitle}\nlines: laws; colours: learning rates; bars: standard errors")
    panels: Any = figure.subplots(2, len(protocols), sharex="col", squeeze=False)
    for column, protocol in enumerate(protocols):
        above, below = panels[:, column]
        quantity, label = ("pressure", "pressure p") if protocol == "sphere" else ("radius", "norm r")
        groups = by_rate(result, protocol)
        colours = elr_colours(groups)
        for rate, rows in groups.items():
            at = [row.knob for row in rows]
            for axes, name in ((above, quantity), (below, "entropy")):
                axes.plot(at, [getattr(row, f"predicted_{name}") for row in rows], color=colours[rate], linewidth=1.0)
                axes.errorbar(
                    at,
                    [getattr(row, name) for row in rows],
                    yerr=[getattr(row, f"{name}_error") for row in rows],
                    fmt=SYMBOLS[protocol][1],
                    color=colours[rate],
                    markersize=4,
                    elinewidth=0.8,
                    label=f"{RATES[protocol]} {format_number(rate)}",
                )
        panel_letter(above, "abc"[column], NAMES[protocol])
        above.set_ylabel(label)
        below.set_ylabel("entropy S (nats)")
        below.set_xlabel(KNOBS[protocol])
        log_axis(above, "y")
        log_axis(below, "x")
        if len(groups) <= 6:
            above.legend(loc="best", handlelength=1.0)
    return figure
