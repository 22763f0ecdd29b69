"""The printed figures of a comparison: the schedules, and the test errors with intervals."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.experiments.schedule.answer import numbers
from onsphere.lab.experiments.schedule.charts import COLOURS
from onsphere.lab.experiments.schedule.methods import Family
from onsphere.lab.experiments.schedule.result import ScheduleResult
from onsphere.lab.experiments.schedule.view import Course

__all__ = ["errors_figure", "schedules_figure"]

MARKERS: dict[Family, str] = {
    "proposed": "D",
    "constant": "o",
    "cosine": "s",
    "space-constant": "^",
    "space-cosine": "v",
}
_DASHED: Any = (0, (4, 3))


def schedules_figure(result: ScheduleResult, courses: list[Course], title: str, subtitle: str) -> Figure:
    """ELR and test error against step. Call inside ``figures.style()``."""
    figure = new_figure(7.6, 3.6)
    figure_title(figure, title, subtitle)
    panels: Any = figure.subplots(1, 2)
    elr, error = panels
    for course in courses:
        family = course.method.family
        width = 2.2 if family == "proposed" else 1.1
        elr.plot(course.steps, course.elr, color=COLOURS[family][0], linewidth=width, label=course.method.name)
        error.plot(course.evaluation_steps[1:], 100 * course.test_error[1:], color=COLOURS[family][0], linewidth=width)
    for text, value in (
        ("convergence ends", result.proposal["threshold"]),
        ("divergence begins", result.boundaries["divergence"]),
    ):
        if value:
            elr.axhline(value, color=INK, linewidth=0.9, linestyle=_DASHED)
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            elr.annotate(text, (0.01, value), xytext=(0, 2), fontsize=7, **place)
    log_axis(elr, "y")
    elr.set_ylabel("effective learning rate (ELR)")
    error.set_ylabel("test error (%)")
    for letter, axes, name in (("a", elr, "schedules"), ("b", error, "test error")):
        axes.set_xlabel("step")
        panel_letter(axes, letter, name)
    figure.legend(*elr.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def errors_figure(result: ScheduleResult, title: str, subtitle: str) -> Figure:
    """Test errors of the tuned methods and paired differences, with 95 % intervals. Call inside ``figures.style()``."""
    figure = new_figure(7.6, 3.2)
    figure_title(figure, title, subtitle)
    panels: Any = figure.subplots(1, 2, sharey=True, width_ratios=[1.4, 1])
    errors, gaps = panels
    tuned = list(reversed(result.tuned))
    for row, method in enumerate(tuned):
        colour, marker = COLOURS[method.family][0], MARKERS[method.family]
        mean = method.over_seeds("test_error")
        values = [100 * value for value in method.test_error]
        errors.plot(values, [row] * len(values), "o", color=colour, markersize=4, markerfacecolor="none")
        look: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 5.5, "capsize": 2.5, "linewidth": 1.2}
        errors.errorbar([100 * mean.mean], [row], xerr=[100 * (mean.high - mean.mean)], **look)
        gap = result.verdict.differences.get(method.family)
        if gap is not None:
            gaps.errorbar([100 * gap["mean"]], [row], xerr=[100 * (gap["high"] - gap["mean"])], **look)
    errors.set_yticks(range(len(tuned)), [f"{method.name}\n{numbers(method)}" for method in tuned])
    errors.set_ylim(-0.6, len(tuned) - 0.4)
    errors.set_xlabel("test error (%)")
    gaps.set_xlabel("proposal minus method (points)")
    gaps.axvline(0, color=INK, linewidth=0.9, linestyle=_DASHED)
    panel_letter(errors, "a", "means, 95 % intervals, seeds")
    panel_letter(gaps, "b", "paired by seed")
    return figure
