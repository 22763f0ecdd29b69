"""Metrics and averages against torchmetrics and against plain formulas."""

import numpy as np
import pytest
import torch

from onsphere import ensembles
from onsphere.ensembles import (
    accuracy,
    average_logits,
    average_probabilities,
    brier,
    disagreement,
    ece,
    evaluate,
    nll,
)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    logits = rng.normal(size=(4, 400, 6)) * 2  # class 5 never occurs
    logits[:, np.arange(400), labels] += 1.5
    return logits, labels


def test_averages(pool):
    logits, _ = pool
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(np.exp(average_probabilities(logits)) - probabilities.mean(0)).max() < 1e-14
    geometric = np.prod(probabilities, axis=0) ** (1 / 4)
    geometric /= geometric.sum(-1, keepdims=True)
    assert np.abs(np.exp(average_logits(logits)) - geometric).max() < 1e-14
    assert np.abs(average_probabilities(logits) - average_logits(logits)).max() > 0.1


def test_metrics_equal_torchmetrics(pool):
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    logits, labels = pool
    average = torch.from_numpy(average_probabilities(logits))
    targets = torch.from_numpy(labels)
    assert accuracy(logits, labels) == pytest.approx(
        float(MulticlassAccuracy(6, average="micro")(average, targets)), abs=1e-6
    )
    oracle = MulticlassCalibrationError(6, n_bins=15, norm="l1")
    assert ece(logits, labels) == pytest.approx(float(oracle(average.exp(), targets)), abs=1e-6)
    # torchmetrics has neither a Brier score of several classes nor an NLL; torch has the second
    assert nll(logits, labels) == pytest.approx(float(torch.nn.functional.nll_loss(average, targets)), abs=1e-12)
    one_hot = torch.nn.functional.one_hot(targets, 6)
    assert brier(logits, labels) == pytest.approx(float((average.exp() - one_hot).square().sum(1).mean()), abs=1e-12)


def test_brier_equals_torchmetrics_mean_squared_error(pool):
    from torchmetrics import MeanSquaredError

    logits, labels = pool
    probabilities = torch.from_numpy(average_probabilities(logits)).exp()
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), 6).double()
    assert brier(logits, labels) == pytest.approx(6 * float(MeanSquaredError()(probabilities, one_hot)), abs=1e-6)


def test_disagreement_equals_torchmetrics_hamming_distance(pool):
    from torchmetrics.classification import MulticlassHammingDistance

    logits, _ = pool
    chosen = torch.from_numpy(logits.argmax(-1))
    pairs = [
        float(MulticlassHammingDistance(6, average="micro")(chosen[i], chosen[j])) for i in range(4) for j in range(i)
    ]
    assert disagreement(logits) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert disagreement(np.repeat(logits[:1], 3, axis=0)) == 0


def test_evaluate_is_all_of_them_for_arrays_and_tensors(pool):
    logits, labels = pool
    found = evaluate(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found == evaluate(logits, labels)
    assert found.to_dict() == pytest.approx(
        {
            "accuracy": accuracy(logits, labels),
            "nll": nll(logits, labels),
            "brier": brier(logits, labels),
            "ece": ece(logits, labels),
            "disagreement": disagreement(logits),
            "members": 4,
            "examples": 400,
        }
    )
    assert evaluate(logits[:1], labels).disagreement is None
    assert evaluate(logits.astype(np.float32), labels).nll == pytest.approx(found.nll, abs=1e-6)


def test_extreme_predictions():
    certain = np.array([[[1000.0, 0.0], [0.0, 1000.0]]])
    assert nll(certain, [0, 1]) == 0
    assert nll(certain, [1, 1]) == pytest.approx(500)
    assert ece(certain, [0, 1]) == 0
    assert ece(certain, [1, 0]) == 1
    assert brier(certain, [1, 0]) == 2
    impossible = np.array([[[0.0, -np.inf]], [[0.0, -np.inf]]])
    assert nll(impossible, [1]) == np.inf
    assert np.isneginf(average_probabilities(impossible)[0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (np.where(z == z[2, 3, 1], np.nan, z), y), "NaN or inf in member 2; leave such members out"),
        (lambda z, y: (z[0, 0], y), r"shape \(6,\); they must be \[examples, classes\]"),
        (lambda z, y: (z[..., :1], y), "at least two classes"),
        (lambda z, y: (z[:0], y), "there must be examples"),
        (lambda z, y: (z.astype(complex), y), "must be real numbers"),
        (lambda z, y: (np.where(np.arange(400)[:, None] == 7, -np.inf, z), y), "-inf for every class"),
        (lambda z, y: (z, y[:-1]), r"labels have shape \(399,\); 400 examples need shape \(400,\)"),
        (lambda z, y: (z, y + 2), "labels hold 6; with 6 classes they must lie in 0 to 5"),
        (lambda z, y: (z, y - 1), "labels hold -1"),
        (lambda z, y: (z, y + 0.5), "must be whole numbers from 0 to 5"),
    ],
)
@pytest.mark.parametrize("metric", [accuracy, nll, brier, ece])
def test_inputs_without_meaning(pool, change, message, metric):
    with pytest.raises(ValueError, match=message):
        metric(*change(*pool))


def test_other_errors(pool):
    logits, labels = pool
    with pytest.raises(ValueError, match="give at least two"):
        disagreement(logits[:1])
    with pytest.raises(ValueError, match="bins is 0"):
        ece(logits, labels, bins=0)
    with pytest.raises(ValueError, match="all members with equal shapes"):
        accuracy([logits[0], logits[1][:5]], labels)


def test_every_public_name_exists():
    assert ensembles.__all__ == sorted(ensembles.__all__)
    assert all(getattr(ensembles, name) is not None for name in ensembles.__all__)
