"""Layers as people write them by hand, each with its eps where it usually stands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, vocabulary: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class RMSInFloat32(nn.Module):
    """As in most language models: computed in float32 whatever comes in, the eps a literal."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


def rms(x: Tensor) -> Tensor:
    """An RMS norm without gain, its eps a lower bound."""
    return x * x.square().mean(-1, keepdim=True).clamp(min=1e-16).rsqrt()


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: every filter gets mean 0 and deviation 1."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-7)
        return self._conv_forward(x, w, self.bias)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | Tensor | None = None) -> Tensor:
    """Softmax attention on [batch, length, width], one head."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (q @ k.mT * scale).softmax(-1) @ v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * width] -> [batch, heads, length, width]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()
