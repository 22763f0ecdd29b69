"""The interactive charts of the course of training: against steps, and as a phase diagram.

The same two figures as `regimes_figures` prints, as plotly.js reads them. Curves carry their seed in
``meta``; the page's selector shows one seed or all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import REGIME_NAMES, elr_colours

from .charts import REGIME_SYMBOLS, layout_of, legend_of, linear_axis, log_axis, note_at, rule
from .page import Chart
from .regimes_figures import gradient_norm_ceiling
from .regimes_view import Curve, RegimesView
from .smoothing import binned_mean
from .words import format_number

__all__ = ["overview_chart", "phase_chart"]

_OVERVIEW_BINS, _PHASE_BINS = 100, 24
_LEGEND_HINT = "Click an ELR in the legend to hide it, double-click to see it alone."


def overview_chart(view: RegimesView) -> Chart:
    """Training loss, test error and gradient norm against steps, one curve a run."""
    colours, dark = _palettes(view)
    traces: list[dict[str, Any]] = []
    for curve in _ordered(view):
        errors = binned_mean(curve.evaluation_steps, curve.test_error, bins=_OVERVIEW_BINS, geometric=False)
        panels = (
            ("y", "loss", "", binned_mean(curve.steps, curve.loss, bins=_OVERVIEW_BINS)),
            ("y2", "test error", " %", (errors[0], 100 * errors[1])),
            ("y3", "gradient norm", "", binned_mean(curve.steps, curve.gradient_norm, bins=_OVERVIEW_BINS)),
        )
        for axis, what, unit, (steps, values) in panels:
            traces.append(
                _curve_trace(curve, colours, dark, legend=axis == "y")
                | {
                    "x": np.round(steps),
                    "y": values,
                    "yaxis": axis,
                    "mode": "lines",
                    "hovertemplate": f"{_run(curve)}<br>step %{{x}} · {what} %{{y:.3g}}{unit}<extra></extra>",
                }
            )
    layout = layout_of(860, legend_of("ELR")) | {
        "xaxis": linear_axis("step") | {"anchor": "y3", "rangemode": "tozero"},
        "yaxis": log_axis("training loss") | {"domain": [0.69, 1]} | _loss_range(view),
        "yaxis2": linear_axis("test error (%)") | {"domain": [0.345, 0.655], "rangemode": "tozero"},
        "yaxis3": log_axis("gradient norm") | {"domain": [0, 0.31]} | _gradient_range(view),
    }
    if math.isfinite(view.loss_at_init):
        layout["shapes"] = [rule(view.loss_at_init, "y")]
        # At the top rather than on its line, where divergent curves run.
        note = note_at("- - loss at initialisation (random guess)", 1, "y domain")
        layout["annotations"] = [note | {"yanchor": "top"}]
    return Chart(
        id="overview-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Training loss (mean of minibatch losses, train-mode batch statistics), test error (batch "
            "statistics re-estimated over training data) and mean effective gradient norm against steps; "
            f"curves are means over bins of steps. {_LEGEND_HINT}"
        ),
        label="Training loss, test error and gradient norm against steps for every effective learning rate",
        seeds=view.curve_seeds,
        seed=view.curve_seeds[0],
    )


def phase_chart(view: RegimesView) -> Chart:
    """Training loss against mean effective gradient norm, one curve a run, a star at its start."""
    colours, dark = _palettes(view)
    traces: list[dict[str, Any]] = []
    for curve in _ordered(view):
        steps, loss, norm = binned_mean(curve.steps, curve.loss, curve.gradient_norm, bins=_PHASE_BINS, spacing="log")
        if not steps.size:
            continue
        inner = steps.size - 2
        trace = _curve_trace(curve, colours, dark, legend=True)
        traces.append(
            trace
            | {
                "x": loss,
                "y": norm,
                "customdata": np.round(steps),
                "mode": "lines+markers",
                "marker": {
                    "symbol": ["star", *["circle"] * inner, REGIME_SYMBOLS[curve.regime]][: steps.size],
                    "size": [12, *[3] * inner, 9][: steps.size],
                    "color": trace["line"]["color"],
                    "opacity": 1,
                    # plotly outlines markers of many sizes in white, which would cut the line up.
                    "line": {"width": 0},
                },
                "hovertemplate": (
                    f"{_run(curve)}<br>step %{{customdata}}<br>"
                    "loss %{x:.3g} · gradient norm %{y:.3g}<extra></extra>"
                ),
            }
        )
    layout = layout_of(560, legend_of("ELR")) | {
        "xaxis": log_axis("training loss"),
        "yaxis": log_axis("mean effective gradient norm") | _gradient_range(view),
    }
    return Chart(
        id="phase-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A star marks the start. A run that converges follows its own line to low loss (ends in a "
            "circle); in chaotic equilibrium it stays at a spot that belongs to its ELR (diamond); in "
            f"divergence it stays at the loss of a random guess (square). {_LEGEND_HINT}"
        ),
        label="Phase diagram: mean effective gradient norm against training loss for every ELR",
        seeds=view.curve_seeds,
        seed=view.curve_seeds[0],
    )


def _ordered(view: RegimesView) -> list[Curve]:
    return sorted(view.curves, key=lambda curve: (curve.elr, curve.seed))


def _palettes(view: RegimesView) -> tuple[dict[float, str], dict[float, str]]:
    elrs = [curve.elr for curve in view.curves]
    return elr_colours(elrs), elr_colours(elrs, dark=True)


def _run(curve: Curve) -> str:
    return f"<b>ELR {format_number(float(curve.elr))}</b> · seed {curve.seed} · {REGIME_NAMES[curve.regime]}"


def _curve_trace(
    curve: Curve, colours: Mapping[float, str], dark: Mapping[float, str], *, legend: bool
) -> dict[str, Any]:
    elr = float(curve.elr)
    return {
        "type": "scatter",
        "name": format_number(elr),
        "legendgroup": f"{elr:.6g}",
        "line": {"color": colours[elr], "width": 1.8},
        "meta": {"seed": int(curve.seed), "legend": legend, "width": 1.8, "dark": dark[elr]},
    }


def _gradient_range(view: RegimesView) -> dict[str, Any]:
    """Range of a gradient-norm axis: everything, but divergent runs do not push the others together."""
    values = np.concatenate([np.asarray(curve.gradient_norm, dtype=np.float64) for curve in view.curves])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return {}
    low, high = math.log10(float(positive.min())), math.log10(gradient_norm_ceiling(view))
    return {"range": [low - 0.1, max(high, low + 1)]}


def _loss_range(view: RegimesView) -> dict[str, Any]:
    """Range of the loss axis with room above for the name of the dashed line."""
    values = np.concatenate([[view.loss_at_init], *(np.asarray(curve.loss, dtype=np.float64) for curve in view.curves)])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return {}
    return {"range": [math.log10(float(positive.min())) - 0.1, math.log10(float(positive.max())) + 0.4]}
