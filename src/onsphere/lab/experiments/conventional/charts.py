"""The interactive charts of ordinary training beside the sphere: phase diagrams, loss over ELR, courses of the ELR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import REGIME_NAMES, elr_colours
from onsphere.lab.experiments.conventional.bands import band_notes, band_shapes, turned
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun
from onsphere.lab.experiments.conventional.spec import Setup
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.conventional.view import NAMES, Curve, geometric_mean, rate_name
from onsphere.lab.report.charts import GREY, REGIME_SYMBOLS, layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart
from onsphere.lab.report.words import format_number

__all__ = ["LOOKS", "elr_chart", "loss_chart", "phase_chart", "rate_chart"]

#: Colour on light, on dark, plotly's and matplotlib's marker of each set-up.
LOOKS: dict[Setup, tuple[str, str, str, str]] = {
    "sphere": ("#222222", "#dddddd", "circle-open", "o"),
    "invariant": ("#0072B2", "#56B4E9", "cross-thin-open", "+"),
    "all": ("#D55E00", "#E8743B", "diamond-open", "D"),
}


def phase_chart(curves: Sequence[Curve]) -> Chart:
    """Gradient norm over training loss, one panel a set-up, one curve a run, a star at its start."""
    setups = list(dict.fromkeys(curve.setup for curve in curves))
    light, dark = colours_of(curves), colours_of(curves, dark=True)
    width = 1 / len(setups)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = layout_of(470, legend_of(""))
    layout["annotations"] = []
    for i, setup in enumerate(setups):
        axis = "" if i == 0 else str(i + 1)
        for curve in (curve for curve in curves if curve.setup == setup and curve.steps.size):
            key = (curve.setup, curve.lr, curve.seed)
            traces.append(_phase_trace(curve, light[key], dark[key]) | {"xaxis": f"x{axis}", "yaxis": f"y{axis}"})
        domain = [i * width + (0.0 if i == 0 else 0.02), (i + 1) * width - (0.02 if i < len(setups) - 1 else 0)]
        layout[f"xaxis{axis}"] = log_axis("training loss") | {"domain": domain, "anchor": f"y{axis}"}
        layout[f"yaxis{axis}"] = log_axis("effective gradient norm" if i == 0 else "") | {"anchor": f"x{axis}"}
        if i:
            layout[f"yaxis{axis}"] |= {"matches": "y", "showticklabels": False}
            layout[f"xaxis{axis}"] |= {"matches": "x"}
        layout["annotations"].append(_heading(NAMES[setup], sum(domain) / 2))
    calm = calm_curves(curves)
    layout["yaxis"] |= _range([curve.gradient for curve in calm])
    layout["xaxis"] |= _range([curve.loss for curve in calm])
    layout["margin"] |= {"t": 52}
    seeds = sorted({curve.seed for curve in curves})
    return Chart(
        id="phase-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "One curve a run, named at its end by its learning rate and coloured by the effective learning rate of "
            "its last quarter, on one scale for all panels (dark: small). A star marks the start; a circle the end of "
            "a run in convergence, a diamond in chaotic equilibrium, a square in divergence. Gradients are those of "
            "the scale-invariant weights at the unit sphere. Runs that explode leave the picture."
        ),
        label="Phase diagrams of the set-ups: effective gradient norm against training loss",
        seeds=seeds,
        seed=seeds[0],
    )


def _phase_trace(curve: Curve, light: str, dark: str) -> dict[str, Any]:
    inner = curve.steps.size - 2
    name = f"{rate_name(curve.setup)} {format_number(curve.lr)}"
    elr = f"ELR at the end {format_number(curve.end_elr)}"
    return {
        "type": "scatter",
        "x": curve.loss,
        "y": curve.gradient,
        "customdata": np.round(curve.steps),
        "mode": "lines+markers+text",
        "text": [*[""] * (inner + 1), format_number(curve.lr, 2)][-curve.steps.size :],
        "textposition": "bottom center",
        "textfont": {"size": 10},
        "cliponaxis": False,
        "marker": {
            "symbol": ["star", *["circle"] * inner, REGIME_SYMBOLS[curve.regime]][: curve.steps.size],
            "size": [12, *[3] * inner, 9][: curve.steps.size],
            "color": light,
            "opacity": 1,
            "line": {"width": 0},
        },
        "line": {"color": light, "width": 1.6},
        "name": name,
        "legendgroup": f"{curve.setup} {curve.lr:.6g}",
        "hovertemplate": (
            f"<b>{name}</b> · seed {curve.seed} · {REGIME_NAMES[curve.regime]}<br>{elr}<br>step %{{customdata}}<br>"
            "loss %{x:.3g} · gradient norm %{y:.3g}<extra></extra>"
        ),
        "meta": {"seed": curve.seed, "legend": False, "width": 1.6, "dark": dark},
    }


def loss_chart(result: ConventionalResult, sphere: SphereMap | None) -> Chart:
    """Loss and test error against the effective learning rate: the sphere's curve and the runs in the whole space."""
    panels = (("loss", "training loss", 1.0), ("test_error", "test error (%)", 100.0))
    traces: list[dict[str, Any]] = []
    for i, (quantity, title, scale) in enumerate(panels):
        axes = {} if i == 0 else {"xaxis": "x2", "yaxis": "y2"}
        for setup in result.setups:
            traces += [t | axes for t in _points(result, setup, "elr", quantity, title, scale, line=setup == "sphere")]
    layout = _two_panels("effective learning rate, last quarter", panels)
    layout["yaxis"] |= _range([[run.loss for run in calm_runs(result) if run.loss]])
    if sphere is not None:
        low, high = _elr_ends(result)
        layout["shapes"] = [
            shape
            for axis in ("x", "x2")
            for shape in band_shapes(sphere, low, high, axis, f"{axis.replace('x', 'y')} domain")
        ]
        layout["annotations"] = [
            note
            for axis in ("x", "x2")
            for note in band_notes(sphere, low, high, axis, f"{axis.replace('x', 'y')} domain")
        ]
        for axis in ("xaxis", "xaxis2"):
            layout[axis]["range"] = [math.log10(low), math.log10(high)]
    return Chart(
        id="loss-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Every mark is a run at the effective learning rate of its last quarter, fixed on the sphere and measured "
            "in the whole space; the line joins the sphere's means over seeds. Left: mean minibatch loss of the last "
            "quarter. Right: test error at the end. Tints: regimes on the sphere."
        ),
        label="Training loss and test error against the effective learning rate in every set-up",
    )


