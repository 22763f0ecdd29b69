"""Sums over lists of tensors, as exact as weights are and with as few passes over memory as it takes.

Norms accumulate in float64 over short runs of numbers, each run summed in the tensor's own precision by the
vectorised kernel; small tensors are summed in float64 throughout. On float32 weights that is within a few 1e-8 of the
exact norm, which is less than the rounding of the weights themselves, at a quarter of the cost; float64 weights are in
float64 throughout. Nothing is read back to the host. :mod:`onsphere.products` has the plain sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onsphere.products import inner, per_row, row_inner
from onsphere.rounding import FULL
from onsphere.sharding import Pool, column

__all__ = [
    "alike",
    "inner_sum",
    "one_by_one",
    "row_inner_sums",
    "row_square_sums",
    "run_norms",
    "square_sum",
    "sum_of_squares",
    "total",
]

# Runs are so long at most; shorter ones are not worth the calls. Their float32 rounding (6e-8 each) averages out over
# many runs, so a tensor, or row, of few runs is converted instead.
_RUN, _SHORT_RUN, _FEW = 1024, 128, 8
_ROW_RUN, _SHORT_ROW_RUN, _FEW_ROW_RUNS = 128, 32, 4


def alike(xs: Sequence[Tensor]) -> dict[tuple[torch.device, torch.dtype], list[int]]:
    """Positions of the tensors that share device and dtype, as the foreach kernels need them."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, x in enumerate(xs):
        kinds.setdefault((x.device, x.dtype), []).append(i)
    return kinds


def one_by_one(device: torch.device) -> bool:
    """A CPU gains from finishing with a tensor while it is in cache; on an accelerator the number of calls counts."""
    return device.type == "cpu"


def square_sum(xs: list[Tensor], *, rows: bool | Pool) -> Tensor:
    """||x||² in float64: 0-d over the whole list, or for one tensor of rows (or of blocks) a column ``[R, 1, ...]``."""
    if rows:
        return column(rows, row_square_sums(xs[0]))
    totals = []
    for (device, _), ids in alike(xs).items():
        some = [xs[i] for i in ids]
        if one_by_one(device):
            totals.append(sum_of_squares(run_norms(some)))
        else:
            totals.append(sum_of_squares(torch._foreach_norm(some, 2, dtype=torch.float64)))
    return total(totals)


def inner_sum(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """<x, y> over the whole list, 0-d float64."""
    totals = []
    for (device, dtype), ids in alike(xs).items():
        some_x, some_y = [xs[i] for i in ids], [ys[i] for i in ids]
        if one_by_one(device):
            sums = [part for x, y in zip(some_x, some_y, strict=True) for part in _run_products(x, y)]
            totals.append(torch.cat(sums).to(torch.float64).sum())
        else:
            flat = [p.reshape(-1) for p in torch._foreach_mul(some_x, [y.to(dtype) for y in some_y])]
            totals.append(torch.cat(flat).sum(dtype=torch.float64))
    return total(totals)


def row_square_sums(x: Tensor) -> Tensor:
    """Squared norms of the rows of a tensor in float64, a column ``[R, 1, ...]``."""
    if x.dim() < 2:
        return square_sum([x], rows=False)
    run = _row_run(x)
    if run is None:
        return row_inner(x, x)
    norms = torch.linalg.vector_norm(x.reshape(x.shape[0], -1, run), dim=2).to(torch.float64)
    return per_row(norms.square().sum(1), x, dtype=torch.float64)


def row_inner_sums(x: Tensor, y: Tensor) -> Tensor:
    """Dot products of the rows of two tensors held here in float64, a column ``[R, 1, ...]``."""
    if x.dim() < 2:
        return inner_sum([x], [y])
    run = _row_run(x)
    if run is None:
        products = x.to(torch.float64) * y.to(torch.float64)
        return products.sum(dim=tuple(range(1, x.dim())), keepdim=True)
    runs = (x * y.to(x.dtype)).reshape(x.shape[0], -1, run).sum(2)
    return per_row(runs.to(torch.float64).sum(1), x, dtype=torch.float64)


def _row_run(x: Tensor) -> int | None:
    """How many numbers of a row are summed in the tensor's own precision; None if all are to be converted."""
    length = math.prod(x.shape[1:])
    run = math.gcd(length, _ROW_RUN)
    while run > _SHORT_ROW_RUN and length < _FEW_ROW_RUNS * run:
        run //= 2
    return None if run < _SHORT_ROW_RUN or length < _FEW_ROW_RUNS * run or x.dtype not in FULL else run


def sum_of_squares(norms: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of norms, each 0-d or each ``[r]``: 0-d float64."""
    joined = torch.stack(list(norms)) if norms[0].dim() == 0 else torch.cat(list(norms))
    joined = joined.to(torch.float64)
    return torch.dot(joined, joined)


def total(totals: list[Tensor]) -> Tensor:
    """The sum of sums, on the device of the first."""
    return totals[0] if len(totals) == 1 else torch.stack([t.to(totals[0].device) for t in totals]).sum()


def run_norms(xs: Sequence[Tensor]) -> list[Tensor]:
    """Norms of consecutive runs of tensors."""
    norms = []
    for x in xs:
        size = x.numel()
        if size < _FEW * _RUN:
            norms.append(torch.linalg.vector_norm(x.to(torch.float64)).view(1))
        elif size % _RUN == 0 and x.is_contiguous() and x.dtype in FULL:  # the common case, without a detour
            norms.append(torch.linalg.vector_norm(x.view(-1, _RUN), dim=1))
        else:
            runs = _runs(_flat(x).to(_precision(x.dtype)))
            norms += [torch.linalg.vector_norm(run, dim=1) for run in runs]
    return norms


def _run_products(x: Tensor, y: Tensor) -> list[Tensor]:
    """Dot products of consecutive runs of two tensors."""
    if x.numel() < _FEW * _RUN:
        return [inner(x, y).view(1)]
    return [part.sum(1) for part in _runs(_flat(x.to(_precision(x.dtype)).mul(y)))]


def _precision(dtype: torch.dtype) -> torch.dtype:
    """What a run is summed in: float16 and bfloat16 would round the result to three digits."""
    return dtype if dtype in FULL else torch.float32


def _flat(x: Tensor) -> Tensor:
    """All numbers in the order of memory, without a copy where the tensor is dense (channels_last too)."""
    if not x.is_contiguous():
        strides = x.stride()
        x = x.permute(sorted(range(x.dim()), key=lambda d: -strides[d]))
    return x.reshape(-1)


def _runs(flat: Tensor) -> list[Tensor]:
    """Views ``[r, n]`` that cover a flat tensor."""
    size = flat.numel()
    if size < _FEW * _RUN:
        return [flat.view(1, -1)]
    run = math.gcd(size, _RUN)
    if run >= _SHORT_RUN:
        return [flat.view(-1, run)]
    head = size - size % _RUN
    return [flat[:head].view(-1, _RUN), flat[head:].view(1, -1)]
