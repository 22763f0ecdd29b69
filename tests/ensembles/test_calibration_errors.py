"""Calibration errors against torchmetrics and against slow definitions; top-k and misclassification likewise."""

import math

import numpy as np
import pytest
import torch

from onsphere.ensembles import (
    accuracy,
    ace,
    average_probabilities,
    best_temperature,
    ece,
    misclassification_auroc,
    nll,
    sce,
    tace,
    temperature_nll,
    top_k_accuracy,
)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 331)
    logits = rng.normal(size=(3, 331, 7)) * 3  # class 6 never occurs
    logits[:, np.arange(331), labels] += 2
    return logits, labels


def slow(columns, bins_of, norm):
    """Nixon et al. 2019, one bin after another: ``columns`` are (probabilities, whether it came true) of a class."""
    sums, squares, gaps = [], [], [0.0]
    for probabilities, true in columns:
        absolute, squared = 0.0, 0.0
        for members in bins_of(probabilities):
            if len(members):
                gap = np.mean(true[members]) - np.mean(probabilities[members])
                absolute += len(members) / len(probabilities) * abs(gap)
                squared += len(members) / len(probabilities) * gap**2
                gaps.append(abs(gap))
        sums.append(absolute)
        squares.append(squared)
    return {"l1": np.mean(sums), "l2": math.sqrt(np.mean(squares)), "max": max(gaps)}[norm]


def of_equal_width(bins):
    def cut(p):
        lower = [i / bins for i in range(bins)]
        upper = [*lower[1:], np.inf]
        return [np.flatnonzero((p >= a) & (p < b)) for a, b in zip(lower, upper, strict=True)]

    return cut


def of_equal_count(bins):
    def cut(p):
        order = sorted(range(len(p)), key=lambda i: p[i])
        return [np.array(order[i * len(p) // bins : (i + 1) * len(p) // bins], dtype=int) for i in range(bins)]

    return cut


def by_class(logits, labels, threshold=-1.0):
    p = np.exp(average_probabilities(logits))
    return [(p[:, k][p[:, k] > threshold], (labels == k)[p[:, k] > threshold]) for k in range(p.shape[1])]


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_torchmetrics_in_every_norm(pool, norm, bins):
    from torchmetrics.classification import MulticlassCalibrationError

    logits, labels = pool
    average = torch.from_numpy(average_probabilities(logits)).exp()
    oracle = MulticlassCalibrationError(7, n_bins=bins, norm=norm)(average, torch.from_numpy(labels))
    assert ece(logits, labels, bins=bins, norm=norm) == pytest.approx(float(oracle), abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 7, 15, 400])
def test_the_errors_by_class_equal_their_slow_definitions(pool, norm, bins):
    logits, labels = pool
    all_columns, above = by_class(logits, labels), by_class(logits, labels, 0.01)
    assert min(len(p) for p, _ in above) < 331
    static = slow(all_columns, of_equal_width(bins), norm)
    adaptive, thresholded = (slow(c, of_equal_count(bins), norm) for c in (all_columns, above))
    assert sce(logits, labels, bins=bins, norm=norm) == pytest.approx(static, abs=1e-12)
    assert ace(logits, labels, bins=bins, norm=norm) == pytest.approx(adaptive, abs=1e-12)
    assert tace(logits, labels, bins=bins, norm=norm, threshold=0.01) == pytest.approx(thresholded, abs=1e-12)


def test_without_a_threshold_it_is_the_adaptive_error_and_empty_classes_count(pool):
    logits, labels = pool
    assert tace(logits, labels, threshold=0.0) == ace(logits, labels)
    certain = np.array([[50.0, 0.0, 0.0], [50.0, 0.0, 0.0]])  # two of three classes have nothing above the threshold
    assert tace(certain, [0, 1]) == pytest.approx(0.5 / 3)
    assert tace(certain, [0, 1], norm="max") == pytest.approx(1)
    assert tace(np.zeros((2, 3)), [0, 1], threshold=0.5) == 0


def test_a_calibrated_prediction_has_a_small_error_and_a_sharpened_one_a_large():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) < rng.random((20_000, 1))).sum(1)
    for error in (ece, sce, ace, tace):
        # the noise of a bin's frequency is at most 1 / (2 sqrt(n_b)), the mean over bins is of that size
        assert error(logits, labels) < math.sqrt(15 / 20_000) / 2
        assert error(4 * logits, labels) > 0.1


def test_top_k_accuracy_equals_scikit_learn(pool):
    from sklearn.metrics import top_k_accuracy_score

    logits, labels = pool
    average = average_probabilities(logits)
    for k in range(1, 7):
        expected = top_k_accuracy_score(labels, average, k=k, labels=range(7))
        assert top_k_accuracy(logits, labels, k=k) == pytest.approx(expected, abs=1e-12)
    assert top_k_accuracy(logits, labels, k=1) == accuracy(logits, labels)
    even = np.zeros((4, 3))
    assert top_k_accuracy(even, [0, 1, 2, 2], k=2) == 0.5  # among equals the first count


def test_misclassification_auroc_equals_scikit_learn(pool):
    from sklearn.metrics import roc_auc_score

    logits, labels = pool
    average = np.round(average_probabilities(logits), 1)  # so that there are ties
    normal = average - np.log(np.exp(average).sum(1, keepdims=True))
    expected = roc_auc_score(normal.argmax(1) == labels, np.exp(normal).max(1))
    assert misclassification_auroc(average, labels) == pytest.approx(expected, abs=1e-12)
    assert 0.55 < expected < 0.95
    assert math.isnan(misclassification_auroc(average, average.argmax(1)))


@pytest.mark.parametrize("kind", ["averaged", "members"])
def test_the_nll_at_temperatures_is_that_of_divided_logits_and_lowest_at_the_best(pool, kind):
    logits, labels = pool
    grid = np.geomspace(0.3, 5, 9)
    found = temperature_nll(logits, labels, grid, temperature=kind)
    base = average_probabilities(logits)[None] if kind == "averaged" else logits
    for t, value in zip(grid, found, strict=True):
        divided = base / t
        p = (np.exp(divided) / np.exp(divided).sum(-1, keepdims=True)).mean(0)
        assert value == pytest.approx(-np.log(p[np.arange(331), labels]).mean(), abs=1e-12)
    assert temperature_nll(logits, labels, 1.0)[0] == pytest.approx(nll(logits, labels), abs=1e-12)
    best = best_temperature(logits, labels, temperature=kind)
    assert temperature_nll(logits, labels, best, temperature=kind)[0] <= found.min()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: ece(z, y, norm="l3"), "norm is 'l3'"),
        (lambda z, y: ace(z, y, bins=0), "bins is 0"),
        (lambda z, y: tace(z, y, threshold=1.0), r"threshold is 1.0; it must lie in \[0, 1\)"),
        (lambda z, y: top_k_accuracy(z, y, k=7), "k is 7; with 7 classes it must be below their number"),
        (lambda z, y: temperature_nll(z, y, [1.0, 0.0]), "positive, finite"),
        (lambda z, y: sce(z, y[:-1]), "330 examples|labels have shape"),
    ],
)
def test_what_has_no_meaning_is_refused(pool, call, message):
    with pytest.raises(ValueError, match=message):
        call(*pool)
