"""find_symmetries against AdamP's cosine rule on the tests' zoo of models, and what it costs on large models.

AdamP calls a tensor of two or more dimensions scale-invariant at a step if its gradient is nearly orthogonal to it,
|cos(w, g)| < 0.1 / √d, either as a whole or in each of its rows (Heo et al., "AdamP", 2021, section 3.2). A false alarm
is a step at which the rule holds for a tensor that is in no scale-invariant group; a miss, a step at which it does not
hold for a tensor that is in one. Tensors without effect on the output count as neither.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onsphere
from benchmarks.measure import line

ROOT = Path(__file__).resolve().parents[1]
DELTA, STEPS, LR = 0.1, 300, 0.01


def everything() -> Iterator[str]:
    """Both parts."""
    yield from rule()
    yield from cost()


# -- against the cosine rule -----------------------------------------------------------------------------------------


def cosine_rule(weight: Tensor, gradient: Tensor) -> bool:
    """Whether AdamP takes this tensor for scale-invariant."""
    if weight.dim() < 2:
        return False
    for rows in (len(weight), 1):
        w, g = weight.reshape(rows, -1), gradient.reshape(rows, -1)
        cosines = (w * g).sum(dim=1).abs() / (w.norm(dim=1) * g.norm(dim=1) + 1e-8)
        if float(cosines.max()) < DELTA / w.shape[1] ** 0.5:
            return True
    return False


def rule() -> Iterator[str]:
    """False alarms and misses of both over plain SGD on every model of the zoo."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from zoo import ZOO
    finally:
        sys.path.remove(str(ROOT / "tests"))
    count: Counter[tuple[str, str, str]] = Counter()
    for entry in ZOO.values():
        _follow(entry, count)

    def share(who: str, what: str, event: str) -> tuple[float, str]:
        events, cases = count[who, what, event], count[who, what, "cases"]
        return 100 * events / max(cases, 1), f"{events:,} of {cases:,}"

    yield f"false alarms and misses, {len(ZOO)} models, {STEPS} steps of SGD, in % of tensor-steps"
    for who, name in (("onsphere", "find_symmetries"), ("adamp", "AdamP's rule")):
        for what, event, text in _TALLIES:
            percent, of = share(who, what, event)
            row = f"    {name}: {text}"
            if who == "onsphere":
                yield f"{line(row, (percent, percent, percent), 0, at_most=True)}  ({of})"
            else:
                yield f"{row:<64} {percent:6.3g}  ({of})"


_TALLIES = (
    ("no group, matrix", "alarm", "false alarms, matrices in no group"),
    ("no group, vector", "alarm", "false alarms, vectors in no group"),
    ("alone, matrix", "miss", "misses, matrices invariant by themselves"),
    ("joint, matrix", "miss", "misses, matrices invariant together"),
    ("in a group, vector", "miss", "misses, vectors (gains, biases) invariant"),
)


def _follow(entry: Any, count: Counter[tuple[str, str, str]]) -> None:
    """Train one model; the rule speaks at every step, find_symmetries at the first and at every hundredth."""
    from zoo import loss_of

    model, call = entry.make()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kinds = {name: _kind(entry, name, p) for name, p in trained.items() if name not in entry.without_effect}
    optimizer = torch.optim.SGD(trained.values(), lr=LR)

    def tally(who: str, says: Callable[[str], bool], times: int = 1) -> None:
        for name, kind in kinds.items():
            wrong = "alarm" if kind.startswith("no group") else "miss"
            count[who, kind, "cases"] += times
            count[who, kind, wrong] += times * (says(name) == (wrong == "alarm"))

    for step in range(STEPS):
        if step % 100 == 0:
            found = onsphere.find_symmetries(model, *call.args, unused="ignore", **call.kwargs)
            tally("onsphere", set(found.invariant).__contains__, times=100)
        optimizer.zero_grad()
        loss_of(model(*call.args, **call.kwargs)).backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
        tally("adamp", lambda name: cosine_rule(trained[name].detach(), gradients[name]))  # noqa: B023
        optimizer.step()


def _kind(entry: Any, name: str, parameter: Tensor) -> str:
    shape = "matrix" if parameter.dim() > 1 else "vector"
    group = next((group for group in entry.groups if name in group), None)
    if group is None:
        return f"no group, {shape}"
    return "in a group, vector" if shape == "vector" else "alone, matrix" if len(group) == 1 else "joint, matrix"


