"""The interactive charts of the periods: the course with its jumps, the loop of a period, the law over lr · wd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import OKABE_ITO, series_colours
from onsphere.lab.experiments.periods.result import PeriodsResult, Setting, summaries
from onsphere.lab.experiments.periods.view import Shown, thinned
from onsphere.lab.report.charts import GREY, INK, layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart, Slider
from onsphere.lab.report.words import format_number

__all__ = ["DARK", "PALE", "course_chart", "law_chart", "law_lines", "loop_chart", "setting_name"]

_RED = OKABE_ITO["vermillion"]
DARK, PALE = "#222222", "#dddddd"  # of markers on a light and on a dark page


def setting_name(lr: float, weight_decay: float) -> str:
    """A setting as the page writes it."""
    return f"lr {format_number(lr)} · wd {format_number(weight_decay)}"


def course_chart(shown: Sequence[Shown]) -> Chart:
    """Loss, ELR with its jumps, 1 - cos with δ and the equilibrium's value, norm and test error against steps."""
    frames, traces = _frames(shown), []
    for one in shown:
        traces += _course_traces(one, _frame(frames, one), _colours(shown)[one.run.seed])
    for setting in frames:
        one = next(one for one in shown if one.setting == setting)
        traces += _level_traces(one, _frame(frames, one))
    first = next((one for one in shown if one.run.behaviour == "periodic"), shown[0])
    domains = [[0.83, 1], [0.62, 0.79], [0.41, 0.58], [0.2, 0.37], [0, 0.16]]
    titles = ("loss", "ELR", "1 − cos", "norm", "test error (%)")
    layout = layout_of(900, legend_of("")) | {
        "xaxis": linear_axis("step") | {"anchor": "y5", "range": [0, float(max(len(s.course.loss) for s in shown))]}
    }
    for i, (title, domain) in enumerate(zip(titles, domains, strict=True), 1):
        axis = linear_axis(title) if i == 5 else log_axis(title)
        layout["yaxis" if i == 1 else f"yaxis{i}"] = axis | {"domain": domain}
    layout["yaxis2"] |= _ticks(np.concatenate([s.course.elr for s in shown]))
    layout["yaxis4"] |= _ticks(np.concatenate([s.course.radius for s in shown]))
    layout["yaxis5"] |= {"rangemode": "tozero"}
    layout["margin"] |= {"l": 84}
    return Chart(
        id="course-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "While the loss is low gradients are small, weight decay shrinks the norm and the ELR climbs; at a jump "
            "(triangles) loss and gradients shoot up, throw the norm up and the ELR down. A step above δ counts as a "
            "δ-jump; the dotted line is 1 − cos of every step at a constant equilibrium, lr · wd. Curves are thinned "
            "so that the lowest and the highest reading of each stretch stay."
        ),
        label="Loss, ELR, cosine distance of steps, norm and test error against steps, jumps marked",
        seeds=sorted({s.run.seed for s in shown}),
        seed=first.run.seed,
        slider=_slider(frames, first),
    )


def _course_traces(one: Shown, frame: dict[str, int], colour: tuple[str, str]) -> list[dict[str, Any]]:
    course, seed = one.course, one.run.seed
    meta = frame | {"seed": seed, "dark": colour[1]}
    shared: dict[str, Any] = {"type": "scatter", "legendgroup": f"seed {seed}", "name": f"seed {seed}"}
    series = [("y", "loss", course.loss), ("y2", "ELR", course.elr)]
    if course.cosine_distance is not None:
        series.append(("y3", "1 − cos", course.cosine_distance))
    series.append(("y4", "norm", course.radius))
    traces = []
    for axis, what, values in series:
        steps, kept = thinned(values)
        traces.append(
            shared
            | {
                "x": steps,
                "y": kept,
                "yaxis": axis,
                "mode": "lines",
                "line": {"color": colour[0], "width": 1.0},
                "hovertemplate": f"seed {seed} · step %{{x}} · {what} %{{y:.3g}}<extra></extra>",
                "meta": meta | {"legend": axis == "y", "width": 1.0},
            }
        )
    traces.append(
        shared
        | {
            "x": one.evaluation_steps[1:],
            "y": 100 * one.test_error[1:],
            "yaxis": "y5",
            "mode": "lines+markers",
            "line": {"color": colour[0], "width": 1.0},
            "marker": {"color": colour[0], "size": 4},
            "hovertemplate": f"seed {seed} · step %{{x}} · test error %{{y:.1f}} %<extra></extra>",
            "meta": meta | {"legend": False},
        }
    )
    traces.append(
        {
            "type": "scatter",
            "x": one.run.jumps,
            "y": course.elr[one.run.jumps] if one.run.jumps else [],
            "yaxis": "y2",
            "mode": "markers",
            "marker": {"color": _RED, "size": 7, "symbol": "triangle-down"},
            "name": "jump",
            "legendgroup": "jump",
            "hovertemplate": f"seed {seed} · jump at step %{{x}} · ELR %{{y:.3g}}<extra></extra>",
            "meta": frame | {"seed": seed},
        }
    )
    return traces


