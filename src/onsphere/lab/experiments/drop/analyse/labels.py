"""Regimes before the drop in ordinary training, and gradient norms over the scale-invariant weights.

With Q4 the last quarter of the steps, Q3 the one before and C classes:

    divergence    not finite; a mean angular update above 1.2 rad in Q4, which is known of SGD without momentum on
                  scale-invariant weights; or else a training error above 0.9 (1 - 1 / C), near that of guessing, at a
                  rate above one that learns
    otherwise     as on the sphere (:mod:`onsphere.lab.experiments.regimes.classify`); a run that still guesses at a
                  rate below all that learn is slow and counts as converging
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.experiments.regimes.classify import Cell, classify, finite_mean, settled
from onsphere.lab.population import Readings, ShardFolder

GUESSES = "guesses"  # how the reason of such a label begins


def space_cells(given: Ready, shard: ShardFolder) -> list[Cell]:
    """The labelled runs of an ended shard, ``elr`` the learning rate; see :func:`slow_ones_apart`."""
    problem, readings, (evaluated, evaluations) = given.problem, shard.readings(), shard.evaluations()
    steps, quarter = problem.steps, problem.steps // 4
    last, before = slice(steps - quarter, None), slice(steps - 2 * quarter, steps - quarter)
    finite = np.isfinite(readings.values).all(axis=(0, 2))
    gradient, late = gradient_norms(readings, given), evaluations[evaluated > steps - quarter]
    found = []
    for k, copy in enumerate(shard.copies()):
        angle = None
        if problem.optimizer == "sgd" and copy.momentum == 0 and given.invariant:
            norm2 = _moment(readings, "norm2", given)[last, k]
            decay = copy.lr * copy.weight_decay
            angle = finite_mean(np.arctan2(copy.lr * gradient[last, k] / norm2, 1 - decay))
        loss, train_error = finite_mean(readings.loss[last, k]), finite_mean(late[:, k, 1])
        trend = loss / finite_mean(readings.loss[before, k])
        regime, reason = classify(
            angular_update=angle,
            train_error=train_error,
            trend=trend,
            finite=bool(finite[k]),
            classes=problem.data.classes,
        )
        found.append(
            Cell(
                elr=copy.lr,
                seed=copy.seed,
                regime=regime,
                reason=reason,
                loss=loss,
                train_loss=finite_mean(late[:, k, 0]),
                loss_at_init=float(evaluations[0, k, 0]),
                train_error=train_error,
                test_error=float(evaluations[-1, k, 3]),
                angular_update=math.nan if angle is None else angle,
                trend=trend,
                gradient_norm=finite_mean(gradient[last, k]),
                finite=bool(finite[k]),
                round=0,
            )
        )
    return found


def _moment(readings: Readings, which: str, given: Ready) -> np.ndarray:
    """A moment of the scale-invariant tensors together, [T, K]."""
    here = [readings.names.index(name) for name in given.invariant]
    total: np.ndarray = readings.moment(which)[..., here].sum(-1)
    return total


def gradient_norms(readings: Readings, given: Ready) -> np.ndarray:
    """Effective norms of the stochastic gradient of the scale-invariant weights, [T, K]; NaN where there are none."""
    if given.problem.geometry == "sphere":
        return readings.effective_gradient_norm
    if not given.invariant:
        return np.full(readings.loss.shape, np.nan)
    norms: np.ndarray = np.sqrt(_moment(readings, "norm2", given) * _moment(readings, "gradient2", given))
    return norms


def slow_ones_apart(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with those relabelled that guess at a rate below every one that learns: slow, not divergent.

    Where no run learns at all, none is relabelled so: there is no telling. Falls that are swings about a level are
    labelled by that (:func:`~onsphere.lab.experiments.regimes.classify.settled`).
    """
    learning = [cell.elr for cell in cells if not cell.reason.startswith(GUESSES)]
    slow = "too slow: {}, at a rate below all that learn"
    told = [
        replace(cell, regime="convergence", reason=slow.format(cell.reason))
        if learning and cell.reason.startswith(GUESSES) and cell.elr < min(learning)
        else cell
        for cell in cells
    ]
    return settled(told)
