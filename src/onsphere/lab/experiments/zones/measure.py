"""Sharpness of networks taken from a population's weights: the top eigenvalue on the unit sphere, in training mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from onsphere.curvature import Eigenvalues, top_eigenvalues
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.zones.result import PathPoint
from onsphere.lab.networks import batches, criterion, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.result import restored
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.threads import one_thread
from onsphere.normalisation import without_running_statistics

__all__ = ["Sharpness", "end_sharpness", "measure_paths"]


class Sharpness:
    """Measures sharpness on a fixed batch of a problem's training images.

    Args:
        problem: What was trained.
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


def measure_paths(
    problem: Problem,
    shards: Sequence[ShardFolder],
    steps: Sequence[int],
    examples: int,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool],
) -> list[PathPoint]:
    """Sharpness along every path.

    Args:
        problem: What was trained.
        shards: The ended shards with their snapshots.
        steps: At which steps.
        examples: Images at most.
        folder: Where the readings of each path are kept.
        progress: Told the readings made.
        stop: Asked between readings.

    Raises:
        Interrupted: ``stop`` returned True; paths whose readings are on disk are not measured again.
    """
    folder.mkdir(exist_ok=True)
    progress.begin("sharpness along the paths", len(steps) * sum(len(shard.copies()) for shard in shards))
    meter, found = Sharpness(problem, examples), []
    for shard in shards:
        for k, copy in enumerate(shard.copies()):
            path = folder / f"{shard.folder.name}-{k:03d}.json"
            if path.exists():
                progress.advance(len(steps))
            else:
                rows, last = [], None
                for step in steps:
                    if stop():
                        raise Interrupted
                    with one_thread():
                        loss, last = meter(shard.snapshot(step), k, copy.seed, last)
                    value, error, good = last.values[0], last.errors[0], last.converged[0]
                    rows.append(PathPoint(copy.lr, copy.seed, step, loss, value, error, bool(good)))
                    progress.advance(1)
                write_json(path, {"rows": [asdict(row) for row in rows]})
            found += [restored(PathPoint, row) for row in read_json(path)["rows"]]
    return found


def end_sharpness(
    problem: Problem,
    shards: Sequence[ShardFolder],
    examples: int,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool],
) -> list[list[float]]:
    """Sharpness at the final weights of every copy of some shards; NaN where a copy became non-finite.

    Args:
        problem: What was trained.
        shards: The ended shards.
        examples: Images at most.
        folder: Where the readings of each shard are kept.
        progress: Told the readings made.
        stop: Asked between readings.

    Raises:
        Interrupted: ``stop`` returned True; shards whose readings are on disk are not measured again.
    """
    progress.begin("sharpness at the ends", sum(len(shard.copies()) for shard in shards))
    meter, found = Sharpness(problem, examples), []
    for shard in shards:
        path = folder / f"{shard.folder.name}.json"
        if path.exists():
            progress.advance(len(shard.copies()))
        else:
            weights, values = shard.weights(), []
            for k, copy in enumerate(shard.copies()):
                if stop():
                    raise Interrupted
                with one_thread():
                    alive = bool(weights["alive"][k])
                    values.append(meter(weights, k, copy.seed)[1].values[0] if alive else float("nan"))
                progress.advance(1)
            write_json(path, {"values": values})
        found.append([float("nan") if value is None else value for value in read_json(path)["values"]])
    return found
