"""The printed figures of the periods toy: the course with its jumps, the loop of a period, the law."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure
from onsphere.lab.chart.theme import OKABE_ITO, elr_colormap, series_colours
from onsphere.lab.experiments.toy_periods.charts import by_decay, law_line
from onsphere.lab.experiments.toy_periods.result import STRONG, ToyPeriodsResult
from onsphere.lab.experiments.toy_periods.view import Trace, one_period
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]

_DASHED: Any = (0, (4, 3))


def figures_of(result: ToyPeriodsResult, trace: Trace, title: str, subtitle: str) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name: the loop only if there is a period, the law only if it has rows."""
    heading = (title, subtitle)
    found: dict[str, Callable[[], Figure]] = {"course": partial(_course, result, trace, heading)}
    period = one_period(result, trace)
    if period is not None:
        found["loop"] = partial(_loop, result, trace, period, heading)
    if result.law:
        found["law"] = partial(_law, result, heading)
    return found


def _course(result: ToyPeriodsResult, trace: Trace, heading: tuple[str, str]) -> Figure:
    """ELR, loss and norm against steps."""
    figure = new_figure(7.0, 5.2)
    figure_title(figure, *heading)
    panels: Any = figure.subplots(3, 1, sharex=True)
    elr, loss, norm = panels
    blue, red = OKABE_ITO["blue"], OKABE_ITO["vermillion"]
    elr.plot(trace.steps, trace.elr, color=blue, linewidth=1.0)
    elr.plot([j.step for j in result.jumps], [j.elr for j in result.jumps], "v", color=red, ms=4.5, label="jump")
    elr.axhline(result.threshold, color=INK, linewidth=0.9, linestyle=_DASHED, label="threshold 1/A")
    for axes, values, name in ((loss, trace.loss, "loss"), (norm, trace.radius, "norm")):
        axes.plot(trace.steps, np.where(values > 0, values, np.nan), color=blue, linewidth=1.0)
        axes.set_ylabel(name)
        log_axis(axes, "y")
    elr.set_ylabel("ELR")
    log_axis(elr, "y")
    elr.legend(loc="lower right", ncols=2)
    norm.set_xlabel("step")
    norm.set_xlim(0, trace.steps[-1])
    if result.burn_in and result.outcome == "periods":
        for axes in panels:
            axes.axvline(result.burn_in, color="#888888", linewidth=0.9, linestyle=":")
        elr.annotate(
            "jumps are counted from here",
            (result.burn_in, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
    figure.align_ylabels(list(panels))
    return figure


def _loop(result: ToyPeriodsResult, trace: Trace, period: Trace, heading: tuple[str, str]) -> Figure:
    """Effective gradient norm against ELR through one period."""
    figure = new_figure(6.0, 4.2)
    figure_title(figure, *heading)
    axes: Any = figure.subplots()
    rest = trace.between(result.jumps[0].step, int(trace.steps[-1]))
    axes.plot(rest.elr, rest.gradient, color="#bbbbbb", linewidth=0.5, zorder=1, label="all periods")
    axes.plot(period.elr, period.gradient, color="#888888", linewidth=0.8, zorder=2)
    since = period.steps - period.steps[0]
    dots = axes.scatter(period.elr, period.gradient, c=since, cmap=elr_colormap(), s=9, zorder=3, label="one period")
    axes.plot(period.elr[0], period.gradient[0], "*", color=OKABE_ITO["vermillion"], ms=10, zorder=4, label="jump")
    axes.axvline(result.threshold, color=INK, linewidth=0.9, linestyle=_DASHED, label="threshold 1/A")
    axes.set_xlabel("effective learning rate (ELR)")
    axes.set_ylabel("effective gradient norm")
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.legend(loc="best")
    bar = figure.colorbar(dots, ax=axes, pad=0.015, fraction=0.05, aspect=28)
    bar.set_label("steps after the jump")
    bar.outline.set_visible(False)
    return figure


def _law(result: ToyPeriodsResult, heading: tuple[str, str]) -> Figure:
    """Measured periods over the floor, with the law."""
    figure = new_figure(6.0, 4.0)
    figure_title(figure, heading[0], f"{heading[1]}\nline: law; hollow: strong jumps, where periods scatter below it")
    axes: Any = figure.subplots()
    groups = by_decay(result)
    for (decay, rows), colour in zip(groups.items(), series_colours(len(groups)), strict=True):
        axes.plot(*law_line(rows), color=colour, label=f"lr · wd = {format_number(rows[0].lr * decay)}")
        for row in rows:
            if row.period is not None:
                face = "white" if row.strength > STRONG else colour
                axes.plot(row.floor, row.period, "o", color=colour, markerfacecolor=face, ms=5)
    axes.set_xlabel("floor of |x| / norm")
    axes.set_ylabel("period (steps)")
    log_axis(axes, "x")
    axes.invert_xaxis()
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")
    return figure
