"""The printed figures of a drop: test error over the start, the matrix, gradient norm after the drop, barriers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import INK, figure_title, log_axis, new_figure
from onsphere.lab.chart.theme import series_colours
from onsphere.lab.experiments.drop.charts import BARRIER_FLOOR, PAIR_NAMES, averages_by_start, error_range
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.rows import PAIRS
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]

_X = "ELR before the drop"
_DASHED: Any = (0, (4, 3))


def figures_of(result: DropResult, subtitle: str) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name."""
    found: dict[str, Callable[[], Figure]] = {
        "error": partial(_error, result, subtitle),
        "matrix": partial(_matrix, result, subtitle),
        "after": partial(_after, result, subtitle),
    }
    if result.paths:
        found["barriers"] = partial(_barriers, result, subtitle)
    return found


def _error(result: DropResult, subtitle: str) -> Figure:
    figure = new_figure(6.4, 4.0)
    figure_title(figure, "Test error after a drop of the ELR", subtitle)
    axes: Any = figure.subplots()
    colours = series_colours(len(result.ends) + 1)
    for end, colour in zip(result.ends, colours, strict=False):
        _curve(axes, result, end, colour, "test_error", 100)
        no_drop = result.analysis.at(end, end).test_error
        axes.axhline(100 * no_drop, color=colour, linewidth=0.9, linestyle=_DASHED)
        axes.annotate(
            f"{format_number(end)} throughout",
            (1, 100 * no_drop),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=7,
        )
    low, high = error_range(result)
    means = {s: v for s, v in averages_by_start(result.averages).items() if 100 * v[0] <= high}
    if means:
        values = np.array(list(means.values()))
        label = f"average of {len(result.snapshots)} before the drop"
        style: dict[str, Any] = {"fmt": "D:", "ms": 3.6, "color": colours[-1], "elinewidth": 0.8}
        axes.errorbar(list(means), 100 * values[:, 0], yerr=100 * values[:, 1], label=label, **style)
    axes.set_ylim(low, high)
    axes.set_ylabel("test error (%)")
    _finish(axes, result)
    return figure


def _matrix(result: DropResult, subtitle: str) -> Figure:
    starts, ends = result.starts, result.ends
    figure = new_figure(1.6 + 0.62 * len(starts), 1.5 + 0.55 * len(ends))
    figure_title(figure, "Test error (%) from start to end", subtitle)
    axes: Any = figure.subplots()
    cells = [[result.analysis.at(start, end) for start in starts] for end in ends]
    values = np.array([[100 * c.test_error for c in row] for row in cells])
    axes.grid(visible=False)
    image = axes.imshow(values, cmap="viridis_r", aspect="auto", origin="lower")
    for j, row in enumerate(cells):
        for i, cell in enumerate(row):
            dark = image.norm(values[j, i]) > 0.55
            axes.text(
                i,
                j,
                f"{100 * cell.test_error:.1f}\n±{100 * cell.test_error_se:.1f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else INK,
            )
    axes.set_xticks(range(len(starts)), [format_number(s) for s in starts])
    axes.set_yticks(range(len(ends)), [format_number(e) for e in ends])
    axes.set_xlabel(_X)
    axes.set_ylabel("after it")
    return figure


def _after(result: DropResult, subtitle: str) -> Figure:
    sharp = any(cell.sharpness is not None for cell in result.analysis.matrix)
    figure = new_figure(6.4, 5.2 if sharp else 3.6)
    figure_title(figure, "After the drop", subtitle)
    panels: Any = figure.subplots(2 if sharp else 1, 1, sharex=True, squeeze=False)[:, 0]
    names = [("gradient_norm", "stochastic gradient norm"), ("sharpness", "top eigenvalue on the sphere")]
    for axes, (name, label) in zip(panels, names, strict=False):
        for end, colour in zip(result.ends, series_colours(len(result.ends) + 1), strict=False):
            _curve(axes, result, end, colour, name, 1)
        axes.set_ylabel(label)
        log_axis(axes, "y")
        _finish(axes, result, last=axes is panels[-1])
    return figure


def _barriers(result: DropResult, subtitle: str) -> Figure:
    figure = new_figure(6.4, 5.2)
    figure_title(figure, "Barriers between continuations and average", subtitle)
    panels: Any = figure.subplots(2, 1, sharex=True)
    for axes, name, scale, label, floor in (
        (panels[0], "error_barrier", 100, "error barrier (%)", BARRIER_FLOOR["y"]),
        (panels[1], "loss_barrier", 1, "train loss barrier", BARRIER_FLOOR["y2"]),
    ):
        for pair, colour in zip(PAIRS, series_colours(3), strict=True):
            rows = {
                s: np.array([getattr(p, name) for p in result.paths if p.pair == pair and p.start == s])
                for s in result.starts
            }
            rows = {s: scale * row for s, row in rows.items() if len(row)}
            if rows:
                spread = [row.std(ddof=1) / np.sqrt(len(row)) if len(row) > 1 else 0.0 for row in rows.values()]
                means = np.maximum([row.mean() for row in rows.values()], floor)
                axes.errorbar(
                    list(rows),
                    means,
                    yerr=[np.minimum(spread, means - floor), spread],
                    fmt="o-",
                    ms=3.6,
                    color=colour,
                    elinewidth=0.8,
                    label=PAIR_NAMES[pair],
                )
        axes.set_ylabel(label)
        log_axis(axes, "y")
        _finish(axes, result, last=axes is panels[1])
    allowed = {s: np.array([p.allowed for p in result.paths if p.start == s]) for s in result.starts}
    allowed = {s: 100 * row.mean() for s, row in allowed.items() if len(row)}
    panels[0].plot(list(allowed), list(allowed.values()), color=INK, linewidth=0.9, linestyle=_DASHED)
    panels[0].annotate(
        "connected below",
        next(iter(allowed.items())),
        xytext=(12, 3),
        textcoords="offset points",
        fontsize=7,
    )
    for c in result.analysis.classes:
        panels[0].annotate(
            c.label, (c.start, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            ha="center", fontsize=8, fontweight="bold",
        )  # fmt: skip
    return figure


def _curve(axes: Any, result: DropResult, end: float, colour: str, name: str, scale: float) -> None:
    cells = [result.analysis.at(start, end) for start in result.starts]
    cells = [cell for cell in cells if getattr(cell, name) is not None]
    axes.errorbar(
        [cell.start for cell in cells],
        [scale * getattr(cell, name) for cell in cells],
        yerr=[scale * getattr(cell, f"{name}_se") for cell in cells],
        fmt="o-",
        ms=3.6,
        color=colour,
        elinewidth=0.8,
        label=f"down to {format_number(end)}",
    )


def _finish(axes: Any, result: DropResult, *, last: bool = True) -> None:
    """The marks of both boundaries, the logarithmic axis of starts, the legend."""
    limits = result.analysis.threshold
    if limits.low is not None and limits.high is not None:
        axes.axvspan(limits.low, limits.high, color="#8a8f94", alpha=0.22, linewidth=0, label="convergence ends")
    if limits.divergence is not None:
        axes.axvline(limits.divergence, color=INK, linewidth=0.9, linestyle=":", label="divergence begins")
    log_axis(axes, "x")
    if last:
        axes.set_xlabel(_X)
        axes.legend(loc="best", ncols=2, fontsize=7)
