"""The step of :mod:`onsphere.optim._functional` in place, with as few passes over memory as it takes.

    pass 1:  x <- x - lr rho² v, and ||x||² of the moved tensor while it is still in cache
    pass 2:  x <- x (rho / ||x||)

Norms accumulate in float64 over runs of at most 1024 numbers, each run summed in the tensor's own precision
by the vectorised kernel. On float32 weights that is within 1e-8 of an all-float64 sum, below the rounding
of the weights themselves, at a quarter of its cost; float64 weights are summed in float64 throughout.
Scalars stay 0-d tensors on the device: nothing is read back, so a GPU never waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onsphere.spheres import per_row, row_inner

# The longest run summed in the precision of the tensor, and the shortest worth a row of its own.
_RUN = 1024
_SHORT_RUN = 128
# So many numbers are moved before they are measured: few calls, and a tensor is still in a cache when it is read again.
_IN_CACHE = 1 << 20
# Dtypes whose runs are summed as they are.
_FULL = (torch.float32, torch.float64)


def sphere_sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Sequence[Tensor],
    rows: bool,
    momentum: float = 0.0,
    geodesic: bool = False,
) -> None:
    """One step in place, of one joint sphere or of one sphere a row.

    Args:
        params: The position; changed.
        grads: One gradient for each, of the same shape.
        momentum_buffers: One buffer for each, or an empty list to do without momentum; changed.
        lr: Effective learning rate, a float or a one-element tensor.
        radius: rho; for rows a float for all of them or one tensor ``[R]`` for each parameter.
        rows: Whether every slice along dimension 0 has a sphere of its own.
        momentum: In [0, 1).
        geodesic: Follow the great circle instead of step and projection.
    """
    if isinstance(lr, Tensor):
        lr = lr.detach().to(torch.float64).reshape(())
    # A tensor of rows is a joint sphere whose scalars have become columns [R, 1, ...]: one step serves both.
    for xs, gs, vs, rho in _spheres(params, grads, momentum_buffers, radius, rows=rows):
        _step_(xs, gs, vs, lr=lr, radius=rho, rows=rows, momentum=momentum, geodesic=geodesic)


def project_(params: Sequence[Tensor], radius: float | Sequence[Tensor], *, rows: bool) -> None:
    """Rescale tensors in place to their radius, or radii.

    Args:
        params: Tensors, changed. What is zero stays zero; what is not finite stays so.
        radius: As for :func:`sphere_sgd_`.
        rows: As for :func:`sphere_sgd_`.
    """
    for xs, _, _, rho in _spheres(params, params, [], radius, rows=rows):
        _rescale_(xs, rho, _squares(xs, rows=rows))


def _spheres(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    radius: float | Sequence[Tensor],
    *,
    rows: bool,
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor], float | Tensor]]:
    """What moves together: everything on a joint sphere, tensor by tensor with rows."""
    if not rows:
        assert isinstance(radius, float)
        yield list(params), list(grads), list(buffers), radius
        return
    for i, (x, g) in enumerate(zip(params, grads, strict=True)):
        rho = radius if isinstance(radius, float) else per_row(radius[i], x, dtype=torch.float64)
        yield [x], [g], [buffers[i]] if buffers else [], rho


def _step_(
    xs: list[Tensor],
    gs: list[Tensor],
    vs: list[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Tensor,
    rows: bool,
    momentum: float,
    geodesic: bool,
) -> None:
    if vs:
        pull = _radial(xs, vs, rows=rows) * -momentum
        torch._foreach_mul_(vs, momentum)
        _add_(vs, gs, 1.0)
        _add_(vs, xs, pull)
        gs = vs
    if isinstance(lr, Tensor):
        lr = lr.to(xs[0].device)
    reach = lr * radius * radius
    if geodesic:
        ratio = _radial(xs, gs, rows=rows)
        tangents = (torch.addcmul(g, x, -ratio.to(x.device, x.dtype)) for x, g in zip(xs, gs, strict=True))
        phi = lr * radius * _sum([_squares([u], rows=rows) for u in tangents]).sqrt()
        # rho sin(phi) / ||u|| written with sinc: a vanishing gradient then divides nothing by zero. The tangent part
        # u = g - ratio x is measured but not stored: x cos - k u = x (cos + k ratio) - k g.
        reach = reach * torch.sinc(phi / math.pi)
        _scale_(xs, phi.cos() + reach * ratio)
    _rescale_(xs, radius, _move_(xs, gs, reach, rows=rows))


def _move_(xs: list[Tensor], gs: list[Tensor], reach: float | Tensor, *, rows: bool) -> Tensor:
    """``x <- x - reach g`` in place; returns the squared norm of the result."""
    if rows or not isinstance(reach, float) or xs[0].device.type != "cpu":
        _add_(xs, gs, -reach)
        return _squares(xs, rows=rows)
    parts, start, held = [], 0, 0
    for end, x in enumerate(xs, 1):
        held += x.numel()
        if held >= _IN_CACHE or end == len(xs):
            torch._foreach_add_(xs[start:end], gs[start:end], alpha=-reach)
            for moved in xs[start:end]:
                parts += _run_norms(moved)
            start, held = end, 0
    return _sum_of_squares(parts)


def _rescale_(xs: list[Tensor], radius: float | Tensor, squares: Tensor) -> None:
    """``x <- x (radius / norm)``; the origin has no direction and stays."""
    norm = squares.sqrt()
    _scale_(xs, torch.where(norm == 0, torch.ones_like(norm), radius / norm))


# -- lists of tensors times one factor: a float, a 0-d tensor, or a column [R, 1, ...] of a single tensor
# -----------


def _scale_(xs: list[Tensor], factor: Tensor) -> None:
    for (device, dtype), ids in _alike(xs).items():
        if factor.dim() > 0:
            xs[ids[0]].mul_(factor.to(dtype))
        else:
            torch._foreach_mul_([xs[i] for i in ids], factor.to(device=device, dtype=dtype))


def _add_(ys: list[Tensor], xs: Sequence[Tensor], factor: float | Tensor) -> None:
    """``y <- y + factor x``."""
    for (device, dtype), ids in _alike(ys).items():
        some_y, some_x = [ys[i] for i in ids], [xs[i] for i in ids]
        if isinstance(factor, float):
            torch._foreach_add_(some_y, some_x, alpha=factor)
            continue
        here = factor.to(device=device, dtype=dtype)
        if device.type == "cpu" or here.dim() > 0:
            for y, x in zip(some_y, some_x, strict=True):
                y.addcmul_(x, here)
        else:  # one more temporary, two launches instead of one a tensor
            torch._foreach_add_(some_y, torch._foreach_mul(some_x, here))


def _alike(xs: Sequence[Tensor]) -> dict[tuple[torch.device, torch.dtype], list[int]]:
    """Positions of the tensors that share device and dtype, as the foreach kernels need them."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, x in enumerate(xs):
        kinds.setdefault((x.device, x.dtype), []).append(i)
    return kinds


