"""What results share: plain values, and tables where pandas is there."""

import json
import sys

import numpy as np
import pytest

from onsphere.results import frame, plain_values


def test_values_are_what_json_can_hold():
    value = {"a": np.array([[1.0, np.nan]]), "b": (np.inf, 2), "c": [{"d": None, "e": "text"}], "f": np.arange(2)}
    plain = plain_values(value)
    assert plain == {"a": [[1.0, None]], "b": [None, 2], "c": [{"d": None, "e": "text"}], "f": [0, 1]}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_tables_need_pandas_and_say_so(monkeypatch):
    pandas = pytest.importorskip("pandas")
    by_column = frame({"x": [1, 2], "y": [3.0, 4.0]})
    assert isinstance(by_column, pandas.DataFrame)
    assert by_column.equals(frame([(1, 3.0), (2, 4.0)], columns=["x", "y"]))
    assert by_column.equals(frame([{"x": 1, "y": 3.0}, {"x": 2, "y": 4.0}]))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas; or use to_dict"):
        frame({})
