"""The best split predicted from small pools: planted laws, intervals, what was saved, errors."""

import numpy as np
import pytest

from onsphere.ensembles import PowerLawError, Split, pool_metrics, pool_values, predict_split

# limit and scale of each width: one wide network is good alone, thin ones gain from company
LAWS = {100: (0.70, 0.10), 65: (0.60, 0.20), 40: (0.52, 0.31), 24: (0.45, 0.52), 14: (0.48, 0.80)}
SPLITS = [Split(n, w, 16_000 // n, 64_000 // n, 16_000) for n, w in zip((1, 2, 4, 8, 16), LAWS, strict=True)]


def value(width, n, exponent=-1.0):
    limit, scale = LAWS[width]
    return limit + scale * n**exponent


def table(noise=0.0, seed=0, exponent=-1.0):
    rng = np.random.default_rng(seed)
    return {w: {n: value(w, n, exponent) + noise * rng.normal() for n in (1, 2, 3, 4)} for w in LAWS}


def test_the_planted_best_split_is_found_beyond_the_sizes_measured():
    found = predict_split(SPLITS, table(exponent=-0.8))
    truth = [value(s.width, s.members, -0.8) for s in SPLITS]
    assert found.best.split == SPLITS[int(np.argmin(truth))]
    assert found.best.split.members == 8
    assert [s.value for s in found.splits] == pytest.approx(truth, abs=1e-6)
    assert [s.basis for s in found.splits] == ["measured"] * 3 + ["law"] * 2
    assert found.members_interval == (8, 8)
    assert found.best.probability == 1


def test_rising_metrics():
    values = {w: {n: 1 - v for n, v in row.items()} for w, row in table().items()}
    found = predict_split(SPLITS, values, rising=True)
    assert found.best.split.members == 8
    assert found.best.law.scale < 0


def test_the_interval_holds_the_best_split_as_often_as_it_says():
    hits, widths = 0, []
    for seed in range(60):
        found = predict_split(SPLITS, table(0.01, seed), exponent=-1.0, draws=500)
        low, high = found.members_interval
        hits += low <= 8 <= high
        widths.append(high > low)
        assert sum(s.probability for s in found.splits) == pytest.approx(1)
    assert hits >= 54
    assert any(widths)


def test_where_three_parameters_are_too_many_the_exponent_is_fixed_and_said():
    values = table(exponent=-1)
    values[14] = {1: 1.312, 2: 0.933, 3: 0.670, 4: 0.676}
    values[24] = {1: 0.5, 2: 0.5001, 3: 0.4999, 4: 0.5}
    found = predict_split(SPLITS, values)
    assert [s.basis for s in found.splits[3:]] == ["constant", "fixed exponent"]
    assert found.splits[3].law is None
    assert found.splits[4].law.fixed_exponent
    assert found.splits[3].value == pytest.approx(0.5)


def test_given_errors_bound_measured_values():
    errors = {w: dict.fromkeys((1, 2, 3, 4), 0.02) for w in LAWS}
    found = predict_split(SPLITS, table(), errors=errors)
    low, high = found.splits[0].interval
    assert (low, high) == pytest.approx((value(100, 1) - 0.0392, value(100, 1) + 0.0392), abs=1e-4)


def test_where_nothing_bounds_a_value_the_interval_is_everything():
    found = predict_split(SPLITS[:2], {100: {1: 0.8}, 65: {1: 0.8, 2: 0.7}})
    assert found.members_interval == (1, 2)
    assert found.best.split.members == 2
    assert found.best.probability is None
    assert found.to_dict()["best"]["interval"] == [None, None]


def test_the_share_of_member_steps_saved():
    found = predict_split(SPLITS, table(), repeats=5)
    assert (found.members_trained, found.members_of_everything) == (20, 5 * 31)
    assert found.saved == pytest.approx(1 - 20 / 155)
    assert predict_split(SPLITS, table(), trained=dict.fromkeys(LAWS, 1), repeats=1).members_trained == 5
    assert "8 members of width 24 are predicted best" in repr(found)
    assert found.to_dict()["saved"] == found.saved


def test_values_of_a_pool():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    pool = pool_metrics(rng.normal(size=(4, 60, 3)) + 2 * np.eye(3)[labels], labels)
    means, errors = pool_values(pool, "nll")
    assert means == {p.size: p.mean["nll"] for p in pool}
    assert list(errors) == [1, 2]
    assert list(pool_values(pool, "disagreement")[0]) == [2, 3, 4]
    with pytest.raises(ValueError, match="metric is 'bleu'; a pool has accuracy, nll"):
        pool_values(pool, "bleu")


def test_errors():
    with pytest.raises(PowerLawError, match=r"width 24 was measured at 2 ensemble sizes .1, 2.; predicting 8 members"):
        predict_split(SPLITS, {**table(), 24: {1: 0.9, 2: 0.7}})
    for values, options, message in (
        ({100: {1: 1.0}}, {}, "no values for width 65"),
        ({**table(), 40: {1: np.nan}}, {}, "of width 40 is nan; it must be finite"),
        (table(), {"confidence": 0}, "confidence is 0"),
        (table(), {"repeats": 0}, "repeats is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            predict_split(SPLITS, values, **options)
    with pytest.raises(ValueError, match="splits is empty"):
        predict_split([], table())