# -- sums over lists of tensors --------------------------------------------------------------------------


def _radial(xs: list[Tensor], vs: list[Tensor], *, rows: bool) -> Tensor:
    """<x, v> / <x, x>: 0-d, or a column ``[R, 1, ...]``."""
    overlap = row_inner(xs[0], vs[0]) if rows else _inner(xs, vs)
    return overlap / _squares(xs, rows=rows)


def _squares(xs: list[Tensor], *, rows: bool) -> Tensor:
    """||x||² in float64: 0-d over the whole list, or for one tensor of rows a column ``[R, 1, ...]``."""
    if rows:
        return _row_squares(xs[0])
    totals = []
    for (device, _), ids in _alike(xs).items():
        some = [xs[i] for i in ids]
        if device.type == "cpu":
            totals.append(_sum_of_squares([part for x in some for part in _run_norms(x)]))
        else:
            totals.append(_sum_of_squares(torch._foreach_norm(some, 2, dtype=torch.float64)))
    return _sum(totals)


def _inner(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """<x, y> over the whole list, 0-d float64."""
    totals = []
    for (device, dtype), ids in _alike(xs).items():
        some_x, some_y = [xs[i] for i in ids], [ys[i] for i in ids]
        if device.type == "cpu":
            products = (_flat(x.mul(y)) for x, y in zip(some_x, some_y, strict=True))
            sums = [part.sum(1, dtype=_precision(dtype)) for p in products for part in _runs(p)]
            totals.append(torch.cat(sums).to(torch.float64).sum())
        else:
            flat = [p.reshape(-1) for p in torch._foreach_mul(some_x, some_y)]
            totals.append(torch.cat(flat).sum(dtype=torch.float64))
    return _sum(totals)


def _row_squares(x: Tensor) -> Tensor:
    if x.dim() < 2:
        return _squares([x], rows=False)
    flat = x.flatten(1)
    length = flat.shape[1]
    run = length if length <= _RUN else math.gcd(length, _RUN)
    if run < min(length, _SHORT_RUN) or x.dtype not in _FULL:
        return row_inner(x, x)
    norms = torch.linalg.vector_norm(flat.view(flat.shape[0], -1, run), dim=2).to(torch.float64)
    return per_row(norms.square().sum(1), x, dtype=torch.float64)


def _sum_of_squares(norms: Sequence[Tensor]) -> Tensor:
    joined = torch.stack(list(norms)) if norms[0].dim() == 0 else torch.cat(list(norms))
    joined = joined.to(torch.float64)
    return torch.dot(joined, joined)


def _sum(totals: list[Tensor]) -> Tensor:
    return totals[0] if len(totals) == 1 else torch.stack([t.to(totals[0].device) for t in totals]).sum()


def _run_norms(x: Tensor) -> list[Tensor]:
    """Norms of consecutive runs of a tensor."""
    if x.is_contiguous() and x.numel() % _RUN == 0 and x.dtype in _FULL:  # the common case, without a detour
        return [torch.linalg.vector_norm(x.view(-1, _RUN), dim=1)]
    flat = _flat(x).to(_precision(x.dtype))
    return [torch.linalg.vector_norm(part, dim=1) for part in _runs(flat)]


def _precision(dtype: torch.dtype) -> torch.dtype:
    """What a run is summed in: float16 and bfloat16 would round the result to three digits."""
    return dtype if dtype in _FULL else torch.float32


def _flat(x: Tensor) -> Tensor:
    """All numbers in the order of memory, without a copy where the tensor is dense (channels_last too)."""
    if not x.is_contiguous():
        strides = x.stride()
        x = x.permute(sorted(range(x.dim()), key=lambda d: -strides[d]))
    return x.reshape(-1)


def _runs(flat: Tensor) -> list[Tensor]:
    """Views ``[r, n]`` with n <= 1024 that cover a flat tensor."""
    size = flat.numel()
    if size <= _RUN:
        return [flat.view(1, -1)]
    run = math.gcd(size, _RUN)
    if run >= _SHORT_RUN:
        return [flat.view(-1, run)]
    head = size - size % _RUN
    return [flat[:head].view(-1, _RUN), flat[head:].view(1, -1)]
