from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsphere.lab.report.words import (
    format_duration,
    format_interval,
    format_number,
    format_percent,
    format_range,
    json_for_script,
    jsonable,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0034, "3.4e-3"),
        (0.0512345, "0.0512"),
        (0.1, "0.1"),
        (1234.5, "1230"),
        (9999.0, "1e4"),  # rounds up across the limit of plain decimals
        (12345.0, "1.23e4"),
        (-0.25, "-0.25"),
        (0.0, "0"),
        (1e-300, "1e-300"),
        (7, "7"),
        (np.float32(0.5), "0.5"),
        (np.int64(12), "12"),
        (True, "yes"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "-∞"),
        ("vmap", "vmap"),
    ],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_short_numbers_keep_three_digits(value: float) -> None:
    assert float(format_number(value)) == pytest.approx(value, rel=6e-3)
    assert len(format_number(value)) <= 8


def test_percent_interval_duration() -> None:
    assert [format_percent(x) for x in (0.2417, 1.0, None, float("nan"))] == ["24.2", "100", "–", "–"]
    assert format_interval(3.4e-3, 5.1e-3) == "3.4e-3 – 5.1e-3"
    assert format_interval(None, 0.1) == "below 0.1"
    assert format_interval(0.1, None) == "above 0.1"
    assert format_interval(None, None) == "not found"
    assert format_range([2, 0.5, 1]) == "0.5 to 2"
    assert format_range([0.12341, 0.12339]) == "0.123"
    assert [format_duration(s) for s in (41.7, 600.0, 36000.0)] == ["41.7 s", "10 min", "10 h"]


def test_json_has_no_nan_and_cannot_close_its_element() -> None:
    value = {"x": np.array([1.0, np.nan, np.inf]), "text": "</script><!-- & \u2028", 3: (np.int64(2), np.bool_(True))}
    text = str(json_for_script(value))
    assert not any(mark in text for mark in ("<", ">", "&", "\u2028", "NaN", "Infinity"))
    assert json.loads(text) == {"x": [1.0, None, None], "text": "</script><!-- & \u2028", "3": [2, True]}


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot put object .* into a report; allowed are"):
        jsonable({"bad": object()})
