"""CNLL: planted temperatures, what it does not depend on, errors."""

import numpy as np
import pytest
import torch

from onsphere.ensembles import best_temperature, calibrated_nll, nll


def calibrated(examples, classes, seed, spread=2.0):
    """Logits with labels drawn from their softmax: the best temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, classes)) * spread
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return logits, labels


@pytest.mark.parametrize("planted", [0.05, 0.5, 3.0, 40.0])
def test_recovers_a_planted_temperature(planted):
    logits, labels = calibrated(60_000, 10, seed=1)
    assert best_temperature(planted * logits[None], labels) == pytest.approx(planted, rel=0.01)


def test_cross_validated_temperatures_are_near_it_too():
    logits, labels = calibrated(60_000, 5, seed=2)
    found = calibrated_nll(3 * logits[None], labels, repeats=2)
    assert len(found.temperatures) == 4
    assert found.temperatures == pytest.approx([3] * 4, rel=0.02)
    assert found.mean_temperature == pytest.approx(3, rel=0.01)
    assert abs(found.value - nll(logits, labels)) < 1e-3
    assert found.uncalibrated == pytest.approx(nll(3 * logits, labels))
    assert found.at_bound == 0


def test_temperatures_of_members_and_of_their_average():
    logits, labels = calibrated(2_000, 5, seed=3)
    noise = np.random.default_rng(4).normal(size=(4, *logits.shape))
    members = 2.5 * (logits + 0.7 * noise)
    for kind in ("averaged", "members"):
        found = calibrated_nll(members, labels, temperature=kind, repeats=1)
        assert found.temperature == kind
        assert found.value < found.uncalibrated
    # the same one number either way for identical members
    same = np.repeat(members[:1], 3, axis=0)
    values = [calibrated_nll(same, labels, temperature=kind).value for kind in ("averaged", "members")]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    # of members, the temperature that is best is found: no grid point is better
    best = best_temperature(members, labels, temperature="members")
    least = nll(members / best, labels)
    assert all(nll(members / t, labels) >= least - 1e-12 for t in np.geomspace(0.2, 20, 15))


def test_does_not_depend_on_the_scale_of_the_logits_and_is_reproducible():
    logits, labels = calibrated(1000, 4, seed=5)
    values = [calibrated_nll(c * logits[None], labels).value for c in (0.1, 1, 7)]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)
    assert calibrated_nll(logits[None], labels) == calibrated_nll(torch.from_numpy(logits)[None], labels)
    assert calibrated_nll(logits[None], labels, seed=1).value != values[1]


def test_scored_on_examples_that_were_not_fitted():
    # one half of the labels is at odds with the other: fitted and scored on the same examples it would be lower
    logits, labels = calibrated(40, 3, seed=6)
    best = best_temperature(logits[None], labels)
    assert calibrated_nll(logits[None], labels, repeats=20).value > nll(logits / best, labels)


def test_temperatures_at_the_bound_are_counted():
    logits = np.eye(3)[np.arange(60) % 3][None] * 2.0
    found = calibrated_nll(logits, np.arange(60) % 3)
    assert found.at_bound == 10
    assert found.value < 1e-6
    assert "10 of 10 temperatures at the bound" in repr(found)
    assert float(found) == found.value == found.to_dict()["value"]


@pytest.mark.parametrize("planted", [2e-5, 5e3, 1e6, 1e200])
@pytest.mark.parametrize("kind", ["averaged", "members"])
def test_temperatures_beyond_a_thousand_are_found(planted, kind):
    logits, labels = calibrated(4_000, 6, seed=8)
    found = calibrated_nll(planted * logits[None], labels, temperature=kind, repeats=1)
    assert found.at_bound == 0
    assert found.temperatures == pytest.approx([planted] * 2, rel=0.1)
    assert found.value == pytest.approx(calibrated_nll(logits[None], labels, repeats=1).value, abs=1e-5)
    several = np.stack([planted * logits, planted * logits])
    assert best_temperature(several, labels, temperature=kind) == pytest.approx(planted, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_a_best_temperature_that_does_not_exist_is_said(scale):
    rows = np.arange(60)
    right = np.eye(3)[rows % 3][None] * scale
    with pytest.warns(UserWarning, match="falls up to the bound of the search, temperature .*classified correctly"):
        assert best_temperature(right, rows % 3) < 1e-2
    with pytest.warns(UserWarning, match="worse than none"):
        assert best_temperature(right, (rows + 1) % 3) > 100
    assert calibrated_nll(right, (rows + 1) % 3).at_bound == 10


def test_classes_that_never_occur():
    logits, labels = calibrated(500, 4, seed=7)
    wider = np.concatenate([logits, np.full((500, 3), -20.0)], axis=1)
    assert calibrated_nll(wider[None], labels).value == pytest.approx(
        calibrated_nll(logits[None], labels).value, abs=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": "both"}, "temperature is 'both'; it must be 'averaged' or 'members'"),
        ({"folds": 1}, "folds is 1; it must lie between 2 and the number of examples, 50"),
        ({"folds": 51}, "folds is 51"),
        ({"folds": 2.0}, "folds is 2.0; it must be a whole number"),
        ({"repeats": 0}, "repeats is 0"),
        ({"labels": np.zeros(49, int)}, r"labels have shape \(49,\)"),
        ({"logits": np.full((1, 50, 3), np.nan)}, "NaN or inf in member 0"),
        ({"logits": np.where(np.arange(3) == 0, -np.inf, np.zeros((2, 50, 3)))}, "example 0 was given probability 0"),
    ],
)
def test_errors(arguments, message):
    given = {"logits": np.zeros((1, 50, 3)), "labels": np.zeros(50, int), **arguments}
    with pytest.raises(ValueError, match=message):
        calibrated_nll(**given)
