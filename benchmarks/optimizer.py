"""SphereSGD's step against torch.optim.SGD on 60 tensors of 64x64x3x3."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

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

    sgd = torch.optim.SGD(tensors(), lr=1e-6, foreach=True)
    sphere = SphereSGD([{"params": tensors(), "sphere": "joint"}], lr=1e-9, foreach=True)
    moved = [tensor.detach() for tensor in tensors()]
    gradients = [torch.randn_like(tensor) for tensor in moved]

    def bare() -> None:
        """The least that three torch operators take: move, measure, scale."""
        torch._foreach_add_(moved, gradients, alpha=-1e-9)
        square = torch.stack([torch.dot(flat, flat) for flat in (x.view(-1) for x in moved)]).double().sum()
        torch._foreach_mul_(moved, (1e3 / square.sqrt()).float())

    def compiled(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        return torch.compile(lambda: optimizer.step())

    # The scale is known when every number has been moved: two kernels, whatever they are fused with.
    move = torch.compile(lambda: torch._foreach_add_(moved, gradients, alpha=-1e-9))
    scale = torch.compile(lambda: torch._foreach_mul_(moved, 0.999999))

    steps: dict[str, Callable[[], object]] = {
        "sgd": sgd.step,
        "sphere": sphere.step,
        "bare": bare,
        "compiled sgd": compiled(torch.optim.SGD(tensors(), lr=1e-6)),
        "compiled bare": lambda: (move(), scale()),
        "compiled sphere": compiled(SphereSGD([{"params": tensors(), "sphere": "joint"}], lr=1e-9)),
    }

    def warm(step: Callable[[], object]) -> Callable[[], int]:
        def work() -> int:
            for _ in range(20):
                step()
            return 20

        return work

    pushed_out = torch.zeros(24 * 2**20)

    def cold(step: Callable[[], object]) -> float:
        pushed_out.add_(1)  # what a forward and backward pass do to the caches
        started = time.process_time()
        step()
        return time.process_time() - started

    in_cache = alternate({name: warm(step) for name, step in steps.items()}, rounds=9)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(100):
        for name, step in steps.items():
            found[name].append(cold(step))
    for seconds, where in ((in_cache, "in cache"), (found, "weights not in cache")):
        yield line(
            f"SphereSGD over torch.optim.SGD(foreach), {where}", ratio(seconds, "sgd", "sphere"), 1.8, at_most=True
        )
        compiled_ratio = ratio(seconds, "compiled sgd", "compiled sphere")
        yield line(f"    both under torch.compile, {where}", compiled_ratio, 1.5, at_most=True)
        yield line(
            f"    two passes alone, compiled, {where}",
            ratio(seconds, "compiled sgd", "compiled bare"),
            1.5,
            at_most=True,
        )
        yield line(f"    its three passes alone, {where}", ratio(seconds, "sgd", "bare"), 1.8, at_most=True)
