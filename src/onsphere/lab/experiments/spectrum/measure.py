"""What a network is like at given weights, and what lies between two minima.

Gradient norms and sharpness are those of training: on the sphere, batch norm with the statistics of each batch.
Losses, errors and barriers are those of evaluation: batch statistics re-estimated over training images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from onsphere.curvature import gradient_noise, top_eigenvalues
from onsphere.lab.experiments.spectrum.result import Pair, Point
from onsphere.lab.networks import batches, criterion, evaluate, network
from onsphere.lab.population import Problem
from onsphere.landscape import angle, barrier
from onsphere.normalisation import without_running_statistics

TOLERANCE = 1e-2  # of the sharpness, relative
BATCH = 512  # images of a batch of the sharpness
Weights = Mapping[str, Tensor]


def measure_point(problem: Problem, weights: Weights, seed: int, step: int, *, gradients: int, examples: int) -> Point:
    """Everything about one network.

    Args:
        problem: What was trained.
        weights: Its trained tensors, without a leading axis.
        seed: Its seed.
        step: The step the weights are of.
        gradients: Minibatches of the gradient norm: those of the first steps of the seed's training.
        examples: Training images of the sharpness.
    """
    model, loss = _network(problem, weights, seed), criterion(problem)
    minibatches = minibatches_of(problem, seed, gradients)
    noise = gradient_noise(model, loss, minibatches, parameters=problem.trained, sphere=True)
    top = top_eigenvalues(
        model,
        loss,
        batches(problem, "train", examples, BATCH),
        parameters=problem.trained,
        sphere=True,
        tolerance=TOLERANCE,
        seed=problem.seed,
    )
    start = problem.build(seed).to(problem.device, problem.dtype)
    travelled = angle(model, start, problem.trained)
    reached = _mean_loss(without_running_statistics(copy.deepcopy(model)), loss, minibatches)
    found = evaluate(problem, model)
    return Point(
        step=step,
        batch_loss=_finite(reached),
        gradient_norm=_finite(noise.mean_gradient_norm),
        gradient_norm_error=_finite(noise.mean_gradient_norm_error),
        sharpness=_finite(top.values[0]),
        sharpness_error=_finite(top.errors[0]),
        **{name: _finite(value) for name, value in found.to_dict().items()},
        angle=_finite(travelled),
    )


def minibatches_of(problem: Problem, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """The minibatches (x, y) of the first steps of a seed's training."""
    x, y = batches(problem, size=len(problem.data.x_train))[0]
    return [(x[row], y[row]) for row in problem.batches(seed, 0, count).to(x.device)]


class TrainLoss:
    """The train loss of given weights: mean over the minibatches of a seed, batch statistics of each.

    Args:
        problem: What was trained.
        count: Minibatches.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self.problem, self.count, self.loss = problem, count, criterion(problem)
        self.known: dict[int, tuple[nn.Module, list[tuple[Tensor, Tensor]]]] = {}

    @torch.no_grad()
    def __call__(self, weights: Weights, seed: int) -> float:
        """The loss of the trained tensors ``weights`` of a seed's network."""
        if seed not in self.known:
            model = self.problem.build(seed).to(self.problem.device, self.problem.dtype).eval()
            self.known[seed] = (without_running_statistics(model), minibatches_of(self.problem, seed, self.count))
        model, minibatches = self.known[seed]
        own = dict(model.named_parameters())
        for name in self.problem.trained:
            own[name].copy_(weights[name])
        return _mean_loss(model, self.loss, minibatches)


def measure_pair(
    problem: Problem, low: Weights, high: Weights, seed: int, elrs: tuple[float, float], *, examples: int, points: int
) -> Pair:
    """Angle and barrier between two minima of a seed.

    Args:
        problem: What was trained.
        low: Trained tensors of the smaller ELR.
        high: Those of the larger.
        seed: Their seed.
        elrs: Both ELRs.
        examples: Training images of the loss along the path.
        points: Of the path.
    """
    first, second = (_network(problem, weights, seed) for weights in (low, high))
    found = barrier(
        first,
        first,
        second,
        criterion(problem),
        batches(problem, "train", examples, 1000),
        points=points,
        parameters=problem.trained,
    )
    error = None if found.error_barrier is None else _finite(found.error_barrier)
    return Pair(seed, *elrs, found.angle, _finite(found.loss_barrier), error, found.position)


def _network(problem: Problem, weights: Weights, seed: int) -> nn.Module:
    return network(problem, {name: weights[name].unsqueeze(0) for name in problem.trained}, 0, seed)


@torch.no_grad()
def _mean_loss(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], minibatches: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """Mean loss over minibatches of a network that takes each batch's own statistics."""
    return sum(float(loss(model(x), y)) for x, y in minibatches) / len(minibatches)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
