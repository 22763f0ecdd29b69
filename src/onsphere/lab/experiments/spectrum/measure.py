"""What a network is like at given weights, and what lies between two minima.

Gradient norms and sharpness are those of training: on the sphere, batch norm with the statistics of each batch.
Losses, errors and barriers are those of evaluation: batch statistics re-estimated over training images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from onsphere.curvature import gradient_noise, top_eigenvalues
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.spectrum.result import Pair, Point
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.networks import batches, criterion, evaluate, network
from onsphere.lab.networks.matched import Array, Weights, mean_loss, minibatches_of, running_loss
from onsphere.lab.population import Problem
from onsphere.landscape import angle, barrier
from onsphere.normalisation import without_running_statistics

TOLERANCE = 1e-2  # of the sharpness, relative
BATCH = 512  # images of a batch of the sharpness
Key = tuple[float, int]  # ELR, seed


def measure_point(spec: SpectrumSpec, problem: Problem, weights: Weights, seed: int, step: int) -> Point:
    """Everything about the network of a seed with its weights of a step.

    The minibatches of its gradient norm and batch loss are those of the first steps of the seed's training.
    """
    model, loss = _network(problem, weights, seed), criterion(problem)
    minibatches = minibatches_of(problem, seed, spec.gradients)
    noise = gradient_noise(model, loss, minibatches, parameters=problem.trained, sphere=True)
    top = top_eigenvalues(
        model,
        loss,
        batches(problem, "train", spec.examples, BATCH),
        parameters=problem.trained,
        sphere=True,
        tolerance=TOLERANCE,
        seed=problem.seed,
    )
    travelled = angle(model, problem.build(seed).to(problem.device, problem.dtype), problem.trained)
    return Point(
        step=step,
        batch_loss=mean_loss(without_running_statistics(copy.deepcopy(model)), loss, minibatches),
        gradient_norm=noise.mean_gradient_norm,
        gradient_norm_error=noise.mean_gradient_norm_error,
        sharpness=top.values[0],
        sharpness_error=top.errors[0],
        **evaluate(problem, model).to_dict(),
        angle=travelled,
    )


def measure_pair(
    spec: SpectrumSpec, problem: Problem, low: tuple[float, Weights], high: tuple[float, Weights], seed: int
) -> Pair:
    """Angle and barrier between the minima of a smaller and a larger ELR of one seed, each with its trained tensors."""
    first, second = (_network(problem, weights, seed) for _, weights in (low, high))
    images, loss = batches(problem, "train", spec.examples, 1000), criterion(problem)
    found = barrier(first, first, second, loss, images, points=spec.points, parameters=problem.trained)
    return Pair(seed, low[0], high[0], found.angle, found.loss_barrier, found.error_barrier, found.position)


def _network(problem: Problem, weights: Weights, seed: int) -> nn.Module:
    return network(problem, {name: weights[name].unsqueeze(0) for name in problem.trained}, 0, seed)


def lowest_common(losses: Mapping[Key, Array], cells: Sequence[Cell], window: int) -> float | None:
    """The lowest running loss that every run in convergence reaches; None without such a run.

    ``losses`` are those of minibatches, [T], by ELR and seed, ``cells`` the runs with their regimes.
    """
    lowest = [
        float(np.nanmin(running_loss(losses[cell.elr, cell.seed], window)))
        for cell in cells
        if cell.regime == "convergence" and cell.finite
    ]
    return max(lowest, default=None)
