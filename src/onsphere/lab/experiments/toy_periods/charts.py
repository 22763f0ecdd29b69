"""The interactive charts of the periods toy: the course with its jumps, the loop of a period, the law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onsphere.dynamics.toys import period_law
from onsphere.lab.chart.theme import OKABE_ITO, series_colours
from onsphere.lab.experiments.toy_periods.result import STRONG, LawRow, ToyPeriodsResult
from onsphere.lab.experiments.toy_periods.view import Array, Trace, one_period
from onsphere.lab.report.charts import GREY, layout_of, legend_of, linear_axis, log_axis, rule, upright
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["by_decay", "course_chart", "law_chart", "law_line", "loop_chart"]

_BLUE, _SKY, _RED = OKABE_ITO["blue"], OKABE_ITO["sky"], OKABE_ITO["vermillion"]

_JUMPS = (
    "While the ELR is below the threshold the loss falls, the gradient vanishes and weight decay shrinks the norm; "
    "above it the loss grows again, until a few large steps throw the norm up and the ELR down: a jump."
)
_FOR_EVER = (
    "The loss falls until x is exactly zero. From then on there is no gradient at any ELR: the norm shrinks and the "
    "ELR grows without bound."
)


def course_chart(result: ToyPeriodsResult, trace: Trace) -> Chart:
    """ELR with its jumps and the threshold, loss, norm, against steps."""
    line = {"type": "scatter", "x": trace.steps, "mode": "lines", "line": {"color": _BLUE, "width": 1.4}}
    traces: list[dict[str, Any]] = [
        line
        | {
            "y": values,
            "yaxis": axis,
            "name": "run",
            "legendgroup": "run",
            "hovertemplate": f"step %{{x}} · {what} %{{y:.3g}}<extra></extra>",
            "meta": {"legend": axis == "y", "dark": _SKY},
        }
        for axis, what, values in (
            ("y", "ELR", trace.elr),
            ("y2", "loss", _positive(trace.loss)),
            ("y3", "norm", _positive(trace.radius)),
        )
    ]
    if result.jumps:
        traces.append(
            {
                "type": "scatter",
                "x": [jump.step for jump in result.jumps],
                "y": [jump.elr for jump in result.jumps],
                "text": [f"falls to {format_number(jump.trough_elr)}" for jump in result.jumps],
                "mode": "markers",
                "marker": {"color": _RED, "size": 8, "symbol": "triangle-down"},
                "name": "jump",
                "legendgroup": "jump",
                "hovertemplate": "jump at step %{x} · ELR %{y:.3g}, %{text}<extra></extra>",
            }
        )
    shapes = [rule(result.threshold, "y")]
    notes = [_beside(f"threshold 1/A = {format_number(result.threshold)}", result.threshold)]
    if result.burn_in and result.outcome == "periods":
        shapes.append(upright(result.burn_in) | {"line": {"color": GREY, "width": 1.2, "dash": "dot"}})
        notes.append(_above("jumps are counted from here", result.burn_in))
    layout = layout_of(760, legend_of("")) | {
        "xaxis": linear_axis("step") | {"anchor": "y3", "range": [0, float(trace.steps[-1])]},
        "yaxis": log_axis("ELR") | {"domain": [0.7, 1]} | _ticks(trace.elr),
        "yaxis2": log_axis("loss") | {"domain": [0.35, 0.65]},
        "yaxis3": log_axis("norm") | {"domain": [0, 0.3]} | _ticks(trace.radius),
        "shapes": shapes,
        "annotations": notes,
    }
    layout["margin"] |= {"t": 50, "l": 84}
    return Chart(
        id="course-chart",
        figure={"data": traces, "layout": layout},
        caption=_FOR_EVER if result.outcome == "instability" else _JUMPS,
        label="ELR, loss and norm against steps, jumps marked",
    )


def loop_chart(result: ToyPeriodsResult, trace: Trace) -> Chart | None:
    """Effective gradient norm against ELR through one period, log-log; None without a whole period."""
    period = one_period(result, trace)
    if period is None:
        return None
    rest = trace.between(result.jumps[0].step, int(trace.steps[-1]))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": rest.elr,
            "y": _positive(rest.gradient),
            "mode": "lines",
            "line": {"color": GREY, "width": 0.6},
            "opacity": 0.5,
            "name": "all periods",
            "legendgroup": "all",
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "x": period.elr,
            "y": _positive(period.gradient),
            "customdata": period.steps - period.steps[0],
            "mode": "lines+markers",
            "line": {"color": GREY, "width": 1},
            "marker": {
                "color": period.steps - period.steps[0],
                "colorscale": "Viridis",
                "size": 5,
                "line": {"width": 0},
                "showscale": True,
                "colorbar": {"title": {"text": "steps after<br>the jump"}, "thickness": 12, "len": 0.6, "y": 0.4},
            },
            "name": "one period",
            "legendgroup": "one",
            "hovertemplate": (
                "%{customdata} steps after the jump<br>ELR %{x:.3g} · effective gradient %{y:.3g}<extra></extra>"
            ),
        },
        {
            "type": "scatter",
            "x": period.elr[:1],
            "y": period.gradient[:1],
            "mode": "markers",
            "marker": {"color": _RED, "size": 11, "symbol": "star"},
            "name": "jump",
            "legendgroup": "jump",
            "hoverinfo": "skip",
        },
    ]
    layout = layout_of(520, legend_of("")) | {
        "xaxis": log_axis("effective learning rate (ELR)"),
        "yaxis": log_axis("effective gradient norm"),
        "shapes": [upright(result.threshold)],
        "annotations": [_above(f"threshold 1/A = {format_number(result.threshold)}", math.log10(result.threshold))],
    }
    layout["margin"]["t"] = 50
    return Chart(
        id="loop-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A period is a closed loop, run through from the star: the ELR falls within a few steps; then the gradient "
            "vanishes down to the floor, while the ELR climbs; past the threshold the gradient grows back."
        ),
        label="Effective gradient norm against ELR through one period",
    )


def law_chart(result: ToyPeriodsResult) -> Chart | None:
    """Measured periods over the floor, with the law, one colour a weight decay; None without neighbours."""
    if not result.law:
        return None
    traces: list[dict[str, Any]] = []
    groups = by_decay(result)
    colours = zip(series_colours(len(groups)), series_colours(len(groups), dark=True), strict=True)
    for (decay, rows), (light, dark) in zip(groups.items(), colours, strict=True):
        name = f"lr · wd = {format_number(rows[0].lr * decay)}"
        shared = {"type": "scatter", "name": name, "legendgroup": name}
        floors, law = law_line(rows)
        measured = [row for row in rows if row.period is not None]
        traces += [
            shared
            | {
                "x": floors,
                "y": law,
                "mode": "lines",
                "line": {"color": light, "width": 1.6},
                "hoverinfo": "skip",
                "meta": {"dark": dark},
            },
            shared
            | {
                "x": [row.floor for row in measured],
                "y": [row.period for row in measured],
                "text": [f"law {format_number(row.predicted_period, 4)} · {row.jumps} jumps" for row in measured],
                "mode": "markers",
                "marker": {
                    "color": light,
                    "size": 9,
                    "symbol": ["circle-open" if row.strength > STRONG else "circle" for row in measured],
                    "line": {"width": 1.5, "color": light},
                },
                "hovertemplate": f"{name} · floor %{{x:.3g}}<br>period %{{y}} · %{{text}}<extra></extra>",
                "meta": {"legend": False, "dark": dark},
            },
        ]
    layout = layout_of(440, legend_of("line: law")) | {
        "xaxis": log_axis("floor of |x| / norm") | {"autorange": "reversed", "nticks": 7},
        "yaxis": linear_axis("period (steps)") | {"rangemode": "tozero"},
    }
    return Chart(
        id="law-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Dots: median distance of consecutive jumps. Lines: √(2 ln(1/floor) / (lr · wd)). Hollow where "
            f"lr · wd · ln(1/floor) exceeds {STRONG:g}: jumps are so strong there that periods scatter below the law."
        ),
        label="Periods over the floor with their law",
    )


def by_decay(result: ToyPeriodsResult) -> dict[float, list[LawRow]]:
    """The law's rows by weight decay, ascending."""
    groups: dict[float, list[LawRow]] = {}
    for row in result.law:
        groups.setdefault(row.weight_decay, []).append(row)
    return dict(sorted(groups.items()))


def law_line(rows: list[LawRow]) -> tuple[Array, Array]:
    """The law over the floors of some rows of one weight decay: floors and periods."""
    floors = np.geomspace(max(row.floor for row in rows) ** 0.8, min(row.floor for row in rows), 60)
    return floors, np.asarray(period_law(rows[0].lr, rows[0].weight_decay, floors))


def _positive(values: Array) -> Array:
    """Zeros as gaps: a logarithmic axis has no place for them."""
    return np.where(values > 0, values, np.nan)


def _ticks(values: Array) -> dict[str, Any]:
    """Over one or two decades ticks at 1, 2, 5 instead of at all digits."""
    shown = values[(values > 0) & np.isfinite(values)]
    return {"dtick": "D2"} if shown.size and 5 < shown.max() / shown.min() < 100 else {}


def _beside(text: str, height: float) -> dict[str, Any]:
    place = {"x": 0.005, "xref": "paper", "xanchor": "left", "y": math.log10(height), "yref": "y"}
    return place | {"text": text, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}


def _above(text: str, x: float) -> dict[str, Any]:
    place = {"x": x, "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False, "font": {"size": 11}}
