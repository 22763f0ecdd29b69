"""float16 and bfloat16 weights: what is computed in float32 is rounded once, and evenly.

Scaled by 1.001, a bfloat16 number rounds back to itself: its neighbours are 0.4 to 0.8 % away. A projection that rounds
to the nearest number therefore leaves weights up to 4e-3 off their sphere. Rounded evenly, a number that lies a
hundredth of the way to its neighbour goes there in one of a hundred places, so that norms come out right:

    x -> neighbour  where  |y - nearest| > u |neighbour - nearest|,   u = (i φ + salt) mod 1 at place i

The places are spread by the golden ratio φ, and the salt comes from the numbers themselves: same numbers, same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FULL", "round_evenly", "scale_", "wide", "wide_dtype"]

#: Dtypes that are computed in as they are.
FULL = (torch.float32, torch.float64)
#: 2³² / φ, odd: multiples of it modulo 2³² cover that range evenly.
_GOLDEN, _PERIOD = 2654435769, 1 << 32


def wide(x: Tensor) -> Tensor:
    """The tensor itself, or a float32 copy of what is narrower."""
    return x if x.dtype in FULL else x.to(torch.float32)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What numbers of a dtype are computed in."""
    return dtype if dtype in FULL else torch.float32


def round_evenly(exact: Tensor, dtype: torch.dtype, salt: Tensor) -> Tensor:
    """Round to a narrow dtype so that sums over many numbers are kept.

    Args:
        exact: A float32 tensor with the exact values.
        dtype: float16 or bfloat16; with another dtype it is an ordinary conversion.
        salt: 0-d tensor, float64; which places are rounded away from the nearest number depends on it.

    Returns:
        A tensor in which every number is one of the two neighbours of the exact one; what ``dtype`` can hold stays.
    """
    nearest = exact.to(dtype)
    if dtype in FULL or dtype.itemsize != 2:
        return nearest
    outward = (exact.abs() - nearest.to(exact.dtype).abs()).sign().to(torch.int16)
    neighbour = (nearest.view(torch.int16) + outward).view(dtype)  # the next number away from zero, or towards it
    gap = (neighbour.to(exact.dtype) - nearest.to(exact.dtype)).abs()
    place = torch.arange(exact.numel(), device=exact.device).view(exact.shape) * _GOLDEN
    place = (place + salt.reshape(()).view(torch.int64).bitwise_and(_PERIOD - 1)).bitwise_and(_PERIOD - 1)
    u = (place.to(exact.dtype) + 0.5) / _PERIOD
    return torch.where((exact - nearest.to(exact.dtype)).abs() > u * gap, neighbour, nearest)


def scale_(tensor: Tensor, factor: float | Tensor) -> None:
    """``tensor <- factor tensor`` in place, rounded once and evenly; ``factor`` broadcasts."""
    if tensor.dtype in FULL:
        tensor.mul_(factor if isinstance(factor, float) else factor.to(tensor.dtype))
        return
    exact, scale = wide(tensor), torch.as_tensor(factor, dtype=torch.float64, device=tensor.device)
    tensor.copy_(round_evenly(exact * scale.to(exact.dtype), tensor.dtype, scale.sum()))
