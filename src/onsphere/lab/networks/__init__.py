"""Networks back from the weights of a population, and what they are measured with.

weights of shards [K, ...] -> one module of one copy -> losses, errors, curvature, paths between modules
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.lab.population import Problem
from onsphere.lab.population.evaluate import evaluated
from onsphere.lab.population.step import loss_function


@dataclass(frozen=True)
class Evaluation:
    """Losses and errors of one network, with batch statistics re-estimated over all training examples.

    Attributes:
        train_loss: Mean over training examples.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
    """

    train_loss: float
    train_error: float
    test_loss: float
    test_error: float

    def to_dict(self) -> dict[str, float]:
        """The numbers as plain values for JSON."""
        return asdict(self)


def network(problem: Problem, weights: Mapping[str, Tensor], row: int, seed: int) -> nn.Module:
    """The network of one copy.

    Args:
        problem: The problem that was trained.
        weights: Trained tensors by name, each [K, ...], such as a shard's weights or a snapshot of it.
        row: The copy's index among the K.
        seed: The copy's seed, from which all tensors that are not trained come.

    Returns:
        A module in evaluation mode whose batch statistics are still those of its initialisation: re-estimate them
        (:func:`onsphere.normalisation.reestimate_batch_statistics`) before predictions are taken from it.
    """
    built = problem.build(seed).to(problem.device, problem.dtype)
    own = dict(built.named_parameters())
    with torch.no_grad():
        for name in problem.trained:
            own[name].copy_(weights[name][row])
    return built.eval()


def criterion(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The problem's loss of outputs and labels, a mean over examples."""
    return loss_function(problem.loss)


def batches(
    problem: Problem, split: str = "train", examples: int | None = None, size: int = 512
) -> list[tuple[Tensor, Tensor]]:
    """Pairs (x, y) of the first so many (None: all) training or test examples, in their order.

    A pair has ``size`` examples, the last one what is left.
    """
    data: Any = problem.data
    x, y = (data.x_train, data.y_train) if split == "train" else (data.x_test, data.y_test)
    x = x[:examples].to(problem.device, problem.dtype)
    y = y[:examples].to(problem.device)
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))


def evaluate(problem: Problem, model: nn.Module) -> Evaluation:
    """Re-estimate a network's batch statistics over the training examples and measure it on all examples.

    Its running statistics change, and it is left in evaluation mode.
    """
    data = problem.data.to(problem.device, problem.dtype)
    parts = [(data.x_train, data.y_train), (data.x_test, data.y_test)]
    return Evaluation(*evaluated(model, criterion(problem), parts).tolist())
