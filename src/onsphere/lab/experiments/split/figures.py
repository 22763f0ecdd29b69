"""The charts of the memory split as figures for slides and papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from onsphere.lab.chart.style import INK, figure_title, new_figure
from onsphere.lab.chart.theme import series_colours
from onsphere.lab.experiments.split.charts import AXES, envelope, error, law_at, law_sizes, value
from onsphere.lab.experiments.split.result import SplitResult, SplitRow


def figures_of(result: SplitResult, subtitle: str) -> dict[str, Callable[[], Figure]]:
    """What makes each figure, by the file's name."""
    found: dict[str, Callable[[], Figure]] = {"splits": lambda: _splits(result, subtitle)}
    if any(p.size > 1 for p in result.curves):
        found["curves"] = lambda: _curves(result, subtitle)
    if envelope(result) is not None:
        found["envelope"] = lambda: _envelope(result, subtitle)
    return found


def _splits(result: SplitResult, subtitle: str) -> Figure:
    figure = new_figure(7.4, 3.2)
    figure_title(figure, "One budget, split among more and more networks", subtitle)
    panels: Any = figure.subplots(1, 3)
    colours = series_colours(len(result.budgets))
    for axes, metric in zip(panels, AXES, strict=True):
        for answer, colour in zip(result.budgets, colours, strict=True):
            rows = [row for row in answer.splits if math.isfinite(getattr(row, metric))]
            _line(axes, rows, metric, colour, f"{answer.budget:,}", [row.members for row in rows])
            best = [row for row in rows if row.members == answer.best[metric]]
            axes.plot([r.members for r in best], [value(r, metric) for r in best], "*", color=colour, ms=10)
        axes.set_xlabel("networks")
        axes.set_ylabel(AXES[metric])
        _number_axis(axes, sorted({row.members for answer in result.budgets for row in answer.splits}))
    if len(result.budgets) > 1:
        panels[0].legend(title="budget")
    return figure


def _curves(result: SplitResult, subtitle: str) -> Figure:
    figure = new_figure(7.4, 3.6)
    figure_title(figure, "Ensembles of one width, with their power laws; dark: equal budgets", subtitle)
    panels: Any = figure.subplots(1, 2)
    widths = sorted({p.width for p in result.curves})
    largest = max(row.members for answer in result.budgets for row in answer.splits)
    for axes, metric in zip(panels, ("nll", "cnll"), strict=True):
        for width, colour in zip(widths, series_colours(len(widths)), strict=True):
            own = sorted((p for p in result.curves if p.width == width), key=lambda p: p.size)
            bars = [p.standard_error[metric] or 0.0 for p in own]
            law = law_at(result.laws, width, metric)
            axes.errorbar(
                [p.size for p in own],
                [p.mean[metric] for p in own],
                [b if math.isfinite(b) else 0.0 for b in bars],
                fmt="o" if law is not None else "o-",
                ms=3.5,
                color=colour,
                linewidth=1,
                label=f"width {width}",
            )
            if law is not None:
                sizes = law_sizes(own, largest)
                axes.plot(sizes, law(sizes), ":", color=colour, linewidth=1)
        for answer in result.budgets:
            rows = [row for row in answer.splits if math.isfinite(getattr(row, metric))]
            axes.plot([r.members for r in rows], [value(r, metric) for r in rows], color=INK, linewidth=0.7)
        axes.set_xlabel("networks in the ensemble")
        axes.set_ylabel(AXES[metric])
        sizes_shown = {p.size for p in result.curves} | {r.members for a in result.budgets for r in a.splits}
        _number_axis(axes, sorted(sizes_shown))
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _envelope(result: SplitResult, subtitle: str) -> Figure:
    lines = envelope(result)
    assert lines is not None
    figure = new_figure(6.4, 3.2)
    figure_title(figure, "Best split and single network over the budget", subtitle)
    panels: Any = figure.subplots(1, 2)
    for axes, metric in zip(panels, ("nll", "accuracy"), strict=True):
        for (name, rows), colour in zip(lines.items(), series_colours(2), strict=True):
            shown = rows[metric]
            _line(axes, shown, metric, colour, name, [row.budget for row in shown])
            for row in shown if name == "best split" else ():
                axes.annotate(
                    str(row.members), (row.budget, value(row, metric)), (0, 5), textcoords="offset points", ha="center"
                )
        axes.set_xlabel(f"budget ({result.spec['unit']})")
        axes.set_ylabel(AXES[metric])
        _number_axis(axes, [a.budget for a in result.budgets])
        axes.margins(y=0.15)
    panels[0].legend()
    return figure


def _line(axes: Any, rows: list[SplitRow], metric: str, colour: str, name: str, x: list[int]) -> None:
    bars = [error(row, metric) or 0.0 for row in rows]
    bars = [b if math.isfinite(b) else 0.0 for b in bars]
    axes.errorbar(x, [value(r, metric) for r in rows], bars, fmt="o-", ms=3.5, color=colour, linewidth=1.2, label=name)


def _number_axis(axes: Any, values: list[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
