"""A training step under FSDP2 with weights kept on spheres, and with a monitor, against the same step without us."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import onsphere
from benchmarks.measure import line, ratio

_WIDTH, _BLOCKS, _TOKENS, _ROUNDS, _STEPS = 512, 6, 256, 6, 10


class _Block(nn.Module):
    """As many numbers as a block of a transformer, all of them ahead of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(_WIDTH, 6 * _WIDTH, bias=False), nn.Linear(6 * _WIDTH, _WIDTH, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(n, elementwise_affine=False) for n in (6 * _WIDTH, _WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner, outer = self.norms
        return x + outer(self.down(inner(self.up(x)).relu()))


def steps() -> Iterator[str]:
    """Two gloo ranks, 19 million numbers, 256 tokens a rank and step."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, args=(folder,), nprocs=2)
        seconds = torch.load(Path(folder) / "seconds")
    yield line("FSDP2 with AdamW, kept on spheres, over AdamW", ratio(seconds, "plain", "kept"), 1.25, at_most=True)
    yield line("    kept as rows", ratio(seconds, "plain", "rows"), 1.25, at_most=True)
    yield line("    AdamW with a Monitor at every=10", ratio(seconds, "plain", "watched"), 1.05, at_most=True)


def _rank(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    runs = {kind: _training(kind) for kind in ("plain", "kept", "rows", "watched")}
    x = torch.randn(_TOKENS, _WIDTH, generator=torch.Generator().manual_seed(rank))

    def work(kind: str) -> float:
        model, optimizer, _ = runs[kind]
        distributed.barrier()
        started = time.perf_counter()  # both ranks have a core each, and wait for each other
        for _ in range(_STEPS):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        distributed.barrier()
        return time.perf_counter() - started

    found: dict[str, list[float]] = {kind: [] for kind in runs}
    for round_ in range(_ROUNDS + 1):
        for kind in runs:
            seconds = work(kind)
            if round_:
                found[kind].append(seconds)
    if rank == 0:
        torch.save(found, Path(folder) / "seconds")
    distributed.destroy_process_group()


def _training(kind: str) -> tuple[nn.Module, torch.optim.Optimizer, object]:
    torch.manual_seed(0)
    model = nn.Sequential(*(_Block() for _ in range(_BLOCKS)))
    mesh = init_device_mesh("cpu", (2,))
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    names, params = zip(*model.named_parameters(), strict=True)
    groups = [{"params": list(params), "names": list(names), "sphere": "rows" if kind == "rows" else "joint"}]
    if kind in ("kept", "rows"):
        onsphere.keep_on_sphere(optimizer, groups)
    return model, optimizer, onsphere.Monitor(optimizer, groups, every=10) if kind == "watched" else None
