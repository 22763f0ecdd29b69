"""Ensembles: one module against the loop over its members; training through the population against ordinary runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import alternate, line, ratio
from benchmarks.population import CONVNET, MLP, problem
from onsphere.ensembles import Ensemble
from onsphere.lab.population import Copy, Engine, Plan, Problem

MEMBERS, BATCH, LR, MOMENTUM, DECAY = 8, 256, 0.05, 0.9, 5e-4


def everything() -> Iterator[str]:
    """Serving and training."""
    yield from inference()
    yield from training("MLP h=64", MLP, Plan("vmap", MEMBERS, compiled=True), 40, 3)
    yield from training("ConvNet width 8", CONVNET, Plan("loop", 1, channels_last=True), 2, 1.3)


def inference() -> Iterator[str]:
    """Perceptrons of a split of 16,000 parameters at batch 256."""
    this = problem("mlp", (1, 7, 7), {"widths": (24, 24), "head_norm": 10.0, "eps": 1e-12})
    members = [this.build(seed).eval() for seed in range(MEMBERS)]
    ensemble, compiled = Ensemble.from_members(members), torch.compile(Ensemble.from_members(members))
    x = torch.randn(BATCH, 1, 7, 7)

    def loop(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([m(x).log_softmax(-1) for m in members]).logsumexp(0)

    def repeated(predict: Callable[[torch.Tensor], torch.Tensor], times: int = 50) -> Callable[[], int]:
        def work() -> int:
            with torch.inference_mode():
                for _ in range(times):
                    predict(x)
            return times

        return work

    seconds = alternate({"loop": repeated(loop), "eager": repeated(ensemble), "compiled": repeated(compiled)})
    name = f"{MEMBERS} MLPs of width 24, batch {BATCH}, one module"
    yield line(f"{name}, compiled, over the loop", ratio(seconds, "compiled", "loop"), 2)
    yield line(f"{name}, eager, over the loop", ratio(seconds, "eager", "loop"), 2)


class OrdinaryRun:
    """One member: nn.Module, autograd, optim.SGD with momentum, loss and accuracy read at every step."""

    def __init__(self, this: Problem, seed: int) -> None:
        self.problem, self.seed, self.done = this, seed, 0
        self.model: nn.Module = this.build(seed)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(weights, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)

    def steps(self, count: int) -> None:
        """Train some steps further."""
        for rows in self.problem.batches(self.seed, self.done, self.done + count):
            x, y = self.problem.data.x_train[rows], self.problem.data.y_train[rows]
            self.optimizer.zero_grad()
            outputs = self.model(x)
            loss = F.cross_entropy(outputs, y)
            loss.backward()
            self.optimizer.step()
            loss.item()
            (outputs.argmax(1) == y).float().mean().item()
        self.done += count


def training(name: str, kind: dict[str, object], plan: Plan, steps: int, bar: float) -> Iterator[str]:
    """Members that differ in their seeds, each with batches of its own: SGD with momentum in the whole space."""
    this = replace(problem(**kind), geometry="space", radius=None)
    engine = Engine(this, tuple(Copy(seed, LR, DECAY, MOMENTUM) for seed in range(MEMBERS)), plan)
    ring = torch.empty((steps, MEMBERS, engine.columns))
    state, runs = engine.initial_state(), [OrdinaryRun(this, seed) for seed in range(MEMBERS)]

    def population() -> int:
        nonlocal state
        state = engine.advance(state, state.step + steps, ring)
        return MEMBERS * steps

    def ordinary() -> int:
        for run in runs:
            run.steps(steps)
        return MEMBERS * steps

    seconds = alternate({"population": population, "ordinary": ordinary})
    yield line(
        f"{MEMBERS} members, {name}, population over ordinary runs", ratio(seconds, "population", "ordinary"), bar
    )
