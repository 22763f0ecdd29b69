"""The interactive charts of a drop: test error over the start, the matrix, what is left after the drop, barriers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import series_colours
from onsphere.lab.experiments.drop.findings import MatrixCell
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.rows import PAIRS, Average
from onsphere.lab.report.charts import GREY, INK, layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["after_chart", "averages_by_start", "barrier_chart", "error_chart", "error_range", "matrix_chart"]

PAIR_NAMES = {
    "low-high": "smallest – largest final ELR",
    "average-low": "average – smallest final ELR",
    "average-high": "average – largest final ELR",
}
_X = "ELR before the drop"
#: Where barriers that are smaller, or none, stand on logarithmic axes: percent of the images, loss.
BARRIER_FLOOR = {"y": 0.01, "y2": 1e-4}


def error_chart(result: DropResult) -> Chart:
    """Test error against the starting ELR, one curve a final ELR and one for the average."""
    traces: list[dict[str, Any]] = []
    colours = _colours(result)
    low, high = error_range(result)
    for end in result.ends:
        row = _row(result, end)
        traces.append(
            _curve(f"down to {format_number(end)}", colours[end], row, "test_error", scale=100)
            | {"hovertemplate": f"from %{{x:.3g}} to {format_number(end)}<br>test error %{{y:.2f}} %<extra></extra>"}
        )
        no_drop = 100 * result.analysis.at(end, end).test_error
        traces.append(
            {
                "type": "scatter",
                "x": [result.starts[0], result.starts[-1]],
                "y": [no_drop, no_drop],
                "mode": "lines",
                "line": {"color": colours[end][0], "width": 1.2, "dash": "dash"},
                "name": f"{format_number(end)} throughout",
                "legendgroup": f"throughout {end:g}",
                "hovertemplate": f"ELR {format_number(end)} throughout<br>test error %{{y:.2f}} %<extra></extra>",
                "meta": {"dark": colours[end][1]},
            }
        )
    means = averages_by_start(result.averages)
    if means:
        starts = [start for start, (mean, _) in means.items() if 100 * mean <= high]
        light, dark = colours[0.0]
        traces.append(
            {
                "type": "scatter",
                "x": starts,
                "y": [100 * means[start][0] for start in starts],
                "error_y": _bars([100 * means[start][1] for start in starts]),
                "mode": "lines+markers",
                "line": {"color": light, "width": 1.6, "dash": "dot"},
                "marker": {"color": light, "size": 7, "symbol": "diamond"},
                "name": f"average of {len(result.snapshots)}, no drop",
                "legendgroup": "average",
                "hovertemplate": "average at %{x:.3g}<br>test error %{y:.2f} %<extra></extra>",
                "meta": {"dark": dark},
            }
        )
    shapes, notes = _marks(result)
    layout = layout_of(480, legend_of("")) | {
        "xaxis": log_axis(_X),
        "yaxis": linear_axis("test error (%)") | {"range": [low, high]},
        "shapes": shapes,
        "annotations": notes,
    }
    layout["margin"]["t"] = 44
    return Chart(
        id="error-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Mean over seeds, bars one standard error. Solid: after the drop to the ELR named. Dashed: that ELR from "
            "the first step on, with as many steps in all. Dotted: average of the last snapshots before the drop, "
            "which had fewer steps; where it lies above the axis it is left out. Grey band: where convergence ends."
        ),
        label="Test error against the effective learning rate before the drop, one curve for each one after it",
    )


def matrix_chart(result: DropResult) -> Chart:
    """Mean test error of every start and final ELR as a map."""
    analysis, starts, ends = result.analysis, result.starts, result.ends
    cells = [[analysis.at(start, end) for start in starts] for end in ends]
    text = [[f"{100 * c.test_error:.1f}<br>±{100 * c.test_error_se:.1f}" for c in row] for row in cells]
    trace = {
        "type": "heatmap",
        "x": [format_number(start) for start in starts],
        "y": [format_number(end) for end in ends],
        "z": [[100 * c.test_error for c in row] for row in cells],
        "text": text,
        "texttemplate": "%{text}",
        "colorscale": "Viridis",
        "reversescale": True,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"thickness": 12, "title": {"text": "%"}},
        "hovertemplate": "from %{x} to %{y}<br>test error %{z:.2f} %<extra></extra>",
        "meta": {"legend": False},
    }
    layout = layout_of(150 + 70 * len(ends), legend_of("")) | {
        "xaxis": linear_axis(_X) | {"type": "category"},
        "yaxis": linear_axis("ELR after the drop") | {"type": "category"},
    }
    layout["margin"]["l"] = 90
    return Chart(
        id="matrix-chart",
        figure={"data": [trace], "layout": layout},
        caption="Test error in percent, mean over seeds ± one standard error. Equal ELRs: no drop.",
        label="Test error of every pair of effective learning rates before and after the drop",
    )


def after_chart(result: DropResult) -> Chart:
    """Stochastic gradient norm after the drop against the start; the top eigenvalue below it if it was measured."""
    colours = _colours(result)
    sharp = any(cell.sharpness is not None for cell in result.analysis.matrix)
    traces: list[dict[str, Any]] = []
    panels = [("gradient_norm", "y", "gradient norm")] + ([("sharpness", "y2", "sharpness")] if sharp else [])
    for name, axis, what in panels:
        traces += [
            _curve(f"down to {format_number(end)}", colours[end], _row(result, end), name)
            | {
                "yaxis": axis,
                "legendgroup": f"{end:g}",
                "hovertemplate": f"from %{{x:.3g}} to {format_number(end)}<br>{what} %{{y:.3g}}<extra></extra>",
                "meta": {"dark": colours[end][1], "legend": axis == "y"},
            }
            for end in result.ends
        ]
    shapes, notes = _marks(result)
    layout = layout_of(640 if sharp else 400, legend_of("")) | {
        "xaxis": log_axis(_X) | ({"anchor": "y2"} if sharp else {}),
        "yaxis": log_axis("stochastic gradient norm") | ({"domain": [0.55, 1]} if sharp else {}),
        "shapes": shapes,
        "annotations": notes,
    }
    if sharp:
        layout["yaxis2"] = log_axis("top eigenvalue on the sphere") | {"domain": [0, 0.45]}
    layout["margin"]["t"] = 44
    more = " Below: top eigenvalue of the training-mode Hessian on the unit sphere at the end." if sharp else ""
    return Chart(
        id="after-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Mean effective norm of the stochastic gradient over the last quarter of the steps after the drop; mean "
            f"over seeds, bars one standard error. Lower is flatter where training losses are alike (see above).{more}"
        ),
        label="Stochastic gradient norm after the drop against the effective learning rate before it",
    )


def barrier_chart(result: DropResult) -> Chart | None:
    """Error and loss barriers against the start, one curve a pair of ends; None without paths."""
    pairs = [pair for pair in PAIRS if any(path.pair == pair for path in result.paths)]
    if not pairs:
        return None
    traces: list[dict[str, Any]] = []
    for pair, light, dark in zip(pairs, series_colours(3), series_colours(3, dark=True), strict=False):
        for axis, name, scale, unit in (("y", "error_barrier", 100.0, " %"), ("y2", "loss_barrier", 1.0, "")):
            rows = [[getattr(p, name) for p in result.paths if p.pair == pair and p.start == s] for s in result.starts]
            means = [scale * float(np.mean(row)) if row else None for row in rows]
            spread = [scale * _se(row) for row in rows]
            shown = [None if mean is None else max(mean, BARRIER_FLOOR[axis]) for mean in means]
            # on a logarithmic axis a bar must not reach zero
            down = [0.0 if v is None else min(se, v - BARRIER_FLOOR[axis]) for v, se in zip(shown, spread, strict=True)]
            traces.append(
                {
                    "type": "scatter",
                    "x": result.starts,
                    "y": shown,
                    "customdata": means,
                    "error_y": _bars(spread) | {"symmetric": False, "arrayminus": down},
                    "yaxis": axis,
                    "mode": "lines+markers",
                    "line": {"color": light, "width": 1.6},
                    "marker": {"color": light, "size": 6},
                    "name": PAIR_NAMES[pair],
                    "legendgroup": pair,
                    "hovertemplate": (
                        f"from %{{x:.3g}} · {PAIR_NAMES[pair]}<br>barrier %{{customdata:.3g}}{unit}<extra></extra>"
                    ),
                    "meta": {"dark": dark, "legend": axis == "y"},
                }
            )
    allowed = [[p.allowed for p in result.paths if p.start == s] for s in result.starts]
    traces.append(
        {
            "type": "scatter",
            "x": result.starts,
            "y": [100 * float(np.mean(row)) if row else None for row in allowed],
            "mode": "lines",
            "line": {"color": INK, "width": 1.2, "dash": "dash"},
            "name": "connected below",
            "legendgroup": "allowed",
            "hovertemplate": "connected up to %{y:.2f} %<extra></extra>",
        }
    )
    shapes, _ = _marks(result)
    classes = [
        {
            "text": f"<b>{c.label}</b>",
            "x": math.log10(c.start),
            "xref": "x",
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
        }
        for c in result.analysis.classes
    ]
    layout = layout_of(640, legend_of("")) | {
        "xaxis": log_axis(_X) | {"anchor": "y2"},
        "yaxis": log_axis("error barrier (% of train images)") | {"domain": [0.54, 1]},
        "yaxis2": log_axis("train loss barrier") | {"domain": [0, 0.46]},
        "shapes": shapes,
        "annotations": classes,
    }
    layout["margin"]["t"] = 44
    return Chart(
        id="barrier-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Largest rise of training error and training loss over the line between the ends of a great circle, batch "
            "statistics re-estimated at every point; mean over seeds ± one standard error. Smaller barriers, and none, "
            f"are drawn at {BARRIER_FLOOR['y']:g} % and {BARRIER_FLOOR['y2']:g}. On top the class of each start."
        ),
        label="Error and loss barriers between continuations and average against the start",
    )


def averages_by_start(averages: Sequence[Average]) -> dict[float, tuple[float, float]]:
    """Mean test error of the averages and its standard error, by start."""
    found: dict[float, list[float]] = {}
    for one in averages:
        found.setdefault(one.start, []).append(one.test_error)
    return {start: (float(np.mean(errors)), _se(errors)) for start, errors in sorted(found.items())}


def error_range(result: DropResult) -> tuple[float, float]:
    """Range of the axis of test errors in percent: the continuations, whatever the averages do."""
    cells = [cell for cell in result.analysis.matrix if math.isfinite(cell.test_error)]
    spread = [0.0 if math.isnan(cell.test_error_se) else cell.test_error_se for cell in cells]
    low = min(100 * (cell.test_error - se) for cell, se in zip(cells, spread, strict=True))
    high = max(100 * (cell.test_error + se) for cell, se in zip(cells, spread, strict=True))
    pad = 0.08 * max(high - low, 0.5)
    return max(0.0, low - pad), high + 2 * pad


def _row(result: DropResult, end: float) -> list[MatrixCell]:
    return [result.analysis.at(start, end) for start in result.starts]


def _curve(
    name: str, colours: tuple[str, str], cells: Sequence[MatrixCell], value: str, scale: float = 1.0
) -> dict[str, Any]:
    numbers = [(getattr(cell, value), getattr(cell, f"{value}_se")) for cell in cells]
    light, dark = colours
    return {
        "type": "scatter",
        "x": [cell.start for cell in cells],
        "y": [None if v is None else scale * v for v, _ in numbers],
        "error_y": _bars([0.0 if se is None else scale * se for _, se in numbers]),
        "mode": "lines+markers",
        "line": {"color": light, "width": 1.8},
        "marker": {"color": light, "size": 7},
        "name": name,
        "legendgroup": name,
        "meta": {"dark": dark},
    }


def _bars(values: Sequence[float]) -> dict[str, Any]:
    return {"type": "data", "array": list(values), "thickness": 1.2, "width": 3}


def _se(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _colours(result: DropResult) -> dict[float, tuple[str, str]]:
    """A colour for each final ELR on light and dark pages; 0 stands for the average."""
    n = len(result.ends) + 1
    return dict(
        zip([*result.ends, 0.0], zip(series_colours(n), series_colours(n, dark=True), strict=True), strict=True)
    )


def _marks(result: DropResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The band in which convergence ends and the line where divergence begins, with their names on top."""
    limits = result.analysis.threshold
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    above = {"yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False, "xref": "x", "font": {"size": 11}}
    if limits.low is not None and limits.high is not None:
        band = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "x0": limits.low, "x1": limits.high}
        shapes.append(band | {"fillcolor": GREY, "opacity": 0.22, "line": {"width": 0}, "layer": "below"})
        notes.append(above | {"text": "convergence ends", "x": math.log10(limits.low * limits.high) / 2})
    if limits.divergence is not None:
        ends = {"x0": limits.divergence, "x1": limits.divergence, "y0": 0, "y1": 1}
        line = {"color": INK, "width": 1.2, "dash": "dot"}
        shapes.append({"type": "line", "xref": "x", "yref": "paper", "line": line} | ends)
        notes.append(above | {"text": "divergence", "x": math.log10(limits.divergence)})
    return shapes, notes