def rate_chart(result: ConventionalResult) -> Chart | None:
    """Loss and test error against the learning rate of the set-ups in the whole space; None without one."""
    setups = [setup for setup in result.setups if setup != "sphere"]
    if not setups:
        return None
    panels = (("loss", "training loss", 1.0), ("test_error", "test error (%)", 100.0))
    traces: list[dict[str, Any]] = []
    for i, (quantity, title, scale) in enumerate(panels):
        axes = {} if i == 0 else {"xaxis": "x2", "yaxis": "y2"}
        for setup in setups:
            traces += [trace | axes for trace in _points(result, setup, "lr", quantity, title, scale, line=True)]
    layout = _two_panels("learning rate (lr)", panels)
    layout["yaxis"] |= _range([[run.loss for run in calm_runs(result) if run.loss and run.setup != "sphere"]])
    return Chart(
        id="rate-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "The same runs against their learning rate: with momentum the same lr is a larger step. Losses of runs "
            "that explode are outside the picture."
        ),
        label="Training loss and test error against the learning rate",
    )


def elr_chart(curves: Sequence[Curve], sphere: SphereMap | None) -> Chart | None:
    """The effective learning rate over steps of the runs in the whole space; None without any."""
    own = [curve for curve in curves if curve.setup != "sphere" and curve.elr.size]
    if not own:
        return None
    setups = list(dict.fromkeys(curve.setup for curve in own))
    light, dark = colours_of(curves), colours_of(curves, dark=True)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = layout_of(440, legend_of("")) | {"annotations": [], "shapes": []}
    width = 1 / len(setups)
    layout["margin"] |= {"t": 52}
    values = np.concatenate([curve.elr[np.isfinite(curve.elr)] for curve in calm_curves(own)])
    low, high = float(values.min()) / 1.5, float(values.max()) * 1.5
    for i, setup in enumerate(setups):
        axis = "" if i == 0 else str(i + 1)
        for curve in (curve for curve in own if curve.setup == setup):
            key = (curve.setup, curve.lr, curve.seed)
            traces.append(
                {
                    "type": "scatter",
                    "x": curve.elr_steps,
                    "y": curve.elr,
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "mode": "lines+text",
                    "text": [*[""] * (curve.elr.size - 1), f" {format_number(curve.lr, 2)}"],
                    "textposition": "middle right",
                    "textfont": {"size": 10},
                    "cliponaxis": False,
                    "line": {"color": light[key], "width": 1.4},
                    "name": f"lr {format_number(curve.lr)}",
                    "legendgroup": f"{setup} {curve.lr:.6g}",
                    "hovertemplate": (
                        f"<b>lr {format_number(curve.lr)}</b> · seed {curve.seed}<br>"
                        "step %{x} · ELR %{y:.3g}<extra></extra>"
                    ),
                    "meta": {"seed": curve.seed, "legend": False, "width": 1.4, "dark": dark[key]},
                }
            )
        domain = [i * width + (0.0 if i == 0 else 0.06), (i + 1) * width - 0.04]
        layout[f"xaxis{axis}"] = linear_axis("step") | {"domain": domain, "anchor": f"y{axis}", "rangemode": "tozero"}
        layout[f"yaxis{axis}"] = log_axis("measured ELR" if i == 0 else "") | {
            "anchor": f"x{axis}",
            "range": [math.log10(low), math.log10(high)],
        }
        layout["annotations"].append(_heading(NAMES[setup], sum(domain) / 2))
        if sphere is not None:
            layout["shapes"] += [turned(s) for s in band_shapes(sphere, low, high, f"y{axis}", f"x{axis} domain")]
    seeds = sorted({curve.seed for curve in own})
    return Chart(
        id="elr-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "ELR = lr / ((1 − momentum) norm²) of the scale-invariant weights at every step, thinned so that the "
            "lowest and highest of each stretch stay; numbers are learning rates. Tints: the regime that the sphere "
            "has at this ELR, convergence (blue), chaotic equilibrium (orange), divergence (purple). Gradients "
            "lower the ELR and weight decay raises it, until both balance."
        ),
        label="Effective learning rate against steps in the whole space, over the regimes of the sphere",
        seeds=seeds,
        seed=seeds[0],
    )


