"""Whether splitting pays: what counts as an advantage, as none, and as unclear."""

import math

import pytest
from scipy import stats

from onsphere.lab.experiments.split.pools.decide import advantage, predicted_verdict, verdict, verdicts
from onsphere.lab.experiments.split.result import Verdict
from onsphere.lab.result import plain_of, typed

ONE = [0.80, 0.82, 0.79, 0.81, 0.80]


def shifted(by, spread=0.002):
    return [value - by + spread * (-1) ** i for i, value in enumerate(ONE)]


def words(**given):
    return [Verdict(metric, 1, (1,), word, ()) for metric, word in given.items()]


def test_a_clear_gain_of_one_split_is_an_advantage():
    found = verdict("nll", {1: ONE, 2: shifted(0.05), 4: shifted(-0.2)})
    assert (found.word, found.best, found.close) == ("advantage", 2, (2,))
    gain = max(found.gains, key=lambda one: one.mean)
    assert gain.members == 2 and gain.mean == pytest.approx(0.05, abs=0.001)
    assert gain.low > 0


def test_accuracy_counts_the_other_way_round():
    assert verdict("accuracy", {1: ONE, 2: shifted(-0.05)}).word == "advantage"
    found = verdict("accuracy", {1: ONE, 2: shifted(0.05)})
    assert (found.word, found.best) == ("no advantage", 1)


def test_no_advantage_takes_every_split_to_be_clearly_worse():
    assert verdict("nll", {1: ONE, 2: shifted(-0.05), 4: shifted(-0.2)}).word == "no advantage"
    found = verdict("nll", {1: ONE, 2: shifted(0.0, 0.01), 4: shifted(-0.2)})
    assert found.word == "unclear"
    assert set(found.close) == {1, 2}


def test_intervals_are_paired_t_intervals_corrected_for_the_number_of_splits():
    splits = {1: ONE, 2: shifted(0.01, 0.004), 4: shifted(-0.01, 0.03)}
    gain = verdict("nll", splits).gains[0]
    differences = [a - b for a, b in zip(ONE, splits[2], strict=True)]
    plain = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    corrected = stats.ttest_1samp(differences, 0).confidence_interval(0.975)
    assert gain.upper == pytest.approx(plain.high)
    assert (gain.low, gain.high) == pytest.approx((corrected.low, corrected.high))


def test_a_gain_that_only_the_plain_interval_calls_one_is_unclear():
    differences = [0.01, 0.02, 0.008, 0.02, 0.005]
    two = [a - d for a, d in zip(ONE, differences, strict=True)]
    assert verdict("nll", {1: ONE, 2: two}).word == "advantage"
    others = {n: shifted(-0.3) for n in (4, 8, 16, 32)}
    assert verdict("nll", {1: ONE, 2: two} | others).word == "unclear"


@pytest.mark.parametrize("splits", [{2: ONE, 4: shifted(0.1)}, {1: ONE[:1], 2: [0.1]}, {1: ONE}])
def test_without_a_single_network_or_a_second_seed_it_is_unclear(splits):
    assert verdict("nll", splits).word == "unclear"


def test_a_seed_whose_networks_all_failed_is_left_out_of_the_pairs():
    found = verdict("nll", {1: [None, *ONE[1:]], 2: [0.0, *shifted(0.05)[1:]]})
    assert found.gains[0].mean == pytest.approx(0.05, abs=0.002)
    nothing = verdict("nll", {1: [None, None], 2: [None, None]})
    assert nothing.word == "unclear" and math.isnan(nothing.gains[0].mean)


@pytest.mark.parametrize(
    ("nll", "cnll", "expected"),
    [
        ("advantage", "advantage", True),
        ("advantage", "unclear", True),
        ("unclear", "advantage", True),
        ("advantage", "no advantage", "unclear"),
        ("no advantage", "no advantage", False),
        ("no advantage", "unclear", "unclear"),
        ("unclear", "unclear", "unclear"),
    ],
)
def test_the_budget_goes_by_nll_and_cnll(nll, cnll, expected):
    assert advantage(words(nll=nll, cnll=cnll, accuracy="unclear")) is expected
    assert advantage(words(nll=nll, cnll=cnll, accuracy="no advantage")) is expected


def test_a_prediction_is_sure_where_its_chances_are():
    assert predicted_verdict("nll", 4, {1: 0.01, 4: 0.99}).word == "advantage"
    assert predicted_verdict("nll", 1, {1: 0.99, 4: 0.01}).word == "no advantage"
    unsure = predicted_verdict("nll", 4, {1: 0.2, 4: 0.8})
    assert (unsure.word, unsure.close, unsure.probability) == ("unclear", (1, 4), pytest.approx(0.8))
    assert predicted_verdict("nll", 4, {2: 0.2, 4: 0.8}).word == "unclear"


def test_verdicts_are_read_back_from_json():
    values = {m: {1: ONE, 2: shifted(0.05), 4: [None] * 5} for m in ("accuracy", "nll", "cnll")}
    for found in verdicts(values):
        again = typed(Verdict, plain_of(found))
        assert (again.metric, again.word, again.close) == (found.metric, found.word, found.close)
        assert again.gains[0] == found.gains[0]
        assert math.isnan(again.gains[1].mean)
