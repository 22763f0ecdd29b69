"""How far momentum and AdamW turn scale-invariant weights a step, on digits and on text, as the monitor measures it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onsphere
from onsphere.lab import data
from onsphere.lab.claims.study import Values
from onsphere.monitor import Monitor

Batch = Callable[[], tuple[Tensor, Tensor]]
SETTINGS: dict[str, dict[str, dict[str, float]]] = {
    "digits": {"adamw": {"lr": 1e-2, "weight_decay": 1.0}},
    "text": {"adamw": {"lr": 3e-3, "weight_decay": 1.0}},
}
MOMENTUM = {"lr": 0.1, "weight_decay": 3e-3, "momentum": 0.9}


class Block(nn.Module):
    """Every matrix is followed by a layer norm, but those that write the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.before, self.between, self.values, self.hidden = _norm(width), _norm(width), _norm(width), _norm(2 * width)
        self.queries, self.keys = _norm(width // heads), _norm(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        """Attention and a perceptron on [N, T, D]."""
        h = self.before(x)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.q(h), self.k(h), self.values(self.v(h)))
        )
        attended = F.scaled_dot_product_attention(self.queries(q), self.keys(k), v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.hidden(self.up(self.between(x)))))
        return out


class Transformer(nn.Module):
    """Two blocks over letters, with a frozen head."""

    def __init__(self, vocabulary: int, width: int = 32, length: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2))
        self.last, self.head = _norm(width), nn.Linear(width, vocabulary)
        self.head.weight.requires_grad_(False)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, T, V] of letters [N, T]."""
        logits: Tensor = self.head(self.last(self.blocks(self.tokens(x) + self.places.weight)))
        return logits


def rotation(seed: int, *, task: str, optimizer: Literal["adamw", "momentum"], steps: int) -> Values:
    """Angular updates of every scale-invariant group over the last quarter, over what the equilibrium says.

    Args:
        seed: Seed of the initial weights and of the batches.
        task: ``digits`` (a perceptron, a quarter of the labels wrong, batches of 16) or ``text`` (a transformer on the
            letters of a module that Python ships).
        optimizer: Who trains: ``adamw`` or ``momentum``.
        steps: How many steps are trained.

    Returns:
        ``angle``: root mean square angular update over the law's, the farthest from 1 of all groups; ``spread``: the
        largest over the smallest of the groups; ``alarms``: findings of the monitor that something is wrong.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model, batch = _text(seed) if task == "text" else _digits(seed)
    finally:
        torch.random.set_rng_state(torch_state)
    settings: dict[str, Any] = MOMENTUM if optimizer == "momentum" else SETTINGS[task][optimizer]
    groups = onsphere.sphere_groups(model, batch()[0], spheres="groups")
    rest: list[dict[str, Any]] = [g | {"weight_decay": 0.0} if g["sphere"] is None else dict(g) for g in groups]
    kind: Any = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    own = kind(rest, **settings)
    monitor = Monitor(own, groups, every=2)
    for _ in range(steps):
        own.zero_grad()
        x, y = batch()
        logits = model(x)
        F.cross_entropy(logits.transpose(1, 2) if logits.ndim == 3 else logits, y).backward()  # type: ignore[no-untyped-call]
        own.step()
    readings = monitor.readings(select="sphere*")
    law = onsphere.dynamics.equilibrium(optimizer, **settings)
    late = readings["step"] > 0.75 * steps
    found = []
    for group in sorted(set(readings["group"])):
        angles = readings["angular_update"][late & (readings["group"] == group)]
        found.append(float(np.sqrt((angles**2).mean())) / float(law.angular_update))
    alarms = sum(finding.kind in ("invariance", "non-finite", "lr") for finding in monitor.diagnose())
    return {
        "angle": max(found, key=lambda ratio: abs(ratio - 1)),
        "spread": max(found) / min(found),
        "alarms": float(alarms),
    }


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-12, elementwise_affine=False)


def _text(seed: int) -> tuple[nn.Module, Batch]:
    text = inspect.getsource(argparse)
    letters = sorted(set(text))
    codes = torch.tensor([letters.index(c) for c in text])
    generator = torch.Generator().manual_seed(seed + 1)

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(codes) - 33, (16, 1), generator=generator)
        rows = codes[starts + torch.arange(33)]
        return rows[:, :-1], rows[:, 1:]

    return Transformer(len(letters)), batch


def _digits(seed: int) -> tuple[nn.Module, Batch]:
    """Small batches and wrong labels, so that gradients are mostly noise.

    With batches of 64 successive gradients of the first layer are correlated, and it turns 10 to 40 % less than the
    theory of uncorrelated ones says (AdamW, lr 1e-2 to 1e-3).
    """
    digits = data.load("digits", seed=0, label_noise=0.25, train=None)
    x, y = digits.x_train.flatten(1), digits.y_train
    layers = (nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32, eps=1e-12, affine=False), nn.ReLU())
    more = (nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32, eps=1e-12, affine=False), nn.ReLU())
    model = nn.Sequential(*layers, *more, nn.Linear(32, 10).requires_grad_(False))
    generator = torch.Generator().manual_seed(seed + 1)

    def batch() -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (16,), generator=generator)
        return x[rows], y[rows]

    return model, batch
