"""Sums over lists of tensors, accumulated in float64: squared norms and dot products, jointly or row by row.

    squared_norm(x) = sum_i ||x_i||²        inner(x, y) = sum_i <x_i, y_i>

Pure functions that read nothing back to the host: they run under ``torch.func.vmap``, ``make_fx`` and autograd. A sum
over the part of a tensor that one process holds is not the tensor's: borders ask :func:`check_whole` first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["check_same_shapes", "check_whole", "inner", "listed", "per_row", "row_inner", "squared_norm"]

#: Attributes of parameters that FSDP 1 and DeepSpeed's third stage have replaced by their local part.
_SPLIT = ("_fsdp_flattened", "ds_tensor")


def squared_norm(tensors: Tensor | Iterable[Tensor]) -> Tensor:
    """Sum of the squared Frobenius norms, accumulated in float64.

    Args:
        tensors: One tensor or several, of any shapes.

    Returns:
        The sum as a 0-d float64 tensor.

    Raises:
        ValueError: There is no tensor.
    """
    doubles = [t.to(torch.float64) for t in listed(tensors)]
    return _total([(d * d).sum() for d in doubles])


def inner(a: Tensor | Iterable[Tensor], b: Tensor | Iterable[Tensor]) -> Tensor:
    """The dot product <a, b> over all entries, accumulated in float64.

    Args:
        a: One tensor or several.
        b: As many tensors, of the same shapes.

    Returns:
        The sum as a 0-d float64 tensor.

    Raises:
        ValueError: There is no tensor, or the lists do not match.
    """
    xs, ys = listed(a), listed(b)
    check_same_shapes(xs, ys)
    return _total([(x.to(torch.float64) * y.to(torch.float64)).sum() for x, y in zip(xs, ys, strict=True)])


def row_inner(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of corresponding rows (slices along dimension 0), accumulated in float64.

    Args:
        a: Tensor ``[R, ...]``. With fewer than two dimensions the whole tensor is one row.
        b: Tensor of the same shape.

    Returns:
        float64 tensor that broadcasts against ``a``: ``[R, 1, ...]``, or 0-d when ``a`` is one row.
    """
    product = a.to(torch.float64) * b.to(torch.float64)
    return product.sum() if a.dim() < 2 else product.sum(dim=tuple(range(1, a.dim())), keepdim=True)


def per_row(values: Tensor, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``values`` ``[R]`` or 0-d, made broadcastable against ``tensor`` ``[R, ...]``, in its dtype or in ``dtype``."""
    values = values.to(device=tensor.device, dtype=dtype or tensor.dtype)
    return values.view(-1, *[1] * (tensor.dim() - 1)) if tensor.dim() > 1 else values.reshape(())


def listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """A list of at least one tensor."""
    found = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not found:
        raise ValueError("the list of tensors is empty; a sphere needs at least one tensor")
    return found


def check_whole(tensor: object, name: str) -> None:
    """Refuse a tensor of which this process may hold only a part.

    Args:
        tensor: What is to be summed over.
        name: What to call it in the message.

    Raises:
        TypeError: It is a DTensor, or a parameter that FSDP or DeepSpeed has flattened or split.
    """
    # A DTensor cannot be there unless its module is loaded, and loading it takes longer than a step.
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if sharded is not None and isinstance(tensor, sharded):
        kind = "a DTensor"
    elif any(hasattr(tensor, mark) for mark in _SPLIT):
        kind = "split by FSDP or DeepSpeed"
    else:
        return
    raise TypeError(
        f"{name} is {kind}: a norm taken here would be that of this process's part, not of the whole tensor; onsphere "
        "does not train or read sharded parameters yet, so give it whole ones (as DistributedDataParallel has)"
    )


def _total(parts: list[Tensor]) -> Tensor:
    """The sum of 0-d tensors, on the device of the first."""
    return parts[0] if len(parts) == 1 else torch.stack([p.to(parts[0].device) for p in parts]).sum()


def check_same_shapes(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
    """Refuse lists of different lengths or shapes (ValueError)."""
    if len(xs) != len(ys):
        raise ValueError(f"{len(ys)} tensors were given for {len(xs)}; give one for each")
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if x.shape != y.shape:
            raise ValueError(f"tensor {i} has shape {tuple(y.shape)}; it must be {tuple(x.shape)}")
