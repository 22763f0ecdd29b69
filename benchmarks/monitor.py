"""What watching costs: the same loop bare, under onsphere.Monitor, and with ``.item()`` for every tensor.

One network throughout, so that memory and caches are the same; short rounds in alternation, each with the flush of its
readings; process CPU time, medians over rounds of the ratio to the bare loop's round beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import line
from onsphere import Monitor
from onsphere.lab.data import load
from onsphere.lab.models import convnet, mlp


def overhead() -> Iterator[str]:
    """The digits MLP and the ConvNet; bars on the overhead in per cent."""
    digits = load("digits")
    x, y = torch.as_tensor(digits.x_train), torch.as_tensor(digits.y_train)
    model = _seeded(lambda: mlp(x.shape[1:], 10, widths=(32, 32)))
    loop = _Loop(model, x, y, batch=128)
    yield "overhead over the bare loop in %: digits MLP 64-32-32, batch 128"
    yield from _rows(loop, steps=256, rounds=60, bar=(1, 12.0), items=True)
    yield from _rows(loop, steps=1280, rounds=15, bar=(10, 3.0))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 3, 32, 32, generator=generator), torch.randint(10, (256,), generator=generator)
    model = _seeded(lambda: convnet(x.shape[1:], 10, width=16))
    loop = _Loop(model, x, y, batch=128)
    yield "overhead over the bare loop in %: ConvNet width 16, images 3x32x32, batch 128"
    yield from _within_step(loop, rounds=64, most=1.0)


class _Loop:
    """Ordinary training with SGD and weight decay."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
        self.model, self.x, self.y, self.batch = model, x, y, batch
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = self.another_optimizer()
        self.generator = torch.Generator().manual_seed(0)
        self.logged: list[tuple[float, ...]] = []

    def another_optimizer(self) -> torch.optim.Optimizer:
        """SGD without momentum has no state: several can take turns on the same weights."""
        return torch.optim.SGD(self.weights, lr=0.3, weight_decay=3e-3)

    def step(self, clock: list[float] | None = None) -> None:
        rows = torch.randint(len(self.x), (self.batch,), generator=self.generator)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x[rows]), self.y[rows]).backward()
        if clock is None:
            self.optimizer.step()
        else:
            started = time.process_time()
            self.optimizer.step()
            clock.append(time.process_time() - started)

    def with_items(self) -> None:
        """What people write: norm, gradient norm, angle and ELR of every tensor as Python numbers."""
        before = [w.detach().clone() for w in self.weights]
        self.step()
        self.item_every_tensor(before)

    @torch.no_grad()
    def item_every_tensor(self, before: list[Tensor]) -> None:
        for w, old in zip(self.weights, before, strict=True):
            assert w.grad is not None
            norm, update = old.norm().item(), (w - old).norm().item()
            gradient, product = w.grad.norm().item(), (w.grad * old).sum().item()
            self.logged.append((norm, gradient, product, update / norm, 0.3 / norm**2))


def _rows(loop: _Loop, steps: int, rounds: int, bar: tuple[int, float], *, items: bool = False) -> Iterator[str]:
    every, most = bar
    watched = loop.another_optimizer()
    monitor = Monitor(watched, every=every)
    bare = loop.optimizer
    seconds: dict[str, list[float]] = {"Monitor": [], "items": []}

    def timed(optimizer: torch.optim.Optimizer, step: Callable[[], None], finish: Callable[[], object]) -> float:
        loop.optimizer = optimizer
        step()
        started = time.process_time()
        for _ in range(steps):
            step()
        finish()
        return time.process_time() - started

    for _ in range(rounds):
        # The bare loop before and after: what drifts meanwhile cancels.
        before = timed(bare, loop.step, _nothing)
        taken = {"Monitor": timed(watched, loop.step, monitor.flush)}
        if items:
            taken["items"] = timed(bare, loop.with_items, loop.logged.clear)
        after = timed(bare, loop.step, _nothing)
        for name, value in taken.items():
            seconds[name].append(100 * (2 * value / (before + after) - 1))
    loop.optimizer = bare
    yield line(f"    Monitor, every={every}", _spread(seconds["Monitor"]), most, at_most=True)
    yield f"    {repr(monitor).splitlines()[-1].strip()}"
    if items:
        median, low, high = _spread(seconds["items"])
        yield f"{'    .item() for every tensor, every step':<64} {median:6.3g}  ({low:.3g} to {high:.3g})"


def _within_step(loop: _Loop, rounds: int, most: float) -> Iterator[str]:
    """The same for long steps: how much longer optimizer.step() takes. The rest of a step varies by more than 1 %."""
    bare, watched = loop.optimizer, loop.another_optimizer()
    monitor = Monitor(watched, every=1)
    taken: dict[str, list[float]] = {"bare": [], "Monitor": [], "items": [], "whole": []}
    for number in range(rounds + 2):
        clock: list[float] = []
        begun = time.process_time()
        loop.step(clock)
        clock.append(time.process_time() - begun)
        loop.optimizer = watched
        loop.step(clock)
        loop.optimizer = bare
        begun = time.process_time()
        loop.item_every_tensor([w.detach().clone() for w in loop.weights])
        clock.append(time.process_time() - begun)
        if number > 1:
            for name, value in zip(("bare", "whole", "Monitor", "items"), clock, strict=True):
                taken[name].append(value)
    begun = time.process_time()
    monitor.flush()
    flush = (time.process_time() - begun) / (rounds + 2)
    extra = [
        100 * (longer - plain + flush) / whole
        for longer, plain, whole in zip(taken["Monitor"], taken["bare"], taken["whole"], strict=True)
    ]
    yield line("    Monitor, every=1", _spread(extra), most, at_most=True)
    yield f"    {repr(monitor).splitlines()[-1].strip()}"
    items = [100 * each / whole for each, whole in zip(taken["items"], taken["whole"], strict=True)]
    median, low, high = _spread(items)
    yield f"{'    .item() for every tensor, every step':<64} {median:6.3g}  ({low:.3g} to {high:.3g})"


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Median and quartiles: on a shared machine single rounds are far off."""
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), low, high


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _nothing() -> None:
    """The bare loop has nothing to finish."""
