"""Outcomes and zones on courses whose answers are known."""

import math

import numpy as np
import pytest

from onsphere.lab.experiments.zones.result import Continuation, PathPoint, agreement, course, judge, zone
from onsphere.lab.experiments.zones.spec import ZonesSpec

FALLS = np.geomspace(1.0, 0.1, 100)
STAYS = np.full(100, 0.9)
HILL = np.concatenate([np.linspace(1, 5, 20), np.geomspace(5, 0.1, 80)])
THROWN = np.linspace(1, 5, 100)


@pytest.mark.parametrize(
    ("losses", "outcome"), [(FALLS, "at once"), (HILL, "up first"), (STAYS, "held"), (THROWN, "leaves")]
)
def test_two_questions_give_four_outcomes(losses, outcome):
    peak, end, found = judge(1.0, losses, 0.3)
    assert found == outcome
    assert peak == losses.max() and end == pytest.approx(losses[-25:].mean())


def test_a_run_that_became_non_finite_has_left():
    losses = FALLS.copy()
    losses[50] = np.nan
    peak, end, found = judge(1.0, losses, 1.0)
    assert found == "leaves" and math.isnan(peak) and math.isnan(end)


def test_the_path_itself_converges_at_once():
    assert judge(1.0, FALLS, float(FALLS[-25:].mean()))[2] == "at once"


def test_minibatch_losses_are_averaged_over_an_epoch():
    noisy = np.tile([0.5, 1.5], 50)
    assert judge(1.0, course(noisy, 1), 0.9)[2] == "leaves"  # single batches rise above 1.2
    assert judge(1.0, course(noisy, 8), 0.9)[2] == "held"
    assert len(course(noisy, 1000)) == 100 - 12 + 1  # never over more than an eighth of the run


def test_the_zone_is_the_highest_rise_of_sharpness():
    def points(values):
        return [PathPoint(1e-3, 0, step, 1 / (step + 1), value, 0.0, True) for step, value in enumerate(values)]

    found = zone(points([10.0, 4.0, 6.0, 8.0, 5.0]))
    assert (found.step, found.sharpness, found.rise, found.loss) == (3, 8.0, 2.0, 0.25)
    falling = zone(points([10.0, 4.0, 3.0]))
    assert (falling.step, falling.rise) == (0, 1.0)


def test_agreement_counts_both_sides_of_two():
    def row(product, outcome):
        return Continuation(4, 0, 0.01, 1.0, product / 0.01, 1.0, 1.0, 1.0, 1.0, 0.1, outcome)

    rows = [row(3, "up first"), row(3, "leaves"), row(3, "held"), row(1, "at once"), row(1, "up first")]
    assert agreement(rows) == (2, 3, 1, 2)
    assert row(3, "leaves").product == pytest.approx(3) and not row(3, "leaves").comes_through


def test_steps_of_a_path_are_spaced_in_log_and_hold_the_checkpoints():
    spec = ZonesSpec()
    assert spec.branches()[0] == 0 and spec.branches()[-1] == spec.steps and len(spec.branches()) == 8
    assert set(spec.branches()) <= set(spec.reading_steps())
    assert ZonesSpec(checkpoints=2).branches() == [0, 1024]
    small = ZonesSpec(steps=8, checkpoints=64, readings=256)
    assert small.branches()[-1] == 8 and small.reading_steps() == list(range(9))
