"""What the claims' studies must show besides: statements of this tool, which no paper makes."""

import pytest

from onsphere.lab import data
from onsphere.lab.claims import studies
from onsphere.lab.experiments.split.words import answer, headline

pytestmark = [pytest.mark.science, pytest.mark.slow]


@pytest.fixture
def study(evidence):
    """The evidence of a study by name, on its first data set or another."""
    known = {study.name: study for study in studies()}
    return lambda name, number=0: evidence(known[name], known[name].small[number])


def test_the_split_says_that_the_advantage_is_one_of_the_nll(study):
    few = study("split-few").result
    assert few.input_shape == (1, 7, 7) and not few.failed
    assert few.best["nll"] == 8 and few.advantage is True
    sentence = headline(few.budgets[0], "nll")
    assert sentence.startswith("There is a memory split advantage at 16,000 parameters: NLL")
    assert "no advantage" not in sentence
    assert any(sentence.startswith("By accuracy") for sentence in answer(few))


def test_the_split_says_that_there_is_none(study):
    many = study("split-many").result
    assert many.best == {"accuracy": 1, "nll": 1, "cnll": 1} and many.advantage is False
    assert headline(many.budgets[0], "nll").startswith("There is no advantage in splitting 4,000 parameters: NLL")


def test_batch_norm_has_the_advantage_too(study):
    assert study("split-normed").result.advantage is True


def test_a_prediction_says_what_it_measured(study):
    for row in study("split-predicted").parts["predicted 0"].budgets[0].splits:
        assert (row.basis == "measured") == (row.members == 1)


def test_seven_by_seven_is_pooling_by_four(study):
    pooled = data.load("fashion-mnist", train=4, test=4, pool=4)
    assert pooled.input_shape == study("split-few").result.input_shape


def test_the_drop_knows_its_threshold(study):
    dropped = study("drop").result
    assert dropped.threshold.low is not None and dropped.threshold.high is not None
    best = next(one for one in dropped.best if one.end == 4.9e-4)
    assert best.gain is not None and best.gain.clear and best.gain.mean < -0.005 and best.held_out < 0


def test_the_proposed_schedule_is_not_worse_by_its_own_rule(study):
    result = study("schedule").result
    assert result.tuned_on == "validation"
    assert result.verdict.not_worse, result.verdict


def test_levelled_off_runs_are_close_to_the_sphere(study):
    (distance,) = study("conventional").result.distances
    assert distance.close == distance.runs == 2 * study("conventional").result.spec.seeds


def test_the_gradient_norm_of_the_spectrum_falls(study):
    assert study("spectrum").result.trend("matched", "gradient_norm").verdict == "falls"


@pytest.mark.parametrize("name", ["rotation-adamw", "rotation-momentum"])
@pytest.mark.parametrize("number", [0, 1])
def test_the_monitor_raises_no_false_alarm(name, number, study):
    assert set(study(name, number).values["alarms"]) == {0.0}
