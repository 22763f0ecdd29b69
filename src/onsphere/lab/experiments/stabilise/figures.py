"""The figures beside the page, for slides and papers: memory, wandering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.chart.theme import elr_colours
from onsphere.lab.experiments.stabilise.charts import DIRECTIONS, by_lag
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.experiments.stabilise.view import FIRST, Curve
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]


def figures_of(
    result: StabiliseResult, curves: Sequence[Curve], title: str, subtitle: str
) -> dict[str, Callable[[], Figure]]:
    """Makers of the figures by name; call them inside the reports' style."""
    heading = (title, subtitle)
    return {"memory": partial(_memory, result, curves, heading), "wandering": partial(_wandering, result, heading)}


def _memory(result: StabiliseResult, curves: Sequence[Curve], heading: tuple[str, str]) -> Figure:
    """Loss after each change, and the share of the difference that is left."""
    figure = new_figure(7.0, 3.4)
    figure_title(figure, *heading)
    panels: Any = figure.subplots(1, 2)
    colours = elr_colours(result.spec["elrs"])
    for curve in curves:
        stays = curve.before == curve.after
        look = {"linewidth": 4, "alpha": 0.3, "label": f"ELR {format_number(curve.after)}"} if stays else {}
        panels[0].plot(curve.steps, curve.loss, color=colours[curve.after], **look)
    panels[0].set_ylabel("minibatch loss")
    panels[0].legend(loc="upper right", title="after the change")
    panel_letter(panels[0], "a", "levels")
    for direction, (name, colour) in DIRECTIONS.items():
        rows = [row for row in result.memory_course if row.direction == direction]
        steps = [max(FIRST, (row.first + row.last - 1) / 2) for row in rows]
        memory, error = (np.array([getattr(row, value) for row in rows]) for value in ("memory", "error"))
        panels[1].plot(steps, 100 * memory, "o-", color=colour, ms=3, label=name)
        panels[1].fill_between(
            steps, 100 * (memory - 2 * error), 100 * (memory + 2 * error), color=colour, alpha=0.2, linewidth=0
        )
    panels[1].axhline(0, color=INK, linewidth=0.9, linestyle="--")
    panels[1].set_ylabel("difference that is left (%)")
    panels[1].legend(loc="upper right")
    panel_letter(panels[1], "b", "memory")
    for axes in panels:
        axes.set_xlabel("steps since the change of the ELR")
        log_axis(axes, "x")
    return figure


def _wandering(result: StabiliseResult, heading: tuple[str, str]) -> Figure:
    """Angle to the start of the stationary phase, with the random walk of the same steps."""
    figure = new_figure(6.0, 3.8)
    figure_title(figure, heading[0], f"{heading[1]}\ndotted: random walk with the same steps")
    axes: Any = figure.subplots()
    elrs = [stay.elr for stay in result.chaotic]
    for elr, colour in elr_colours(elrs).items():
        own = [row for row in result.distances if row.elr == elr and row.lag]
        lags, angle, error, walk = by_lag(own, "angle")
        axes.errorbar(lags, angle, 2 * error, color=colour, marker="o", ms=3, label=f"ELR {format_number(elr)}")
        axes.plot(lags, np.arccos(np.clip(walk, -1, 1)), color=colour, linestyle=":")
    axes.axhline(np.pi / 2, color=INK, linewidth=0.9, linestyle="--")
    axes.annotate("orthogonal", (lags[0], np.pi / 2), xytext=(0, 2), textcoords="offset points", fontsize=7.5)
    axes.set_xlabel("steps since the start of the stationary phase")
    axes.set_ylabel("angle to the start (rad)")
    axes.set_ylim(bottom=0)
    log_axis(axes, "x")
    axes.legend(loc="lower right")
    return figure
