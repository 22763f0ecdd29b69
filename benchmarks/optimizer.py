"""SphereSGD's step against torch.optim.SGD on 60 tensors of 64x64x3x3."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from benchmarks.measure import alternate, line, ratio
from onsphere import SphereSGD


def step() -> Iterator[str]:
    """Both with foreach, same shapes, gradients that do not change."""

    def tensors() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(64, 64, 3, 3, generator=generator).requires_grad_() for _ in range(60)]
        for tensor in made:
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        return made

    def work(optimizer: torch.optim.Optimizer) -> int:
        for _ in range(20):
            optimizer.step()
        return 20

    sgd = torch.optim.SGD(tensors(), lr=1e-6, foreach=True)
    sphere = SphereSGD([{"params": tensors(), "sphere": "joint"}], lr=1e-9, foreach=True)
    seconds = alternate({"sgd": lambda: work(sgd), "sphere": lambda: work(sphere)}, rounds=9)
    yield line(
        "SphereSGD over torch.optim.SGD(foreach), 60 tensors", ratio(seconds, "sgd", "sphere"), 1.8, at_most=True
    )

    pushed_out = torch.zeros(24 * 2**20)

    def cold(optimizer: torch.optim.Optimizer) -> float:
        pushed_out.add_(1)  # what a forward and backward pass do to the caches
        started = time.process_time()
        optimizer.step()
        return time.process_time() - started

    found: dict[str, list[float]] = {"sgd": [], "sphere": []}
    for _ in range(100):
        found["sgd"].append(cold(sgd))
        found["sphere"].append(cold(sphere))
    yield line("the same, weights not in cache before the step", ratio(found, "sgd", "sphere"), 1.8, at_most=True)
