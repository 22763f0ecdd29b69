"""Sharpness of networks taken from a population's weights: the top eigenvalue on the unit sphere, in training mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from onsphere.curvature import Eigenvalues, top_eigenvalues
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.zones.result import PathPoint
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.result import Real
from onsphere.normalisation import without_running_statistics

__all__ = ["SharpnessMeter", "end_sharpness", "measure_paths"]


class SharpnessMeter:
    """Measures sharpness on a fixed batch of a problem's training images.

    Args:
        problem: The problem that was trained.
        examples: How many images at most.
    """

    def __init__(self, problem: Problem, examples: int) -> None:
        self.problem, self.loss_fn = problem, criterion(problem)
        size = min(examples, len(problem.data.x_train))
        self.batch = batches(problem, examples=size, size=size)[0]

    def __call__(
        self, weights: Mapping[str, Tensor], row: int, seed: int, start: Eigenvalues | None = None
    ) -> tuple[float, Eigenvalues]:
        """Loss and top eigenvalue at a copy's weights; ``start`` are eigenvalues found nearby."""
        model = without_running_statistics(network(self.problem, weights, row, seed).train())
        names = list(self.problem.trained)
        found = top_eigenvalues(model, self.loss_fn, self.batch, parameters=names, sphere=True, start=start)
        with torch.no_grad():
            loss = float(self.loss_fn(model(self.batch[0]), self.batch[1]))
        return loss, found


def measure_paths(session: Session[ZonesSpec, Problem], shards: Sequence[ShardFolder]) -> list[PathPoint]:
    """Sharpness along every path, each search starting from the vector that the last one found."""
    spec, steps = session.spec, session.spec.reading_steps()
    meter = SharpnessMeter(session.given, spec.examples)
    session.progress.begin("sharpness along the paths", len(steps) * sum(len(shard.copies()) for shard in shards))

    def along(shard: ShardFolder, k: int, copy: Copy) -> list[PathPoint]:
        rows, last = [], None
        for step in session.each(steps):
            loss, last = meter(shard.snapshot(step), k, copy.seed, last)
            value, error, good = last.values[0], last.errors[0], last.converged[0]
            rows.append(PathPoint(copy.lr, copy.seed, step, loss, value, error, bool(good)))
        return rows

    return [
        point
        for shard in shards
        for k, copy in enumerate(shard.copies())
        for point in session.kept(
            f"sharpness/{shard.folder.name}-{k:03d}",
            list[PathPoint],
            partial(along, shard, k, copy),
            units=len(steps),
        )
    ]


def end_sharpness(session: Session[ZonesSpec, Problem], shards: Sequence[ShardFolder]) -> list[list[float]]:
    """Sharpness at the final weights of every copy of each shard; NaN where a copy became non-finite."""
    meter = SharpnessMeter(session.given, session.spec.examples)
    session.progress.begin("sharpness at the ends", sum(len(shard.copies()) for shard in shards))

    def ends(shard: ShardFolder) -> list[float]:
        weights = shard.weights()
        return [
            meter(weights, k, copy.seed)[1].values[0] if bool(weights["alive"][k]) else math.nan
            for k, copy in session.each(list(enumerate(shard.copies())))
        ]

    return [
        session.kept(
            f"sharpness/{shard.folder.name}",
            list[Real],
            partial(ends, shard),
            units=len(shard.copies()),
            key="values",
        )
        for shard in shards
    ]
