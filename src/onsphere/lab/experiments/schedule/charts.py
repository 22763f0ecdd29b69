"""The interactive charts of a comparison: schedules, test error by method, all settings, courses of training."""

from __future__ import annotations

import math
from typing import Any

from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.schedule.answer import numbers
from onsphere.lab.experiments.schedule.methods import FAMILIES, NAMES, Family
from onsphere.lab.experiments.schedule.result import Method, ScheduleResult
from onsphere.lab.experiments.schedule.view import Course
from onsphere.lab.report.charts import INK, layout_of, legend_of, linear_axis, log_axis, rule
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["COLOURS", "SYMBOLS", "courses_chart", "errors_chart", "schedules_chart", "settings_chart"]

#: Colour on a light and on a dark page.
COLOURS: dict[Family, tuple[str, str]] = {
    "proposed": (OKABE_ITO["vermillion"], "#E8743B"),
    "constant": (OKABE_ITO["blue"], OKABE_ITO["sky"]),
    "cosine": (OKABE_ITO["green"], "#1FC79A"),
    "space-constant": (OKABE_ITO["purple"], "#DD93BC"),
    "space-cosine": (OKABE_ITO["orange"], OKABE_ITO["orange"]),
}
SYMBOLS: dict[Family, str] = {
    "proposed": "diamond",
    "constant": "circle",
    "cosine": "square",
    "space-constant": "triangle-up",
    "space-cosine": "triangle-down",
}


def schedules_chart(result: ScheduleResult, courses: list[Course]) -> Chart:
    """ELR against step for the proposal and the tuned methods, with the boundaries."""
    traces = [
        _line(course, course.steps, course.elr, "y", "ELR %{y:.3g}", width=3.2 if _is_proposal(course) else 1.8)
        for course in courses
    ]
    layout = layout_of(440, legend_of("tuned methods")) | {
        "xaxis": linear_axis("step"),
        "yaxis": log_axis("effective learning rate (ELR)") | {"nticks": 8},
        "shapes": _boundary_shapes(result),
        "annotations": _boundary_notes(result),
    }
    return Chart(
        id="schedules-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "On the sphere the ELR is what the schedule says; in the whole space it is lr / norm², as measured "
            "(geometric mean over seeds). A cosine falls to zero; its last thousandth is not drawn."
        ),
        label="Effective learning rate against step of the proposed schedule and its rivals",
    )


def errors_chart(result: ScheduleResult) -> Chart:
    """Test error of the tuned methods with 95 % intervals and every seed, and the paired differences."""
    tuned = list(reversed(result.tuned))
    rows = [f"{method.name}<br>{numbers(method)}" for method in tuned]
    traces: list[dict[str, Any]] = []
    for row, method in zip(rows, tuned, strict=True):
        light, dark = COLOURS[method.family]
        error = method.over_seeds("test_error")
        shared = {"type": "scatter", "legendgroup": method.family, "name": method.name}
        traces += [
            shared
            | {
                "x": [100 * value for value in method.test_error],
                "y": [row] * len(method.test_error),
                "text": [f"seed {seed}" for seed in range(len(method.test_error))],
                "mode": "markers",
                "marker": {"color": light, "size": 8, "symbol": "circle-open"},
                "hovertemplate": "%{text} · test error %{x:.2f} %<extra></extra>",
                "meta": {"dark": dark, "legend": False},
            },
            shared | _mean_trace(100 * error.mean, 100 * (error.high - error.mean), row, method.family, "test error"),
        ]
        gap = result.verdict.differences.get(method.family)
        if gap is not None:
            reach = 100 * (gap["high"] - gap["mean"])
            traces.append(
                shared
                | _mean_trace(100 * gap["mean"], reach, row, method.family, "proposal minus it")
                | {"xaxis": "x2"}
            )
    layout = layout_of(110 + 62 * len(rows), legend_of("")) | {
        "xaxis": linear_axis("test error (%)") | {"domain": [0, 0.56]},
        "xaxis2": linear_axis("proposal minus method (points)") | {"domain": [0.62, 1]},
        "yaxis": {"showline": True, "automargin": True, "range": [-0.6, len(rows) - 0.4], "tickfont": {"size": 11}},
        "showlegend": False,
        "shapes": [_zero()],
    }
    layout["margin"] |= {"l": 190}
    return Chart(
        id="errors-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Left: rings are seeds, filled marks means with 95 % t-intervals over seeds. Right: the proposal minus the "
            "method, paired seed by seed (equal initial weights and batches); left of 0 the proposal is better."
        ),
        label="Test error of the proposed schedule and the tuned methods with intervals",
    )


