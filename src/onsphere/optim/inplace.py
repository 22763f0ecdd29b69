"""The step of :mod:`onsphere.optim.updates` in place, with as few passes over memory as it takes.

    pass 1:  x <- x - lr rho² v, and ||x||² of the moved tensor while it is still in cache
    pass 2:  x <- x (rho / ||x||)

Norms accumulate in float64 over short runs of numbers, each run summed in the tensor's own precision by the
vectorised kernel; small tensors are summed in float64 throughout. On float32 weights that is within a few 1e-8 of the
exact norm, which is less than the rounding of the weights themselves, at a quarter of the cost; float64 weights are in
float64 throughout. float16 and bfloat16 weights (and momentum) are moved and scaled as float32 copies and rounded once.
Scalars stay 0-d tensors on the device: nothing is read back, so a GPU never waits. What is not finite is not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onsphere.optim.updates import arc, finite_or_zero, scale_to
from onsphere.products import inner, per_row, row_inner
from onsphere.rounding import FULL, round_evenly, wide, wide_dtype

# Runs are so long at most; shorter ones are not worth the calls. Their float32 rounding (6e-8 each) averages out over
# many runs, so a tensor, or row, of few runs is converted instead.
_RUN, _SHORT_RUN, _FEW = 1024, 128, 8
_ROW_RUN, _SHORT_ROW_RUN, _FEW_ROW_RUNS = 128, 32, 4
# So many numbers are moved before they are measured: few calls, and a tensor is still in a cache when it is read again.
_IN_CACHE = 1 << 20


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
        params: The position, a list of tensors that are changed.
        grads: One gradient for each, of the same shape.
        momentum_buffers: One buffer for each, or an empty list to do without momentum; changed.
        lr: Effective learning rate, a float or a 0-d tensor.
        radius: Radius rho; for rows a float for all of them or one tensor ``[R]`` for each parameter.
        rows: Whether every slice along dimension 0 has a sphere of its own.
        momentum: Factor of the buffers, in [0, 1).
        geodesic: Whether to follow the great circle instead of step and projection.
    """
    if isinstance(lr, Tensor):
        lr = lr.detach().to(torch.float64)
    # A tensor of rows is a joint sphere whose scalars have become columns [R, 1, ...]: one step serves both.
    for xs, gs, vs, rho in _spheres(params, grads, momentum_buffers, radius, rows=rows):
        exact, exact_vs = [wide(x) for x in xs], [wide(v) for v in vs]
        _step_(exact, gs, exact_vs, lr=lr, radius=rho, rows=rows, momentum=momentum, geodesic=geodesic)
        for narrow, moved in zip([*xs, *vs], [*exact, *exact_vs], strict=True):
            if narrow is not moved:
                narrow.copy_(moved)


def project_(params: Sequence[Tensor], radius: float | Sequence[Tensor], *, rows: bool) -> None:
    """Rescale tensors in place to their radius, or radii.

    Args:
        params: Tensors, changed. A sphere whose norm is zero or not finite is left as it is.
        radius: Radius rho; for rows a float for all of them or one tensor ``[R]`` for each parameter.
        rows: Whether every slice along dimension 0 has a sphere of its own.
    """
    for xs, _, _, rho in _spheres(params, params, [], radius, rows=rows):
        squares = _squares(xs, rows=rows)
        if all(x.dtype in FULL for x in xs):
            _rescale_(xs, rho, squares)
        else:
            _rescale_narrow_(xs, rho, squares.sqrt(), rows=rows)


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
        tangents = (torch.addcmul(g.to(x.dtype), x, -ratio.to(x.device, x.dtype)) for x, g in zip(xs, gs, strict=True))
        cosine, sinc = arc(lr * radius * _sum([_squares([u], rows=rows) for u in tangents]).sqrt())
        # The tangent part u = g - ratio x is measured but not stored: x cos - k u = x (cos + k ratio) - k g.
        reach = reach * sinc
        _scale_(xs, cosine + reach * ratio)
    _rescale_(xs, radius, _move_(xs, gs, reach, rows=rows))


def _move_(xs: list[Tensor], gs: list[Tensor], reach: float | Tensor, *, rows: bool) -> Tensor:
    """``x <- x - reach g`` in place; returns the squared norm of the result."""
    kinds = _alike(xs)
    if rows or not isinstance(reach, float) or not all(_one_by_one(device) for device, _ in kinds):
        _add_(xs, gs, -reach)
        return _squares(xs, rows=rows)
    parts, start, held = [], 0, 0
    for end, x in enumerate(xs, 1):
        held += x.numel()
        if held >= _IN_CACHE or end == len(xs):
            torch._foreach_add_(xs[start:end], gs[start:end], alpha=-reach)
            parts += _run_norms(xs[start:end])
            start, held = end, 0
    return _sum_of_squares(parts)


