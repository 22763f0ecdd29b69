"""The figure beside the page: sharpness along the paths, and the map of outcomes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.chart.theme import elr_colours
from onsphere.lab.experiments.zones.charts import FIRST, LOOKS
from onsphere.lab.experiments.zones.result import OUTCOMES, ZonesResult
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]


def figures_of(result: ZonesResult, title: str, subtitle: str) -> dict[str, Callable[[], Figure]]:
    """Makers of the figures by name; call them inside the reports' style."""
    return {"zones": partial(_zones, result, (title, subtitle))}


def _zones(result: ZonesResult, heading: tuple[str, str]) -> Figure:
    figure = new_figure(7.4, 3.6)
    figure_title(figure, *heading)
    panels: Any = figure.subplots(1, 2)
    for elr, colour in elr_colours(result.spec.path_elrs).items():
        for seed in range(result.spec.seeds):
            own = [p for p in result.path if (p.elr, p.seed) == (elr, seed)]
            label = f"path of ELR {format_number(elr)}" if seed == 0 else None
            steps = [max(FIRST, p.step) for p in own]
            panels[0].plot(steps, [p.sharpness for p in own], "o-", ms=2.5, color=colour, label=label)
    log_axis(panels[0], "y")
    low, high = panels[0].get_ylim()
    for elr in result.spec.elrs:
        if low < 2 / elr < high:
            panels[0].axhline(2 / elr, color=INK, linewidth=0.7, linestyle=":")
            panels[0].annotate(
                f"2 / {format_number(elr)}", (FIRST, 2 / elr), xytext=(0, 1), textcoords="offset points", fontsize=7
            )
    panels[0].set_xlabel("step")
    panels[0].set_ylabel("sharpness on the unit sphere")
    panels[0].legend(loc="lower left")
    panel_letter(panels[0], "a", "along the paths")
    for seed in range(result.spec.seeds):
        own = [p for p in result.main if p.seed == seed]
        label = "2 / sharpness" if seed == 0 else None
        panels[1].plot(
            [max(FIRST, p.step) for p in own], [2 / p.sharpness for p in own], color="#999999", lw=1, label=label
        )
    for outcome in OUTCOMES:
        rows = [row for row in result.continuations if row.outcome == outcome]
        if rows:
            x = [max(FIRST, row.checkpoint) * 1.08 ** (row.seed - (result.spec.seeds - 1) / 2) for row in rows]
            colour, _, _, marker = LOOKS[outcome]
            panels[1].plot(x, [row.elr for row in rows], marker, color=colour, ms=4.5, linestyle="none", label=outcome)
    log_axis(panels[1], "y")
    panels[1].set_xlabel("step where it is continued")
    panels[1].set_ylabel("ELR of the continuation")
    panels[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    panel_letter(panels[1], "b", "continuations")
    for axes in panels:
        log_axis(axes, "x")
    return figure
