"""The interactive charts of a spectrum: quantities against the ELR at both places, maps of angles and barriers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.spectrum.result import SpectrumResult
from onsphere.lab.report.charts import layout_of, legend_of, linear_axis, log_axis
from onsphere.lab.report.page import Chart, Slider
from onsphere.lab.report.words import format_number

__all__ = ["PLACES", "angle_chart", "error_chart", "map_of", "means", "pairs_chart", "place_name", "sharpness_chart"]

#: Place of a run -> colour on light, on dark, symbol, dash of the mean.
PLACES = {
    "matched": (OKABE_ITO["blue"], OKABE_ITO["sky"], "circle", "solid"),
    "end": (OKABE_ITO["vermillion"], "#E8743B", "diamond", "dash"),
}


def place_name(result: SpectrumResult, where: str) -> str:
    """A place as the page writes it."""
    if where == "end":
        return f"end, step {result.spec['steps']}"
    return f"train loss {format_number(result.target)}"


def sharpness_chart(result: SpectrumResult) -> Chart:
    """Gradient norm and sharpness against the ELR, at matched loss and at the end."""
    panels = (("gradient_norm", "mean gradient norm", 1.0), ("sharpness", "sharpness (top eigenvalue)", 1.0))
    return _chart(
        result,
        "sharpness-chart",
        panels,
        log=True,
        places=("matched", "end"),
        caption=(
            "Thin lines: seeds; bold: their geometric mean. Gradient norm: mean over minibatches of the effective "
            "gradient at fixed weights. Sharpness: top eigenvalue of the Hessian on the unit sphere. Both with batch "
            "statistics of training. At matched loss runs differ in their ELR and not in how far they have got."
        ),
        label="Gradient norm and sharpness against the effective learning rate",
    )


def error_chart(result: SpectrumResult) -> Chart:
    """Test loss and test error against the ELR, at matched loss and at the end."""
    panels = (("test_loss", "test loss", 1.0), ("test_error", "test error (%)", 100.0))
    return _chart(
        result,
        "test-chart",
        panels,
        log=False,
        places=("matched", "end"),
        caption=(
            "Thin lines: seeds; bold: their mean. Batch statistics re-estimated over all training images. "
            "At the end train losses differ as well (table below)."
        ),
        label="Test loss and test error against the effective learning rate",
    )


def angle_chart(result: SpectrumResult) -> Chart:
    """Angle from the initial weights against the ELR."""
    return _chart(
        result,
        "angle-chart",
        (("angle", "angle from init (rad)", 1.0),),
        log=False,
        places=("matched", "end"),
        caption="How far a run has travelled from its initial weights; unrelated weights are π/2 = 1.57 rad apart.",
        label="Angle from the initial weights against the effective learning rate",
    )


def _chart(
    result: SpectrumResult,
    id: str,
    panels: Sequence[tuple[str, str, float]],
    *,
    log: bool,
    places: Sequence[str],
    caption: str,
    label: str,
) -> Chart:
    traces = []
    for i, (quantity, title, scale) in enumerate(panels):
        axes = {} if i == 0 else {"xaxis": "x2", "yaxis": "y2"}
        for where in places:
            traces += [trace | axes for trace in _traces(result, where, quantity, title, scale, log)]
    axis = log_axis if log else linear_axis
    elrs = log_axis("effective learning rate (ELR)") | _elr_ticks(result)
    layout = layout_of(420, legend_of("")) | {"xaxis": dict(elrs), "yaxis": axis(panels[0][1])}
    if log:
        layout["yaxis"] |= {"exponentformat": "none", "nticks": 8}
    if len(panels) == 2:
        layout["xaxis"] |= {"domain": [0, 0.44]}
        layout["xaxis2"] = elrs | {"domain": [0.56, 1], "anchor": "y2"}
        layout["yaxis2"] = layout["yaxis"] | axis(panels[1][1]) | {"anchor": "x2"}
        layout["legend"] |= {"orientation": "h", "x": 0, "y": 1.14}
    return Chart(id=id, figure={"data": traces, "layout": layout}, caption=caption, label=label)


def _traces(
    result: SpectrumResult, where: str, quantity: str, title: str, scale: float, log: bool
) -> list[dict[str, Any]]:
    light, dark, symbol, dash = PLACES[where]
    name = place_name(result, where)
    shared = {"type": "scatter", "name": name, "legendgroup": where}
    traces = []
    for seed in result.seeds:
        points = values_of(result, where, quantity, seed)
        if points:
            traces.append(
                shared
                | {
                    "x": [elr for elr, _ in points],
                    "y": [scale * value for _, value in points],
                    "mode": "lines+markers",
                    "line": {"color": light, "width": 0.8},
                    "marker": {"color": light, "size": 4, "symbol": symbol},
                    "opacity": 0.45,
                    "hovertemplate": f"seed {seed} · ELR %{{x:.3g}} · {title} %{{y:.3g}}<extra>{name}</extra>",
                    "meta": {"dark": dark, "legend": False},
                }
            )
    elrs, values = means(result, where, quantity, geometric=log)
    if elrs:
        traces.append(
            shared
            | {
                "x": elrs,
                "y": [scale * value for value in values],
                "mode": "lines+markers",
                "line": {"color": light, "width": 2.6, "dash": dash},
                "marker": {"color": light, "size": 8, "symbol": symbol},
                "hovertemplate": f"mean · ELR %{{x:.3g}} · {title} %{{y:.3g}}<extra>{name}</extra>",
                "meta": {"dark": dark},
            }
        )
    return traces


def values_of(result: SpectrumResult, where: str, quantity: str, seed: int) -> list[tuple[float, float]]:
    """(ELR, value) of one seed's runs that have one, by ELR."""
    found = []
    for run in result.runs:
        point = getattr(run, where)
        value = None if point is None else getattr(point, quantity)
        if run.seed == seed and value is not None:
            found.append((run.elr, float(value)))
    return sorted(found)


