"""What a population is compared with: ordinary eager PyTorch runs, one after another, as the published scripts do."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from onsphere.lab.population import Problem


class PlainRun:
    """One copy: nn.Module, autograd, optim.SGD, norm fixed with one ``.item()`` a tensor, loss and accuracy read."""

    def __init__(self, problem: Problem, seed: int, elr: float) -> None:
        self.problem, self.seed = problem, seed
        self.model = problem.build(seed)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.norm = sum(w.detach().norm().item() ** 2 for w in self.weights) ** 0.5
        self.optimizer = torch.optim.SGD(self.weights, lr=elr * self.norm**2)
        self.x, self.y = problem.data.x_train, problem.data.y_train
        self.done = 0

    def steps(self, count: int) -> None:
        """Train some steps further."""
        for rows in self.problem.batches(self.seed, self.done, self.done + count):
            x, y = self.x[rows], self.y[rows]
            self.optimizer.zero_grad()
            outputs = self.model(x)
            loss = F.cross_entropy(outputs, y)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                norm = sum(w.norm().item() ** 2 for w in self.weights) ** 0.5
                for w in self.weights:
                    w.mul_(self.norm / norm)
            loss.item()
            (outputs.argmax(1) == y).float().mean().item()
        self.done += count
