"""Numbers in words: short texts for pages, tables and charts, and plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from markupsafe import Markup

MISSING = "–"


def format_number(value: object, digits: int = 3) -> str:
    """Write a number as short as a reader needs it.

    Plain decimals between 0.01 and 10 000, ``3.4e-3`` outside; integers stay whole.

    Args:
        value: A number, or None for "there is none".
        digits: How many significant digits.

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


def rough_percent(share: float) -> str:
    """Write how far something is from a law in percent, two digits: ``0.0234`` becomes ``2.3 %``."""
    return "0.01 %" if share < 1e-4 else f"{format_number(100 * share, 2)} %"


def format_interval(low: float | None, high: float | None) -> str:
    """Write a bracket that may be open on either side: ``3.4e-3 – 5.1e-3``, ``below 1e-4``, ``above 2``."""
    if low is not None and high is not None:
        return f"{format_number(low)} – {format_number(high)}"
    if low is not None:
        return f"above {format_number(low)}"
    if high is not None:
        return f"below {format_number(high)}"
    return "not found"


def format_range(values: Iterable[float]) -> str:
    """Write the least and the largest of some numbers: ``3.4e-3 to 5.1e-3``, or the one where they read the same."""
    known = list(values)
    low, high = format_number(min(known)), format_number(max(known))
    return low if low == high else f"{low} to {high}"


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
