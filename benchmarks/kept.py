"""Steps of torch optimisers kept on spheres over the steps of the same optimisers by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

import onsphere
from benchmarks.measure import line, ratio

#: Filters of a ConvNet, and the matrices of a GPT of eight layers and width 256.
SHAPES = {
    "60 tensors of 64x64x3x3": [(64, 64, 3, 3)] * 60,
    "a GPT's tensors, 6.4 M numbers": [(512, 256), *[(768, 256), (256, 256), (1024, 256), (256, 1024)] * 8],
}
WAYS: dict[str, dict[str, object]] = {
    "kept": {},
    "at an angle": {"angle": True},
    "tangent gradients": {"tangent": True},
    "braked": {"policy": onsphere.optim.Brake(outward=0.5)},
}
BARS = {"kept": 1.25, "at an angle": 1.5, "tangent gradients": 2.0, "braked": 1.5}


def steps() -> Iterator[str]:
    """AdamW with foreach, weights not in cache, as after a forward and a backward pass."""
    for name, shapes in SHAPES.items():
        for kind in ("joint", "rows"):
            yield from _compared(name, shapes, kind)


def _compared(name: str, shapes: list[tuple[int, ...]], kind: str) -> Iterator[str]:
    def made(**options: object) -> torch.optim.Optimizer:
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        for tensor in tensors:
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        optimizer = torch.optim.AdamW(tensors, 1e-4, foreach=True)
        if options:
            kept = {key: value for key, value in options.items() if key != "kept"}
            onsphere.keep_on_sphere(optimizer, [{"params": tensors, "sphere": kind}], **kept)  # type: ignore[arg-type]
        return optimizer

    optimizers = {"AdamW": made(), **{way: made(kept=True, **options) for way, options in WAYS.items()}}
    pushed_out = torch.zeros(24 * 2**20)
    found: dict[str, list[float]] = {way: [] for way in optimizers}
    for turn in range(33):
        for way, optimizer in optimizers.items():
            pushed_out.add_(1)  # what a forward and backward pass do to the caches
            seconds = _timed(optimizer.step)
            if turn >= 3:
                found[way].append(seconds)
    for way in WAYS:
        yield line(f"AdamW {way}, {kind}, over AdamW, {name}", ratio(found, "AdamW", way), BARS[way], at_most=True)


def _timed(step: Callable[[], object]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started
