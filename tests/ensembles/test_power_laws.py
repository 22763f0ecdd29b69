"""Power-law fits: planted laws, intervals, what is refused."""

import numpy as np
import pytest

from onsphere.ensembles import PowerLawError, fit_power_law

SIZES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32])


def law(n, limit=0.5, scale=0.3, exponent=-0.8):
    return limit + scale * np.asarray(n, dtype=float) ** exponent


def test_exact_values_give_the_law_back():
    found = fit_power_law(SIZES, law(SIZES))
    assert (found.limit, found.scale, found.exponent) == pytest.approx((0.5, 0.3, -0.8), abs=1e-6)
    assert found(100) == pytest.approx(float(law(100)), abs=1e-6)
    assert found([1, 2]) == pytest.approx(law([1, 2]), abs=1e-6)
    assert found.residual < 1e-8
    assert "limit 0.5" in repr(found)


@pytest.mark.parametrize("known", [True, False], ids=["errors given", "errors unknown"])
def test_intervals_hold_the_planted_parameters(known):
    rng, sigma, truth = np.random.default_rng(0), 0.002, {"limit": 0.5, "scale": 0.3, "exponent": -0.8}
    hits = dict.fromkeys(truth, 0)
    for _ in range(200):
        values = law(SIZES) + sigma * rng.normal(size=len(SIZES))
        found = fit_power_law(SIZES, values, errors=np.full(len(SIZES), sigma) if known else None)
        for name, value in truth.items():
            low, high = found.intervals[name]
            hits[name] += low <= value <= high
    assert all(180 <= count <= 198 for count in hits.values()), hits


def test_predictions_cover_sizes_beyond_the_fitted_ones():
    rng, hits, small = np.random.default_rng(1), 0, np.array([1, 2, 3, 4, 5, 6])
    for _ in range(200):
        found = fit_power_law(small, law(small) + 0.001 * rng.normal(size=6), exponent=-0.8)
        value, low, high = found.predict(32)
        assert low < value < high
        hits += low <= law(32) <= high
    assert 180 <= hits <= 198


def test_rising_laws_and_fixed_exponents():
    found = fit_power_law(SIZES, law(SIZES, 0.9, -0.2, -1.0), rising=True)
    assert (found.limit, found.scale, found.exponent) == pytest.approx((0.9, -0.2, -1), abs=1e-6)
    fixed = fit_power_law(SIZES, law(SIZES, exponent=-1), exponent=-1)
    assert fixed.fixed_exponent
    assert fixed.intervals["exponent"] == (-1, -1)
    assert fixed.limit == pytest.approx(0.5)


def test_a_limit_that_must_not_be_negative():
    values = law(SIZES, -0.05, 0.6, -0.5) + 0.001 * np.random.default_rng(2).normal(size=len(SIZES))
    assert fit_power_law(SIZES, values).limit < 0
    found = fit_power_law(SIZES, values, non_negative_limit=True)
    assert found.limit >= 0
    assert found.intervals["limit"][0] >= 0


def test_samples_have_the_spread_of_the_intervals():
    values = law(SIZES) + 0.002 * np.random.default_rng(3).normal(size=len(SIZES))
    found = fit_power_law(SIZES, values, errors=np.full(len(SIZES), 0.002))
    rows = found.sample(4000, np.random.default_rng(0))
    assert rows.shape == (4000, 3)
    for column, name in enumerate(("limit", "scale", "exponent")):
        low, high = found.intervals[name]
        assert 0.9 < np.mean((rows[:, column] >= low) & (rows[:, column] <= high)) < 0.99


def test_three_values_without_errors_bound_nothing():
    found = fit_power_law([1, 2, 4], law([1, 2, 4]))
    assert found.intervals["limit"] == (-np.inf, np.inf)
    assert found.to_dict()["intervals"]["limit"] == [None, None]
    with pytest.raises(PowerLawError, match="as many parameters as values"):
        found.sample(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("sizes", "values", "options", "message"),
    [
        ([1, 2], [1, 0.5], {}, "there are 2 different sizes; a power law needs at least 3"),
        ([1, 2, 2, 1], [1, 0.5, 0.5, 1], {}, "there are 2 different sizes"),
        ([1, 2, 3, 4], [1, 1, 1, 1], {}, "a constant fits best"),
        ([1, 2, 3, 4], [1, 1.1, 1.2, 1.3], {}, "do not fall with the sizes"),
        ([1, 2, 3, 4, 5], [1, 1.01, 0.99, 1.01, 0.99], {}, "constant within their noise"),
        (SIZES, 1 - 0.1 * np.log(SIZES), {}, "so no exponent is best"),
    ],
)
def test_data_that_determine_no_law(sizes, values, options, message):
    with pytest.raises(PowerLawError, match=message):
        fit_power_law(sizes, values, **options)


@pytest.mark.parametrize(
    ("sizes", "values", "options", "message"),
    [
        ([1, 2, 3], [1, 2], {}, "3 sizes, 2 values"),
        ([0, 1, 2], [3, 2, 1], {}, "must be positive"),
        ([1, 2, 3], [3, np.nan, 1], {}, "values hold nan; they must be finite"),
        ([1, 2, 3], [3, 2, 1], {"errors": [0, 1, 1]}, "errors hold 0"),
        ([1, 2, 3], [3, 2, 1], {"exponent": 1}, "exponent is 1"),
        ([1, 2, 3], [3, 2, 1], {"confidence": 1}, "confidence is 1"),
        ([1, 2, 3], [3, 2, 1], {"rising": True, "non_negative_limit": True}, "is for falling laws"),
        ([[1, 2, 3]], [3, 2, 1], {}, "sizes must be a list of real numbers"),
    ],
)
def test_errors(sizes, values, options, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(sizes, values, **options)


def test_predict_needs_a_positive_size():
    with pytest.raises(ValueError, match="n is 0"):
        fit_power_law(SIZES, law(SIZES)).predict(0)
