"""The pure step of :mod:`onsphere.optim.updates` for a tensor whose rows, or blocks of rows, have their own spheres.

Rows are copies of one problem, so that one step under ``torch.func.vmap`` serves all; blocks differ in size, and each
is taken by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onsphere.optim.updates import sphere_sgd
from onsphere.sharding import Pool

__all__ = ["rows_step"]


def rows_step(
    x: list[Tensor],
    g: list[Tensor],
    v: list[Tensor],
    radius: float | Tensor,
    rows: bool | Pool,
    options: dict[str, Any],
) -> tuple[list[Tensor], list[Tensor]]:
    """One step of one tensor.

    Args:
        x: A list with the tensor, ``[R, ...]``; one with fewer than two dimensions is one row.
        g: A list with its gradient.
        v: A list with its momentum buffer, or an empty one.
        radius: Radius of all rows, or of each: ``[R]``, or ``[B]`` for blocks.
        rows: The blocks of rows; True: every row by itself.
        options: Learning rate, momentum and path, as :func:`sphere_sgd` takes them.

    Returns:
        The new tensor and buffer, in lists as they came.
    """
    if x[0].dim() < 2:
        return sphere_sgd(x, g, v, radius=radius, **options)
    blocks = isinstance(rows, Pool)
    count = rows.size if isinstance(rows, Pool) else x[0].shape[0]
    radii = torch.as_tensor(radius, dtype=torch.float64, device=x[0].device).expand(count)

    def row(x: list[Tensor], g: list[Tensor], v: list[Tensor], r: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return sphere_sgd(x, g, v, radius=r, **options)

    if not blocks:
        new: tuple[list[Tensor], list[Tensor]] = torch.func.vmap(row)(x, g, v, radii)
        return new
    assert isinstance(rows, Pool)
    moved, buffers = [t.clone() for t in x], [t.clone() for t in v]
    for label in range(count):
        members = (rows.labels == label).nonzero().flatten()
        given = [[t.index_select(0, members) for t in each] for each in (x, g, v)]
        for old, own in zip([moved, buffers], row(given[0], given[1], given[2], radii[label]), strict=True):
            for tensor, value in zip(old, own, strict=True):
                tensor.index_copy_(0, members, value)
    return moved, buffers
