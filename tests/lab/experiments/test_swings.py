"""A fall that is a swing about a level is labelled by the level, whichever experiment trained the run."""

import math
from types import SimpleNamespace

import numpy as np

from onsphere.lab.experiments.conventional.result import ConventionalRun
from onsphere.lab.experiments.conventional.run import settled_runs
from onsphere.lab.experiments.drop.analyse import threshold
from onsphere.lab.experiments.drop.analyse.labels import slow_ones_apart
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.stabilise.run import stays

#: (rate, regime, reason, loss, training error): one seed that fits, levels off, and swings far above both.
COURSE = (
    (1e-3, "convergence", "interpolates: training error 0 % < 1 %", 0.01, 0.0),
    (1e-2, "chaotic_equilibrium", "levelled off: Q4/Q3 1.00, training error 20 %", 0.8, 0.2),
    (1e-1, "convergence", "loss still falls: Q4/Q3 0.90 < 0.93", 1.5, 0.4),
)


def cell(rate, regime, reason, loss, error, seed=0):
    nan = math.nan
    return Cell(rate, seed, regime, reason, loss, loss, 2.3, error, error, 0.1, 0.9, nan, True, 0)


def run(rate, regime, reason, loss, error, seed=0):
    return ConventionalRun(
        "all",
        rate,
        seed,
        regime,
        reason,
        True,
        loss,
        loss,
        error,
        error,
        None,
        None,
        rate,
        None,
        None,
        None,
        None,
        None,
        0.9,
    )


def test_in_ordinary_training():
    found = settled_runs([run(*one) for one in COURSE])
    assert [one.regime for one in found] == ["convergence", "chaotic_equilibrium", "chaotic_equilibrium"]
    assert found[2].reason.endswith("a swing about a level") and found[:2] == [run(*one) for one in COURSE[:2]]
    # Without anything that levels off below it, it may merely be slow.
    alone = [run(*one) for one in (COURSE[0], COURSE[2])]
    assert settled_runs(alone) == alone


def test_before_a_drop_the_threshold_does_not_count_it():
    cells = [cell(*one, seed=seed) for one in COURSE for seed in range(3)]
    assert [one.regime for one in slow_ones_apart(cells)][-1] == "chaotic_equilibrium"
    found = threshold(slow_ones_apart(cells))
    assert (found.low, found.high) == (1e-3, 1e-2)


def test_in_the_stationary_state(monkeypatch):
    """Over shards: what levels off may have been trained in another one."""
    monkeypatch.setattr(
        "onsphere.lab.experiments.stabilise.run._stay", lambda elr, rows, *_: (elr, [label for label, _ in rows])
    )
    monkeypatch.setattr(
        "onsphere.lab.experiments.stabilise.run.summarise", lambda readings, *_: [cell(*one) for one in readings.course]
    )

    def shard(course):
        values = np.zeros((8, len(course), 1))
        readings = SimpleNamespace(
            course=course,
            values=values,
            loss=values[..., 0],
            effective_gradient_norm=values[..., 0],
            angular_update=lambda elrs: values[..., 0],
        )
        copies = [SimpleNamespace(lr=one[0], seed=0) for one in course]
        evaluations = (np.array([0, 8]), np.zeros((2, len(course), 4)))
        return SimpleNamespace(readings=lambda: readings, copies=lambda: copies, evaluations=lambda: evaluations)

    found = stays([shard(COURSE[:2]), shard(COURSE[2:])], 4, [], [])
    assert found == [(1e-3, ["convergence"]), (1e-2, ["chaotic_equilibrium"]), (1e-1, ["chaotic_equilibrium"])]