def means(result: SpectrumResult, where: str, quantity: str, *, geometric: bool) -> tuple[list[float], list[float]]:
    """ELRs at which every seed has a value, and the means over seeds there."""
    table: dict[float, list[float]] = {}
    for seed in result.seeds:
        for elr, value in values_of(result, where, quantity, seed):
            table.setdefault(elr, []).append(value)
    whole = {elr: v for elr, v in sorted(table.items()) if len(v) == len(result.seeds)}
    if geometric:
        whole = {elr: v for elr, v in whole.items() if min(v) > 0}
        return list(whole), [float(np.exp(np.log(v).mean())) for v in whole.values()]
    return list(whole), [float(np.mean(v)) for v in whole.values()]


def map_of(result: SpectrumResult, quantity: str, seed: int | None) -> list[list[float | None]]:
    """A quantity of pairs of minima as a symmetric matrix over the ELRs; the mean over seeds if ``seed`` is None."""
    elrs = result.elrs
    table: list[list[list[float]]] = [[[] for _ in elrs] for _ in elrs]
    for pair in result.pairs:
        value = getattr(pair, quantity)
        if value is not None and seed in (None, pair.seed):
            i, j = elrs.index(pair.low), elrs.index(pair.high)
            table[i][j].append(value)
            table[j][i].append(value)
    # the diagonal is zero by definition
    return [
        [0.0 if i == j else float(np.mean(cell)) if cell else None for j, cell in enumerate(row)]
        for i, row in enumerate(table)
    ]


def pairs_chart(result: SpectrumResult) -> Chart | None:
    """Barriers and angles between the minima of different ELRs, as two maps; None without pairs."""
    if not result.pairs:
        return None
    names = [format_number(elr) for elr in result.elrs]
    frames: list[int | None] = [None, *result.seeds] if len(result.seeds) > 1 else [result.seeds[0]]
    barriers = [p.loss_barrier for p in result.pairs if p.loss_barrier is not None]
    top = {"loss_barrier": max(barriers, default=0.0) or 1.0, "angle": max(p.angle for p in result.pairs)}
    traces: list[dict[str, Any]] = []
    for frame, seed in enumerate(frames):
        for axis, quantity, what, place in (
            ("", "loss_barrier", "barrier %{z:.4f} (train loss)", 0.445),
            ("2", "angle", "angle %{z:.2f} rad", 1.0),
        ):
            matrix = map_of(result, quantity, seed)
            digits = 3 if quantity == "loss_barrier" else 2
            traces.append(
                {
                    "type": "heatmap",
                    "x": names,
                    "y": names,
                    "z": matrix,
                    "text": [["" if v is None else f"{v:.{digits}f}" for v in row] for row in matrix],
                    "texttemplate": "%{text}",
                    "xaxis": f"x{axis}",
                    "yaxis": f"y{axis}",
                    "zmin": 0,
                    "zmax": top[quantity],
                    "colorscale": "Viridis",
                    "reversescale": True,
                    "colorbar": {"thickness": 10, "x": place, "len": 1, "title": {"text": "rad" if axis else "loss"}},
                    "hovertemplate": f"minima of ELR %{{x}} and %{{y}}<br>{what}<extra></extra>",
                    "meta": {"legend": False} | ({"frame": frame} if len(frames) > 1 else {}),
                    "legendgroup": "maps",
                }
            )
    category = {"type": "category", "showgrid": False, "tickangle": 0}
    layout = layout_of(430, legend_of("")) | {
        "xaxis": linear_axis("ELR") | category | {"domain": [0, 0.42], "anchor": "y"},
        "yaxis": linear_axis("ELR") | category | {"anchor": "x"},
        "xaxis2": linear_axis("ELR") | category | {"domain": [0.57, 0.98], "anchor": "y2"},
        "yaxis2": linear_axis("ELR") | category | {"anchor": "x2"},
        "annotations": [_heading("barrier of the train loss", 0.21), _heading("angle (rad)", 0.775)],
    }
    shown = ["mean over seeds" if seed is None else f"seed {seed}" for seed in frames]
    return Chart(
        id="pairs-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "Weights at the end of training from the same start at different ELRs. Barrier: how far the train loss "
            "rises on the great circle between two of them above the line between their losses, batch statistics "
            "re-estimated at every point. No barrier: they lie in one basin."
        ),
        label="Barriers and angles between the minima of different effective learning rates",
        slider=Slider("seed", shown) if len(frames) > 1 else None,
    )


def _heading(text: str, x: float) -> dict[str, Any]:
    place = {"x": x, "y": 1.0, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False}


def _elr_ticks(result: SpectrumResult) -> dict[str, Any]:
    """A tick for every ELR, as far as they do not run into each other."""
    elrs = result.elrs
    if len(elrs) > 6:
        return {}
    return {"tickmode": "array", "tickvals": elrs, "ticktext": [format_number(elr) for elr in elrs]}
