"""A small GPT as they are trained: RMS norms with gains ahead of each layer, and of queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal attention; queries and keys of each head are normalised, without gains, and turned by their places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, length, width]`` to the same."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (_turned(F.rms_norm(y, y.shape[-1:])) for y in (q, k))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def _turned(x: Tensor) -> Tensor:
    """Rotary positions: pairs of coordinates turn by place × 100^(-pair / pairs), ``[..., length, size]``."""
    length, size = x.shape[-2:]
    rates = 100.0 ** (-torch.arange(size // 2) / (size // 2))
    angles = torch.arange(length)[:, None] * rates
    cosine, sine = angles.cos(), angles.sin()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


class Block(nn.Module):
    """Attention and a perceptron, each added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.before_mlp = nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, length, width]`` to the same."""
        x = x + self.attention(self.before_attention(x))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class GPT(nn.Module):
    """Characters to logits of the next one.

    Args:
        characters: Size of the alphabet.
        width: Of the residual stream; heads divide it.
        depth: Number of blocks.
        heads: Of each attention.
        generator: Where the initial weights come from: normal, 1 for the embeddings, 1/√inputs for matrices, over √(2
            depth) for those that write to the residual stream; zero for the head.
    """

    def __init__(self, characters: int, *, width: int, depth: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.before_head, self.head = nn.RMSNorm(width), nn.Linear(width, characters, bias=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() < 2:
                    continue
                scale = p.shape[1] ** -0.5 if name.startswith("blocks") else 1.0
                p.normal_(0, scale / (2 * depth) ** 0.5 if name.endswith(("o.weight", "down.weight")) else scale,
                          generator=generator)  # fmt: skip
            self.head.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """int64 ``[batch, length]`` to logits ``[batch, length, characters]``."""
        y = self.characters(x)
        for block in self.blocks:
            y = block(y)
        return self.head(self.before_head(y))

    def hidden(self) -> dict[str, nn.Parameter]:
        """The matrices of the blocks by name: what the schemes treat in different ways."""
        return {name: p for name, p in self.named_parameters() if name.startswith("blocks") and p.dim() == 2}
