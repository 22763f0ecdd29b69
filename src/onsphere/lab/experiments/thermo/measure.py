"""What is measured on one run: means over windows, entropies of the weights they went through, gradient noise.

Along the steps r, ELR and the squared effective gradient r² |g|² are known exactly; TrΣ and |grad L|² are measured
apart, at fixed weights and on batches that training never saw, so that the laws are tested and not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from onsphere.curvature import gradient_noise
from onsphere.dynamics import entropy_bound, graph_entropy
from onsphere.lab.experiments.thermo.result import Window
from onsphere.lab.networks import criterion, network
from onsphere.lab.population import Copy, Problem, Readings, ShardFolder
from onsphere.lab.result import Real
from onsphere.normalisation import without_running_statistics

Array = NDArray[np.float64]

#: Places of the last window at which the noise is measured, at most.
_PLACES = 16


@dataclass(frozen=True)
class Noise:
    """Noise and signal of the effective gradient at fixed weights, means over places: TrΣ and |grad L|²."""

    trace: Real
    square: Real


@dataclass(frozen=True)
class Measured:
    """What was measured on one run.

    Attributes:
        windows: Its windows, the last one last.
        noise: That of the last window.
        drift: Mean loss of the second half of the last window less that of the first.
        dimension: Number of trained weights.
    """

    windows: list[Window]
    noise: Noise
    drift: Real
    dimension: int


def measured(
    problem: Problem,
    shard: ShardFolder,
    readings: Readings,
    row: int,
    copy: Copy,
    windows: Sequence[Sequence[int]],
    parts: int,
    gradients: int,
) -> Measured:
    """Read one run of a shard.

    Args:
        problem: The problem that was trained.
        shard: The shard, which has ended.
        readings: The readings of that shard.
        row: The copy's index in it.
        copy: The copy that is read.
        windows: Steps after which weights were kept, of every window.
        parts: How many windows the run has, the measured ones and others.
        gradients: Batches of each measurement of the noise.
    """
    own = Readings(readings.names, 0, readings.values[:, row : row + 1])
    length = problem.steps // parts
    found, points = [], np.empty((0, 0))
    for steps in windows:
        points = _weights(problem, shard, row, steps)
        found.append(_window(problem, copy, own, steps[-1] - length, steps[-1], points))
    last = own.loss[windows[-1][-1] - length :, 0]
    drift = float(last[len(last) // 2 :].mean() - last[: len(last) // 2].mean())
    places = [windows[-1][i] for i in np.unique(np.linspace(0, len(windows[-1]) - 1, _PLACES).round().astype(int))]
    noise = _noise(problem, shard, row, copy, places, gradients)
    return Measured(found, noise, drift, int(points.shape[1]))


def _window(problem: Problem, copy: Copy, readings: Readings, start: int, end: int, points: Array) -> Window:
    norm2, gradient2, inner = (readings.moment(name).sum(-1)[start:end, 0] for name in ("norm2", "gradient2", "inner"))
    free_elr = problem.geometry == "sphere" or problem.keep_elr
    elr = np.full_like(norm2, copy.lr) if free_elr else copy.lr / norm2
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a norm that has left the range is no number
        # |x'|² / r² - 1 of the gradient's part of a step, in the form that keeps its digits
        growth = elr**2 * norm2 * gradient2 - 2 * elr * inner
        pressure = growth / (1 + np.sqrt(np.maximum(1 + growth, 0))) / (elr * norm2)
        means = [float(x.mean()) for x in (norm2, np.log(norm2), norm2 * gradient2, pressure)]
    entropy, bound, flatness, grown = entropies(points)
    return Window(
        end=end,
        energy=float(readings.loss[start:end, 0].mean()),
        radius=float(np.sqrt(means[0])),
        log_radius=means[1] / 2,
        elr=float(elr.mean()),
        moment=means[2],
        pressure=means[3],
        entropy=entropy,
        bound=bound,
        effective_dimension=flatness,
        growth=grown,
    )


def entropies(points: Array) -> tuple[float, float, float, float]:
    """Entropy by neighbours, bound, effective dimension, growth of weights ``[N, d]`` in the order of time.

    Each point is joined to a quarter of all: the next ones in time, which are close because little time has passed, are
    then a small part. What the weights do not tell is NaN: where they are not finite, coincide, or do not lie in one
    half of the sphere.
    """
    nan = float("nan")
    if not np.isfinite(points).all():
        return nan, nan, nan, nan
    try:
        entropy, half = _entropy(points), len(points) // 2
        grown = _entropy(points[::2][:half]) - (_entropy(points[:half]) + _entropy(points[-half:])) / 2
    except ValueError:  # several samples coincide
        return nan, nan, nan, nan
    try:
        bound = entropy_bound(points)
    except ValueError:  # the directions are all over the sphere
        return entropy, nan, nan, grown
    return entropy, bound.value, bound.effective_dimension, grown


def _entropy(points: Array) -> float:
    return graph_entropy(points, neighbours=len(points) // 4)


def _weights(problem: Problem, shard: ShardFolder, row: int, steps: Sequence[int]) -> Array:
    """The trained weights of a copy after these steps, float64 [N, d]."""
    found = []
    for step in steps:
        with safe_open(shard.snapshot_path(step), framework="pt") as file:
            parts = [file.get_slice(name)[row : row + 1].reshape(-1) for name in problem.trained]
        found.append(torch.cat(parts).to(torch.float64).numpy())
    return np.stack(found)


def _noise(problem: Problem, shard: ShardFolder, row: int, copy: Copy, places: Sequence[int], gradients: int) -> Noise:
    """TrΣ and |grad L|² of the effective gradient, on batches from after the run's last step."""
    loss, found = criterion(problem), []
    for number, step in enumerate(places):
        first = problem.steps + number * gradients
        rows = problem.batches(copy.seed, first, first + gradients)
        weights = shard.snapshot(step)
        if not all(bool(torch.isfinite(weights[name][row]).all()) for name in problem.trained):
            return Noise(float("nan"), float("nan"))
        model = without_running_statistics(network(problem, weights, row, copy.seed).train())
        x, y = problem.data.x_train.to(problem.device, problem.dtype), problem.data.y_train.to(problem.device)
        batches = [(x[own], y[own]) for own in rows]
        one = gradient_noise(model, loss, batches, parameters=list(problem.trained), sphere=True)
        found.append((one.noise_trace, one.squared_gradient))
    trace, square = np.mean(found, axis=0)
    return Noise(float(trace), float(square))
