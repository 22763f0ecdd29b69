"""Which slices of tensors share a norm: rows, columns, or blocks of either, wherever a process holds them.

Slices along dimension 1 are the rows of the transposed tensor, of which a view is made. A block is a set of rows: its
sums are the sums of its rows, added up first here and then over the processes.

    sums over blocks [B] = sum over the rows of each label of the sums over rows [R]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from onsphere.sharding.parts import cut, held_rows, is_spread, part

__all__ = ["Pool", "Slices", "SomeRows", "column", "each", "transposed"]

SomeTensor = TypeVar("SomeTensor", Tensor, Tensor | None)


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows that this process holds of one tensor, as blocks.

    Attributes:
        labels: The block of each row held here, int64 ``[R_here]``.
        members: The rows of each block, int64 ``[B, most]``, filled up with R_here where a block has fewer.
    """

    labels: Tensor
    members: Tensor

    @property
    def size(self) -> int:
        """Number of blocks, B, those of which nothing is held here included."""
        return self.members.shape[0]

    def sums(self, rows: Tensor) -> Tensor:
        """Sums over rows, ``[R_here, 1, ...]``, as sums over blocks, ``[B]``, always in the same order."""
        flat = rows.reshape(-1)
        return torch.cat([flat, flat.new_zeros(1)])[self.members].sum(1)

    def spread(self, values: Tensor) -> Tensor:
        """What belongs to blocks, ``[B]``, for every row held here, ``[R_here]``; a 0-d one stays."""
        return values[self.labels.to(values.device)] if values.dim() else values

    def column(self, rows: Tensor) -> Tensor:
        """Sums over rows, ``[R, 1, ...]``, of which each becomes that of its whole block."""
        return self.spread(self.sums(rows)).view_as(rows)


#: How the rows of one tensor share norms: not at all by themselves (False), one each (True), or by blocks.
SomeRows: TypeAlias = bool | Sequence[Pool]


def each(rows: SomeRows, i: int) -> bool | Pool:
    """What holds for the i-th tensor."""
    return rows if isinstance(rows, bool) else rows[i]


def column(rows: bool | Pool, sums: Tensor) -> Tensor:
    """Sums over rows, ``[R, 1, ...]``, or with blocks those of each row's block."""
    return rows.column(sums) if isinstance(rows, Pool) else sums


@dataclass(frozen=True)
class Slices:
    """Which slices of a list of tensors have norms of their own.

    Attributes:
        rows: Whether slices have; else all tensors share one.
        dim: The dimension along which the slices are counted, 0 or 1. A tensor of fewer than two dimensions is one.
        labels: For blocks one label 0 to B - 1 for each slice, a tuple for each tensor; equal ones share a norm.
    """

    rows: bool = False
    dim: int = 0
    labels: tuple[tuple[int, ...], ...] | None = None

    def views(self, tensors: Sequence[SomeTensor]) -> list[SomeTensor]:
        """The tensors, turned so that the slices are rows: views of the same memory."""
        return [transposed(t) for t in tensors] if self.dim else list(tensors)

    def pools(self, views: Sequence[Tensor]) -> SomeRows:
        """How the rows of the views share norms."""
        if self.labels is None:
            return self.rows
        return [_pool(labels, view) for labels, view in zip(self.labels, views, strict=True)]

    def some(self, indices: Sequence[int]) -> Slices:
        """The same for some of the tensors."""
        return self if self.labels is None else Slices(True, self.dim, tuple(self.labels[i] for i in indices))

    def sizes(self, tensors: Sequence[Tensor]) -> list[int]:
        """How many norms each tensor has, if slices have norms of their own."""
        if self.labels is not None:
            return [max(labels) + 1 for labels in self.labels]
        return [t.shape[self.dim] if t.dim() > 1 else 1 for t in tensors]


def transposed(tensor: SomeTensor) -> SomeTensor:
    """A view with dimensions 0 and 1 exchanged, of a DTensor with its parts where they are."""
    if tensor is None or tensor.dim() < 2:
        return tensor
    if not is_spread(tensor):
        return tensor.transpose(0, 1)
    spread: Any = tensor
    other = {0: 1, 1: 0}
    placements = [p if cut(p) is None else _recut(p, other.get(p.dim, p.dim)) for p in spread.placements]
    shape = torch.Size([tensor.shape[1], tensor.shape[0], *tensor.shape[2:]])
    first, second, *others = spread.stride()
    with torch.no_grad():
        view: Tensor = type(spread.data).from_local(
            part(tensor).detach().transpose(0, 1),
            spread.device_mesh,
            placements,
            run_check=False,
            shape=shape,
            stride=(second, first, *others),
        )
    return view


def _recut(placement: Any, dim: int) -> Any:
    """The same way of cutting along another dimension."""
    factor = getattr(placement, "split_factor", None)
    return type(placement)(dim) if factor is None else type(placement)(dim, split_factor=factor)


def _pool(labels: tuple[int, ...], view: Tensor) -> Pool:
    held = labels
    if is_spread(view):
        held = tuple(labels[i] for i in held_rows(view).tolist())
    count = max(labels) + 1
    if torch.compiler.is_compiling():
        return _made(held, count, part(view).device)
    return _kept(held, count, part(view).device)


def _made(held: tuple[int, ...], count: int, device: torch.device) -> Pool:
    members: list[list[int]] = [[] for _ in range(count)]
    for row, label in enumerate(held):
        members[label].append(row)
    most = max(map(len, members))
    filled = [[*rows, *[len(held)] * (most - len(rows))] for rows in members]
    index = torch.tensor(filled, dtype=torch.int64, device=device).reshape(count, most)
    return Pool(torch.tensor(held, dtype=torch.int64, device=device), index)


_kept = lru_cache(maxsize=512)(_made)
