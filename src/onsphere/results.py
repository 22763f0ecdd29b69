"""What results share: plain values for JSON, tables for those who have pandas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["frame", "plain_values"]


def plain_values(value: Any) -> Any:
    """Arrays and tuples as lists and numbers as Python's, with None for NaN and infinities: JSON has neither."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: plain_values(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def frame(table: Any, columns: list[str] | None = None) -> Any:
    """A pandas data frame.

    Args:
        table: Columns by name, or rows, each a dictionary or a tuple.
        columns: Names of the columns, where rows are tuples.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame() needs pandas: pip install pandas; or use to_dict()") from error
    return pandas.DataFrame(table, columns=columns)
