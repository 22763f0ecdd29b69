"""What every report shares in looks: colours that colour-blind readers can tell apart, and short numbers.

Regimes take three of the Okabe-Ito colours, chosen so that their pale tints differ too; effective learning
rates take viridis on a logarithmic scale, position ``u = (log ELR - log min) / (log max - log min)``, cut at
the end that would vanish against the background (yellow on white, violet on black).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import ListedColormap, to_hex

__all__ = [
    "MISSING",
    "OKABE_ITO",
    "REGIME_COLOURS",
    "REGIME_COLOURS_ON_DARK",
    "REGIME_NAMES",
    "elr_colormap",
    "elr_colours",
    "elr_limits",
    "format_duration",
    "format_interval",
    "format_number",
    "format_percent",
    "json_for_script",
    "jsonable",
    "rgba",
    "series_colours",
]

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

REGIME_NAMES: Mapping[str, str] = {
    "convergence": "convergence",
    "chaotic_equilibrium": "chaotic equilibrium",
    "divergence": "divergence",
}

#: Colours of a few unordered series, told apart without colour vision too; the second list is for dark pages.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SERIES_ON_DARK = ("#56B4E9", "#E8743B", "#1FC79A", "#DD93BC", "#E69F00", "#8FA8FF")

MISSING = "–"

# The part of viridis that stands out from a light and from a dark background.
_VIRIDIS_ON_LIGHT = (0.0, 0.92)
_VIRIDIS_ON_DARK = (0.22, 1.0)


def elr_limits(elrs: Iterable[float]) -> tuple[float, float]:
    """Ends of the logarithmic colour scale; a single ELR gets a decade around itself.

    Args:
        elrs: Effective learning rates, positive.

    Returns:
        Smallest and largest ELR, always different.
    """
    values = [float(elr) for elr in elrs]
    low, high = min(values), max(values)
    if low == high:
        return low / math.sqrt(10), high * math.sqrt(10)
    return low, high


def elr_colormap(*, dark: bool = False) -> ListedColormap:
    """Viridis without the end that is hard to see on a light (or ``dark``) background."""
    start, stop = _VIRIDIS_ON_DARK if dark else _VIRIDIS_ON_LIGHT
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(start, stop, 256)))


def elr_colours(elrs: Iterable[float], *, dark: bool = False) -> dict[float, str]:
    """Give each ELR its colour on the logarithmic scale.

    Args:
        elrs: Effective learning rates, positive; repeats are welcome.
        dark: Whether the colours are for a dark background.

    Returns:
        ELR to ``#rrggbb``, in ascending order of the ELR.
    """
    unique = sorted({float(elr) for elr in elrs})
    low, high = elr_limits(unique)
    colormap = elr_colormap(dark=dark)
    span = math.log(high / low)
    return {elr: to_hex(colormap(math.log(elr / low) / span)) for elr in unique}


def series_colours(n: int, *, dark: bool = False) -> list[str]:
    """Colours for n unordered series: six that differ well, or evenly spaced ones of viridis for more.

    Args:
        n: How many.
        dark: Whether the colours are for a dark background.
    """
    few = _SERIES_ON_DARK if dark else _SERIES
    if n <= len(few):
        return list(few[:n])
    colormap = elr_colormap(dark=dark)
    return [to_hex(colormap(i / (n - 1))) for i in range(n)]


def rgba(colour: str, alpha: float) -> str:
    """Write ``#rrggbb`` with an opacity, as CSS and plotly read it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def format_number(value: object, digits: int = 3) -> str:
    """Write a number as short as a reader needs it.

    Plain decimals between 0.01 and 10 000, ``3.4e-3`` outside; integers stay whole.

    Args:
        value: A number, or None for "there is none".
        digits: Significant digits.

    Returns:
        The text: "–" for None and NaN, "∞" for infinity.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if not isinstance(value, Real):
        return str(value)
    number = float(value)
    if math.isnan(number):
        return MISSING
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    if -2 <= int(exponent) < 4:
        decimals = max(digits - 1 - int(exponent), 0)
        # The mantissa is rounded already; going through it keeps 1234 at 1230 instead of false precision.
        text = f"{float(f'{mantissa}e{exponent}'):.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def format_percent(fraction: object) -> str:
    """Write a fraction 0..1 as percent without the sign, one decimal: ``0.2417`` becomes ``24.2``."""
    if fraction is None or not isinstance(fraction, Real) or not math.isfinite(float(fraction)):
        return MISSING
    text = f"{100 * float(fraction):.1f}"
    return text.removesuffix(".0")


def format_interval(low: float | None, high: float | None) -> str:
    """Write a bracket that may be open on either side: ``3.4e-3 – 5.1e-3``, ``below 1e-4``, ``above 2``."""
    if low is not None and high is not None:
        return f"{format_number(low)} – {format_number(high)}"
    if low is not None:
        return f"above {format_number(low)}"
    if high is not None:
        return f"below {format_number(high)}"
    return "not found"


def format_duration(seconds: float) -> str:
    """Write a wall-clock time in the unit a person would choose."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{format_number(float(seconds))} s"
    if seconds < 2 * 3600:
        return f"{format_number(seconds / 60)} min"
    return f"{format_number(seconds / 3600)} h"


def jsonable(value: object) -> Any:
    """Turn numpy arrays, numbers and nested containers into plain JSON values.

    NaN and infinities become null: JSON has no word for them, and browsers refuse a page that says NaN.
    Floats keep six significant digits, more than a chart shows.

    Raises:
        TypeError: For a value that has no JSON form.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(f"{float(value):.6g}") if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return [jsonable(item) for item in value.tolist()]
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [jsonable(item) for item in value]
    raise TypeError(
        f"cannot put {type(value).__name__} {value!r} into a report; allowed are None, text, numbers, numpy "
        "arrays, lists and mappings of these: convert it first, for example with str()"
    )


def json_for_script(value: object) -> Markup:
    """Encode a value for a ``<script type="application/json">`` element.

    ``<``, ``>`` and ``&`` are written as escapes, so that no text inside can close the element.
    """
    text = json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
