"""Sums over lists of tensors, accumulated in float64: squared norms and dot products, jointly or row by row.

    squared_norm(x) = sum_i ||x_i||²        inner(x, y) = sum_i <x_i, y_i>

Pure functions that read nothing back to the host: they run under ``torch.func.vmap``, ``make_fx`` and autograd. Of
tensors that are spread over processes (DTensors) the sums are those of the whole tensors, without a graph for autograd;
every process of their mesh has to ask for them (:mod:`onsphere.sharding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from onsphere.sharding import Pool, SomeRows, add_up, each, is_spread, part, same_layout

__all__ = ["check_same_shapes", "inner", "listed", "per_row", "row_inner", "row_norms", "squared_norm", "squares"]


def squared_norm(tensors: Tensor | Iterable[Tensor]) -> Tensor:
    """Sum of the squared Frobenius norms, accumulated in float64.

    Args:
        tensors: One tensor or several, of any shapes.

    Returns:
        The sum as a 0-d float64 tensor.

    Raises:
        ValueError: There is no tensor.
    """
    return _total(squares(tensors))


def squares(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The squared norm of each tensor, 0-d float64; of spread ones all are added up at once."""
    ts = listed(tensors)
    doubles = [part(t).to(torch.float64) for t in ts]
    return _whole([(d * d).sum() for d in doubles], ts)


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
    pairs = [(part(x), part(same_layout(y, x))) for x, y in zip(xs, ys, strict=True)]
    return _total(_whole([(x.to(torch.float64) * y.to(torch.float64)).sum() for x, y in pairs], xs))


def row_inner(a: Tensor, b: Tensor, rows: bool | Pool = True) -> Tensor:
    """Dot products of corresponding rows (slices along dimension 0), or of their blocks, accumulated in float64.

    Args:
        a: Tensor ``[R, ...]``. With fewer than two dimensions the whole tensor is one row.
        b: Tensor of the same shape.
        rows: Blocks of rows; every row gets the dot product of its block.

    Returns:
        float64 tensor that broadcasts against ``a``: ``[R, 1, ...]``, or 0-d when ``a`` is one row. If ``a`` is spread
        over processes, it broadcasts against the part of ``a`` held here.
    """
    product = part(a).to(torch.float64) * part(same_layout(b, a)).to(torch.float64)
    total = product.sum() if a.dim() < 2 else product.sum(dim=tuple(range(1, a.dim())), keepdim=True)
    if isinstance(rows, Pool):
        blocks = rows.sums(total)
        blocks = add_up([blocks], [a], by_row=[False])[0] if is_spread(a) else blocks
        return rows.spread(blocks).view_as(total)
    return add_up([total], [a], by_row=[True])[0] if is_spread(a) else total


@torch.no_grad()
def row_norms(tensors: Sequence[Tensor], rows: SomeRows = True) -> list[Tensor]:
    """The norm of every row (slice along dimension 0) of each tensor, or of every block of rows.

    Args:
        tensors: Tensors ``[R, ...]``; one with fewer than two dimensions is one row.
        rows: The blocks of rows that share a norm, for each tensor; True: every row has its own.

    Returns:
        float64 tensors ``[R]`` (0-d for a tensor that is one row), of all rows also where a tensor is spread;
        ``[B]`` for blocks.
    """
    doubles = [part(t).to(torch.float64) for t in tensors]
    sums = [(d * d).sum(dim=tuple(range(1, d.dim()))) if d.dim() > 1 else (d * d).sum() for d in doubles]
    pools = [each(rows, i) for i in range(len(sums))]
    sums = [pool.sums(one) if isinstance(pool, Pool) else one for pool, one in zip(pools, sums, strict=True)]
    if any(map(is_spread, tensors)):
        sums = add_up(sums, tensors, by_row=[not isinstance(pool, Pool) for pool in pools], whole=True)
    return [total.sqrt() for total in sums]


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


def _whole(sums: list[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over local parts, added up over the processes if any tensor is spread."""
    return add_up(sums, tensors, by_row=[False] * len(sums)) if any(map(is_spread, tensors)) else sums


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
