"""Images cut into bands of spatial frequency: which frequencies a network reads.

With F(u, v) the two-dimensional discrete Fourier transform of a channel of H x W pixels, u = 0 ... H - 1 along the rows
and v = 0 ... W - 1 along the columns, a coefficient has the frequency

    |f_y| + |f_x|,    |f_y| = min(u, H - u),  |f_x| = min(v, W - v)        whole periods over the image

and a band [l, r) holds all coefficients with l <= |f_y| + |f_x| < r. The frequency 0 is the mean of the channel; the
largest is H // 2 + W // 2. A band and what is left without it add up to the image, and so do bands that hold every
frequency once; they are orthogonal, so their squares add up to that of the image (Parseval).

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (accuracy by band of frequencies).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["fourier_bands"]


def fourier_bands(images: Tensor, edges: Sequence[float], keep: bool = True) -> Tensor:
    """Each band of frequencies of some images, or the images without it.

    Args:
        images: ``[..., H, W]``, float32 or float64, such as a batch ``[N, C, H, W]``.
        edges: At least two ascending numbers from 0 on, in periods over the image: the bands are
            ``[edges[0], edges[1])``, ``[edges[1], edges[2])``, ...
        keep: Whether only the band is kept, or all but the band.

    Returns:
        ``[len(edges) - 1, ..., H, W]``, in the images' dtype and on their device.

    Raises:
        TypeError: The images are no tensor of these dtypes.
        ValueError: The images have no two sides, or the edges are fewer than two, not ascending or not finite.
    """
    if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
        given = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"images is {given}; give a float32 or float64 tensor [..., H, W]")
    if images.dim() < 2 or 0 in images.shape[-2:]:
        raise ValueError(f"images has the shape {tuple(images.shape)}; give [..., H, W] with sides of at least 1")
    limits = [float(edge) for edge in edges]
    if len(limits) < 2 or not all(math.isfinite(edge) for edge in limits):
        raise ValueError(f"edges is {list(edges)}; give at least two finite numbers, such as (0, 2, 4)")
    if limits[0] < 0 or any(low >= high for low, high in pairwise(limits)):
        raise ValueError(f"edges is {list(edges)}; each must be larger than the one before, the first at least 0")
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    frequencies = torch.minimum(rows, height - rows)[:, None] + torch.arange(width // 2 + 1, device=images.device)
    spectrum = torch.fft.rfft2(images)
    bands = []
    for low, high in pairwise(limits):
        inside = (frequencies >= low) & (frequencies < high)
        bands.append(torch.fft.irfft2(spectrum * (inside if keep else ~inside), s=(height, width)))
    return torch.stack(bands)
