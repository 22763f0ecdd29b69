"""Augmentation of images: a random horizontal flip and a random crop after zero padding.

    padded = zeros of width p around the image, p = 4, or an eighth of the shorter side where that is less (at least 1)
    output = the H x W crop of padded at (dy, dx), dy and dx uniform in 0 ... 2 p, flipped with probability 1/2

The draws are a function of a key alone (the step is part of it), so resumed runs see the same images. Zero is that of
the data as they are trained on: their mean where they are standardised.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def padding(height: int, width: int) -> int:
    """Width of the zero padding, pixels."""
    return min(4, max(1, min(height, width) // 8))


def augmented(images: Tensor, key: tuple[int, ...]) -> Tensor:
    """Flip and crop images [B, C, H, W], contiguous; the same non-negative key gives the same draws on every device."""
    count, channels, height, width = images.shape
    pad = padding(height, width)
    rng = np.random.default_rng(key)
    flips = rng.integers(0, 2, size=(count, 1)).astype(bool)
    down, right = rng.integers(0, 2 * pad + 1, size=(2, count, 1))
    columns = np.where(flips, np.arange(width)[::-1], np.arange(width)) + right
    rows = np.arange(height) + down
    places = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).reshape(count, 1, -1)
    flat = F.pad(images, (pad, pad, pad, pad)).reshape(count, channels, -1)
    index = torch.from_numpy(places).to(images.device).expand(-1, channels, -1)
    return flat.gather(2, index).view(count, channels, height, width)
