"""Choose how copies are executed, by a short timing.

What wins depends on the network: batching pays where single operations are small and costs where they are large
(``docs/performance.md`` has the measurements). So the likely winner of the network's kind is taken unless the other
is clearly faster in a timing of a few steps. The margin keeps the choice, and with it every bit of the result, the
same from run to run on a noisy machine; what was chosen is kept in ``engine.json`` and used again on resume.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan
from onsphere.lab.population.layout import suits_channels_last
from onsphere.lab.threads import one_thread

MARGIN = 1.3  # how much faster the unlikely candidate must be
LARGE_STEP = 0.1  # seconds; with single steps this long, operations are far too large for batching to help
SMALL_STEP = 0.005  # seconds; so short ones of a whole call are timed together
_STEPS_AT_ONCE = 16
MOST_COPIES = 32  # per batched step; more gain nothing and hold more memory
PROBE_COPIES = 8
COMPILE_PAYS = 120.0  # seconds of predicted work per worker from which compiling (5-20 s) is tried
COMPILE_GAIN = 1.2
FAILED = float("inf")


def choose_plan(
    problem: Problem,
    copies: int,
    workers: int,
    *,
    mode: Literal["auto", "vmap", "loop"] = "auto",
    chunk: int | None = None,
    compiled: Literal["auto", "yes", "no"] = "auto",
) -> tuple[Plan, dict[str, Any]]:
    """Choose a plan for the copies of a first round that some worker processes share.

    What ``mode``, ``chunk`` and ``compiled`` say is taken in place of what a timing finds, or of the mode's default.
    Where they leave nothing to choose nothing is timed: one step shows whether the network can be trained so.

    Returns:
        The plan, and the timings behind it: seconds of process CPU time per copy and step.

    Raises:
        RuntimeError: ``mode="vmap"`` or ``compiled="yes"`` was asked for and this network does not support it.
    """
    batched = Plan("vmap", chunk or max(1, min(MOST_COPIES, -(-copies // workers))))
    network = problem.build(0)
    convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in network.modules())
    single = Plan("loop", chunk or 1, channels_last=problem.device == "cpu" and suits_channels_last(network))
    timings: dict[str, float] = {}
    if mode == "auto":
        likely, other = (single, batched) if convolutional else (batched, single)
        likely, timings[likely.mode] = _time(problem, likely)
        plan = likely
        if timings[likely.mode] == FAILED or (copies > 1 and timings[likely.mode] < LARGE_STEP):
            other, timings[other.mode] = _time(problem, other)
            plan = other if timings[other.mode] * MARGIN < timings[likely.mode] else likely
    else:
        plan = batched if mode == "vmap" else single
        if compiled == "no" or (compiled == "auto" and mode == "loop"):
            tried = _tried(problem, plan)
            return tried or _explain(problem, plan, f"the model cannot be trained in mode {mode}; use mode auto"), {}
        plan, timings[mode] = _time(problem, plan)
    if timings[plan.mode] == FAILED:
        _explain(
            problem, plan, f"the model cannot be trained in mode {plan.mode}" + ("; use mode auto" * (mode != "auto"))
        )
    return _decide_compiled(problem, plan, timings, copies / workers, compiled)


def _decide_compiled(
    problem: Problem, plan: Plan, timings: dict[str, float], copies: float, wish: Literal["auto", "yes", "no"]
) -> tuple[Plan, dict[str, Any]]:
    compiled = replace(plan, compiled=True)
    if wish == "yes":
        _, timings["compiled"] = _time(problem, compiled)
        if timings["compiled"] == FAILED:
            raise RuntimeError("torch.compile fails for this model or finds no C++ compiler; use compiled no")
        return compiled, timings
    predicted = timings[plan.mode] * copies * problem.steps
    worth_trying = wish == "auto" and plan.mode == "vmap" and predicted > COMPILE_PAYS and _has_compiler(problem)
    if worth_trying:
        _, timings["compiled"] = _time(problem, compiled)
        if timings["compiled"] * COMPILE_GAIN < timings[plan.mode]:
            return compiled, timings
    return plan, timings


def _time(problem: Problem, plan: Plan) -> tuple[Plan, float]:
    """Seconds of CPU time per copy and step, and the plan that could really be run (untraced where it must)."""
    copies = _probes(plan)
    try:
        with one_thread():
            return plan, _seconds(Engine(problem, copies, plan)) / len(copies)
    except Exception:  # any failure of vmap, tracing or compiling means: not this way
        if plan.traced and not plan.compiled:
            return _time(problem, replace(plan, traced=False))
        return plan, FAILED


def _tried(problem: Problem, plan: Plan) -> Plan | None:
    """The plan that one step shows can be run (untraced where it must), or None."""
    try:
        with one_thread():
            engine = Engine(problem, _probes(plan), plan)
            engine.advance(engine.initial_state(), 1, _ring(engine, 1))
    except Exception:  # as in a timing
        return _tried(problem, replace(plan, traced=False)) if plan.traced else None
    return plan


def _probes(plan: Plan) -> tuple[Copy, ...]:
    """Copies to try a plan with."""
    width = min(plan.chunk, PROBE_COPIES) if plan.mode == "vmap" else 1
    return tuple(Copy(seed=k % 2, lr=1e-6) for k in range(width))


def _ring(engine: Engine, steps: int) -> Tensor:
    shape = (steps, len(engine.copies), engine.columns)
    return torch.empty(shape, dtype=engine.problem.dtype, device=engine.problem.device)


def _explain(problem: Problem, plan: Plan, message: str) -> NoReturn:
    """Raise, with what really went wrong as the cause."""
    try:
        _seconds(Engine(problem, (Copy(0, 1e-6),), plan))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RuntimeError(f"{message} ({reason})") from error
    raise RuntimeError(message)


def _seconds(engine: Engine) -> float:
    state = engine.initial_state()
    ring = _ring(engine, _STEPS_AT_ONCE)
    times: list[float] = []
    for number in range(4):  # the first traces or compiles and does not count
        # What a call costs once would count for half of a small network's single step.
        many = _STEPS_AT_ONCE if times and min(times) < SMALL_STEP else 1
        stop = state.step + max(1, min(many, engine.problem.steps - state.step))
        started, first = _clock(engine), state.step
        state = engine.advance(state, stop, ring)
        if number:
            times.append((_clock(engine) - started) / (stop - first))
        if sum(times) > 5 * LARGE_STEP * len(engine.copies):
            break
    return min(times)


def _clock(engine: Engine) -> float:
    if engine.problem.device.startswith("cuda"):
        torch.cuda.synchronize(engine.problem.device)
        return time.perf_counter()
    return time.process_time()


def _has_compiler(problem: Problem) -> bool:
    return problem.device != "cpu" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))
