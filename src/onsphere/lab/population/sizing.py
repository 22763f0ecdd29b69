"""What a shard costs, measured before anything is trained: seconds a step, memory a copy, bytes on disk.

    seconds of a shard = fixed + copies (steps * step + evaluations * evaluation)
    bytes on disk      = files + copies (steps * reading + snapshots * weights + all tensors)
    memory of a copy   = weights, gradients, optimiser state, and what a forward pass keeps for the backward pass

A few steps are really made, by the plan that a run would have, with as many copies as a shard would have; a shard of
these few steps, with its files, shows what does not grow with the steps. Times are processor seconds (on a card:
seconds), so that other programs on the machine do not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan, State
from onsphere.lab.population.evaluate import Evaluator
from onsphere.lab.population.shard import RING, Shard, run_shard
from onsphere.lab.population.step import loss_function
from onsphere.lab.threads import one_thread

GROUPS, LONG = 5, 0.15  # timed groups of steps, and how many seconds each has at least, where one step is short
FEW = 8  # steps of the shard that shows what does not grow with them
ROW = 6  # bytes of a reading's step and copy numbers, packed


@dataclass(frozen=True, eq=False)
class Stage:
    """One round of training that an experiment is going to ask for.

    Attributes:
        title: What it is called.
        problem: What is trained, as far as it is known beforehand.
        copies: The copies, or as many like them as are expected.
        sure: Whether so many are trained whatever is found; False for what depends on earlier rounds.
        joined: Whether the workers of the stage before go on with it.
        most: The plan of a run is chosen by its first stage, for this many copies; 0 for its own number.
    """

    title: str
    problem: Problem
    copies: Sequence[Copy]
    sure: bool = True
    joined: bool = False
    most: int = 0


@dataclass(frozen=True)
class Cost:
    """What the copies of a shard cost.

    Attributes:
        fixed: Seconds that do not depend on the steps: networks, tracing, compiling, files.
        step: Seconds a copy and step.
        evaluation: Seconds a copy and evaluation.
        state: Bytes of a copy's weights, gradients, optimiser state and constants.
        saved: Bytes that the forward pass of a copy keeps for the backward pass.
        weights: Bytes of a copy's trained tensors on disk.
        kept: Bytes of all its tensors on disk, constants included.
        reading: Bytes of a step's readings of a copy, as they are before they are packed.
        files: Bytes on disk that do not depend on the steps: what files say of themselves.
    """

    fixed: float
    step: float
    evaluation: float
    state: int
    saved: int
    weights: int
    kept: int
    reading: int
    files: int

    def seconds(self, problem: Problem, copies: int) -> float:
        """Seconds of a shard of these copies."""
        many = problem.steps * self.step + len(problem.evaluation_steps()) * self.evaluation
        return self.fixed + copies * many

    def disk(self, problem: Problem, copies: int) -> int:
        """Bytes that a shard of these copies leaves on disk: readings, snapshots and final tensors."""
        snapshots = sum(step <= problem.steps for step in problem.snapshots)
        return self.files + copies * (problem.steps * self.reading + snapshots * self.weights + self.kept)


def same_cost(problem: Problem) -> tuple[Any, ...]:
    """A key that is equal for problems of equal cost; the data are told apart by being the same object."""
    options = sorted(problem.model_options.items())
    names: tuple[str, ...] = (
        "surgery",
        "trained",
        "geometry",
        "loss",
        "batch_size",
        "dtype",
        "device",
        "augment",
        "optimizer",
    )
    names += ("keep_elr", "independent", "subsets", "running", "spheres")
    return id(problem.data), problem.model, repr(options), *(repr(getattr(problem, name)) for name in names)


def measure_cost(problem: Problem, copies: Sequence[Copy], plan: Plan) -> Cost:
    """Measure what the copies of a shard cost, by some of their steps and one evaluation.

    Args:
        problem: The problem; where it begins at a file, which need not be there yet, seeds' initial weights serve.
        copies: The copies of one shard.
        plan: How they are executed.

    Raises:
        RuntimeError: The network cannot be trained by this plan, or memory does not suffice.
    """
    fresh = replace(problem, starts=None, snapshots=())
    own = tuple(replace(copy, start=0) for copy in copies)
    with one_thread():
        engine = Engine(fresh, own, plan)
        evaluator = Evaluator(fresh, engine.constant_names, engine.statistic_names)
        state = engine.initial_state()
        ring = torch.empty((RING, len(own), engine.columns), dtype=fresh.dtype, device=fresh.device)
        state = engine.advance(state, 1, ring)
        step = _step(engine, state, ring)
        started = _clock(fresh)
        evaluator(_first(state))
        evaluation = _clock(fresh) - started
        saved = _saved(fresh)
        short = replace(fresh, steps=min(FEW, fresh.steps), evaluations=1)
        fixed, files = _short(short, own, plan)
    trained, constants = _bytes(state.params, len(own)), _bytes(state.constants, len(own))
    more = _bytes([*state.buffers, *state.statistics], len(own))
    reading = engine.columns * ring.element_size() + ROW
    both = len(short.evaluation_steps())
    return Cost(
        fixed=max(fixed - len(own) * (short.steps * step + both * evaluation), 0.0),
        step=step,
        evaluation=evaluation,
        state=2 * trained + more + constants,
        saved=saved,
        weights=trained,
        kept=trained + constants,
        reading=reading,
        files=max(files - len(own) * (short.steps * reading + trained + constants), 0),
    )


def _short(problem: Problem, copies: tuple[Copy, ...], plan: Plan) -> tuple[float, int]:
    """Seconds and bytes on disk of a whole shard."""
    with TemporaryDirectory() as folder:
        started = _clock(problem)
        run_shard(Shard("short", copies), problem, plan, Path(folder))
        spent = _clock(problem) - started
        return spent, sum(path.stat().st_size for path in Path(folder).iterdir())


def _step(engine: Engine, state: State, ring: Tensor) -> float:
    """Seconds a copy and step: the median of some groups of steps, each long enough for the clock."""
    many, last, found = 1, engine.problem.steps, list[float]()
    while len(found) < GROUPS:
        first = 1 if state.step + many > last else state.step
        state = replace(state, step=first)  # of a short run the same steps are made again: only their time counts
        started = _clock(engine.problem)
        state = engine.advance(state, min(first + many, last), ring)
        spent, done = _clock(engine.problem) - started, state.step - first
        if spent < LONG and done == many and many < min(RING, last - 1):
            many = min(2 * many, RING, last - 1)
            continue
        found.append(spent / done)
        if sum(found) * done > 2 * GROUPS * LONG and len(found) > 1:
            break
    return statistics.median(found) / len(engine.copies)


def _first(state: State) -> State:
    """The state with its first copy alone."""
    lists = {n: [t[:1] for t in getattr(state, n)] for n in ("params", "buffers", "constants", "statistics")}
    return State(alive=state.alive[:1], radius=state.radius[:1], step=state.step, **lists)


def _saved(problem: Problem) -> int:
    """Bytes that a forward pass of one network on a minibatch keeps for the backward pass, weights not counted."""
    network: nn.Module = problem.build(0).to(problem.device, problem.dtype)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    rows = slice(0, problem.batch_size)
    x = problem.data.x_train[rows].to(problem.device, problem.dtype)
    y = problem.data.y_train[rows].to(problem.device)
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept: list[Tensor] = []  # as long as the graph lives no storage is used twice
    with torch.enable_grad(), torch.random.fork_rng(enabled=True):
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kept.append(loss_function(problem.loss)(network(x), y))
    return sum(found.values())


def _bytes(tensors: Sequence[Tensor], copies: int) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) // copies


def _clock(problem: Problem) -> float:
    if problem.device.startswith("cuda"):
        torch.cuda.synchronize(problem.device)
        return time.perf_counter()
    return time.process_time()
