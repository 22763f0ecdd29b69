"""Tints behind a chart: the regimes that the sphere has along an axis of effective learning rates."""

from __future__ import annotations

import math
from typing import Any

from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES, rgba
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.report.charts import GREY

__all__ = ["band_notes", "band_shapes", "turned"]


def band_shapes(sphere: SphereMap, low: float, high: float, axis: str, across: str) -> list[dict[str, Any]]:
    """Tints of the regimes along an ELR axis between two ends."""
    return [
        {
            "type": "rect",
            "xref": axis,
            "yref": across,
            "x0": max(start, low),
            "x1": min(end, high),
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": rgba(REGIME_COLOURS[regime], 0.1),
            "layer": "below",
        }
        for regime, start, end in sphere.bands()
        if start < high and end > low
    ]


def turned(shape: dict[str, Any]) -> dict[str, Any]:
    """The same with its axes exchanged."""
    names = {"xref": "yref", "yref": "xref", "x0": "y0", "x1": "y1", "y0": "x0", "y1": "x1"}
    return {names.get(name, name): value for name, value in shape.items()}


def band_notes(sphere: SphereMap, low: float, high: float, axis: str, across: str) -> list[dict[str, Any]]:
    """Names of the regimes above such an axis."""
    found = []
    for regime, start, end in sphere.bands():
        first, last = max(start, low), min(end, high)
        if first < last:
            place = {"x": (math.log10(first) + math.log10(last)) / 2, "y": 1, "xref": axis, "yref": across}
            text = REGIME_NAMES[regime].replace(" ", "<br>")
            look = {"showarrow": False, "yanchor": "bottom", "font": {"size": 10, "color": GREY}}
            found.append(place | look | {"text": text})
    return found
