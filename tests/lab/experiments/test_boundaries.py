"""Labels, brackets and the next runs, on hand-made cells."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onsphere.lab.experiments.regimes.classify import (
    Cell,
    bracket,
    classify,
    find_boundaries,
    first_below,
    next_cells,
    settled,
    unsettled,
)

C, E, D = "convergence", "chaotic_equilibrium", "divergence"


def cell(elr, regime, seed=0, error=None):
    error = {C: 0.0, E: 0.2, D: 0.9}[regime] if error is None else error
    return Cell(elr, seed, regime, "", 0.1, 0.1, 4.0, error, 0.1, 0.1, 1.0, 1.0, True, 0)


def row(labels, seed=0):
    return [cell(10.0**i, label, seed) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"angular_update": 1.3, "train_error": 0.0, "trend": 0.5}, D),
        ({"angular_update": 1.1, "train_error": 0.009, "trend": 1.5}, C),
        ({"angular_update": 0.1, "train_error": 0.3, "trend": 0.92}, C),
        ({"angular_update": 0.1, "train_error": 0.3, "trend": 0.94}, E),
        ({"angular_update": float("nan"), "train_error": 0.3, "trend": float("nan")}, E),
    ],
)
def test_rules(values, label):
    regime, reason = classify(finite=True, **values)
    assert regime == label and reason


def test_a_run_that_became_non_finite_diverges():
    assert classify(angular_update=0.0, train_error=0.0, trend=0.0, finite=False)[0] == D
    assert classify(angular_update=None, train_error=np.nan, trend=np.nan, finite=False, classes=10)[0] == D


def test_without_an_angle_divergence_is_guessing():
    def label(train_error, trend):
        return classify(angular_update=None, train_error=train_error, trend=trend, finite=True, classes=10)

    assert label(0.85, 0.5) == (D, "guesses: training error 85 % > 81 %")
    regime, reason = label(0.5, 1.0)
    assert regime == E and "rad" not in reason and "levelled off" in reason
    assert label(0.001, 1.0)[0] == C


def test_monotone_map():
    found = find_boundaries(row([C, C, E, E, D]))
    assert (found["convergence"].low, found["convergence"].high) == (10, 100)
    assert (found["divergence"].low, found["divergence"].high) == (1000, 10000)
    assert found["convergence"].resolved and found["divergence"].resolved


def test_seeds_that_disagree_widen_the_bracket_and_stay_visible():
    found = find_boundaries(row([C, C, E, E, D]) + row([C, E, E, D, D], seed=1))
    assert (found["convergence"].low, found["convergence"].high) == (1, 100)
    assert [(b.low, b.high) for b in found["convergence"].per_seed] == [(10, 100), (1, 10)]
    assert (found["divergence"].low, found["divergence"].high) == (100, 10000)


def test_a_metastable_run_is_inside_the_bracket():
    low, high = bracket(row([C, E, C, E, D]), "convergence")
    assert (low, high) == (1, 1000)


def test_without_interpolation_convergence_is_not_resolved():
    cells = [cell(1, C, error=0.2), cell(10, E), cell(100, D)]
    found = find_boundaries(cells)
    assert not found["convergence"].resolved and found["convergence"].low is None
    assert "interpolates" in found["convergence"].reason
    assert found["divergence"].resolved
    assert all(elr > 10 for elr, _ in next_cells(cells, 1.5))


def test_a_run_that_still_falls_above_all_that_interpolate_counts_for_neither_side():
    slow, fits, open_one, level = cell(1, C, error=0.3), cell(10, C), cell(100, C, error=0.65), cell(1000, E)
    cells = [slow, fits, open_one, level]
    assert unsettled(cells) == [open_one]
    found = find_boundaries(cells)["convergence"]
    assert (found.low, found.high, found.resolved) == (10, 1000, True)
    assert "falling loss above all of their seed that interpolate: 1 of 4, counted for neither side" in found.reason
    # the other seed's runs say nothing about this one's
    assert find_boundaries([*cells, cell(100, C, seed=1)])["convergence"].low == 10
    assert unsettled([*cells, cell(1000, C)]) == []
    top = find_boundaries([fits, open_one])["convergence"]
    assert (top.low, top.high, top.resolved) == (10, None, False) and "train longer" in top.reason
    alone = find_boundaries([*row([C, C, E]), cell(1, C, seed=1, error=0.3), cell(100, E, seed=1)])["convergence"]
    assert alone.low is None and not alone.resolved and "train longer" in alone.reason


def test_a_fall_above_what_levels_off_is_a_swing():
    fits, level, swing, top = cell(1, C), cell(10, E), cell(100, C, error=0.66), cell(1000, D)
    cells = [fits, level, swing, top, cell(10, C, seed=1, error=0.66)]
    assert [c.regime for c in settled(cells)] == [C, E, E, D, C]  # the other seed has levelled off nowhere
    assert "swing" in settled(cells)[2].reason
    found = find_boundaries([fits, level, swing, top])["convergence"]
    assert (found.low, found.high, found.resolved) == (1, 10, True) and "neither" not in found.reason
    assert next_cells([fits, level, swing, top], 1.5) == next_cells([fits, level, cell(100, E), top], 1.5)
    metastable = [fits, level, swing, cell(500, C), top]
    assert settled(metastable) == metastable


@pytest.mark.parametrize("labels", [[C, C], [E, E], [D, D], [C, E], [C, D]])
def test_ends_that_were_not_seen_are_none_not_guessed(labels):
    found = find_boundaries(row(labels))
    for name, below in (("convergence", {C}), ("divergence", {C, E})):
        sides = {label in below for label in labels}
        boundary = found[name]
        if len(sides) == 2 and C in labels:
            assert boundary.resolved
        else:
            assert not boundary.resolved and None in (boundary.low, boundary.high) and boundary.reason


def test_next_cells_are_the_geometric_middles_of_each_seeds_gaps():
    cells = row([C, C, E, D]) + row([C, E, E, D], seed=1)
    assert next_cells(cells, 1.5) == [
        (pytest.approx(math.sqrt(10)), 1),
        (pytest.approx(math.sqrt(1000)), 0),
        (pytest.approx(math.sqrt(100000)), 0),
        (pytest.approx(math.sqrt(100000)), 1),
    ]
    assert next_cells(cells, 10.1) == []


@given(st.lists(st.sampled_from([C, E, D]), min_size=1, max_size=12))
def test_bracket_says_only_what_was_seen(labels):
    cells = row(labels)
    for name, below in (("convergence", {C}), ("divergence", {C, E})):
        low, high = bracket(cells, name)
        if low is not None:
            assert all(c.regime in below for c in cells if c.elr <= low)
        if high is not None:
            assert all(c.regime not in below for c in cells if c.elr >= high)
        if low is not None and high is not None:
            assert low < high


@given(st.floats(1e-3, 1e3), st.floats(1.2, 4), st.integers(4, 10))
def test_refining_a_sharp_threshold_brackets_it_within_the_factor(threshold, factor, elrs):
    def label(elr):
        return C if elr < threshold else (E if elr < 30 * threshold else D)

    grid = [1e-5 * (1e11) ** (i / (elrs - 1)) for i in range(elrs)]
    cells = [cell(e, label(e)) for e in grid]
    for _ in range(40):
        wanted = next_cells(cells, factor)
        if not wanted:
            break
        cells += [cell(e, label(e)) for e, _ in wanted]
    found = find_boundaries(cells)
    for name, value in (("convergence", threshold), ("divergence", 30 * threshold)):
        low, high = found[name].low, found[name].high
        assert low < value <= high and high / low <= factor * (1 + 1e-12)


def test_steps_to_convergence_are_those_of_a_running_mean():
    losses = np.array([8.0, 4.0, 1.0, 2.0, 0.5, 0.5, 3.0])
    assert first_below(losses, 1.25, 2) == 6  # (2 + 0.5) / 2 is not below
    assert first_below(losses, 1.26, 2) == 5
    assert first_below(losses, 0.4, 2) is None
    assert first_below(losses, 3.0, 100) == 7
    assert first_below(np.array([np.nan, 0.1, 0.1]), 1.0, 2) == 3