# -- cost ------------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """RMSNorm, attention with q/k norm, RMSNorm, SwiGLU; both added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.gate, self.up = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        down: Tensor = self.down(F.silu(self.gate(y)) * self.up(y))
        return x + down


class _Transformer(nn.Module):
    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return logits


def _transformer() -> tuple[nn.Module, Tensor]:
    return _Transformer(1000, 512, 12, 8), torch.randint(1000, (2, 16))


class _PlainBlock(nn.Module):
    """LayerNorm, attention, LayerNorm, GELU; both added to the residual stream, biases everywhere."""

    def __init__(self, width: int, heads: int, *, apart: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        sizes = [width] * 3 if apart else [3 * width]
        self.qkv = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.o, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        parts = torch.cat([layer(y) for layer in self.qkv], -1).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        down: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + down


class _ViT(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.token, self.patch = nn.Parameter(torch.zeros(1, 1, width)), nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(_PlainBlock(width, heads, apart=True, causal=False) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


class _ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gain = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gain * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class _ConvNeXt(nn.Sequential):
    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], classes: int) -> None:
        layers: list[nn.Module] = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before = [nn.Conv2d(3, width, 4, 4), _ChannelNorm(width)]
            if i:
                before = [_ChannelNorm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
            layers += [*before, *(_ConvNeXtBlock(width) for _ in range(depth))]
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1])]
        super().__init__(*layers, *pool, nn.Linear(widths[-1], classes))


class _GPT2(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_PlainBlock(width, heads, apart=False, causal=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def _vit() -> tuple[nn.Module, Tensor]:
    return _ViT(192, 6, 3, 10), torch.randn(8, 3, 32, 32)


def _convnext() -> tuple[nn.Module, Tensor]:
    return _ConvNeXt((48, 96, 192, 384), (2, 2, 4, 2), 10), torch.randn(8, 3, 64, 64)


def _gpt2() -> tuple[nn.Module, Tensor]:
    model = _GPT2(50257, 1024, 768, 12, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
    return model, torch.randint(50257, (1, 16))


def _resnet18() -> tuple[nn.Module, Tensor]:
    from onsphere.lab.models import build

    return build("resnet18", input_shape=(3, 16, 16), classes=10, width=64), torch.randn(8, 3, 16, 16)


def _convnet() -> tuple[nn.Module, Tensor]:
    from onsphere.lab.models import build

    return build("convnet", input_shape=(3, 32, 32), classes=10, width=32), torch.randn(16, 3, 32, 32)


#: What is measured, how it is made, the most CPU seconds and GiB it may take.
_LARGE: dict[str, tuple[str, Callable[[], tuple[nn.Module, Tensor]], float, float]] = {
    "vit": ("ViT, 6 layers, width 192, 8 images of 32x32", _vit, 60, 4),
    "convnext": ("ConvNeXt, 10 blocks, widths 48 to 384, 8 images of 64x64", _convnext, 60, 4),
    "gpt2": ("GPT-2 small, 12 layers, width 768, 1x16 tokens", _gpt2, 240, 8),
    "transformer": ("RMSNorm transformer, 12 layers, width 512, 2x16 tokens", _transformer, 120, 4),
    "resnet18": ("ResNet-18, width 64, 8 images of 16x16", _resnet18, 120, 4),
    "convnet": ("ConvNet, width 32, 16 images of 32x32", _convnet, 10, 4),
}


def cost() -> Iterator[str]:
    """CPU seconds and peak memory, each model in a process of its own with one thread."""
    for key, (name, _, seconds, most) in _LARGE.items():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.symmetry", key],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        found = json.loads(done.stdout.splitlines()[-1])
        cpu, memory = found["seconds"], found["gib"]
        yield line(f"{name}: CPU s", (cpu, cpu, cpu), seconds, at_most=True)
        yield line("    peak memory, GiB", (memory, memory, memory), most, at_most=True)
        size = f"{found['numbers']:,} numbers in {found['tensors']} tensors"
        yield f"    {size}, dimension {found['dimension']}, {found['groups']} groups, gap {found['gap']:.1e}"


def _measure(key: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, batch = _LARGE[key][1]()
    started = time.process_time()
    found = onsphere.find_symmetries(model, batch)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    numbers = sum(p.numel() for p in model.parameters())
    values = {
        "numbers": numbers,
        "tensors": len(found.names),
        "dimension": found.dimension,
        "groups": len(found.groups),
        "gap": found.gap,
    }
    print(json.dumps(values | {"seconds": seconds, "gib": peak}))


if __name__ == "__main__":
    _measure(sys.argv[1])
