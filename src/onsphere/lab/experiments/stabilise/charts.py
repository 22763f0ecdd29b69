"""The interactive charts: losses after a change, memory, the plane of levels, wandering, barriers, the random walk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import OKABE_ITO, elr_colours, rgba
from onsphere.lab.experiments.stabilise.result import Distance, StabiliseResult
from onsphere.lab.experiments.stabilise.view import FIRST, Curve
from onsphere.lab.report.charts import layout_of, legend_of, linear_axis, log_axis, note_at, rule
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["by_lag", "levels_chart", "memory_chart", "plane_chart", "walk_chart", "wander_chart", "ways_chart"]

DIRECTIONS = {"up": ("ELR raised", OKABE_ITO["vermillion"]), "down": ("ELR lowered", OKABE_ITO["blue"])}


def levels_chart(result: StabiliseResult, curves: Sequence[Curve]) -> Chart:
    """Loss against steps since the change, one colour an ELR after it, one line a pair."""
    elrs = result.spec["elrs"]
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    for curve in curves:
        stays = curve.before == curve.after
        name = f"ELR {format_number(curve.after)}"
        traces.append(
            {
                "type": "scatter",
                "x": curve.steps,
                "y": curve.loss,
                "mode": "lines",
                "line": {"color": light[curve.after], "width": 5 if stays else 1.5},
                "opacity": 0.35 if stays else 1,
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{format_number(curve.before)} → {format_number(curve.after)}"
                "<br>step %{x:.0f} · loss %{y:.3g}<extra></extra>",
                "meta": {"dark": dark[curve.after], "legend": stays},
            }
        )
    layout = layout_of(470, legend_of("after the change")) | {
        "xaxis": log_axis("steps since the change of the ELR"),
        "yaxis": linear_axis("minibatch loss"),
    }
    return Chart(
        id="levels-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Thin lines: runs whose ELR was changed; broad lines: runs that had this ELR from the start. Means over "
            "seeds and over bins of steps that double in width."
        ),
        label="Loss against steps since the change of the effective learning rate",
    )


def memory_chart(result: StabiliseResult) -> Chart:
    """The share of the difference that is left against steps since the change."""
    traces: list[dict[str, Any]] = []
    for direction, (name, colour) in DIRECTIONS.items():
        rows = [row for row in result.memory_course if row.direction == direction]
        if not rows:
            continue
        steps = np.array([max(FIRST, (row.first + row.last - 1) / 2) for row in rows])
        memory, error = (np.array([getattr(row, value) for row in rows]) for value in ("memory", "error"))
        band = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "legendgroup": name, "hoverinfo": "skip"}
        traces += [
            band | {"x": steps, "y": memory - 2 * error, "meta": {"legend": False}, "name": name},
            band
            | {
                "x": steps,
                "y": memory + 2 * error,
                "fill": "tonexty",
                "fillcolor": rgba(colour, 0.2),
                "meta": {"legend": False},
                "name": name,
            },
            {
                "type": "scatter",
                "x": steps,
                "y": memory,
                "mode": "lines+markers",
                "line": {"color": colour, "width": 2},
                "marker": {"size": 6},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name}<br>step %{{x:.0f}} · %{{y:.1%}} left<extra></extra>",
            },
        ]
    layout = layout_of(380, legend_of("")) | {
        "xaxis": log_axis("steps since the change of the ELR"),
        "yaxis": linear_axis("share of the difference that is left") | {"tickformat": ".0%"},
        "shapes": [rule(0, "y")],
        "annotations": [note_at("nothing is remembered", 0, "y", left=True)],
    }
    return Chart(
        id="memory-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "How much of the difference in log loss between two levels is left, over all pairs of ELRs; bands: two "
            "standard errors over seeds."
        ),
        label="Memory of the former effective learning rate against steps",
    )


def plane_chart(result: StabiliseResult) -> Chart:
    """Effective gradient norm against loss: the spot of every ELR, and where changed runs ended."""
    elrs = result.spec["elrs"]
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    for stay in result.chaotic:
        name = f"ELR {format_number(stay.elr)}"
        reached = [row for row in result.levels if row.after == stay.elr]
        traces += [
            {
                "type": "scatter",
                "x": [stay.loss],
                "y": [stay.gradient_norm],
                "mode": "markers",
                "marker": {"color": light[stay.elr], "size": 26, "opacity": 0.3, "line": {"width": 0}},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name} from the start<br>loss %{{x:.4g}} · gradient %{{y:.4g}}<extra></extra>",
                "meta": {"dark": dark[stay.elr]},
            },
            {
                "type": "scatter",
                "x": [row.loss for row in reached],
                "y": [row.gradient_norm for row in reached],
                "text": [format_number(row.before) for row in reached],
                "mode": "markers",
                "marker": {"color": light[stay.elr], "size": 8, "symbol": "x-thin", "line": {"width": 2}},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"%{{text}} → {format_number(stay.elr)}"
                "<br>loss %{x:.4g} · gradient %{y:.4g}<extra></extra>",
                "meta": {"dark": dark[stay.elr], "legend": False},
            },
        ]
        traces[-1]["marker"]["line"]["color"] = light[stay.elr]
    layout = layout_of(420, legend_of("after the change")) | {
        "xaxis": linear_axis("minibatch loss"),
        "yaxis": linear_axis("effective gradient norm"),
    }
    return Chart(
        id="plane-chart",
        figure={"data": traces, "layout": layout},
        caption="Discs: runs that had the ELR from the start. Crosses: runs that came from another one.",
        label="Effective gradient norm against loss, one spot an effective learning rate",
    )


def wander_chart(result: StabiliseResult) -> Chart:
    """Angle to the start of the stationary phase against steps, with the random walk of the same steps."""
    elrs = [stay.elr for stay in result.chaotic]
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    for elr in elrs:
        lags, angle, error, walk = by_lag([row for row in result.distances if row.elr == elr and row.lag], "angle")
        name = f"ELR {format_number(elr)}"
        traces += [
            {
                "type": "scatter",
                "x": lags,
                "y": angle,
                "error_y": {"type": "data", "array": 2 * error, "thickness": 1, "width": 2, "color": light[elr]},
                "mode": "lines+markers",
                "line": {"color": light[elr], "width": 2},
                "marker": {"size": 5},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name}<br>%{{x}} steps · %{{y:.3g}} rad<extra></extra>",
                "meta": {"dark": dark[elr]},
            },
            {
                "type": "scatter",
                "x": lags,
                "y": np.arccos(np.clip(walk, -1, 1)),
                "mode": "lines",
                "line": {"color": light[elr], "width": 1.2, "dash": "dot"},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"random walk, {name}<br>%{{x}} steps · %{{y:.3g}} rad<extra></extra>",
                "meta": {"dark": dark[elr], "legend": False},
            },
        ]
    layout = layout_of(440, legend_of("")) | {
        "xaxis": log_axis("steps since the start of the stationary phase"),
        "yaxis": linear_axis("angle to the start (rad)") | {"rangemode": "tozero"},
        "shapes": [rule(math.pi / 2, "y")],
        "annotations": [note_at("orthogonal", math.pi / 2, "y", left=True)],
    }
    return Chart(
        id="wander-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Solid: measured, means over seeds with two standard errors. Dotted: a random walk with the same angular "
            "updates. Steps in the chaotic equilibrium undo one another, so runs get nowhere near as far."
        ),
        label="Angle to the start of the stationary phase against steps",
    )


def ways_chart(result: StabiliseResult) -> Chart:
    """Loss in the middle of the great circle from the start, relative to its ends, against its length."""
    elrs = [stay.elr for stay in result.stays]
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    for elr in elrs:
        own = [way for way in result.ways if way.elr == elr]
        name = f"ELR {format_number(elr)}"
        traces.append(
            {
                "type": "scatter",
                "x": [way.angle for way in own],
                "y": [way.middle for way in own],
                "text": [f"{way.lag} steps, barrier {format_number(way.barrier)}" for way in own],
                "mode": "markers",
                "marker": {
                    "color": light[elr],
                    "size": 7,
                    "symbol": "circle" if elr in result.spec["elrs"] else "square-open",
                },
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name} · %{{text}}<br>%{{x:.3g}} rad · %{{y:+.3g}}<extra></extra>",
                "meta": {"dark": dark[elr]},
            }
        )
    layout = layout_of(420, legend_of("")) | {
        "xaxis": linear_axis("angle between start and later weights (rad)"),
        "yaxis": linear_axis("loss in the middle minus mean of the ends"),
        "shapes": [rule(0, "y")],
        "annotations": [note_at("above: a ridge; below: a valley", 0, "y", left=True)],
    }
    return Chart(
        id="ways-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "One point a run and time: the training loss in the middle of the great circle between the weights at the "
            "start of the stationary phase and later ones. Squares: ELRs of the divergence."
        ),
        label="Loss in the middle of the path to the start against its length",
    )


def walk_chart(result: StabiliseResult) -> Chart:
    """Cosine to the start in the divergence against steps, with the random walk's."""
    elrs = [stay.elr for stay in result.diverged]
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    for elr in elrs:
        own = [row for row in result.distances if row.elr == elr]
        lags, cosine, error, walk = by_lag(own, "cosine")
        name = f"ELR {format_number(elr)}"
        traces += [
            {
                "type": "scatter",
                "x": lags + 1,
                "y": walk,
                "mode": "lines",
                "line": {"color": light[elr], "width": 1.4, "dash": "dot"},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"random walk, {name} · %{{y:.3g}}<extra></extra>",
                "meta": {"dark": dark[elr], "legend": False},
            },
            {
                "type": "scatter",
                "x": lags + 1,
                "y": cosine,
                "error_y": {"type": "data", "array": 2 * error, "thickness": 1, "width": 2, "color": light[elr]},
                "mode": "markers",
                "marker": {"color": light[elr], "size": 7},
                "customdata": lags,
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name} · %{{customdata}} steps · %{{y:+.3f}}<extra></extra>",
                "meta": {"dark": dark[elr]},
            },
        ]
    layout = layout_of(380, legend_of("")) | {
        "xaxis": log_axis("1 + steps since the start"),
        "yaxis": linear_axis("cosine to the start"),
        "shapes": [rule(0, "y")],
    }
    return Chart(
        id="walk-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Points: measured, means over seeds with two standard errors. Dotted: the product of the cosines of all "
            "angular updates, (1 + s²)^(-t/2) with effective steps s."
        ),
        label="Cosine to the start in the divergence against the random walk",
    )


def by_lag(rows: Sequence[Distance], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lags, and at each the mean over seeds of a field, its standard error and the walk's mean cosine."""
    lags = sorted({row.lag for row in rows})
    at = [[row for row in rows if row.lag == lag] for lag in lags]
    values = [np.array([getattr(row, name) for row in group]) for group in at]
    error = np.array([v.std(ddof=1) / math.sqrt(len(v)) for v in values])
    walk = np.array([np.mean([row.walk_cosine for row in group]) for group in at])
    return np.array(lags), np.array([v.mean() for v in values]), error, walk
