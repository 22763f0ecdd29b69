"""Loss and error of every copy on all training and all test examples, with batch statistics re-estimated first.

Batch-norm statistics are estimated over the whole training set at the copy's present weights, then the network is
evaluated with them (evaluation mode). Running averages from training play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onsphere.lab.population.copies import Problem
from onsphere.lab.population.engine import State
from onsphere.lab.population.step import loss_function
from onsphere.normalisation import reestimate_batch_statistics

COLUMNS = ("train_loss", "train_error", "test_loss", "test_error")
BATCH = 1000

Loss = Callable[[Tensor, Tensor], Tensor]


class Evaluator:
    """Evaluates the copies of a problem; ``constant_names`` are those of ``State.constants``."""

    def __init__(self, problem: Problem, constant_names: tuple[str, ...]) -> None:
        self.problem, self.constant_names = problem, constant_names
        self.network = problem.build(0).to(problem.device, problem.dtype)
        self.loss = loss_function(problem.loss)
        data = problem.data.to(problem.device, problem.dtype)
        self.parts = [(data.x_train, data.y_train), (data.x_test, data.y_test)]

    @torch.no_grad()
    def __call__(self, state: State) -> Tensor:
        """Train loss, train error, test loss, test error of every copy: float64 [K, 4], on the CPU."""
        return torch.stack([self._one(state, k) for k in range(len(state.alive))])

    def _one(self, state: State, k: int) -> Tensor:
        own = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        for names, values in ((self.problem.trained, state.params), (self.constant_names, state.constants)):
            for name, value in zip(names, values, strict=True):
                own[name].copy_(value[k])
        return evaluated(self.network, self.loss, self.parts)


@torch.no_grad()
def evaluated(network: nn.Module, loss: Loss, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Re-estimate a network's batch statistics on the first part and measure it on every part.

    Args:
        network: It is left in evaluation mode, with those statistics.
        loss: Mean over examples, of outputs and labels.
        parts: Pairs of images and labels.

    Returns:
        Loss and error of each part: float64 [2 parts], on the CPU.
    """
    reestimate_batch_statistics(network, torch.split(parts[0][0], BATCH))
    network.eval()
    return torch.cat([_measured(network, loss, x, y) for x, y in parts])


def _measured(network: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    total = error = torch.zeros((), dtype=torch.float64, device=x.device)
    for xs, ys in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
        outputs = network(xs)
        total = total + loss(outputs.double(), ys) * len(xs)
        error = error + (outputs.argmax(-1) != ys).double().sum()
    return (torch.stack([total, error]) / len(x)).cpu()
