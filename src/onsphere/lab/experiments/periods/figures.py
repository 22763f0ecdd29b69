"""The printed figures of the periods: the course with its jumps, the loop of a period, the law over lr · wd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, elr_colormap, figure_title, log_axis, new_figure
from onsphere.lab.chart.theme import OKABE_ITO, series_colours
from onsphere.lab.experiments.periods.charts import law_lines, setting_name
from onsphere.lab.experiments.periods.result import PeriodsResult, Setting, summaries
from onsphere.lab.experiments.periods.view import Shown, thinned
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]

_DASHED: Any = (0, (4, 3))
_BLUE, _RED = OKABE_ITO["blue"], OKABE_ITO["vermillion"]


def figures_of(result: PeriodsResult, shown: Sequence[Shown], subtitle: str) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name: a course and a loop of the first seed of each setting, and the law."""
    found: dict[str, Callable[[], Figure]] = {}
    for one in shown:
        if one.run.seed:
            continue
        tail = f"-lr{one.run.lr:g}-wd{one.run.weight_decay:g}"
        found[f"course{tail}"] = partial(_course, one, subtitle)
        if one.period is not None:
            found[f"loop{tail}"] = partial(_loop, one, subtitle)
    settings = [s for s in summaries(result.runs) if s.median("period") is not None]
    if settings:
        found["law"] = partial(_law, settings, subtitle)
    return found


def _title(one: Shown) -> str:
    return f"{setting_name(one.run.lr, one.run.weight_decay)}, seed {one.run.seed}"


def _course(one: Shown, subtitle: str) -> Figure:
    """Loss, ELR, 1 - cos, norm and test error against steps."""
    course = one.course
    figure = new_figure(7.0, 7.2)
    figure_title(figure, _title(one), subtitle)
    panels: Any = figure.subplots(5, 1, sharex=True)
    loss, elr, cosine, norm, error = panels
    series = ((loss, course.loss, "loss"), (elr, course.elr, "ELR"), (norm, course.radius, "norm"))
    for axes, values, name in series:
        axes.plot(*thinned(values), color=_BLUE, linewidth=0.8)
        axes.set_ylabel(name)
    elr.plot(one.run.jumps, course.elr[one.run.jumps], "v", color=_RED, ms=3.5, label="jump")
    if one.run.predicted_elr is not None:
        elr.axhline(one.run.predicted_elr, color=INK, linewidth=0.9, linestyle=":", label="equilibrium")
    if course.cosine_distance is not None:
        cosine.plot(*thinned(course.cosine_distance), color=_BLUE, linewidth=0.8)
        cosine.axhline(one.delta, color=INK, linewidth=0.9, linestyle=_DASHED, label="δ")
        cosine.axhline(course.decay, color=INK, linewidth=0.9, linestyle=":", label="lr · wd")
        cosine.legend(loc="upper right", ncols=2)
    cosine.set_ylabel("1 − cos")
    for axes in (loss, elr, cosine, norm):
        log_axis(axes, "y")
    error.plot(one.evaluation_steps[1:], 100 * one.test_error[1:], ".-", color=_BLUE, linewidth=0.8, ms=3)
    error.set_ylabel("test error (%)")
    error.set_ylim(bottom=0)
    error.set_xlabel("step")
    error.set_xlim(0, len(course.loss))
    elr.legend(loc="lower right", ncols=2)
    figure.align_ylabels(list(panels))
    return figure


def _loop(one: Shown, subtitle: str) -> Figure:
    """Effective gradient norm against ELR, the last whole period in colour."""
    assert one.period is not None
    figure = new_figure(6.0, 4.2)
    figure_title(figure, _title(one), subtitle)
    axes: Any = figure.subplots()
    _, elr, gradient = one.loop(one.run.jumps[0], len(one.course.loss) - 1)
    axes.plot(elr, gradient, color="#bbbbbb", linewidth=0.4, zorder=1, label="all periods")
    steps, own_elr, own_gradient = one.loop(*one.period)
    axes.plot(own_elr, own_gradient, color="#888888", linewidth=0.8, zorder=2)
    dots = axes.scatter(
        own_elr, own_gradient, c=steps - steps[0], cmap=elr_colormap(), s=9, zorder=3, label="last period"
    )
    axes.plot(own_elr[0], own_gradient[0], "*", color=_RED, ms=10, zorder=4, label="jump")
    ends = np.array([elr.min(), elr.max()])
    axes.plot(ends, one.run.predicted_angular_update / ends, color=INK, linewidth=0.9, linestyle=":", label="balance")
    axes.set_xlabel("effective learning rate (ELR)")
    axes.set_ylabel("effective gradient norm")
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.legend(loc="best")
    bar = figure.colorbar(dots, ax=axes, pad=0.015, fraction=0.05, aspect=28)
    bar.set_label("steps after the jump")
    bar.outline.set_visible(False)
    return figure


def _law(settings: list[Setting], subtitle: str) -> Figure:
    """Period of every run over lr · wd, with τ and the norm recurrence."""
    figure = new_figure(5.4, 3.8)
    figure_title(figure, "Period over lr · weight decay", subtitle)
    axes: Any = figure.subplots()
    lrs = sorted({s.lr for s in settings})
    for lr, colour in zip(lrs, series_colours(len(lrs)), strict=True):
        runs = [run for s in settings if s.lr == lr for run in s.runs if run.period is not None]
        x, y = [run.lr * run.weight_decay for run in runs], [run.period for run in runs]
        axes.plot(x, y, "o", color=colour, ms=4, label=f"lr {format_number(lr)}")
    products, law, predicted = law_lines(settings)
    axes.plot(products, law, color=INK, linewidth=1.0, label="τ = 1/(2 lr · wd)")
    axes.plot([s.product for s in settings], [p or np.nan for p in predicted], "+", color=INK, ms=8, label="recurrence")
    axes.set_xlabel("lr · weight decay")
    axes.set_ylabel("period (steps)")
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.legend(loc="best")
    return figure
