"""Levels, memory and forgetting on courses whose answers are known."""

import math

import numpy as np
import pytest

from onsphere.lab.experiments.stabilise import run as wander
from onsphere.lab.experiments.stabilise.analyse import Course, edges, levels, memory_course, remaining, student, window
from onsphere.lab.experiments.stabilise.result import Distance, Way
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec

CHANGE, STEPS = 200, 600
LEVEL = {0.01: 0.5, 0.02: 1.0, 0.04: 2.0}


def course(before, after, seed, share, noise=1e-3):
    """A run that keeps ``share`` (a number or one a step) of its former level after the change."""
    rng = np.random.default_rng([seed, round(1e4 * before), round(1e4 * after)])
    shares = np.where(np.arange(STEPS) < CHANGE, 1.0, share)
    log = shares * math.log(LEVEL[before]) + (1 - shares) * math.log(LEVEL[after])
    loss = np.exp(log + noise * rng.standard_normal(STEPS))
    return Course(before, after, seed, loss, 10 * loss, 0.1)


def population(share, seeds=4):
    return [course(a, b, seed, share) for b in LEVEL for a in LEVEL for seed in range(seeds)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_memory_is_the_share_that_is_left(share):
    found = remaining(population(share), CHANGE)
    for left in found.values():
        assert left.mean == pytest.approx(share, abs=2e-4)
        assert left.low < left.mean < left.high and len(left.seeds) == 4
        assert left.high - left.mean == pytest.approx(3.182 * left.error, rel=1e-3)  # Student with 3 degrees of freedom


def test_the_memory_against_time_follows_its_decay():
    decay = np.exp(-np.maximum(np.arange(STEPS) - CHANGE, 0) / 20)
    points = memory_course(population(decay), CHANGE)
    assert {point.direction for point in points} == {"up", "down"}
    for point in points:
        since = np.arange(point.first, point.last)
        # the log of a mean is not the mean of a log: a bin's memory lies between its ends
        assert np.exp(-since[-1] / 20) - 0.01 <= point.memory <= np.exp(-since[0] / 20) + 0.01
    assert points[0].memory == pytest.approx(1, abs=1e-2) and abs(points[-1].memory) < 1e-2


def test_levels_compare_with_runs_that_had_the_elr_from_the_start():
    rows = levels(population(0.1), CHANGE)
    assert [(row.before, row.after) for row in rows] == [(a, b) for b in LEVEL for a in LEVEL if a != b]
    row = rows[0]
    assert (row.before, row.after, row.seeds) == (0.02, 0.01, 4)
    assert row.loss_reference == pytest.approx(0.5, rel=1e-3)
    assert row.loss_gap == pytest.approx(0.1 * math.log(2), abs=1e-3) == row.gradient_norm_gap
    assert row.loss_gap_in_errors > 50
    assert row.steps_to_level is None  # it stays a tenth of the way off
    assert levels(population(0.0), CHANGE)[0].steps_to_level == 16


def test_steps_to_the_level_are_counted_from_the_change():
    late = np.where(np.arange(STEPS) < CHANGE + 50, 1.0, 0.0)
    for row in levels(population(late), CHANGE):
        assert 60 <= row.steps_to_level <= 70


def test_bins_double_and_cover_all_steps():
    assert edges(100) == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert edges(70) == [0, 1, 2, 4, 8, 16, 32, 70]
    assert window(200, 600) == slice(400, 600)
    assert student([1.0, 3.0]) == (2.0, 1.0)


def test_lags_and_forgetting():
    lags = StabiliseSpec(steps=200).lags()
    assert lags == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]
    assert wander.way_lags(lags) == [16, 100]
    assert wander.way_lags(StabiliseSpec(steps=2000).lags()) == [16, 128, 1000]
    assert wander.steps_to_forget([0, 1, 2], [1.0, 0.9, 0.8]) is None
    half = math.exp(-1)
    assert wander.steps_to_forget([0, 2, 4], [1.0, half + 0.1, half - 0.1]) == pytest.approx(3)


def test_walk_excess_is_zero_for_a_walk_and_positive_for_what_stays():
    def stay(cosine):
        apart = [
            Distance(0.1, seed, lag, cosine(lag) + 1e-3 * (-1) ** seed, math.acos(cosine(lag)), 0.5**lag)
            for seed in range(4)
            for lag in (0, 1, 2, 4)
        ]
        ways = [Way(0.1, seed, 4, 1.0, 0.2, 0.0, -0.1) for seed in range(4)]
        rows = [("divergence", [1.0, 2.0, 0.5, 1.4])] * 4
        return wander._stay(0.1, rows, apart, ways)

    walk, slow = stay(lambda lag: 0.5**lag), stay(lambda lag: 0.9**lag)
    assert abs(walk.walk_excess) <= 2 * walk.walk_excess_error and walk.wandering == "global"
    assert walk.steps_to_forget == pytest.approx(walk.walk_steps_to_forget, abs=0.02)
    assert slow.walk_excess > 0.4 and slow.wandering == "local"
    assert (slow.middle, slow.barrier, slow.regimes["divergence"]) == (pytest.approx(-0.1), pytest.approx(0.2), 4)
