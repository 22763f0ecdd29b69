"""Where runs are at matched loss: the weights of every run where its train loss was closest to a target.

They are found by training to there once more:

    running loss   mean of the minibatch losses of a window of consecutive steps: where to look
    train loss     at fixed weights, mean over given minibatches with their own batch statistics: what is matched

The running loss alone would not do: a minibatch is met just before its step and long after its last one, so that the
loss of the weights themselves is lower, the more so the larger the steps. Training is a function of seed and step to
the last bit, so the second pass meets the weights of the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.lab.execution import Interrupted
from onsphere.lab.networks import batches, criterion
from onsphere.lab.population import Copy, Engine, Plan, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import without_running_statistics

PIECE = 256  # steps between two looks at ``stop``
LOOKS = 30  # steps of a run at which its train loss is measured
EARLY = 1.6  # times the target: the running loss from where on
FILE = "matched.safetensors"
Weights = Mapping[str, Tensor]  # trained tensors, without a leading axis
Minibatches = Sequence[tuple[Tensor, Tensor]]
Array = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)


def minibatches_of(problem: Problem, seed: int, count: int) -> Minibatches:
    """Minibatches of the first so many steps of a seed's training, not augmented."""
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
        self.known: dict[int, tuple[nn.Module, Minibatches]] = {}

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
        return mean_loss(model, self.loss, minibatches)


@torch.no_grad()
def mean_loss(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], minibatches: Minibatches) -> float:
    """The mean over minibatches of a loss, each with its own batch statistics where the model keeps none."""
    return sum(float(loss(model(x), y)) for x, y in minibatches) / len(minibatches)


def running_loss(loss: Array, window: int) -> Array:
    """Means over ``window`` consecutive steps [T - window + 1], NaN where one of them is not finite."""
    clean = np.where(np.isfinite(loss), loss, 0.0)
    sums = np.cumsum(np.concatenate([[0.0], clean]))
    bad = np.cumsum(np.concatenate([[0], ~np.isfinite(loss)]))
    means = (sums[window:] - sums[:-window]) / window
    return np.where(bad[window:] == bad[:-window], means, np.nan)


def candidates(loss: Array, window: int, target: float) -> list[int]:
    """Steps at which to look for the target: evenly spaced around where the running loss first reaches it.

    They go from where it first reaches :data:`EARLY` times the target to a window after it reaches the target, because
    the loss at fixed weights is lower than the running one: half of the minibatches were seen a moment ago.

    Returns:
        At most :data:`LOOKS` steps, ascending; none if the running loss never reaches the target.
    """
    running = running_loss(loss, window)
    below = np.flatnonzero(running <= target)
    if not len(below):
        return []
    first = int(np.flatnonzero(running <= EARLY * target)[0])
    last = min(int(below[0]) + 2 * window, len(loss))
    return [int(step) for step in np.unique(np.linspace(first, last, LOOKS).round())]


@dataclass(frozen=True, eq=False)
class Match:
    """A run at matched loss.

    Attributes:
        step: The step of the weights.
        weights: Its trained tensors there, without a leading axis.
    """

    step: int
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Search(Generic[K]):
    """Among which runs, and how, those at matched loss are looked for.

    Attributes:
        problem: The problem of their round.
        window: Steps of the running loss.
        gradients: Minibatches of the train loss at fixed weights.
        key: What a copy is called in the losses and among what is found.
        plan: How the round was executed; another gives other last bits.
        progress: Whoever is told what happens.
        stop: Asked often; True ends the search.
    """

    problem: Problem
    window: int
    gradients: int
    key: Callable[[Copy], K]
    plan: Plan
    progress: Progress
    stop: Callable[[], bool]


def matched_weights(
    search: Search[K],
    shards: Sequence[ShardFolder],
    losses: Mapping[K, Array],
    target: float,
) -> dict[K, Match]:
    """Every run at the step, of those looked at, whose train loss is closest to the target on the logarithmic scale.

    Those of the shards of a round that have no ``losses`` [T], or whose running loss never reaches the target, are left
    out.

    Raises:
        Interrupted: The run was asked to stop; shards whose weights are on disk are not trained again.
    """
    wanted = []
    for shard in shards:
        keys = [search.key(copy) for copy in shard.copies()]
        looked = {k: candidates(losses[key], search.window, target) for k, key in enumerate(keys) if key in losses}
        own = {k: steps for k, steps in looked.items() if steps}
        if own:
            wanted.append((shard, keys, own, len(keys) * max(max(steps) for steps in own.values())))
    search.progress.begin("weights at matched loss", sum(work for *_, work in wanted))
    found: dict[K, Match] = {}
    for shard, keys, own, work in wanted:
        path = shard.folder / FILE
        if path.exists():
            search.progress.advance(work)
        else:
            closest = _closest(search, shard, own, target)
            kept = {f"{k}/{name}": value for k, match in closest.items() for name, value in match.weights.items()}
            write_tensors(path, kept, {"steps": json.dumps({str(k): match.step for k, match in closest.items()})})
        tensors, metadata = read_tensors(path)
        for k, step in json.loads(metadata["steps"]).items():
            weights = {name: tensors[f"{k}/{name}"] for name in search.problem.trained}
            found[keys[int(k)]] = Match(step, weights)
    return found


def _closest(
    search: Search[K],
    shard: ShardFolder,
    looks: Mapping[int, Sequence[int]],
    target: float,
) -> dict[int, Match]:
    """Train a shard again and keep each copy where it is closest, by its place in the shard."""
    problem, copies = search.problem, tuple(shard.copies())
    loss_at = TrainLoss(problem, search.gradients)
    engine = Engine(problem, copies, search.plan)
    state = engine.initial_state()
    ring = torch.empty((PIECE, len(copies), engine.columns), dtype=problem.dtype, device=problem.device)
    found: dict[int, Match] = {}
    misses = dict.fromkeys(looks, math.inf)
    for step in sorted({step for steps in looks.values() for step in steps}):
        while state.step < step:
            if search.stop():
                raise Interrupted
            before = state.step
            state = engine.advance(state, min(step, before + PIECE), ring)
            search.progress.advance((state.step - before) * len(copies))
        for k in (k for k, steps in looks.items() if step in steps):
            weights = {name: values[k] for name, values in zip(problem.trained, state.params, strict=True)}
            loss = loss_at(weights, copies[k].seed)
            miss = abs(math.log(loss / target)) if loss > 0 and math.isfinite(loss) else math.inf
            if miss < misses[k]:
                kept = {name: value.cpu().contiguous().clone() for name, value in weights.items()}
                misses[k], found[k] = miss, Match(step, kept)
    return found
