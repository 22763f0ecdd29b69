"""The printed figures of the regimes toy: loss over its closed form, and the course of a few runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, new_figure, number_ticks, panel_letter
from onsphere.lab.chart.theme import OKABE_ITO, series_colours
from onsphere.lab.experiments.toy_regimes.charts import elr_ceiling
from onsphere.lab.experiments.toy_regimes.result import ToyRegimesResult
from onsphere.lab.experiments.toy_regimes.view import Course, law
from onsphere.lab.report.words import format_number

__all__ = ["course_figure", "loss_figure"]

_DASHED: Any = (0, (4, 3))


def loss_figure(result: ToyRegimesResult, title: str, subtitle: str) -> Figure:
    """Mean loss against the ELR over the closed form; ELR A on the axis above. Call inside ``figures.style()``."""
    figure = new_figure(6.2, 4.4)
    figure_title(figure, title, subtitle)
    panels: Any = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.36])
    loss, gap = panels
    rows = result.rows
    elrs, at_random = np.array([row.elr for row in rows]), rows[0].loss_at_random
    means = np.array([row.loss for row in rows])
    around = np.array([[row.loss - row.loss_low for row in rows], [row.loss_high - row.loss for row in rows]])
    loss.plot(*law(result), color=INK, linewidth=1.1, label="law: max(0, A − 1/ELR) / 2", zorder=2)
    loss.errorbar(
        elrs,
        means,
        yerr=np.maximum(around, 0),
        fmt="o",
        markersize=3.6,
        color=OKABE_ITO["blue"],
        elinewidth=0.8,
        label="mean over steps and seeds; bar: range over seeds",
        zorder=3,
    )
    loss.axhline(at_random, color=INK, linewidth=0.9, linestyle=_DASHED)
    loss.annotate(
        f"random directions: A/2 = {format_number(at_random)}",
        (0.01, at_random),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7.5,
    )
    loss.set_ylim(-0.04 * at_random, 1.14 * at_random)
    loss.set_ylabel("mean loss")
    gap.plot(
        elrs, 100 * (means - [row.predicted_loss for row in rows]) / at_random, "o", color=OKABE_ITO["blue"], ms=3.6
    )
    gap.axhline(0, color=INK, linewidth=0.9)
    reach = max(0.1, *np.abs(gap.get_ylim()))
    gap.set_ylim(-reach, reach)
    gap.set_ylabel("measured − law\n(% of random)")
    gap.set_xlabel("effective learning rate (ELR)")
    for axes in (loss, gap):
        axes.axvline(result.threshold, color=INK, linewidth=0.9, linestyle=_DASHED)
        axes.set_xscale("log")
        number_ticks(axes.xaxis)
    loss.tick_params(labelbottom=False)
    height = sum(result.alphas)
    above = loss.secondary_xaxis("top", functions=(lambda elr: elr * height, lambda c: c / height))
    above.set_xlabel("ELR A")
    number_ticks(above.xaxis)
    loss.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08))
    figure.align_ylabels([loss, gap])
    return figure


def course_figure(result: ToyRegimesResult, courses: list[Course], title: str, subtitle: str) -> Figure:
    """Loss and individual ELRs against steps at a few ELRs, one a column. Call inside ``figures.style()``."""
    figure = new_figure(2.45 * max(len(courses), 2), 4.1)
    figure_title(figure, title, subtitle)
    panels: Any = figure.subplots(2, len(courses), sharex=True, sharey="row", squeeze=False)
    n, at_random = len(result.alphas), courses[0].row.loss_at_random
    for column, course in enumerate(courses):
        loss, own = panels[:, column]
        row, x = course.row, course.steps + 1
        loss.plot(x, np.maximum(course.loss, 1e-12 * at_random), color=OKABE_ITO["vermillion"], linewidth=0.9)
        if row.predicted_loss > 0:
            loss.axhline(row.predicted_loss, color=INK, linewidth=1.0, linestyle=":", zorder=4)
        panel_letter(loss, "abcd"[column], f"ELR = {format_number(row.relative_elr)} / A")
        for i, colour in enumerate(series_colours(n)):
            label = f"α = {format_number(result.alphas[i])}"
            own.plot(x, course.elrs[:, i], color=colour, linewidth=0.9, label=label if n <= 6 else None)
            own.axhline(1 / result.alphas[i], color=colour, linewidth=0.9, linestyle=_DASHED)
        own.set_xlabel("step + 1")
        own.set_xscale("log")
    loss, own = panels[:, 0]
    loss.set_yscale("log")
    loss.set_ylim(1e-9 * at_random, 4 * at_random)
    loss.set_ylabel("loss (dotted: law)")
    own.set_yscale("log")
    least = min(min(1 / alpha for alpha in result.alphas), *(float(course.elrs.min()) for course in courses))
    own.set_ylim(least / 1.3, 5 * elr_ceiling(courses))
    own.set_ylabel("individual ELR\n(dashed: threshold 1/α)")
    if n <= 6:
        own.legend(loc="upper left", handlelength=1.2)
    figure.align_ylabels([loss, own])
    return figure
