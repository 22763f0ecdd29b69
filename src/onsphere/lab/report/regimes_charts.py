"""The interactive charts of the three regimes: the same three figures as plotly.js reads them.

Written as plain dicts (plotly.js needs no more), so making a page imports no plotting library but its one script.
Curves carry their seed in ``meta``; the page's selector shows one seed or all. ELRs are on logarithmic axes.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .page import Chart
from .regimes_figures import gradient_norm_ceiling
from .regimes_view import Curve, RegimesView, cell_value
from .smoothing import binned_mean
from .theme import (
    REGIME_COLOURS,
    REGIME_NAMES,
    elr_colours,
    format_interval,
    format_number,
    format_percent,
    rgba,
)

__all__ = ["map_chart", "overview_chart", "phase_chart"]

_SYMBOLS = {"convergence": "circle", "chaotic_equilibrium": "diamond", "divergence": "square"}
_OVERVIEW_BINS, _PHASE_BINS = 100, 24
_LEGEND_HINT = "Click an ELR in the legend to hide it, double-click to see it alone."
_GREY = "#8a8f94"


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
    layout = _layout(860, _legend("ELR")) | {
        "xaxis": _axis("step") | {"anchor": "y3", "rangemode": "tozero"},
        "yaxis": _log_axis("training loss") | {"domain": [0.69, 1]} | _loss_range(view),
        "yaxis2": _axis("test error (%)") | {"domain": [0.345, 0.655], "rangemode": "tozero"},
        "yaxis3": _log_axis("gradient norm") | {"domain": [0, 0.31]} | _gradient_range(view),
    }
    if math.isfinite(view.loss_at_init):
        layout["shapes"] = [_rule(view.loss_at_init, "y")]
        # Annotations on a logarithmic axis are placed by the exponent; shapes by the value.
        note = _note("loss at initialisation (random guess)", math.log10(view.loss_at_init), "y")
        layout["annotations"] = [note | {"yshift": 8, "bgcolor": "ground"}]
    return Chart(
        id="overview-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Training loss (mean of minibatch losses, train-mode batch statistics), test error (batch statistics "
            "re-estimated over training data) and mean effective gradient norm against steps; curves are means over "
            f"bins of steps. {_LEGEND_HINT}"
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
                    "symbol": ["star", *["circle"] * inner, _SYMBOLS[curve.regime]][: steps.size],
                    "size": [12, *[3] * inner, 9][: steps.size],
                    "color": trace["line"]["color"],
                    "opacity": 1,
                    "line": {"width": 0},  # plotly outlines markers of many sizes in white, which would cut the line up
                },
                "hovertemplate": (
                    f"{_run(curve)}<br>step %{{customdata}}<br>loss %{{x:.3g}} · gradient norm %{{y:.3g}}<extra></extra>"
                ),
            }
        )
    layout = _layout(560, _legend("ELR")) | {
        "xaxis": _log_axis("training loss"),
        "yaxis": _log_axis("mean effective gradient norm") | _gradient_range(view),
    }
    return Chart(
        id="phase-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A star marks the start. A run that converges follows its own line to low loss (ends in a circle); in "
            "chaotic equilibrium it stays at a spot that belongs to its ELR (diamond); in divergence it stays at the "
            f"loss of a random guess (square). {_LEGEND_HINT}"
        ),
        label="Phase diagram: mean effective gradient norm against training loss for every effective learning rate",
        seeds=view.curve_seeds,
        seed=view.curve_seeds[0],
    )


def map_chart(view: RegimesView) -> Chart:
    """Final loss, errors and angular update of every run over the ELR, with regimes tinted and brackets grey."""
    panels: tuple[tuple[str, str, str | None, float, bool], ...] = (
        ("y", "loss", "loss_at_init", 1, False),
        ("y2", "train_error", None, 100, True),
        ("y2", "test_error", None, 100, False),
        ("y3", "angular_update", None, 1, False),
    )
    traces: list[dict[str, Any]] = []
    for axis, key, relative_to, scale, hollow in panels:
        elrs, medians = view.median_over_seeds(key, relative_to=relative_to)
        traces.append(
            {
                "type": "scatter",
                "x": elrs,
                "y": [scale * median for median in medians],
                "yaxis": axis,
                "mode": "lines",
                "line": {"color": _GREY, "width": 1.6, "dash": "dot" if hollow else "solid"},
                "name": "median over seeds",
                "legendgroup": "median",
                "hoverinfo": "skip",
                "meta": {"legend": axis == "y"},
            }
        )
    for regime, symbol in _SYMBOLS.items():
        for seed in view.seeds:
            cells = [cell for cell in view.cells if cell["regime"] == regime and int(cell["seed"]) == seed]
            for axis, key, relative_to, scale, hollow in panels if cells else ():
                traces.append(
                    {
                        "type": "scatter",
                        "x": [float(cell["elr"]) for cell in cells],
                        "y": [scale * cell_value(cell, key, relative_to) for cell in cells],
                        "yaxis": axis,
                        "mode": "markers",
                        "marker": {
                            "symbol": symbol + ("-open" if hollow else ""),
                            "color": REGIME_COLOURS[regime],
                            "size": 8,
                            "line": {"width": 1.5 if hollow else 0.5, "color": REGIME_COLOURS[regime] if hollow else "#333333"},
                        },
                        "name": REGIME_NAMES[regime],
                        "legendgroup": regime,
                        "text": [_cell_text(cell) for cell in cells],
                        "hovertemplate": "%{text}<extra></extra>",
                        "meta": {"seed": seed, "legend": axis == "y"},
                    }
                )
    left, right = (math.log10(elr) for elr in view.elr_range)
    layout = _layout(860, _legend("run in")) | {
        "hovermode": "closest",
        "xaxis": _log_axis("effective learning rate (ELR)") | {"anchor": "y3", "range": [left, right]},
        "yaxis": _log_axis("final loss / loss at init") | {"domain": [0.69, 1]},
        "yaxis2": _axis("error (%), hollow: train") | {"domain": [0.345, 0.655], "range": [-4, 104]},
        "yaxis3": _log_axis("angular update (rad)") | {"domain": [0, 0.31]},
        "shapes": [*_region_shapes(view), _rule(1, "y"), _rule(view.divergence_angle, "y3")],
        "annotations": [
            *_region_notes(view),
            _note(f"{format_number(view.divergence_angle)} rad: divergence above", math.log10(view.divergence_angle), "y3", left=True),
        ],
    }
    layout["margin"]["t"] = 74
    return Chart(
        id="map-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A dot is a run; the line is the median over seeds (solid: test error, dotted and hollow: train error). Tints "
            "mark ELRs whose regime is certain, grey bands the brackets in which a boundary lies, white what is not "
            "resolved."
        ),
        label="Final loss, errors and angular update over the effective learning rate, with the three regimes",
        seeds=view.seeds,
        seed=None,
    )


def _ordered(view: RegimesView) -> list[Curve]:
    return sorted(view.curves, key=lambda curve: (curve.elr, curve.seed))


def _palettes(view: RegimesView) -> tuple[dict[float, str], dict[float, str]]:
    elrs = [curve.elr for curve in view.curves]
    return elr_colours(elrs), elr_colours(elrs, dark=True)


def _run(curve: Curve) -> str:
    return f"<b>ELR {format_number(float(curve.elr))}</b> · seed {curve.seed} · {REGIME_NAMES[curve.regime]}"


def _curve_trace(curve: Curve, colours: Mapping[float, str], dark: Mapping[float, str], *, legend: bool) -> dict[str, Any]:
    elr = float(curve.elr)
    return {
        "type": "scatter",
        "name": format_number(elr),
        "legendgroup": f"{elr:.6g}",
        "line": {"color": colours[elr], "width": 1.8},
        "meta": {"seed": int(curve.seed), "legend": legend, "width": 1.8, "dark": dark[elr]},
    }


def _cell_text(cell: Mapping[str, Any]) -> str:
    """What hovering over a dot says. plotly reads a little HTML here, so the free text is escaped."""
    reason = "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(str(cell["reason"]), 60))
    lines = [
        f"<b>ELR {format_number(float(cell['elr']))}</b> · seed {cell['seed']} · {REGIME_NAMES[cell['regime']]}",
        f"loss {format_number(cell['loss'])} (at init {format_number(cell['loss_at_init'])})",
        f"train error {format_percent(cell['train_error'])} % · test error {format_percent(cell['test_error'])} %",
        f"angular update {format_number(cell['angular_update'])} rad · trend {format_number(cell['trend'])}",
        f"gradient norm {format_number(cell['gradient_norm'])}" + ("" if cell["finite"] else " · became non-finite"),
    ]
    return "<br>".join([*lines, *([f"<i>{reason}</i>"] if reason else [])])


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


def _layout(height: int, legend: Mapping[str, Any]) -> dict[str, Any]:
    return {"height": height, "margin": {"l": 70, "r": 20, "t": 30, "b": 52}, "legend": dict(legend), "hovermode": "closest"}


def _legend(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "tracegroupgap": 0, "groupclick": "togglegroup", "itemsizing": "constant"}


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "showline": True, "ticks": "outside", "ticklen": 4, "automargin": False}


def _log_axis(title: str) -> dict[str, Any]:
    return _axis(title) | {"type": "log", "exponentformat": "power", "dtick": 1}


def _rule(value: float, axis: str) -> dict[str, Any]:
    line = {"color": "ink", "width": 1.2, "dash": "dash"}  # the page's script knows what ink is, light or dark
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": value, "y1": value, "line": line}


def _note(text: str, y: float, axis: str, *, left: bool = False) -> dict[str, Any]:
    side = {"x": 0.005, "xanchor": "left"} if left else {"x": 0.995, "xanchor": "right"}
    return side | {"text": text, "xref": "paper", "yref": axis, "y": y, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}


def _band(left: float, right: float, **look: Any) -> dict[str, Any]:
    base = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "line": {"width": 0}}
    return base | {"x0": left, "x1": right} | look


def _region_shapes(view: RegimesView) -> list[dict[str, Any]]:
    shapes = [_band(r.left, r.right, fillcolor=rgba(REGIME_COLOURS[r.regime], 0.16)) for r in view.regions()]
    for bracket in view.brackets():
        assert bracket.low is not None and bracket.high is not None
        if bracket.resolved:
            shapes.append(_band(bracket.low, bracket.high, fillcolor=rgba(_GREY, 0.4)))
        else:
            shapes.append(_band(bracket.low, bracket.high, line={"width": 1, "dash": "dot", "color": _GREY}))
    return shapes


def _region_notes(view: RegimesView) -> list[dict[str, Any]]:
    """Names of the regimes above the panels and each bracket's numbers above its band."""

    def above(start: float, stop: float, text: str, shift: int, **look: Any) -> dict[str, Any]:
        centre = (math.log10(start) + math.log10(stop)) / 2
        base = {"x": centre, "xref": "x", "yref": "paper", "y": 1, "yanchor": "bottom", "yshift": shift, "showarrow": False}
        return base | {"text": text} | look

    notes = [
        above(r.left, r.right, f"<b>{REGIME_NAMES[r.regime].replace(' ', '<br>')}</b>", 2, font={"size": 12})
        for r in view.regions()
    ]
    notes += [above(start, stop, "<i>not<br>resolved</i>", 2, font={"size": 11}) for start, stop in view.gaps()]
    brackets = sorted(view.brackets(), key=lambda bracket: bracket.low or 0)
    for bracket, anchor in zip(brackets, _anchors(view, [(b.low, b.high) for b in brackets]), strict=True):
        assert bracket.low is not None and bracket.high is not None
        text = format_interval(bracket.low, bracket.high) + ("" if bracket.resolved else " ?")
        notes.append(above(bracket.low, bracket.high, text, 40, xanchor=anchor, font={"size": 12}))
    return notes


def _anchors(view: RegimesView, brackets: Iterable[tuple[float | None, float | None]]) -> list[str]:
    """Which side of its band a bracket's numbers stand on, so that two close ones do not run into each other."""
    centres = [math.log((low or 1) * (high or 1)) / 2 for low, high in brackets]
    left, right = view.elr_range
    if len(centres) == 2 and centres[1] - centres[0] < 0.3 * math.log(right / left):
        return ["right", "left"]
    return ["center"] * len(centres)
