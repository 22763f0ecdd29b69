"""The population against K ordinary runs one after another: steps, telemetry, accuracy of gradients, workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from benchmarks.measure import ROUNDS, alternate, line, ratio
from benchmarks.plain import PlainRun
from onsphere.lab.data import from_arrays
from onsphere.lab.execution import make_executor
from onsphere.lab.population import Copy, Engine, Plan, Problem, Shard
from onsphere.lab.population.step import loss_function, recorded_product, tensor_moments
from onsphere.lab.preparation import prepare_model
from onsphere.tracing import trace

MLP = {"model": "mlp", "shape": (1, 8, 8), "options": {"widths": (64, 64), "head_norm": 10.0, "eps": 1e-12}}
CONVNET = {"model": "convnet", "shape": (3, 32, 32), "options": {"width": 8, "head_norm": 10.0, "eps": 1e-12}}


def problem(model: str, shape: tuple[int, ...], options: dict[str, object], examples: int = 1024) -> Problem:
    """Random images: only the cost matters here."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, *shape)).astype("float32")
    y = rng.integers(0, 10, size=examples)
    y[:10] = np.arange(10)
    data = from_arrays(x, y, x[:10], y[:10])
    return prepare_model(Problem(data=data, model=model, model_options=options, batch_size=128, steps=10**6))[0]


def population_work(this: Problem, copies: int, plan: Plan, steps: int) -> Callable[[], int]:
    """Work of one engine: every call trains all copies some steps further."""
    engine = Engine(this, tuple(Copy(0, 10 ** (-4 + 3 * k / copies)) for k in range(copies)), plan)
    ring = torch.empty((steps, copies, engine.columns))
    state = engine.initial_state()

    def work() -> int:
        nonlocal state
        state = engine.advance(state, state.step + steps, ring)
        return copies * steps

    return work


def plain_work(this: Problem, copies: int, steps: int) -> Callable[[], int]:
    """Work of K ordinary runs one after another."""
    runs = [PlainRun(this, 0, 10 ** (-4 + 3 * k / copies)) for k in range(copies)]

    def work() -> int:
        for run in runs:
            run.steps(steps)
        return copies * steps

    return work


def mlp() -> Iterator[str]:
    """MLP 64-64-64, 16 copies."""
    this = problem(**MLP)
    seconds = alternate(
        {
            "plain": plain_work(this, 16, 40),
            "eager": population_work(this, 16, Plan("vmap", 16), 40),
            "compiled": population_work(this, 16, Plan("vmap", 16, compiled=True), 40),
        }
    )
    yield line("MLP h=64, K=16, compiled, over plain runs", ratio(seconds, "compiled", "plain"), 4)
    yield line("MLP h=64, K=16, eager, over plain runs", ratio(seconds, "eager", "plain"), 2.2)


def convnet() -> Iterator[str]:
    """ConvNet of width 8, 16 copies, and its gradients against float64."""
    this = problem(**CONVNET)
    plan = Plan("loop", 1, channels_last=True)
    copies = 16
    seconds = alternate({"plain": plain_work(this, copies, 1), "loop": population_work(this, copies, plan, 1)})
    yield line("ConvNet width 8, K=16, over plain runs", ratio(seconds, "loop", "plain"), 1.35)
    errors = [gradient_error(this, seed) for seed in range(9)]
    found = (median(errors), min(errors), max(errors))
    yield line("ConvNet width 8, relative gradient error against float64", found, 1e-5, at_most=True)


def gradient_error(this: Problem, seed: int) -> float:
    """Relative error of the engine's gradient on one batch, all tensors together."""
    fast = Engine(this, (Copy(seed, 1e-3),), Plan("loop", 1, channels_last=True))
    exact = Engine(replace(this, dtype=torch.float64), (Copy(seed, 1e-3),), Plan("loop", 1))
    state = fast.initial_state()
    weights = [p[0] for p in state.params]
    constants = [c[0] for c in state.constants]
    rows = this.batches(seed, 0, 1)[0]
    found, expected = (
        one_gradient(engine, [w.to(engine.problem.dtype) for w in weights], constants, rows) for engine in (fast, exact)
    )
    return float((found - expected).norm() / expected.norm())


def one_gradient(
    engine: Engine, weights: list[torch.Tensor], constants: list[torch.Tensor], rows: torch.Tensor
) -> torch.Tensor:
    """The gradient as the engine's step computes it, flat, in float64."""
    fixed = {n: c.to(engine.problem.dtype) for n, c in zip(engine.constant_names, constants, strict=True)}

    def loss(params: list[torch.Tensor]) -> torch.Tensor:
        named = fixed | dict(zip(engine.problem.trained, params, strict=True))
        outputs = functional_call(engine.template, named, (engine.weight_layout(engine.x[rows]),))
        return loss_function(engine.problem.loss)(outputs, engine.y[rows])

    gradients = grad(loss)([engine.weight_layout(w) for w in weights])
    return torch.cat([g.double().flatten() for g in gradients])


def telemetry() -> Iterator[str]:
    """What the readings of every step cost, as a fraction of the step; each timed by itself, in the same run."""
    for name, kind, plan, copies, steps, bar in (
        ("ConvNet width 8", CONVNET, Plan("loop", 1, channels_last=True), 1, 8, 0.01),
        ("MLP h=64, K=16", MLP, Plan("vmap", 16), 16, 80, 0.10),
    ):
        this = problem(**kind)
        seconds = alternate(
            {
                "readings": readings_work(this, copies, plan, 50 * steps),
                "step": population_work(this, copies, plan, steps),
            }
        )
        low, middle, high = sorted(1 / r for r in ratio(seconds, "readings", "step"))
        yield line(f"telemetry at every step, {name}, fraction of the step", (middle, low, high), bar, at_most=True)


def readings_work(this: Problem, copies: int, plan: Plan, times: int) -> Callable[[], int]:
    """The products of every tensor and their place in the ring buffer, as a step makes them."""
    engine = Engine(this, tuple(Copy(0, 1e-3) for _ in range(copies)), plan)
    params = [engine.weight_layout(p if plan.mode == "vmap" else p[0]) for p in engine.initial_state().params]
    grads = [torch.randn_like(p) for p in params]

    def moments(params: list[torch.Tensor], grads: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tensor_moments(params, grads, [recorded_product(g, g) for g in grads])).to(torch.float32)

    replay = trace(vmap(moments) if plan.mode == "vmap" else moments, params, grads)
    ring = torch.empty((1, copies, 3 * len(params)))

    def work() -> int:
        for _ in range(times):
            ring[0] = replay(params, grads)
        return copies * times

    return work


def workers() -> Iterator[str]:
    """Two worker processes over one, wall time; ConvNet of width 8."""
    this = replace(problem(**CONVNET, examples=256), steps=64, evaluations=1)
    plan = Plan("loop", 1, channels_last=True)
    times: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as folder:
        pools = {n: make_executor(this, Path(folder), n, lambda: False) for n in times}
        with pools[1] as one, pools[2] as two:
            for number in range(ROUNDS + 1):
                for count, pool in ((1, one), (2, two)):
                    shards = [Shard(f"{number}-{count}-{k}", (Copy(k, 1e-3),)) for k in range(4)]
                    started = time.perf_counter()
                    list(pool.run(shards, plan, lambda copy_steps: None))
                    if number:
                        times[count].append(time.perf_counter() - started)
    each = [a / b for a, b in zip(times[1], times[2], strict=True)]
    yield line("two workers over one, ConvNet width 8 (wall time)", (median(each), min(each), max(each)), 1.6)
