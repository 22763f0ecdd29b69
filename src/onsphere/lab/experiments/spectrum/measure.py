"""What a network is like at given weights, and what lies between two minima.

Gradient norms and sharpness are those of training: on the sphere, batch norm with the statistics of each batch.
Losses, errors and barriers are those of evaluation: batch statistics re-estimated over training images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from onsphere.curvature import gradient_noise, top_eigenvalues
from onsphere.lab.experiments.spectrum.result import Pair, Point
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.networks import batches, criterion, evaluate, network
from onsphere.lab.population import Problem
from onsphere.landscape import angle, barrier
from onsphere.normalisation import without_running_statistics

TOLERANCE = 1e-2  # of the sharpness, relative
BATCH = 512  # images of a batch of the sharpness
Weights = Mapping[str, Tensor]  # trained tensors, without a leading axis


def measure_point(spec: SpectrumSpec, problem: Problem, weights: Weights, seed: int, step: int) -> Point:
    """Everything about one network.

    Args:
        spec: How many minibatches the gradient norm takes (those of the first steps of the seed's training), and how
            many images the sharpness.
        problem: The problem that was trained.
        weights: The trained tensors of the network.
        seed: The seed of the network.
        step: The step the weights are of.
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
    start = problem.build(seed).to(problem.device, problem.dtype)
    travelled = angle(model, start, problem.trained)
    reached = _mean_loss(without_running_statistics(copy.deepcopy(model)), loss, minibatches)
    return Point(
        step=step,
        batch_loss=reached,
        gradient_norm=noise.mean_gradient_norm,
        gradient_norm_error=noise.mean_gradient_norm_error,
        sharpness=top.values[0],
        sharpness_error=top.errors[0],
        **evaluate(problem, model).to_dict(),
        angle=travelled,
    )


def minibatches_of(problem: Problem, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """The minibatches (x, y) of the first steps of a seed's training."""
    x, y = batches(problem, size=len(problem.data.x_train))[0]
    return [(x[row], y[row]) for row in problem.batches(seed, 0, count).to(x.device)]


class TrainLoss:
    """The train loss of given weights: mean over the minibatches of a seed, batch statistics of each.

    Args:
        problem: The problem that was trained.
        count: How many minibatches are averaged over.
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
    spec: SpectrumSpec, problem: Problem, low: tuple[float, Weights], high: tuple[float, Weights], seed: int
) -> Pair:
    """Angle and barrier between two minima of a seed.

    Args:
        spec: How many points the path has, and on how many images the loss along it is taken.
        problem: The problem that was trained.
        low: The smaller ELR and its trained tensors.
        high: The larger and those of it.
        seed: The seed of both networks.
    """
    first, second = (_network(problem, weights, seed) for _, weights in (low, high))
    found = barrier(
        first,
        first,
        second,
        criterion(problem),
        batches(problem, "train", spec.examples, 1000),
        points=spec.points,
        parameters=problem.trained,
    )
    return Pair(seed, low[0], high[0], found.angle, found.loss_barrier, found.error_barrier, found.position)


def _network(problem: Problem, weights: Weights, seed: int) -> nn.Module:
    return network(problem, {name: weights[name].unsqueeze(0) for name in problem.trained}, 0, seed)


@torch.no_grad()
def _mean_loss(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], minibatches: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """Mean loss over minibatches of a network that takes each batch's own statistics."""
    return sum(float(loss(model(x), y)) for x, y in minibatches) / len(minibatches)