def _level_traces(one: Shown, frame: dict[str, int]) -> list[dict[str, Any]]:
    """δ and the equilibrium's 1 - cos across the third panel, the equilibrium's ELR across the second."""
    last = float(len(one.course.loss))
    levels: list[tuple[str, str, float | None, str]] = [("y2", "equilibrium ELR", one.run.predicted_elr, "dot")]
    if one.course.cosine_distance is not None:
        levels += [("y3", "δ", one.delta, "dash"), ("y3", "1 − cos = lr · wd", one.course.decay, "dot")]
    return [
        {
            "type": "scatter",
            "x": [0, last],
            "y": [level, level],
            "yaxis": axis,
            "mode": "lines",
            "line": {"color": INK, "width": 1.2, "dash": dash},
            "name": name,
            "legendgroup": name,
            "hovertemplate": f"{name}: {format_number(level)}<extra></extra>",
            "meta": frame,
        }
        for axis, name, level, dash in levels
        if level is not None
    ]


def loop_chart(shown: Sequence[Shown]) -> Chart | None:
    """Effective gradient norm against ELR, log-log, the last whole period in colour; None without one."""
    with_period = [one for one in shown if one.period is not None]
    if not with_period:
        return None
    frames, traces = _frames(with_period), []
    for one in with_period:
        traces += _loop_traces(one, _frame(frames, one))
    layout = layout_of(520, legend_of("")) | {
        "xaxis": log_axis("effective learning rate (ELR)")
        | _ticks(np.concatenate([s.course.elr for s in with_period])),
        "yaxis": log_axis("effective gradient norm"),
    }
    seeds = sorted({s.run.seed for s in with_period})
    first = next((s for s in with_period if s.run.behaviour == "periodic"), with_period[0])
    return Chart(
        id="loop-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A period is a closed loop, run through from the star: at the jump the gradient is large and the ELR "
            "falls; then the gradient falls to its lowest while the ELR climbs, and grows back shortly before the "
            "next jump. Along the dotted line ELR times gradient is √(2 lr · wd), where decay and gradient balance: "
            "above it the norm grows, below it shrinks."
        ),
        label="Effective gradient norm against ELR, one period highlighted",
        seeds=seeds,
        seed=first.run.seed,
        slider=_slider(frames, first),
    )