def settings_chart(result: ScheduleResult) -> Chart:
    """Test error of every setting against its (first) learning rate: the sphere left, the whole space right."""
    traces: list[dict[str, Any]] = []
    for family in FAMILIES:
        own = [method for method in result.methods if method.family == family]
        light, dark = COLOURS[family]
        for decay in sorted({method.weight_decay for method in own}):
            line = sorted((m for m in own if m.weight_decay == decay), key=lambda m: m.lr)
            name = NAMES[family] + (f" {format_number(decay)}" if decay else "")
            errors = [method.over_seeds("test_error") for method in line]
            traces.append(
                {
                    "type": "scatter",
                    "x": [method.lr for method in line],
                    "y": [100 * error.mean for error in errors],
                    "error_y": {
                        "type": "data",
                        "array": [100 * error.standard_error for error in errors],
                        "thickness": 1.2,
                        "width": 3,
                    },
                    "xaxis": "x" if line[0].on_sphere else "x2",
                    "mode": "lines+markers",
                    "line": {"color": light, "width": 1.4, "dash": _dash(decay, own)},
                    "marker": {
                        "color": light,
                        "symbol": [SYMBOLS[family] + ("" if m.tuned else "-open") for m in line],
                        "size": [11 if m.tuned else 8 for m in line],
                    },
                    "name": name,
                    "legendgroup": name,
                    "hovertemplate": f"{name}<br>%{{x:.3g}} · test error %{{y:.2f}} %<extra></extra>",
                    "meta": {"dark": dark},
                }
            )
    rates = [method.lr for method in result.methods if method.on_sphere]
    boundaries = (result.proposal["threshold"], result.boundaries["divergence"])
    shapes = [_upright(elr, "x") for elr in boundaries if elr and min(rates) / 1.4 < elr < max(rates) * 1.4]
    layout = layout_of(470, legend_of("")) | {
        "xaxis": _rates_axis("constant, start or peak ELR (sphere)", True, result) | {"domain": [0, 0.56]},
        "xaxis2": _rates_axis("constant or peak lr (whole space)", False, result) | {"domain": [0.64, 1]},
        "yaxis": linear_axis("test error (%)"),
        "shapes": shapes,
    }
    return Chart(
        id="settings-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Means over seeds, bars one standard error. Filled marks are those chosen in tuning. Dashed: where "
            "convergence ends and where divergence begins."
        ),
        label="Test error of every setting against its learning rate",
    )


def courses_chart(courses: list[Course]) -> Chart:
    """Minibatch loss and test error against step."""
    traces: list[dict[str, Any]] = []
    for course in courses:
        width = 2.6 if _is_proposal(course) else 1.5
        traces.append(_line(course, course.loss_steps, course.loss, "y", "minibatch loss %{y:.3g}", width=width))
        errors = _line(
            course, course.evaluation_steps, 100 * course.test_error, "y2", "test error %{y:.2f} %", width=width
        )
        traces.append(errors | {"meta": errors["meta"] | {"legend": False}})
    top = max(float(course.test_error[1:].max()) for course in courses)
    low = min(float(course.test_error.min()) for course in courses)
    layout = layout_of(680, legend_of("tuned methods")) | {
        "xaxis": linear_axis("step") | {"anchor": "y2"},
        "yaxis": log_axis("minibatch loss") | {"domain": [0.54, 1]},
        "yaxis2": linear_axis("test error (%)")
        | {"domain": [0, 0.46], "range": [100 * low - 0.06 * 100 * (top - low), 100 * min(top, 3 * low) * 1.03]},
    }
    return Chart(
        id="courses-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Means over seeds: the loss of the minibatches (geometric, over bins of steps) and the error on the test "
            "set with batch statistics re-estimated over the training set."
        ),
        label="Minibatch loss and test error against step",
    )


def _rates_axis(title: str, on_sphere: bool, result: ScheduleResult) -> dict[str, Any]:
    """A logarithmic axis over the learning rates that were tried, ticks at 1 and 3 times powers of ten."""
    rates = [method.lr for method in result.methods if method.on_sphere == on_sphere]
    low, high = math.log10(min(rates)) - 0.15, math.log10(max(rates)) + 0.15
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in (1, 3)]
    return log_axis(title) | {
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [format_number(tick) for tick in ticks],
    }


def _is_proposal(course: Course) -> bool:
    return course.method.family == "proposed"


def _line(course: Course, x: Any, y: Any, axis: str, hover: str, *, width: float) -> dict[str, Any]:
    light, dark = COLOURS[course.method.family]
    name = f"{course.method.name}, {numbers(course.method)}"
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "yaxis": axis,
        "mode": "lines",
        "line": {"color": light, "width": width},
        "name": name,
        "legendgroup": name,
        "hovertemplate": f"{course.method.name}<br>step %{{x:.0f}} · {hover}<extra></extra>",
        "meta": {"dark": dark},
    }


def _mean_trace(mean: float, reach: float, row: str, family: Family, what: str) -> dict[str, Any]:
    light, dark = COLOURS[family]
    return {
        "x": [mean],
        "y": [row],
        "error_x": {"type": "data", "array": [reach], "thickness": 1.6, "width": 5},
        "mode": "markers",
        "marker": {"color": light, "size": 11, "symbol": SYMBOLS[family]},
        "hovertemplate": f"{what} %{{x:.2f}}<extra></extra>",
        "meta": {"dark": dark, "legend": False},
    }


def _boundary_shapes(result: ScheduleResult) -> list[dict[str, Any]]:
    divergence = result.boundaries["divergence"]
    return [rule(result.proposal["threshold"], "y"), *([rule(divergence, "y")] if divergence else [])]


def _boundary_notes(result: ScheduleResult) -> list[dict[str, Any]]:
    divergence = result.boundaries["divergence"]
    marks = [("convergence ends", result.proposal["threshold"]), ("divergence begins", divergence)]
    return [
        {
            "text": text,
            "x": 0.005,
            "xref": "paper",
            "xanchor": "left",
            "y": math.log10(value),
            "yref": "y",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11},
        }
        for text, value in marks
        if value
    ]


def _zero() -> dict[str, Any]:
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    return {"type": "line", "xref": "x2", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _upright(value: float, axis: str) -> dict[str, Any]:
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    return {"type": "line", "xref": axis, "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _dash(decay: float, own: list[Method]) -> str:
    decays = sorted({method.weight_decay for method in own})
    return ("solid", "dash", "dot", "dashdot")[decays.index(decay) % 4]
