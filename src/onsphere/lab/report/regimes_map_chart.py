"""The interactive map of the three regimes: what became of every run, over its effective learning rate.

The same figure as `regimes_map_figure` prints, as plotly.js reads it. Dots carry their seed in ``meta``;
hovering over one tells all its numbers and why it was labelled so.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_COLOURS_ON_DARK, REGIME_NAMES, rgba

from .charts import GREY, REGIME_SYMBOLS, layout_of, legend_of, linear_axis, log_axis, note_at, rule
from .page import Chart
from .regimes_view import RegimesView, cell_value
from .words import format_interval, format_number, format_percent

__all__ = ["map_chart"]


def map_chart(view: RegimesView) -> Chart:
    """Final loss, errors and angular update of every run over the ELR; regimes tinted, brackets grey."""
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
                "line": {"color": GREY, "width": 1.6, "dash": "dot" if hollow else "solid"},
                "name": "median over seeds",
                "legendgroup": "median",
                "hoverinfo": "skip",
                "meta": {"legend": axis == "y"},
            }
        )
    for regime, symbol in REGIME_SYMBOLS.items():
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
                            "line": {
                                "width": 1.5 if hollow else 0.5,
                                "color": REGIME_COLOURS[regime] if hollow else "#333333",
                            },
                        },
                        "name": REGIME_NAMES[regime],
                        "legendgroup": regime,
                        "text": [_cell_text(cell) for cell in cells],
                        "hovertemplate": "%{text}<extra></extra>",
                        "meta": {"seed": seed, "legend": axis == "y", "dark": REGIME_COLOURS_ON_DARK[regime]},
                    }
                )
    traces += _non_finite_trace(view)
    left, right = (math.log10(elr) for elr in view.elr_range)
    layout = layout_of(860, legend_of("run in")) | {
        "hovermode": "closest",
        "xaxis": log_axis("effective learning rate (ELR)") | {"anchor": "y3", "range": [left, right]},
        "yaxis": log_axis("final loss / loss at init") | {"domain": [0.69, 1]},
        "yaxis2": linear_axis("error (%), hollow: train") | {"domain": [0.345, 0.655], "range": [-4, 104]},
        "yaxis3": log_axis("angular update (rad)") | {"domain": [0, 0.31]},
        "shapes": [*_region_shapes(view), rule(1, "y"), rule(view.divergence_angle, "y3")],
        "annotations": [
            *_region_notes(view),
            note_at(
                f"{format_number(view.divergence_angle)} rad: divergence above",
                math.log10(view.divergence_angle),
                "y3",
                left=True,
            ),
        ],
    }
    layout["margin"]["t"] = 74
    return Chart(
        id="map-chart",
        figure={"data": traces, "layout": layout},
        caption=(
            "A dot is a run; the line is the median over seeds (solid: test error, dotted and hollow: train "
            "error). Tints mark ELRs whose regime is certain, grey bands the brackets in which a boundary "
            "lies; what is not resolved has no tint."
        ),
        label="Final loss, errors and angular update over the effective learning rate, regimes marked",
        seeds=view.seeds,
        seed=None,
    )


def _non_finite_trace(view: RegimesView) -> list[dict[str, Any]]:
    """Crosses along the top of the loss panel for runs that have no final loss to show."""
    broken = [cell for cell in view.cells if not cell["finite"]]
    if not broken:
        return []
    ratios = [cell_value(cell, "loss", "loss_at_init") for cell in view.cells]
    top = 2 * max([1.0, *(ratio for ratio in ratios if math.isfinite(ratio))])
    return [
        {
            "type": "scatter",
            "x": [float(cell["elr"]) for cell in broken],
            "y": [top] * len(broken),
            "yaxis": "y",
            "mode": "markers",
            "marker": {"symbol": "x-thin-open", "color": GREY, "size": 9, "line": {"width": 2}},
            "name": "became non-finite",
            "legendgroup": "non-finite",
            "text": [_cell_text(cell) for cell in broken],
            "hovertemplate": "%{text}<extra></extra>",
            "meta": {"legend": True},
        }
    ]


def _cell_text(cell: Mapping[str, Any]) -> str:
    """What hovering over a dot says. plotly reads a little HTML here, so the free text is escaped."""
    reason = "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(str(cell["reason"]), 60))
    short = {key: format_number(cell[key]) for key in ("loss", "loss_at_init", "angular_update", "trend")}
    train, test = format_percent(cell["train_error"]), format_percent(cell["test_error"])
    regime = REGIME_NAMES[cell["regime"]]
    broken = "" if cell["finite"] else " · became non-finite"
    lines = [
        f"<b>ELR {format_number(float(cell['elr']))}</b> · seed {cell['seed']} · {regime}",
        f"loss {short['loss']} (at init {short['loss_at_init']})",
        f"train error {train} % · test error {test} %",
        f"angular update {short['angular_update']} rad · trend {short['trend']}",
        f"gradient norm {format_number(cell['gradient_norm'])}{broken}",
    ]
    return "<br>".join([*lines, *([f"<i>{reason}</i>"] if reason else [])])


def _band(left: float, right: float, **look: Any) -> dict[str, Any]:
    base = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": {"width": 0},
    }
    return base | {"x0": left, "x1": right} | look


def _region_shapes(view: RegimesView) -> list[dict[str, Any]]:
    shapes = [_band(r.left, r.right, fillcolor=rgba(REGIME_COLOURS[r.regime], 0.16)) for r in view.regions()]
    for bracket in view.brackets():
        assert bracket.low is not None and bracket.high is not None
        if bracket.resolved:
            shapes.append(_band(bracket.low, bracket.high, fillcolor=rgba(GREY, 0.4)))
        else:
            shapes.append(_band(bracket.low, bracket.high, line={"width": 1, "dash": "dot", "color": GREY}))
    return shapes


def _region_notes(view: RegimesView) -> list[dict[str, Any]]:
    """Names of the regimes above the panels and each bracket's numbers above its band."""

    def above(start: float, stop: float, text: str, shift: int, **look: Any) -> dict[str, Any]:
        centre = (math.log10(start) + math.log10(stop)) / 2
        base = {
            "x": centre,
            "xref": "x",
            "yref": "paper",
            "y": 1,
            "yanchor": "bottom",
            "yshift": shift,
            "showarrow": False,
        }
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
    """Which side of its band a bracket's numbers stand on: two close ones must not run into each other."""
    centres = [math.log((low or 1) * (high or 1)) / 2 for low, high in brackets]
    left, right = view.elr_range
    if len(centres) == 2 and centres[1] - centres[0] < 0.3 * math.log(right / left):
        return ["right", "left"]
    return ["center"] * len(centres)