def _loop_traces(one: Shown, frame: dict[str, int]) -> list[dict[str, Any]]:
    assert one.period is not None
    meta = frame | {"seed": one.run.seed}
    _, elr, gradient = one.loop(one.run.jumps[0], len(one.course.loss) - 1)
    every = max(1, len(elr) // 1500)
    steps, own_elr, own_gradient = one.loop(*one.period)
    stride = max(1, len(steps) // 400)
    since = steps - steps[0]
    ends = np.array([elr.min(), elr.max()])
    balance = one.run.predicted_angular_update / ends
    return [
        {
            "type": "scatter",
            "x": elr[::every],
            "y": gradient[::every],
            "mode": "lines",
            "line": {"color": GREY, "width": 0.6},
            "opacity": 0.5,
            "name": "all periods",
            "legendgroup": "all",
            "hoverinfo": "skip",
            "meta": meta,
        },
        {
            "type": "scatter",
            "x": ends,
            "y": balance,
            "mode": "lines",
            "line": {"color": INK, "width": 1.2, "dash": "dot"},
            "name": "balance",
            "legendgroup": "balance",
            "hoverinfo": "skip",
            "meta": meta,
        },
        {
            "type": "scatter",
            "x": own_elr[::stride],
            "y": own_gradient[::stride],
            "customdata": since[::stride],
            "mode": "lines+markers",
            "line": {"color": GREY, "width": 1},
            "marker": {
                "color": since[::stride],
                "colorscale": "Viridis",
                "size": 5,
                "showscale": True,
                "colorbar": {"title": {"text": "steps after<br>the jump"}, "thickness": 12, "len": 0.6, "y": 0.4},
            },
            "name": "last period",
            "legendgroup": "one",
            "hovertemplate": (
                "%{customdata} steps after the jump<br>ELR %{x:.3g} · effective gradient %{y:.3g}<extra></extra>"
            ),
            "meta": meta,
        },
        {
            "type": "scatter",
            "x": own_elr[:1],
            "y": own_gradient[:1],
            "mode": "markers",
            "marker": {"color": _RED, "size": 11, "symbol": "star"},
            "name": "jump",
            "legendgroup": "jump",
            "hoverinfo": "skip",
            "meta": meta,
        },
    ]


def law_chart(result: PeriodsResult) -> Chart | None:
    """Period of every run over lr · wd, with 1/(2 lr · wd) and what the norm recurrence says; None without periods."""
    settings = [s for s in summaries(result.runs) if s.median("period") is not None]
    if not settings:
        return None
    lrs = sorted({s.lr for s in settings})
    traces: list[dict[str, Any]] = []
    colours = zip(series_colours(len(lrs)), series_colours(len(lrs), dark=True), strict=True)
    for lr, (light, dark) in zip(lrs, colours, strict=True):
        own = [s for s in settings if s.lr == lr]
        name = f"lr {format_number(lr)}"
        runs = [run for s in own for run in s.runs if run.period is not None]
        traces.append(
            {
                "type": "scatter",
                "x": [run.lr * run.weight_decay for run in runs],
                "y": [run.period for run in runs],
                "text": [f"wd {format_number(run.weight_decay)} · seed {run.seed}" for run in runs],
                "mode": "markers",
                "marker": {"color": light, "size": 8},
                "name": name,
                "legendgroup": name,
                "hovertemplate": f"{name} · %{{text}}<br>period %{{y}} steps<extra></extra>",
                "meta": {"dark": dark},
            }
        )
    products, law, predicted = law_lines(settings)
    traces += [
        {
            "type": "scatter",
            "x": products,
            "y": law,
            "mode": "lines",
            "line": {"color": INK, "width": 1.4},
            "name": "τ = 1/(2 lr · wd)",
            "legendgroup": "tau",
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "x": [s.product for s in settings],
            "y": predicted,
            "mode": "markers",
            "marker": {"color": DARK, "size": 11, "symbol": "cross-thin-open", "line": {"width": 1.6}},
            "name": "recurrence",
            "legendgroup": "recurrence",
            "hovertemplate": "norm recurrence without gradients: %{y:.4g} steps<extra></extra>",
            "meta": {"dark": PALE},
        },
    ]
    periods = np.array([run.period for s in settings for run in s.runs if run.period is not None])
    layout = layout_of(440, legend_of("")) | {
        "xaxis": log_axis("lr · weight decay") | _ticks(products),
        "yaxis": log_axis("period (steps)") | _ticks(np.concatenate([law, periods])),
    }
    return Chart(
        id="law-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Dots: median distance of consecutive jumps, one a run. Line: τ, in which decay alone raises the ELR by "
            "the factor e. Crosses: what the norm recurrence says without gradients, for the ELRs at which jumps began "
            "and ended. Runs of equal lr · wd have equal periods, whatever their lr."
        ),
        label="Periods over the product of learning rate and weight decay",
    )


def law_lines(settings: Sequence[Setting]) -> tuple[Any, Any, list[float | None]]:
    """The law over the products of some settings, and the predicted recovery of each."""
    products = np.array([s.product for s in settings])
    grid = np.geomspace(products.min() / 1.6, products.max() * 1.6, 40)
    return grid, 1 / (2 * grid), [s.median("predicted_recovery") for s in settings]


def _frames(shown: Sequence[Shown]) -> list[tuple[float, float]]:
    return list(dict.fromkeys(one.setting for one in shown))


def _frame(frames: Sequence[tuple[float, float]], one: Shown) -> dict[str, int]:
    """At which place of the slider a run is seen; nothing where there is no slider."""
    return {"frame": frames.index(one.setting)} if len(frames) > 1 else {}


def _slider(frames: Sequence[tuple[float, float]], first: Shown) -> Slider | None:
    names = [setting_name(*frame) for frame in frames]
    return Slider("setting", names, frames.index(first.setting)) if len(frames) > 1 else None


def _colours(shown: Sequence[Shown]) -> dict[int, tuple[str, str]]:
    seeds = sorted({one.run.seed for one in shown})
    pairs = zip(series_colours(len(seeds)), series_colours(len(seeds), dark=True), strict=True)
    return dict(zip(seeds, pairs, strict=True))


def _ticks(values: Any) -> dict[str, Any]:
    """Over one or two decades ticks at 1, 2, 5 instead of at all digits."""
    shown = values[(values > 0) & np.isfinite(values)]
    return {"dtick": "D2"} if shown.size and 3 < shown.max() / shown.min() < 100 else {}