def calm_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Those that do not diverge, which axes are made for; all of them if there are none."""
    return [curve for curve in curves if curve.regime != "divergence"] or list(curves)


def calm_runs(result: ConventionalResult) -> list[ConventionalRun]:
    """The runs on the sphere, and those in the whole space that do not diverge: what axes are made for."""
    return [run for run in result.runs if run.setup == "sphere" or run.regime != "divergence"] or list(result.runs)


def colours_of(curves: Sequence[Curve], *, dark: bool = False) -> dict[tuple[Setup, float, int], str]:
    """A colour for every run by the ELR of its last quarter; grey for divergence in the whole space."""
    shown = {
        (curve.setup, curve.lr, curve.seed): curve.end_elr
        for curve in curves
        if curve.end_elr and (curve.setup == "sphere" or curve.regime != "divergence")
    }
    colours = elr_colours(shown.values(), dark=dark) if shown else {}
    keys = [(curve.setup, curve.lr, curve.seed) for curve in curves]
    return {key: colours[shown[key]] if key in shown else GREY for key in keys}


def _points(
    result: ConventionalResult, setup: Setup, x: str, quantity: str, title: str, scale: float, *, line: bool
) -> list[dict[str, Any]]:
    """Marks of a set-up's runs, and a line through means over seeds."""
    light, dark, symbol, _ = LOOKS[setup]
    runs = [run for run in result.of(setup) if getattr(run, x) and getattr(run, quantity) is not None]
    shared = {"type": "scatter", "name": NAMES[setup], "legendgroup": setup, "meta": {"dark": dark}}
    traces = [
        shared
        | {
            "x": [getattr(run, x) for run in runs],
            "y": [scale * getattr(run, quantity) for run in runs],
            "text": [_said(run) for run in runs],
            "mode": "markers",
            "marker": {"color": light, "size": 8, "symbol": symbol, "line": {"width": 1.6, "color": light}},
            "hovertemplate": f"%{{text}}<br>%{{x:.3g}} · {title} %{{y:.3g}}<extra></extra>",
        }
    ]
    if line:
        rates = sorted({run.lr for run in runs})
        groups = [[getattr(run, quantity) for run in runs if run.lr == rate] for rate in rates]
        means = [geometric_mean(g) if quantity == "loss" else float(np.mean(g)) for g in groups]
        traces.append(
            shared
            | {
                "x": rates,
                "y": [None if mean is None else scale * mean for mean in means],
                "mode": "lines",
                "line": {"color": light, "width": 1.4},
                "hoverinfo": "skip",
                "meta": {"dark": dark, "legend": False},
            }
        )
    return traces


def _said(run: ConventionalRun) -> str:
    rate = f"{rate_name(run.setup)} {format_number(run.lr)}"
    return f"<b>{rate}</b> · seed {run.seed} · {REGIME_NAMES[run.regime]}"


def _two_panels(x: str, panels: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    layout = layout_of(440, legend_of("") | {"orientation": "h", "x": 0, "y": 1.2})
    layout["xaxis"] = log_axis(x) | {"domain": [0, 0.45]}
    layout["yaxis"] = log_axis(panels[0][1])
    layout["xaxis2"] = log_axis(x) | {"domain": [0.55, 1], "anchor": "y2"}
    layout["yaxis2"] = linear_axis(panels[1][1]) | {"anchor": "x2", "rangemode": "tozero"}
    layout["margin"] |= {"t": 84}
    return layout


def _elr_ends(result: ConventionalResult) -> tuple[float, float]:
    values = [run.elr for run in calm_runs(result) if run.elr]
    return min(values) / 1.5, max(values) * 1.5


def _heading(text: str, x: float) -> dict[str, Any]:
    place = {"x": x, "y": 1.0, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False}


def _range(values: Sequence[Any]) -> dict[str, Any]:
    """Range of a logarithmic axis with some room around the values."""
    positive = np.concatenate([np.asarray(v, dtype=np.float64) for v in values])
    positive = positive[np.isfinite(positive) & (positive > 0)]
    if not positive.size:
        return {}
    low, high = math.log10(float(positive.min())), math.log10(float(positive.max()))
    return {"range": [low - 0.15 - 0.05 * (high - low), high + 0.1 + 0.05 * (high - low)]}
