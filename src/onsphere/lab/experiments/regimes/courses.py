"""The course of every run of a map along its steps, read back from the run's folder and binned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onsphere.lab.experiments.regimes.classify import Cell, Regime
from onsphere.lab.population import ShardFolder
from onsphere.lab.store import Run

__all__ = ["Course", "courses"]

BINS = 80  # points of a curve; each is a mean over steps / 80 minibatches


@dataclass(frozen=True, eq=False)
class Course:
    """One run along its steps.

    Attributes:
        elr: Effective learning rate of the run.
        seed: Index of the seed.
        regime: The label of the run.
        steps: [T] steps around which minibatches are averaged, ascending.
        loss: [T] training loss, mean of the minibatch losses around the step (train-mode batch statistics).
        gradient_norm: [T] mean effective gradient norm.
        evaluation_steps: [E] steps of the evaluations.
        test_error: [E] fraction, batch statistics re-estimated over the training data.
    """

    elr: float
    seed: int
    regime: Regime
    steps: Any
    loss: Any
    gradient_norm: Any
    evaluation_steps: Any
    test_error: Any


def courses(run: Run, cells: Sequence[Cell]) -> list[Course]:
    """The courses of a map's runs, by effective learning rate and seed."""
    regime = {(cell.elr, cell.seed): cell.regime for cell in cells}
    found = []
    for folder in run.shard_folders():
        shard = ShardFolder(folder)
        readings, (steps, evaluations) = shard.readings(), shard.evaluations()
        edges = np.unique(np.linspace(0, len(readings.values), BINS + 1).round().astype(int))
        loss, gradient = (_binned(v, edges) for v in (readings.loss, readings.effective_gradient_norm))
        for k, copy in enumerate(shard.copies()):
            if (copy.lr, copy.seed) in regime:
                found.append(
                    Course(
                        elr=copy.lr,
                        seed=copy.seed,
                        regime=regime[copy.lr, copy.seed],
                        steps=(edges[:-1] + edges[1:] - 1) / 2,
                        loss=loss[:, k],
                        gradient_norm=gradient[:, k],
                        evaluation_steps=steps,
                        test_error=evaluations[:, k, 3],
                    )
                )
    return sorted(found, key=lambda course: (course.elr, course.seed))


def _binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of the finite values in each bin, [bins, K]; NaN where there are none."""
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0.0), edges[:-1], axis=0)
    counts = np.add.reduceat(finite, edges[:-1], axis=0, dtype=float)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
