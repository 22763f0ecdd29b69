"""What follows from the rows of a drop: intervals, threshold, best start, classes, and the sentences."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from onsphere.lab.experiments.drop.analyse import (
    allowed_barrier,
    analyse,
    best_start,
    classify_start,
    difference,
    majority,
    threshold,
)
from onsphere.lab.experiments.drop.result import Average, Continuation, DropResult, PathBarrier, Threshold
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.drop.words import answer, described_classes
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.result import Engine

LETTERS = {"c": "convergence", "e": "chaotic_equilibrium", "d": "divergence"}


def cells(rows, train_error=0.0):
    """Cells from a letter a seed at each ELR: {1e-3: "ccc"}."""
    numbers = {"loss": 1.0, "train_loss": 1.0, "loss_at_init": 1.0, "test_error": 0.1, "angular_update": 0.1}
    numbers |= {"trend": 1.0, "gradient_norm": 1.0, "finite": True, "round": 0, "train_error": train_error}
    return [
        Cell(elr=elr, seed=seed, regime=LETTERS[letter], reason="", **numbers)
        for elr, letters in rows.items()
        for seed, letter in enumerate(letters)
    ]


def continuations(errors, end=1e-3, norm=1.0):
    """Continuations from test errors by start: {start: [error of each seed]}."""
    return [
        Continuation(start, end, seed, 0.1, 0.0, 1.0, error, norm, 0.5, None, True)
        for start, own in errors.items()
        for seed, error in enumerate(own)
    ]


def paths(start, *barriers, allowed=0.01):
    """One low-high and one average-low path a seed from pairs of error barriers."""
    return [
        PathBarrier(start, seed, pair, 1.0, 0.1, value, allowed)
        for seed, values in enumerate(barriers)
        for pair, value in zip(("low-high", "average-low"), values, strict=True)
    ]


def result_of(rows, letters, barriers=(), averages=()):
    """A result without files."""
    own = {"cells": cells(letters), "continuations": rows, "paths": list(barriers), "averages": list(averages)}
    values = {"run": Path("run"), "report": Path("page"), "spec": DropSpec(), "engine": Engine("vmap", 1, False, 1)}
    values |= {"seconds": 1.0, "cpu_seconds": 1.0, "radius": 1.0, "snapshots": [1, 2, 3] if averages else []}
    return DropResult(**values, **own, **vars(analyse(**own)))


def test_the_interval_of_a_difference_is_that_of_the_paired_t_test():
    a, b = np.array([0.2, 0.25, 0.22, 0.3]), np.array([0.22, 0.3, 0.21, 0.36])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = difference(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((a - b).mean()) and found.seeds == 4 and not found.clear
    assert difference(a, a + np.array([0.1, 0.11, 0.1, 0.09])).clear
    alone = difference(a[:1], b[:1])
    assert math.isnan(alone.low) and not alone.clear


@pytest.mark.parametrize(
    ("letters", "low", "high", "divergence"),
    [
        ({1e-3: "ccc", 1e-2: "cce", 0.1: "eee", 1.0: "ddd"}, 1e-2, 0.1, 1.0),
        ({1e-3: "ccc", 1e-2: "cee", 0.1: "ccc", 1.0: "ddc"}, 1e-3, 1e-2, 1.0),  # what converges again does not count
        ({1e-3: "eee", 1e-2: "ddd"}, None, None, 1e-2),
        ({1e-3: "ccc", 1e-2: "ccc"}, 1e-2, None, None),
        ({1e-3: "ccc", 1e-2: "ddd", 0.1: "eee"}, 1e-3, 1e-2, None),
    ],
)
def test_the_threshold_lies_where_most_seeds_stop_to_converge(letters, low, high, divergence):
    found = threshold(cells(letters))
    assert (found.low, found.high, found.divergence) == (low, high, divergence)
    assert (found.value is None) == (low is None or high is None)
    assert found.value in (None, low)


def test_the_threshold_says_whether_any_run_fits_its_data():
    assert threshold(cells({1e-3: "c", 1e-2: "e"})).fitted
    assert not threshold(cells({1e-3: "c", 1e-2: "e"}, train_error=0.05)).fitted


def test_in_a_tie_of_seeds_the_larger_regime_counts():
    assert majority(cells({1e-3: "cced"})) == "convergence"
    assert majority(cells({1e-3: "ccee"})) == "chaotic_equilibrium"
    assert majority(cells({1e-3: "eedd"})) == "divergence"


def test_the_best_start_and_how_sure_it_is():
    errors = {1e-3: [0.20, 0.21, 0.22], 1e-2: [0.18, 0.19, 0.21], 0.1: [0.25, 0.24, 0.26]}
    limits = Threshold(2e-3, 8e-3, True, None)
    best = best_start(continuations(errors), 1e-3, limits)
    assert best.start == 1e-2 and best.test_error == pytest.approx(0.58 / 3)
    assert best.no_drop == pytest.approx(0.21)
    assert best.gain.mean == pytest.approx(-0.05 / 3)
    assert [start for start, _ in best.neighbours] == [1e-3, 0.1]
    assert best.neighbours[1][1].mean == pytest.approx(best.test_error - 0.25)
    assert best.within and best.gradient_ratio == 1.0
    assert best.held_out == pytest.approx(best.gain.mean)  # every two seeds choose the same start
    assert not best_start(continuations(errors), 1e-3, Threshold(5e-4, 8e-4, True, None)).within
    assert best_start(continuations(errors), 1e-3, Threshold(None, None, True, None)).within is None


def test_choosing_by_the_other_seeds_is_not_flattered_by_luck():
    """Each seed is lucky at another start, so that the best mean is luck: the others choose what is bad for it."""
    errors = {1e-3: [0.2, 0.2, 0.2], 1e-2: [0.05, 0.24, 0.24], 2e-2: [0.24, 0.05, 0.24], 4e-2: [0.24, 0.24, 0.05]}
    best = best_start(continuations(errors), 1e-3, Threshold(None, None, True, None))
    assert best.gain.mean < 0
    assert best.held_out == pytest.approx(0.04)


def test_no_drop_may_be_best_and_runs_that_are_not_finite_do_not_count():
    rows = continuations({1e-3: [0.1, 0.1, 0.1], 1e-2: [0.2, 0.2, 0.0]})
    rows[-1] = dataclasses.replace(rows[-1], finite=False)
    best = best_start(rows, 1e-3, Threshold(None, None, True, None))
    assert best.start == 1e-3 and best.gain is None
    assert best.neighbours[0][1].seeds == 2 and best.neighbours[0][1].mean == pytest.approx(-0.1)
    gone = [dataclasses.replace(row, finite=False) for row in continuations({1e-3: [0.1]})]
    with pytest.raises(ValueError, match="nothing to compare"):
        best_start(gone, 1e-3, Threshold(None, None, True, None))


def test_the_allowed_barrier_is_one_percent_or_the_noise():
    assert allowed_barrier(0.0, 0.0, 100) == 0.01
    assert allowed_barrier(0.2, 0.3, 400) == pytest.approx(2 * math.sqrt(0.25 * 0.75 / 400))


@pytest.mark.parametrize(
    ("letters", "barriers", "label"),
    [
        ("ccc", [(0.5, 0.5)] * 3, "1"),
        ("ddd", [(0.0, 0.0)] * 3, "3"),
        ("eee", [(0.0, 0.01)] * 2 + [(0.5, 0.0)], "2A"),
        ("eee", [(0.0, 0.02)] * 2 + [(0.0, 0.0)], "2B"),
        ("eee", [], "2"),
    ],
)
def test_the_class_of_a_start(letters, barriers, label):
    found = classify_start(1e-2, cells({1e-2: letters}), paths(1e-2, *barriers))
    assert found.label == label
    assert found.measured == len(barriers)
    if label == "2A":
        assert found.connected == 2 and found.barriers["low-high"] == pytest.approx(0.5 / 3)


def test_the_answer_is_clear_only_where_the_interval_is():
    letters = {1e-3: "ccc", 1e-2: "eee", 0.1: "eee", 1.0: "ddd"}
    errors = {1e-3: [0.20, 0.21, 0.22], 1e-2: [0.15, 0.16, 0.17], 0.1: [0.16, 0.15, 0.18], 1.0: [0.3, 0.3, 0.3]}
    barriers = [*paths(1e-2, (0, 0), (0, 0), (0, 0)), *paths(0.1, (1, 1), (1, 1), (1, 1))]
    said = " ".join(answer(result_of(continuations(errors), letters, barriers)))
    assert (
        "Training at ELR 0.01 and then at 1e-3" in said
        and "5.00 points fewer (95 % interval 5.00 to 5.00, 3 seeds)" in said
    )
    assert "not clearly better than its neighbour 0.1; it is clearly better than its neighbour 1e-3" in said
    assert "between ELR 1e-3 and 0.01" in said and "within the range" in said
    assert "2A (chaotic equilibrium, one basin) 0.01" in said and "2B (chaotic equilibrium, basin lost) 0.1" in said
    errors[1e-2] = [0.10, 0.21, 0.23]
    errors[0.1] = errors[1.0]
    unclear = answer(result_of(continuations(errors), letters))[0]
    assert "which is not clear" in unclear
    errors[1e-2] = errors[1.0]
    assert answer(result_of(continuations(errors), letters))[0].startswith("No start is better than none")


def test_the_drop_is_compared_with_the_best_elr_without_one():
    rows = continuations({1e-3: [0.20, 0.21, 0.22], 2e-3: [0.2, 0.2, 0.2], 1e-2: [0.15, 0.16, 0.17]})
    rows += continuations({1e-3: [0.3, 0.3, 0.3], 2e-3: [0.18, 0.18, 0.2], 1e-2: [0.3, 0.3, 0.3]}, end=2e-3)
    result = result_of(rows, {1e-3: "ccc", 2e-3: "ccc", 1e-2: "eee"})
    constant = result.analysis.constant
    assert constant.elr == 2e-3 and constant.test_error == pytest.approx(0.56 / 3)
    assert constant.drop.mean == pytest.approx(0.16 - 0.56 / 3)
    assert "without a drop is 2e-3, 18.67 %: beside it the drop has 2.67 points fewer" in " ".join(answer(result))


def test_the_average_is_compared_with_the_best_drop():
    errors = {1e-3: [0.20, 0.21, 0.22], 1e-2: [0.15, 0.16, 0.17]}
    own = {1e-3: [0.3, 0.3, 0.3], 1e-2: [0.10, 0.12, 0.11]}
    averages = [Average(start, seed, 0, 0, 1, e, 0.1) for start, es in own.items() for seed, e in enumerate(es)]
    result = result_of(continuations(errors), {1e-3: "ccc", 1e-2: "eee"}, averages=averages)
    found = result.analysis.average
    assert found.start == 1e-2 and found.test_error == pytest.approx(0.11)
    assert found.over_drop.mean == pytest.approx(-0.05) and found.over_drop.clear
    assert "average of the last 3 snapshots is best at ELR 0.01, 11.00 %: 5.00 points fewer" in " ".join(answer(result))
    assert result_of(continuations(errors), {1e-3: "ccc", 1e-2: "eee"}).analysis.average is None


def test_classes_that_are_not_side_by_side_are_listed():
    letters = {1e-3: "eee", 1e-2: "ccc", 0.1: "eee"}
    rows = continuations({elr: [0.1, 0.2, 0.3] for elr in letters})
    classes = analyse(cells(letters), rows, []).classes
    assert described_classes(classes) == "1 (converge by themselves) 0.01; 2 (chaotic equilibrium) 1e-3, 0.1"
