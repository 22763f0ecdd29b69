"""Means over seeds with t-intervals, and paired differences.

mean ± t(n - 1) s / √n,   s the standard deviation over n seeds; differences are taken seed by seed first
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        mean: The mean; NaN if a seed has no number.
        standard_error: Standard deviation over seeds divided by √seeds.
        low: Lower end of the 95 % t-interval.
        high: Upper end.
    """

    mean: float
    standard_error: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least two values with its 95 % t-interval; all NaN if one of them is not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        return Interval(math.nan, math.nan, math.nan, math.nan)
    mean, error = float(numbers.mean()), float(numbers.std(ddof=1) / math.sqrt(len(numbers)))
    reach = _quantile(len(numbers) - 1) * error
    return Interval(mean, error, mean - reach, mean + reach)


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The interval of a - b, paired seed by seed."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


@cache
def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
