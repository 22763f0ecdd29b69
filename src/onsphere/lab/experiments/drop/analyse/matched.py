"""Continuations where their train loss is the same: how flat they are there, and whether flat goes with good.

A run counts if a step after the drop was found at which its loss, at fixed weights, is within 10 % of the asked one: a
start that is below it already at the drop never is. The search is that of
:mod:`onsphere.lab.networks.matched`.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (sharpness and test error at one training loss after fine-tuning).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from onsphere.lab.experiment import Session
from onsphere.lab.experiments.drop.analyse import difference
from onsphere.lab.experiments.drop.result import AtLoss, AtLossCell, Flatness
from onsphere.lab.experiments.drop.spec import WINDOW, DropSpec
from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.intervals import geometric_mean, standard_error
from onsphere.lab.networks.matched import Match, Search, TrainLoss, matched_weights
from onsphere.lab.networks.minima import Minima
from onsphere.lab.population import Copy, Problem, ShardFolder

CLOSE = 0.1  # of the asked loss, on the logarithmic scale
GRADIENTS = 16  # minibatches of the train loss

Key = tuple[int, float]  # number of the origin, final rate


def at_matched_loss(
    session: Session[DropSpec, Ready], problem: Problem, after: Sequence[ShardFolder], copies: Sequence[Copy]
) -> list[AtLoss]:
    """Every continuation of ``copies`` at the asked loss, of those that come close to it.

    Args:
        session: The session, whose spec asks for a loss.
        problem: The problem of the second round.
        after: The shards of the second round.
        copies: The starts of a single stage; those in stages are left out.

    Raises:
        Interrupted: The run was asked to stop.
    """
    target = session.spec.matched_loss
    assert target is not None
    search: Search[Key] = Search(
        problem=problem,
        window=WINDOW,
        gradients=GRADIENTS,
        key=lambda copy: (copy.start, copy.lr),
        plan=session.execution.plan,
        progress=session.progress,
        stop=session.stop,
    )
    losses: dict[Key, NDArray[np.float64]] = {}
    for shard in after:
        readings = shard.readings()
        finite = np.isfinite(readings.values).all(axis=(0, 2))
        for k, copy in enumerate(shard.copies()):
            if copy.start < len(copies) and finite[k]:
                losses[search.key(copy)] = readings.loss[:, k]
    found = sorted(matched_weights(search, after, losses, target).items())
    loss_at = TrainLoss(problem, GRADIENTS)
    session.progress.begin("sharpness at matched loss", len(found))
    rows = list[AtLoss]()
    for (number, end), match in session.each(found):
        loss = loss_at(match.weights, copies[number].seed)
        if match.step and abs(math.log(loss / target)) <= CLOSE:
            measured = partial(_measured, session, copies[number], end, match, loss)
            rows.append(session.kept(f"measured/at_loss/{number:05d}-{end!r}", AtLoss, measured, units=0, key=""))
    return sorted(rows, key=lambda row: (row.end, row.start, row.seed))


def _measured(session: Session[DropSpec, Ready], copy: Copy, end: float, match: Match, loss: float) -> AtLoss:
    given = session.given
    minima = Minima(given.problem, given.invariant, copy.seed, session.spec.examples)
    values = minima.evaluated(match.weights).to_dict()
    return AtLoss(copy.lr, end, copy.seed, match.step, loss, minima.sharpness(match.weights), **values)


def cells_at_loss(rows: Sequence[AtLoss]) -> list[AtLossCell]:
    """Means over seeds of every start and final rate that has a run."""
    cells = []
    for end, start in sorted({(row.end, row.start) for row in rows}):
        own = [row for row in rows if (row.start, row.end) == (start, end)]
        sharpness = [row.sharpness for row in own]
        mean = geometric_mean(sharpness) if min(sharpness) > 0 else math.nan
        errors, losses = [row.test_error for row in own], [row.test_loss for row in own]
        cells.append(
            AtLossCell(
                start=start,
                end=end,
                seeds=len(own),
                step=float(np.mean([row.step for row in own])),
                batch_loss=float(np.mean([row.batch_loss for row in own])),
                sharpness=mean,
                sharpness_se=mean * standard_error(np.log(sharpness)) if mean > 0 else math.nan,
                test_error=float(np.mean(errors)),
                test_error_se=standard_error(errors),
                test_loss=float(np.mean(losses)),
                test_loss_se=standard_error(losses),
            )
        )
    return cells


def flatness_of(rows: Sequence[AtLoss]) -> list[Flatness]:
    """The rank correlations of sharpness and test error over those starts that every seed has, three at the least."""
    found = []
    for end in sorted({row.end for row in rows}):
        own = [row for row in rows if row.end == end]
        seeds = sorted({row.seed for row in own})
        starts = set.intersection(*({row.start for row in own if row.seed == seed} for seed in seeds))
        if len(starts) < 3:
            continue
        values = []
        for seed in seeds:
            mine = sorted((r for r in own if r.seed == seed and r.start in starts), key=lambda row: row.start)
            pair = [row.sharpness for row in mine], [row.test_error for row in mine]
            constant = any(len(set(one)) < 2 for one in pair)
            values.append(math.nan if constant else float(spearmanr(*pair).statistic))
        found.append(Flatness(end, len(starts), difference(values, [0.0] * len(values))))
    return found
