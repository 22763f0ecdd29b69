"""Colours that colour-blind readers can tell apart, on light and on dark ground.

Regimes take three of the Okabe-Ito colours, chosen so that their pale tints differ too; effective learning
rates take viridis on a logarithmic scale, position ``u = (log ELR - log min) / (log max - log min)``, cut at
the end that would vanish against the background (yellow on white, violet on black).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

INK, INK_ON_DARK = "#222222", "#dddddd"
GREY = "#8a8f94"  # seen on light and dark alike

OKABE_ITO: Mapping[str, str] = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}

REGIME_COLOURS: Mapping[str, str] = {
    "convergence": OKABE_ITO["blue"],
    "chaotic_equilibrium": OKABE_ITO["orange"],
    "divergence": OKABE_ITO["purple"],
}

#: Blue alone would sink into a dark background.
REGIME_COLOURS_ON_DARK: Mapping[str, str] = {**REGIME_COLOURS, "convergence": OKABE_ITO["sky"]}

REGIME_NAMES: Mapping[str, str] = {name: name.replace("_", " ") for name in REGIME_COLOURS}

#: Colours of a few unordered series, told apart without colour vision too; the second list is for dark pages.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SERIES_ON_DARK = ("#56B4E9", "#E8743B", "#1FC79A", "#DD93BC", "#E69F00", "#8FA8FF")

# Sixteen equal steps of viridis; straight lines between them stay within 2 % of it.
_VIRIDIS = (
    *("440154", "48186a", "472d7b", "424086", "3b528b", "33638d", "2c728e", "26828e", "21918c"),
    *("1fa088", "28ae80", "3fbc73", "5ec962", "84d44b", "addc30", "d8e219", "fde725"),
)
_STEPS = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in _VIRIDIS])

# The part of viridis that stands out from a light and from a dark background.
VIRIDIS_ON_LIGHT = (0.0, 0.92)
_VIRIDIS_ON_DARK = (0.22, 1.0)


def viridis(n: int, start: float = 0, stop: float = 1) -> list[str]:
    """N colours of viridis at equal distances from `start` to `stop`, as ``#rrggbb``."""
    return [_viridis(place) for place in np.linspace(start, stop, n)]


def _viridis(place: float) -> str:
    known = np.linspace(0, 1, len(_STEPS))
    return "#" + "".join(f"{round(float(np.interp(place, known, part))):02x}" for part in _STEPS.T)


def elr_limits(elrs: Iterable[float]) -> tuple[float, float]:
    """Ends of the logarithmic colour scale of positive ELRs; a single ELR gets a decade around itself."""
    values = [float(elr) for elr in elrs]
    low, high = min(values), max(values)
    if low == high:
        return low / math.sqrt(10), high * math.sqrt(10)
    return low, high


def elr_colours(elrs: Iterable[float], *, dark: bool = False) -> dict[float, str]:
    """The ``#rrggbb`` of positive ELRs on the logarithmic scale, in ascending order, for light (or ``dark``) ground."""
    unique = sorted({float(elr) for elr in elrs})
    low, high = elr_limits(unique)
    start, stop = _VIRIDIS_ON_DARK if dark else VIRIDIS_ON_LIGHT
    span = math.log(high / low)
    return {elr: _viridis(start + (stop - start) * math.log(elr / low) / span) for elr in unique}


def series_colours(n: int, *, dark: bool = False) -> list[str]:
    """Colours for n unordered series on light (or ``dark``) ground: six that differ well, or evenly spaced ones."""
    few = _SERIES_ON_DARK if dark else _SERIES
    if n <= len(few):
        return list(few[:n])
    start, stop = _VIRIDIS_ON_DARK if dark else VIRIDIS_ON_LIGHT
    return viridis(n, start, stop)


def rgba(colour: str, alpha: float) -> str:
    """Write ``#rrggbb`` with an opacity, as CSS and plotly read it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
