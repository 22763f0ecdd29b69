from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsphere.lab.report.smoothing import binned_mean


def test_geometric_and_arithmetic_means() -> None:
    steps, geometric = binned_mean([0, 1, 2, 3], [1, 100, 4, 9], bins=2)
    np.testing.assert_allclose(steps, [0.5, 2.5])
    np.testing.assert_allclose(geometric, [10, 6])
    _, arithmetic = binned_mean([0, 1, 2, 3], [1, 100, 4, 9], bins=2, geometric=False)
    np.testing.assert_allclose(arithmetic, [50.5, 6.5])


def test_series_stay_aligned_and_what_is_not_usable_is_left_out() -> None:
    loss, norm = [1.0, np.nan, 4.0, 0.0, 2.0], [1.0, 7.0, np.inf, 5.0, 3.0]
    steps, a, b = binned_mean(np.arange(5), loss, norm, bins=10)
    assert (steps.tolist(), a.tolist(), b.tolist()) == ([0, 4], [1, 2], [1, 3])
    # An arithmetic mean has no quarrel with zero.
    assert binned_mean(np.arange(5), loss, bins=10, geometric=False)[0].tolist() == [0, 2, 3, 4]
    assert all(part.size == 0 for part in binned_mean([1, 2], [np.nan, -1.0], bins=3))


def test_log_spacing_is_finer_at_the_start() -> None:
    steps, _ = binned_mean(np.arange(1000), np.ones(1000), bins=20, spacing="log")
    assert steps[0] == 0 and np.all(np.diff(np.diff(steps))[2:] > 0)


@given(
    st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=80),
    st.integers(min_value=1, max_value=20),
    st.sampled_from(["linear", "log"]),
    st.booleans(),
)
def test_means_lie_between_the_extremes(values: list[float], bins: int, spacing: str, geometric: bool) -> None:
    steps, means = binned_mean(np.arange(len(values)), values, bins=bins, spacing=spacing, geometric=geometric)  # type: ignore[arg-type]
    assert 1 <= means.size <= max(bins, 1)
    assert np.all(np.diff(steps) > 0)
    assert min(values) * (1 - 1e-9) <= means.min() and means.max() <= max(values) * (1 + 1e-9)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="bins is 0"):
        binned_mean([1], [1], bins=0)
    with pytest.raises(ValueError, match=r"shape \(2,\) does not fit steps of shape \(1,\)"):
        binned_mean([1], [1, 2], bins=3)
