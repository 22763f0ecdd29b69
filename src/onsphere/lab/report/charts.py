"""Pieces of interactive charts that every report shares: axes, legends, rules and notes for plotly.js.

Charts are plain dicts: plotly.js needs no more, and no Python plotting object has to be built. The
colour `INK` is a word that the page's script replaces by the text colour of the light or the dark page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "GREY",
    "INK",
    "REGIME_SYMBOLS",
    "layout_of",
    "legend_of",
    "linear_axis",
    "log_axis",
    "note_at",
    "rule",
    "upright",
]

INK = "ink"
GREY = "#8a8f94"  # seen on light and dark alike

#: plotly's names of the markers that `figures.REGIME_MARKERS` draws.
REGIME_SYMBOLS: Mapping[str, str] = {
    "convergence": "circle",
    "chaotic_equilibrium": "diamond",
    "divergence": "square",
}


def layout_of(height: int, legend: Mapping[str, Any]) -> dict[str, Any]:
    """Start a layout of `height` pixels; the width is the page's."""
    return {
        "height": height,
        "margin": {"l": 70, "r": 20, "t": 30, "b": 52},
        "legend": dict(legend),
        "hovermode": "closest",
    }


def legend_of(title: str) -> dict[str, Any]:
    """A titled legend whose entries switch all traces of their group, in every panel."""
    return {
        "title": {"text": title},
        "tracegroupgap": 0,
        "groupclick": "togglegroup",
        "itemsizing": "constant",
    }


def linear_axis(title: str) -> dict[str, Any]:
    """An axis with its line and ticks outside."""
    return {
        "title": {"text": title, "standoff": 8},
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": False,
    }


def log_axis(title: str) -> dict[str, Any]:
    """The same on a logarithmic scale; few ticks keep it to powers of ten until somebody zooms in."""
    return linear_axis(title) | {"type": "log", "exponentformat": "power", "nticks": 5}


def rule(value: float, axis: str) -> dict[str, Any]:
    """A dashed horizontal line at `value` of the y axis called `axis` ("y", "y2", ..), across the chart."""
    ends = {"x0": 0, "x1": 1, "y0": value, "y1": value}
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    return ends | {"type": "line", "xref": "paper", "yref": axis, "line": line}


def upright(value: float, axis: str = "x") -> dict[str, Any]:
    """A dashed vertical line at `value` of the x axis called `axis`, over the height of the chart."""
    ends = {"x0": value, "x1": value, "y0": 0, "y1": 1}
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    return ends | {"type": "line", "xref": axis, "yref": "paper", "line": line}


def note_at(text: str, y: float, axis: str, *, left: bool = False) -> dict[str, Any]:
    """A small text standing on height `y` at the right (or `left`) edge.

    Args:
        text: What to write.
        y: Height on the axis; on a logarithmic one its decimal logarithm (where shapes take the value
            itself).
        axis: "y", "y2", ..; or "y domain", where 0 and 1 are the ends of the axis.
        left: Which edge.
    """
    side = {"x": 0.005, "xanchor": "left"} if left else {"x": 0.995, "xanchor": "right"}
    look = {"yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
    return side | look | {"text": text, "xref": "paper", "yref": axis, "y": y}
