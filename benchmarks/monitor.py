"""What watching costs: the same loop bare, under onsphere.Monitor, and with ``.item()`` for every tensor.

One network and one optimiser throughout, so that memory and caches are the same; short rounds in alternation, each with
the flush of its readings; process CPU time, medians over rounds of the ratio to the bare loop's round beside it.
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
    yield from _rows(loop, steps=256, rounds=40, bar=(1, 12.0), items=True)
    yield from _rows(loop, steps=2560, rounds=9, bar=(10, 3.0))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 3, 32, 32, generator=generator), torch.randint(10, (256,), generator=generator)
    model = _seeded(lambda: convnet(x.shape[1:], 10, width=16))
    loop = _Loop(model, x, y, batch=64)
    yield "overhead over the bare loop in %: ConvNet width 16, images 3x32x32, batch 64"
    yield from _rows(loop, steps=1, rounds=60, bar=(1, 1.0), items=True)


class _Loop:
    """Ordinary training with SGD and weight decay."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
        self.model, self.x, self.y, self.batch = model, x, y, batch
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(self.weights, lr=0.3, weight_decay=3e-3)
        self.generator = torch.Generator().manual_seed(0)
        self.logged: list[tuple[float, ...]] = []

    def step(self) -> None:
        rows = torch.randint(len(self.x), (self.batch,), generator=self.generator)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x[rows]), self.y[rows]).backward()
        self.optimizer.step()

    def with_items(self) -> None:
        """What people write: norm, gradient norm, angle and ELR of every tensor as Python numbers."""
        before = [w.detach().clone() for w in self.weights]
        self.step()
        with torch.no_grad():
            for w, old in zip(self.weights, before, strict=True):
                assert w.grad is not None
                norm, update = old.norm().item(), (w - old).norm().item()
                gradient, product = w.grad.norm().item(), (w.grad * old).sum().item()
                self.logged.append((norm, gradient, product, update / norm, 0.3 / norm**2))


def _rows(loop: _Loop, steps: int, rounds: int, bar: tuple[int, float], *, items: bool = False) -> Iterator[str]:
    every, most = bar
    watched: list[float] = []
    logged: list[float] = []
    memory = ""

    def timed(step: Callable[[], None], finish: Callable[[], object]) -> float:
        step()
        started = time.process_time()
        for _ in range(steps):
            step()
        finish()
        return time.process_time() - started

    def beside(found: list[float], step: Callable[[], None], finish: Callable[[], object]) -> Callable[[float], None]:
        taken = timed(step, finish)
        return lambda bare: found.append(100 * (taken / bare - 1))

    for _ in range(rounds):
        # The bare loop before and after: what drifts meanwhile cancels.
        bare = [timed(loop.step, _nothing)]
        monitor = Monitor(loop.optimizer, every=every)
        notes = [beside(watched, loop.step, monitor.flush)]
        memory = repr(monitor).splitlines()[-1].strip()
        monitor.detach()
        if items:
            notes.append(beside(logged, loop.with_items, loop.logged.clear))
        bare.append(timed(loop.step, _nothing))
        for note in notes:
            note(sum(bare) / 2)
    yield line(f"    Monitor, every={every}", _spread(watched), most, at_most=True)
    yield f"    {memory}"
    if items:
        median, low, high = _spread(logged)
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
