"""Rules: on which side of a bound an interval over seeds lies."""

import math

import numpy as np
import pytest
from scipy import stats

from onsphere.lab.claims.rules import MOST_SEEDS, above, below, near, wilson, within

SPREAD = [0.9, 1.0, 1.1, 1.05, 0.95]


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        (above(0.8), "holds"),
        (above(1.0), "not decided"),
        (above(1.2), "does not hold"),
        (below(1.2), "holds"),
        (below(1.0), "not decided"),
        (below(0.8), "does not hold"),
        (within(0.5, 1.5), "holds"),
        (near(1.0, 0.05), "not decided"),
        (within(1.5, 2), "does not hold"),
        (within(0, 0.5), "does not hold"),
        (within(0.99, 1.01), "not decided"),
    ],
)
def test_a_mean_is_decided_by_its_t_interval(rule, verdict):
    seen = rule.decide(SPREAD)
    low, high = stats.t.interval(0.95, len(SPREAD) - 1, np.mean(SPREAD), stats.sem(SPREAD))
    assert (seen.middle, seen.low, seen.high) == pytest.approx((1.0, low, high))
    assert seen.verdict == verdict


@pytest.mark.parametrize(
    ("hits", "verdict"), [(5, "holds"), (4, "not decided"), (1, "not decided"), (0, "does not hold")]
)
def test_a_share_is_decided_by_wilsons_interval(hits, verdict):
    seen = MOST_SEEDS.decide([1.0] * hits + [0.0] * (5 - hits))
    expected = stats.binomtest(hits, 5).proportion_ci(0.95, "wilson")
    assert (seen.low, seen.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert seen.middle == hits / 5 and seen.verdict == verdict


def test_a_share_counts_the_seeds_between_its_bounds():
    assert within(0.499, 2.001, of="share").decide([0.5, 1, 2, 1, 1]).verdict == "holds"
    assert within(0.499, 2.001, of="share").decide([4.0] * 5).verdict == "does not hold"


@pytest.mark.parametrize("rule", [above(0.0), MOST_SEEDS])
@pytest.mark.parametrize("numbers", [[], [1.0], [1.0, math.nan, 1.0], [1.0, math.inf]])
def test_too_few_seeds_or_a_missing_number_decide_nothing(rule, numbers):
    seen = rule.decide(numbers)
    assert seen.verdict == "not decided" and math.isnan(seen.low) and math.isnan(seen.high)


def test_seeds_that_all_agree_have_an_interval_of_no_width():
    seen = below(0.01).decide([0.0, 0.0, 0.0])
    assert (seen.low, seen.high, seen.verdict) == (0.0, 0.0, "holds")


@pytest.mark.parametrize("count", [1, 2, 30])
def test_wilson_stays_within_0_and_1(count):
    for hits in range(count + 1):
        share, low, high = wilson(hits, count)
        assert 0 <= low <= share <= high <= 1


def test_rules_in_words():
    assert str(above(0.5)) == "above 0.5" and str(below(0.01)) == "below 0.01"
    assert str(near(1, 0.05)) == "0.95 to 1.05" and str(MOST_SEEDS) == "above 0.5 in most seeds"
