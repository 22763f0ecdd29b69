"""The interactive charts of the regimes toy: loss over its closed form, and a walk through the ELRs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import OKABE_ITO, series_colours
from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult
from onsphere.lab.experiments.toy_regimes.view import Course, law
from onsphere.lab.report.charts import (
    GREY,
    INK,
    layout_of,
    legend_of,
    linear_axis,
    log_axis,
    note_at,
    rule,
    upright,
)
from onsphere.lab.report.page import Chart, Slider
from onsphere.lab.report.words import format_number

__all__ = ["elr_ceiling", "loss_chart", "movie_chart"]

_BLUE, _SKY, _RED = OKABE_ITO["blue"], OKABE_ITO["sky"], OKABE_ITO["vermillion"]
_LEAST = 1e-9  # of the loss at random: lower ends of loss axes


def loss_chart(result: ToyRegimesResult) -> Chart:
    """Mean loss against the ELR over the closed form, and below it how far they are apart."""
    rows = result.rows
    at_random = rows[0].loss_at_random
    deviations = [100 * (row.loss - row.predicted_loss) / at_random for row in rows]
    text = [_row_text(row) for row in rows]
    measured = {
        "type": "scatter",
        "x": [row.elr for row in rows],
        "mode": "markers",
        "text": text,
        "hovertemplate": "%{text}<extra></extra>",
        "name": "mean over steps and seeds",
        "legendgroup": "measured",
        "marker": {"color": _BLUE, "size": 7},
    }
    traces = [
        _law_trace(result),
        measured
        | {
            "y": [row.loss for row in rows],
            "error_y": {
                "type": "data",
                "array": [row.loss_high - row.loss for row in rows],
                "arrayminus": [row.loss - row.loss_low for row in rows],
                "color": GREY,
                "thickness": 1.2,
                "width": 3,
            },
            "meta": {"dark": _SKY},
        },
        measured | {"y": deviations, "yaxis": "y2", "meta": {"legend": False, "dark": _SKY}},
    ]
    layout = layout_of(620, legend_of("loss")) | {
        "xaxis": log_axis("effective learning rate (ELR)") | {"anchor": "y2", "range": _elr_range(rows)},
        "yaxis": linear_axis("mean loss") | {"domain": [0.36, 1], "range": [-0.04 * at_random, 1.12 * at_random]},
        "yaxis2": linear_axis("measured − law<br>(% of random)") | {"domain": [0, 0.28]} | _around_zero(deviations),
        "shapes": [upright(result.threshold), rule(at_random, "y"), rule(0, "y2")],
        "annotations": [
            note_at(f"random directions: A/2 = {format_number(at_random)}", at_random, "y"),
            _threshold_note(result.threshold),
        ],
    }
    layout["margin"]["t"] = 50
    return Chart(
        id="loss-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A dot is the mean over the last half of the steps and over all seeds, its bar the range over seeds. The "
            "law is 0 up to the threshold and (A − 1/ELR)/2 above it."
        ),
        label="Mean loss against the effective learning rate with its closed form",
    )


def movie_chart(result: ToyRegimesResult, courses: list[Course]) -> Chart:
    """Loss and individual ELRs against steps, one frame an ELR, and where on the law that frame is."""
    rows = [course.row for course in courses]
    at_random = rows[0].loss_at_random
    traces = [
        _law_trace(result),
        {
            "type": "scatter",
            "x": [row.elr for row in rows],
            "y": [row.loss for row in rows],
            "customdata": list(range(len(rows))),
            "mode": "markers",
            "marker": {"color": GREY, "size": 6},
            "name": "mean loss",
            "legendgroup": "mean",
            "hovertemplate": "ELR %{x:.3g} · mean loss %{y:.3g}<br>click to go there<extra></extra>",
            "meta": {"pick": True},
        },
    ]
    for frame, course in enumerate(courses):
        traces += _frame_traces(result, course, frame)
    last = float(courses[0].steps[-1]) + 1
    levels = np.concatenate([course.elrs.min(axis=1) for course in courses])
    low = min(levels.min(), min(1 / alpha for alpha in result.alphas)) / 1.3
    layout = layout_of(880, legend_of("")) | {
        "xaxis": log_axis("effective learning rate (ELR)") | {"anchor": "y", "range": _elr_range(rows)},
        "xaxis2": log_axis("step + 1") | {"anchor": "y3", "range": [0, math.log10(last)]},
        "yaxis": linear_axis("mean loss") | {"domain": [0.76, 1], "range": [-0.05 * at_random, 1.15 * at_random]},
        "yaxis2": log_axis("loss")
        | {"domain": [0.37, 0.65], "range": [math.log10(_LEAST * at_random), math.log10(4 * at_random)]},
        "yaxis3": log_axis("individual ELR")
        | {"domain": [0, 0.33], "range": [math.log10(low), math.log10(elr_ceiling(courses))]},
        "shapes": [upright(result.threshold) | {"yref": "y domain"}],
    }
    return Chart(
        id="movie-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Top: where on the law the frame is. Middle: loss of seed 0; dotted, the mean by the law. Bottom: "
            "individual ELR of every pair, ELR / rᵢ²; dashed in its colour the threshold 1/α under which it converges. "
            "Below 1/A pairs that overshoot gain norm until all are under their thresholds; above, that is impossible."
        ),
        label="Loss and individual effective learning rates against steps, one frame for every ELR",
        slider=Slider("ELR", [_frame_label(row) for row in rows], start=_first_frame(rows)),
    )


def elr_ceiling(courses: list[Course]) -> float:
    """Upper end of axes of individual ELRs: a tenth, reached in swings at the largest ELRs, may leave the panel."""
    return 2 * float(np.quantile(np.concatenate([course.elrs.ravel() for course in courses]), 0.9))


def _frame_traces(result: ToyRegimesResult, course: Course, frame: int) -> list[dict[str, Any]]:
    row, x = course.row, course.steps + 1
    n = len(result.alphas)
    here = {"frame": frame}
    ends = [float(x[0]), float(x[-1])]
    floor = 0.1 * _LEAST * row.loss_at_random
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": [row.elr],
            "y": [row.loss],
            "mode": "markers",
            "marker": {"color": _RED, "size": 12, "symbol": "diamond"},
            "name": "this frame",
            "legendgroup": "here",
            "hoverinfo": "skip",
            "meta": here,
        },
        {
            "type": "scatter",
            "x": x,
            "y": np.maximum(course.loss, floor),
            "xaxis": "x2",
            "yaxis": "y2",
            "mode": "lines",
            "line": {"color": INK, "width": 1.4},
            "name": "loss",
            "legendgroup": "loss",
            "hovertemplate": "step + 1 = %{x} · loss %{y:.3g}<extra></extra>",
            "meta": here,
        },
    ]
    if row.predicted_loss > 0:
        traces.append(
            {
                "type": "scatter",
                "x": ends,
                "y": [row.predicted_loss] * 2,
                "xaxis": "x2",
                "yaxis": "y2",
                "mode": "lines",
                "line": {"color": _RED, "width": 2, "dash": "dot"},
                "name": "law",
                "legendgroup": "law",
                "hovertemplate": f"law: {format_number(row.predicted_loss)}<extra></extra>",
                "meta": here | {"legend": False},
            }
        )
    for i, (light, dark) in enumerate(zip(series_colours(n), series_colours(n, dark=True), strict=True)):
        alpha = result.alphas[i]
        pair = {"type": "scatter", "xaxis": "x2", "yaxis": "y3", "mode": "lines", "legendgroup": f"pair {i}"}
        name = f"α = {format_number(alpha)}"
        traces += [
            pair
            | {
                "x": x,
                "y": course.elrs[:, i],
                "line": {"color": light, "width": 1.6},
                "name": name,
                "hovertemplate": f"{name}<br>step + 1 = %{{x}} · individual ELR %{{y:.3g}}<extra></extra>",
                "meta": here | {"dark": dark},
            },
            pair
            | {
                "x": ends,
                "y": [1 / alpha] * 2,
                "line": {"color": light, "width": 1.2, "dash": "dash"},
                "name": f"threshold of {name}",
                "hovertemplate": f"threshold 1/α = {format_number(1 / alpha)}<extra></extra>",
                "meta": here | {"dark": dark, "legend": False},
            },
        ]
    return traces


def _law_trace(result: ToyRegimesResult) -> dict[str, Any]:
    elrs, losses = law(result)
    return {
        "type": "scatter",
        "x": elrs,
        "y": losses,
        "mode": "lines",
        "line": {"color": INK, "width": 1.6},
        "name": "law",
        "legendgroup": "law",
        "hoverinfo": "skip",
    }


def _elr_range(rows: list[RegimesRow]) -> list[float]:
    return [math.log10(rows[0].elr / 1.15), math.log10(rows[-1].elr * 1.15)]


def _around_zero(values: list[float]) -> dict[str, Any]:
    """A range that holds the values and zero, and does not blow rounding errors up."""
    reach = 1.25 * max(0.1, *(abs(value) for value in values))
    return {"range": [-reach, reach]}


def _threshold_note(threshold: float) -> dict[str, Any]:
    return {
        "text": f"threshold 1/A = {format_number(threshold)}",
        "x": math.log10(threshold),
        "xref": "x",
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
    }


def _row_text(row: RegimesRow) -> str:
    lines = [
        f"<b>ELR {format_number(row.elr, 4)}</b> · ELR A = {format_number(row.relative_elr, 4)}",
        f"loss {format_number(row.loss, 4)} (seeds {format_number(row.loss_low)} to {format_number(row.loss_high)})",
        f"law {format_number(row.predicted_loss, 4)} · random {format_number(row.loss_at_random)}",
    ]
    return "<br>".join(lines)


def _frame_label(row: RegimesRow) -> str:
    return (
        f"ELR {format_number(row.elr, 4)} = {format_number(row.relative_elr, 4)} / A · "
        f"mean loss {format_number(row.loss)}, law {format_number(row.predicted_loss)}"
    )


def _first_frame(rows: list[RegimesRow]) -> int:
    """The ELR nearest to 1.25 / A, where the most can be seen."""
    return min(range(len(rows)), key=lambda i: abs(math.log(rows[i].relative_elr / 1.25)))
