"""The interactive charts: sharpness along paths, the map of outcomes, courses of continuations, what 2 / ELR tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.chart.theme import OKABE_ITO, elr_colours
from onsphere.lab.experiments.zones.analyse import RISE
from onsphere.lab.experiments.zones.result import OUTCOMES, Continuation, ZonesResult
from onsphere.lab.report.charts import INK, layout_of, legend_of, linear_axis, log_axis, rule, upright
from onsphere.lab.report.page import Chart, Slider
from onsphere.lab.report.words import format_number

__all__ = ["LOOKS", "Course", "course_chart", "map_chart", "path_chart", "threshold_chart"]

#: Colour, its twin on dark pages, plotly's symbol and matplotlib's marker of each outcome.
LOOKS: dict[str, tuple[str, str, str, str]] = {
    "at once": (OKABE_ITO["blue"], OKABE_ITO["sky"], "circle", "o"),
    "up first": (OKABE_ITO["green"], "#1FC79A", "triangle-up", "^"),
    "held": (OKABE_ITO["orange"], OKABE_ITO["orange"], "square", "s"),
    "leaves": (OKABE_ITO["vermillion"], "#E8743B", "x", "X"),
}
FIRST = 0.7  # where a logarithmic axis shows step 0
GREY = "#8a8f94"


@dataclass(frozen=True, eq=False)
class Course:
    """The loss of a continuation of the first seed, or of the path itself (``elr`` None) over the same steps."""

    checkpoint: int
    elr: float | None
    steps: NDArray[np.float64]
    loss: NDArray[np.float64]
    outcome: str = ""


def path_chart(result: ZonesResult) -> Chart:
    """Sharpness against steps of the paths, log-log, with 2 / ELR of the continuations."""
    elrs = result.spec.path_elrs
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    traces: list[dict[str, Any]] = []
    branches = {row.checkpoint for row in result.continuations}
    for elr in elrs:
        name = f"path of ELR {format_number(elr)}"
        for seed in range(result.spec.seeds):
            own = [p for p in result.path if (p.elr, p.seed) == (elr, seed)]
            sizes = [9 if elr == elrs[0] and p.step in branches else 4 for p in own]
            traces.append(
                {
                    "type": "scatter",
                    "x": [max(FIRST, p.step) for p in own],
                    "y": [p.sharpness for p in own],
                    "customdata": [p.step for p in own],
                    "text": [f"loss {format_number(p.loss)} · ELR · sharpness {format_number(p.product)}" for p in own],
                    "mode": "lines+markers",
                    "line": {"color": light[elr], "width": 1.8},
                    "marker": {"color": light[elr], "size": sizes},
                    "name": name,
                    "legendgroup": name,
                    "hovertemplate": f"{name}, seed {seed}<br>step %{{customdata}} · sharpness %{{y:.4g}}<br>%{{text}}"
                    "<extra></extra>",
                    "meta": {"dark": dark[elr], "legend": seed == 0},
                }
            )
    values = [p.sharpness for p in result.path if p.sharpness > 0]
    low, high = min(values) / 1.5, max(values) * 1.5
    lines = [elr for elr in sorted({*result.spec.elrs, *elrs}) if low < 2 / elr < high]
    layout = layout_of(470, legend_of("")) | {
        "xaxis": log_axis("step of the path (the first point: step 0)"),
        "yaxis": log_axis("sharpness on the unit sphere")
        | {"range": [math.log10(low), math.log10(high)], "dtick": "D2"},
        "shapes": [rule(2 / elr, "y") | {"line": {"color": INK, "width": 0.8, "dash": "dot"}} for elr in lines],
        "annotations": [
            {
                "x": 0.004,
                "xref": "paper",
                "xanchor": "left",
                "y": math.log10(2 / elr),
                "yref": "y",
                "yanchor": "bottom",
                "text": f"2 / ELR for {format_number(elr)}",
                "showarrow": False,
                "font": {"size": 10},
            }
            for elr in lines
        ],
    }
    return Chart(
        id="path-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Top Hessian eigenvalue of the training-mode loss on the unit sphere, one line a seed. Gradient descent "
            "with an ELR is unstable above its dotted line. Large dots: where continuations branch off."
        ),
        label="Sharpness along the paths of training",
    )


def map_chart(result: ZonesResult) -> Chart:
    """Outcome of every continuation over its checkpoint and ELR, with 2 / sharpness."""
    seeds = result.spec.seeds
    traces: list[dict[str, Any]] = []
    for seed in range(seeds):
        own = sorted((p.step, p.sharpness) for p in result.main if p.seed == seed)
        traces.append(
            {
                "type": "scatter",
                "x": [_place(step, seed, seeds) for step, _ in own],
                "y": [2 / sharpness for _, sharpness in own],
                "mode": "lines",
                "line": {"color": GREY, "width": 1.4},
                "name": "2 / sharpness of the path",
                "legendgroup": "threshold",
                "hoverinfo": "skip",
                "meta": {"legend": seed == 0},
            }
        )
    for outcome in OUTCOMES:
        rows = [row for row in result.continuations if row.outcome == outcome]
        colour, dark, symbol, _ = LOOKS[outcome]
        traces.append(
            {
                "type": "scatter",
                "x": [_place(row.checkpoint, row.seed, seeds) for row in rows],
                "y": [row.elr for row in rows],
                "text": [_told(row) for row in rows],
                "mode": "markers",
                "marker": {"color": colour, "size": 10, "symbol": symbol},
                "name": outcome,
                "legendgroup": outcome,
                "hovertemplate": "%{text}<extra></extra>",
                "meta": {"dark": dark},
            }
        )
    layout = layout_of(460, legend_of("")) | {
        "xaxis": log_axis("step of the path where it is continued (the first: step 0)"),
        "yaxis": log_axis("ELR of the continuation") | {"dtick": "D2"},
    }
    return Chart(
        id="map-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "At once: converges no higher than the path. Up first: the loss rises above 1.2 times where it began and "
            "comes back. Held: does not rise and stays above the path. Leaves: rises and stays above. Seeds are side "
            "by side."
        ),
        label="Outcome of continuations over checkpoint and effective learning rate",
    )


def course_chart(result: ZonesResult, courses: Sequence[Course]) -> Chart:
    """Losses of the continuations of the first seed, one frame a checkpoint, with the path in grey."""
    elrs = result.spec.elrs
    light, dark = elr_colours(elrs), elr_colours(elrs, dark=True)
    checkpoints = sorted({course.checkpoint for course in courses})
    traces: list[dict[str, Any]] = []
    for course in courses:
        own = course.elr is not None
        name = f"ELR {format_number(course.elr)}" if course.elr is not None else "path"
        traces.append(
            {
                "type": "scatter",
                "x": course.steps,
                "y": np.where(course.loss > 0, course.loss, np.nan),
                "mode": "lines",
                "line": {
                    "color": light[course.elr] if course.elr is not None else GREY,
                    "width": 1.6 if own else 4,
                },
                "opacity": 1 if own else 0.6,
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name} {course.outcome}<br>step %{{x}} · loss %{{y:.3g}}<extra></extra>",
                "meta": {"frame": checkpoints.index(course.checkpoint)}
                | ({"dark": dark[course.elr]} if course.elr is not None else {}),
            }
        )
    losses = np.concatenate([course.loss[np.isfinite(course.loss) & (course.loss > 0)] for course in courses])
    layout = layout_of(440, legend_of("")) | {
        "xaxis": linear_axis("steps since the checkpoint"),
        "yaxis": log_axis("loss")
        | {"range": [math.log10(float(losses.min()) / 1.2), math.log10(float(losses.max()) * 1.2)]},
    }
    frames = [f"step {checkpoint}" for checkpoint in checkpoints]
    return Chart(
        id="course-chart",
        figure={"data": traces, "layout": layout},
        caption="Continuations of the first seed's path from one checkpoint, and the path itself over the same steps.",
        label="Losses of the continuations",
        slider=Slider("checkpoint", frames, len(frames) // 2),
    )


def threshold_chart(result: ZonesResult) -> Chart:
    """Highest loss over that of the beginning against ELR times sharpness there."""
    traces: list[dict[str, Any]] = []
    for outcome in OUTCOMES:
        rows = [row for row in result.continuations if row.outcome == outcome and math.isfinite(row.peak)]
        colour, dark, symbol, _ = LOOKS[outcome]
        traces.append(
            {
                "type": "scatter",
                "x": [row.product for row in rows],
                "y": [row.peak for row in rows],
                "text": [_told(row) for row in rows],
                "mode": "markers",
                "marker": {"color": colour, "size": 8, "symbol": symbol},
                "name": outcome,
                "legendgroup": outcome,
                "hovertemplate": "%{text}<extra></extra>",
                "meta": {"dark": dark},
            }
        )
    layout = layout_of(400, legend_of("")) | {
        "xaxis": log_axis("ELR · sharpness where it begins") | {"dtick": "D2"},
        "yaxis": log_axis("highest loss / loss where it begins") | {"dtick": "D2"},
        "shapes": [upright(2), rule(RISE, "y")],
        "annotations": [
            {
                "x": math.log10(2),
                "xref": "x",
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "text": "2: threshold of gradient descent",
                "showarrow": False,
                "font": {"size": 11},
            }
        ],
    }
    return Chart(
        id="threshold-chart",
        figure={"data": traces, "layout": layout},
        caption="One point a continuation; above the horizontal line it counts as having gone up.",
        label="Rise of the loss against effective learning rate times sharpness",
    )


def _place(step: int, seed: int, seeds: int) -> float:
    """Where a step stands on the logarithmic axis, seeds side by side."""
    return float(max(FIRST, step) * 1.08 ** (seed - (seeds - 1) / 2))


def _told(row: Continuation) -> str:
    return (
        f"{row.outcome}: ELR {format_number(row.elr)} from step {row.checkpoint}, seed {row.seed}<br>"
        f"ELR · sharpness {format_number(row.product)} · loss {format_number(row.loss)}, at most "
        f"{format_number(row.peak)} times that, ends at {format_number(row.end)} (path {format_number(row.path_end)})"
    )
