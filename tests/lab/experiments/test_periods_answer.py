"""The sentences: every behaviour has its own, and none claims what was not seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onsphere.lab.experiments.periods.result import PeriodsEngine, PeriodsResult
from onsphere.lab.experiments.periods.science.rows import Comparison, Minima
from onsphere.lab.experiments.periods.science.runs import analyse
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.words import answer, describe
from onsphere.lab.population import Copy, Readings
from onsphere.lab.population.course import courses


def run_of(lr=1.0, weight_decay=3e-3, kick=1.0, steps=2000, seed=0, gradient=0.0):
    """A run by the exact norm recurrence with a kick every 200 steps."""
    copy = Copy(seed, lr, weight_decay)
    rows, norm2 = [], lr / 0.05
    for t in range(steps):
        elr = lr / norm2
        s = kick if kick and t % 200 == 199 else elr * gradient
        gradient2 = (s / lr) ** 2 * norm2
        rows.append((1.0, 0.0, norm2, gradient2, 0.0))
        norm2 = (1 - lr * weight_decay) ** 2 * norm2 + lr**2 * gradient2
    (course,) = courses(Readings(("w",), 0, np.array(rows)[:, None]), [copy])
    return analyse(course, np.array([0.1, 0.0, 0.2, 0.05]))


def result_of(*runs, steps=2000, comparison=(), minima=(), sharpness=()):
    return PeriodsResult(
        run=Path("run"),
        report=Path("run/report.html"),
        runs=list(runs),
        comparison=list(comparison),
        sphere=[],
        minima=list(minima),
        sharpness=list(sharpness),
        spec=PeriodsSpec(steps=steps),
        engine=PeriodsEngine("vmap", 2, False, 1, ["w"]),
        seconds=1.0,
        cpu_seconds=1.0,
    )


PERIODIC, STEADY = run_of(), run_of(weight_decay=1e-2, kick=0, gradient=2.0)
SHORT = run_of(weight_decay=1e-4, kick=0, steps=300)


def test_periods_are_told_with_their_number_length_and_prediction():
    head, second = answer(result_of(PERIODIC))
    assert "lr 1 and weight decay 3e-3 training is periodic: 9 jumps in 2000 steps, one every 200 steps" in head
    assert "predicts 199" in second and "gradient noise" not in second


def test_an_equilibrium_is_told_with_its_angle():
    assert STEADY.behaviour == "equilibrium"
    (sentence,) = answer(result_of(STEADY))
    assert "no periods" in sentence and "% off √(2 lr · wd)" in sentence


def test_too_short_a_run_says_how_long_to_train():
    head, advice = answer(result_of(SHORT, steps=300))
    assert "0 jumps" in head and "5000 steps" in advice and "30000" in advice


def test_a_run_that_is_not_finite_says_so():
    (sentence,) = answer(result_of(replace(PERIODIC, behaviour="non-finite", finite=False)))
    assert "stopped being finite" in sentence


def test_several_settings_are_counted_by_what_they_do():
    other = replace(PERIODIC, lr=0.3, period_tau=0.9)
    said = " ".join(answer(result_of(PERIODIC, other, STEADY, SHORT)))
    assert "periodic in 2 of 4 settings, with periods of 0.9 to 1.2 times" in said
    assert "1 setting settles" in said and "1 setting cannot be told" in said
    assert "in all 2 settings" in answer(result_of(PERIODIC, other))[0]
    assert describe([PERIODIC, other, STEADY, SHORT]).endswith("; and 1 more")


@pytest.mark.parametrize(("run", "said"), [(STEADY, "0.98 times"), (PERIODIC, "0.5 δ-jumps a run instead of 9")])
def test_the_sphere_is_compared_by_loss_at_equilibrium_and_by_jumps_elsewhere(run, said):
    row = Comparison(run.lr, run.weight_decay, 0.05, 0.98, 1.0, 0.98, 9.0, 0.5)
    assert said in answer(result_of(run, comparison=[row]))[-1]


def test_minima_are_told_by_angle_and_gain():
    angles = [[0.0, 1.0, 1.5], [1.0, 0.0, 0.5], [1.5, 0.5, 0.0]]
    one = Minima(1.0, 3e-3, 0, [1, 2, 3], [0.04, 0.05, 0.06], [0.1] * 3, angles, angles, [0.06, 0.05, 0.03])
    last = answer(result_of(PERIODIC, minima=[one]))[-1]
    assert "0.75 rad apart" in last and "5 % test error" in last and last.endswith("3 %.")
