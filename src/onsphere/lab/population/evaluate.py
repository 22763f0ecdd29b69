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
#: Of the training examples with right and with wrong labels, by the labels they are trained on.
SUBSETS = ("clean_loss", "clean_error", "corrupted_loss", "corrupted_error")
#: Of the test examples, by the running statistics of training.
RUNNING = ("running_test_loss", "running_test_error")
BATCH = 1000

Loss = Callable[[Tensor, Tensor], Tensor]


class Evaluator:
    """Evaluates the copies of a problem; the names are those of ``State.constants`` and of ``State.statistics``.

    Attributes:
        columns: What is measured; a shorter list that begins alike may be put in its place.
    """

    def __init__(self, problem: Problem, constant_names: tuple[str, ...], statistic_names: Sequence[str] = ()) -> None:
        self.problem, self.constant_names, self.statistic_names = problem, constant_names, statistic_names
        self.network = problem.build(0).to(problem.device, problem.dtype)
        self.loss = loss_function(problem.loss)
        data = problem.data.to(problem.device, problem.dtype)
        self.parts = [(data.x_train, data.y_train), (data.x_test, data.y_test)]
        self.columns: tuple[str, ...] = COLUMNS
        if problem.subsets and 0 < int(data.noisy.sum()) < len(data.noisy):
            self.columns += SUBSETS
            self.parts += [(data.x_train[rows], data.y_train[rows]) for rows in (~data.noisy, data.noisy)]
        self.columns += RUNNING if statistic_names else ()

    @torch.no_grad()
    def __call__(self, state: State) -> Tensor:
        """Train loss, train error, test loss, test error of every copy, and what else: float64 [K, C], on the CPU."""
        return torch.stack([self._one(state, k) for k in range(len(state.alive))])

    def _one(self, state: State, k: int) -> Tensor:
        own = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        for names, values in ((self.problem.trained, state.params), (self.constant_names, state.constants)):
            for name, value in zip(names, values, strict=True):
                own[name].copy_(value[k])
        found = evaluated(self.network, self.loss, self.parts)
        if self.statistic_names:
            for name, value in zip(self.statistic_names, state.statistics, strict=True):
                own[name].copy_(value[k])
            found = torch.cat([found, _measured(self.network, self.loss, *self.parts[1])])
        return found[: len(self.columns)]


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