def _rescale_(xs: list[Tensor], radius: float | Tensor, squares: Tensor) -> None:
    """``x <- x (radius / norm)``; the origin has no direction and stays, and so does what is not finite."""
    _scale_(xs, scale_to(radius, squares.sqrt()))


def _rescale_narrow_(xs: list[Tensor], radius: float | Tensor, norm: Tensor, *, rows: bool) -> None:
    """The same for weights of which some are narrow: they are on their grid, and stay where a move does not help."""
    factor = scale_to(radius, norm)
    scaled = [wide(x) * factor.to(x.device, wide_dtype(x.dtype)) for x in xs]
    scaled = [round_evenly(y, x.dtype, norm.sum().to(x.device)) for x, y in zip(xs, scaled, strict=True)]
    nearer = (_squares(scaled, rows=rows).sqrt() - radius).abs() < (norm - radius).abs()
    for x, y in zip(xs, scaled, strict=True):
        x.copy_(torch.where(nearer.to(x.device), y, x))


# -- lists of tensors times one factor: a float, a 0-d tensor, or (one tensor only) a column [R, 1, ...] ---------------


def _scale_(xs: list[Tensor], factor: Tensor) -> None:
    for (device, dtype), ids in _alike(xs).items():
        if factor.dim() > 0:
            xs[ids[0]].mul_(factor.to(dtype))
        else:
            # backwards: what was touched last is still in a cache
            torch._foreach_mul_([xs[i] for i in reversed(ids)], factor.to(device=device, dtype=dtype))


def _add_(ys: list[Tensor], xs: Sequence[Tensor], factor: float | Tensor) -> None:
    """Compute ``y <- y + factor x`` in place."""
    for (device, dtype), ids in _alike(ys).items():
        some_y, some_x = [ys[i] for i in ids], [xs[i].to(dtype) for i in ids]
        if isinstance(factor, float):
            torch._foreach_add_(some_y, some_x, alpha=factor)
            continue
        here = factor.to(device=device, dtype=dtype)
        if here.dim() > 0 or _one_by_one(device):
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


def _one_by_one(device: torch.device) -> bool:
    """A CPU gains from finishing with a tensor while it is in cache; on an accelerator the number of calls counts."""
    return device.type == "cpu"


# -- sums over lists of tensors --------------------------------------------------------------------------


def _radial(xs: list[Tensor], vs: list[Tensor], *, rows: bool) -> Tensor:
    """<x, v> / <x, x>: 0-d, or a column ``[R, 1, ...]``."""
    overlap = row_inner(xs[0], vs[0]) if rows else _inner(xs, vs)
    return finite_or_zero(overlap / _squares(xs, rows=rows))


def _squares(xs: list[Tensor], *, rows: bool) -> Tensor:
    """||x||² in float64: 0-d over the whole list, or for one tensor of rows a column ``[R, 1, ...]``."""
    if rows:
        return _row_squares(xs[0])
    totals = []
    for (device, _), ids in _alike(xs).items():
        some = [xs[i] for i in ids]
        if _one_by_one(device):
            totals.append(_sum_of_squares(_run_norms(some)))
        else:
            totals.append(_sum_of_squares(torch._foreach_norm(some, 2, dtype=torch.float64)))
    return _sum(totals)


def _inner(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
    """<x, y> over the whole list, 0-d float64."""
    totals = []
    for (device, dtype), ids in _alike(xs).items():
        some_x, some_y = [xs[i] for i in ids], [ys[i] for i in ids]
        if _one_by_one(device):
            sums = [part for x, y in zip(some_x, some_y, strict=True) for part in _run_products(x, y)]
            totals.append(torch.cat(sums).to(torch.float64).sum())
        else:
            flat = [p.reshape(-1) for p in torch._foreach_mul(some_x, [y.to(dtype) for y in some_y])]
            totals.append(torch.cat(flat).sum(dtype=torch.float64))
    return _sum(totals)


def _row_squares(x: Tensor) -> Tensor:
    if x.dim() < 2:
        return _squares([x], rows=False)
    rows, length = x.shape[0], math.prod(x.shape[1:])
    run = math.gcd(length, _ROW_RUN)
    if run < _SHORT_ROW_RUN or length < _FEW_ROW_RUNS * run or x.dtype not in FULL:
        return row_inner(x, x)
    norms = torch.linalg.vector_norm(x.reshape(rows, -1, run), dim=2).to(torch.float64)
    return per_row(norms.square().sum(1), x, dtype=torch.float64)


def _sum_of_squares(norms: Sequence[Tensor]) -> Tensor:
    joined = torch.stack(list(norms)) if norms[0].dim() == 0 else torch.cat(list(norms))
    joined = joined.to(torch.float64)
    return torch.dot(joined, joined)


def _sum(totals: list[Tensor]) -> Tensor:
    return totals[0] if len(totals) == 1 else torch.stack([t.to(totals[0].device) for t in totals]).sum()


def _run_norms(xs: Sequence[Tensor]) -> list[Tensor]:
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
