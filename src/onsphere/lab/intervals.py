"""Means over seeds with Student's t-intervals, and paired differences: every experiment's statistics.

mean ± t(n - 1) s / √n,   s the standard deviation over n seeds; differences are taken seed by seed first
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.keyed import Keyed
from onsphere.lab.result import Real

LEVEL = 0.95


@dataclass(frozen=True)
class Interval(Keyed):
    """A mean over seeds.

    Attributes:
        mean: The mean; NaN if a seed has no number.
        standard_error: Standard deviation over seeds divided by √seeds.
        low: Lower end of the 95 % t-interval.
        high: Upper end of the interval.
    """

    mean: Real
    standard_error: Real
    low: Real
    high: Real


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least two values with its 95 % t-interval; all NaN if one of them is not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        return Interval(math.nan, math.nan, math.nan, math.nan)
    mean, error = float(numbers.mean()), standard_error(numbers)
    reach = quantile(len(numbers)) * error
    return Interval(mean, error, mean - reach, mean + reach)


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The interval of a - b, paired seed by seed."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


def geometric_mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The geometric mean of positive numbers."""
    return float(np.exp(np.log(values).mean()))


def standard_error(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard error of the mean of independent values; NaN for fewer than two."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


@cache
def quantile(count: int, comparisons: int = 1) -> float:
    """How many standard errors a 95 % interval of the mean of so many values extends to either side (Student).

    Args:
        count: Number of values; NaN for fewer than two.
        comparisons: How many intervals are to hold at once (Bonferroni).
    """
    from scipy.stats import t

    return float(t.ppf(1 - (1 - LEVEL) / 2 / comparisons, count - 1)) if count > 1 else math.nan
