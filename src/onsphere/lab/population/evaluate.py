"""Loss and error of every copy on all training and all test examples, with batch statistics re-estimated first.

Batch-norm statistics are estimated over the whole training set at the copy's present weights, then the network is
evaluated with them (evaluation mode). Running averages from training play no part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onsphere.lab.population.copies import Problem
from onsphere.lab.population.engine import State
from onsphere.lab.population.step import loss_function
from onsphere.normalisation import reestimate_batch_statistics

COLUMNS = ("train_loss", "train_error", "test_loss", "test_error")
BATCH = 1000


class Evaluator:
    """Evaluates the copies of a problem.

    Args:
        problem: What is trained.
        constant_names: Names of the constants in ``State.constants``.
    """

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
        reestimate_batch_statistics(self.network, torch.split(self.parts[0][0], BATCH))
        self.network.eval()
        return torch.cat([self._measure(self.network, x, y) for x, y in self.parts])

    def _measure(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = error = torch.zeros((), dtype=torch.float64, device=x.device)
        for xs, ys in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            outputs = network(xs)
            loss = loss + self.loss(outputs.double(), ys) * len(xs)
            error = error + (outputs.argmax(-1) != ys).double().sum()
        return (torch.stack([loss, error]) / len(x)).cpu()
