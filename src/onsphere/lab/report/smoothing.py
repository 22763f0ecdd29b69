"""Thin noisy curves out until they can be read: means over bins of steps.

A positive quantity drawn on a logarithmic axis is averaged as ``exp(mean(log y))`` over each bin, so that one
spike does not lift the whole bin; others by the plain mean. Bins are equal in steps, or in log steps where
the beginning matters most.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def binned_mean(
    steps: ArrayLike,
    *series: ArrayLike,
    bins: int,
    spacing: Literal["linear", "log"] = "linear",
    geometric: bool = True,
) -> tuple[Floats, ...]:
    """Average several readings of one run over common bins of steps.

    Steps where any of the series is not finite (or not positive, for the geometric mean) are left out of all
    of them, so the results stay aligned: point i of each is from the same steps.

    Args:
        steps: [T] step numbers, ascending, not negative.
        *series: Further series over the same steps, each [T].
        bins: At most this many points come back; curves that are short enough come back whole.
        spacing: Bins equal in steps ("linear") or in log(1 + step) ("log").
        geometric: Average logarithms (positive quantities) instead of values.

    Returns:
        The mean step and the mean of every series, each [at most bins]; empty when nothing usable is left.

    Raises:
        ValueError: If `bins` is not positive or a series has another length than `steps`.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; give a whole number of at least 1")
    x = np.asarray(steps, dtype=np.float64)
    columns = [np.asarray(values, dtype=np.float64) for values in series]
    for values in columns:
        if values.shape != x.shape:
            raise ValueError(f"a series of shape {values.shape} does not fit steps of shape {x.shape}; make them equal")
    usable: NDArray[np.bool_] = np.isfinite(x)
    for values in columns:
        usable &= np.isfinite(values)
        if geometric:
            usable &= values > 0
    x, columns = x[usable], [values[usable] for values in columns]
    if x.size <= bins:
        return (x, *columns)
    position = np.log1p(x) if spacing == "log" else x
    span = position[-1] - position[0]
    scaled = (position - position[0]) / span if span > 0 else np.zeros_like(position)
    index = np.minimum((scaled * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0

    def mean(values: Floats) -> Floats:
        total: NDArray[Any] = np.bincount(index, weights=values, minlength=bins)
        result: Floats = total[filled] / count[filled]
        return result

    averaged = [np.exp(mean(np.log(values))) if geometric else mean(values) for values in columns]
    return (mean(x), *averaged)
