"""The step of :mod:`onsphere.optim.updates` in place, with as few passes over memory as it takes.

    pass 1:  x <- x - lr rho² v, and ||x||² of the moved tensor while it is still in cache
    pass 2:  x <- x (rho / ||x||)

Norms are those of :mod:`onsphere.optim.sums`, in float64. float16 and bfloat16 weights (and momentum) are moved and
scaled as float32 copies and rounded once. Scalars stay 0-d tensors on the device: nothing is read back, so a GPU never
waits. What is not finite is not scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onsphere.optim.sums import alike, inner_sum, one_by_one, run_norms, square_sum, sum_of_squares, total
from onsphere.optim.updates import arc, finite_or_zero, scale_to
from onsphere.products import per_row, row_inner
from onsphere.rounding import FULL, round_evenly, wide, wide_dtype
from onsphere.sharding import Pool, SomeRows, each

# So many numbers are moved before they are measured: few calls, and a tensor is still in a cache when it is read again.
_IN_CACHE = 1 << 20


def sphere_sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Sequence[Tensor],
    rows: SomeRows,
    momentum: float = 0.0,
    geodesic: bool = False,
) -> None:
    """One step in place, of one joint sphere or of one sphere a row.

    Args:
        params: The position, a list of tensors that are changed.
        grads: One gradient for each, of the same shape.
        momentum_buffers: One buffer for each, or an empty list to do without momentum; changed.
        lr: Effective learning rate, a float or a 0-d tensor.
        radius: Radius rho; for rows a float for all of them or one tensor ``[R]`` (``[B]``) for each parameter.
        rows: Whether every slice along dimension 0 has a sphere of its own, or blocks of these for each parameter.
        momentum: Factor of the buffers, in [0, 1).
        geodesic: Whether to follow the great circle instead of step and projection.
    """
    if isinstance(lr, Tensor):
        lr = lr.detach().to(torch.float64)
    # A tensor of rows is a joint sphere whose scalars have become columns [R, 1, ...]: one step serves both.
    for xs, gs, vs, rho, own in _spheres(params, grads, momentum_buffers, radius, rows=rows):
        exact, exact_vs = [wide(x) for x in xs], [wide(v) for v in vs]
        _step_(exact, gs, exact_vs, lr=lr, radius=rho, rows=own, momentum=momentum, geodesic=geodesic)
        for narrow, moved in zip([*xs, *vs], [*exact, *exact_vs], strict=True):
            if narrow is not moved:
                narrow.copy_(moved)


def project_(params: Sequence[Tensor], radius: float | Sequence[Tensor], *, rows: SomeRows) -> None:
    """Rescale tensors in place to their radius, or radii.

    Args:
        params: Tensors, changed. A sphere whose norm is zero or not finite is left as it is.
        radius: Radius rho; for rows a float for all of them or one tensor ``[R]`` (``[B]``) for each parameter.
        rows: Whether every slice along dimension 0 has a sphere of its own, or blocks of these for each parameter.
    """
    for xs, _, _, rho, own in _spheres(params, params, [], radius, rows=rows):
        squares = square_sum(xs, rows=own)
        if all(x.dtype in FULL for x in xs):
            _rescale_(xs, rho, squares)
        else:
            _rescale_narrow_(xs, rho, squares.sqrt(), rows=own)


def _spheres(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    radius: float | Sequence[Tensor],
    *,
    rows: SomeRows,
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor], float | Tensor, bool | Pool]]:
    """What moves together: everything on a joint sphere, tensor by tensor with rows."""
    if not rows:
        assert isinstance(radius, float)
        yield list(params), list(grads), list(buffers), radius, False
        return
    for i, (x, g) in enumerate(zip(params, grads, strict=True)):
        own = each(rows, i)
        rho: float | Tensor
        if isinstance(radius, float):
            rho = radius
        else:
            radii = own.spread(radius[i]) if isinstance(own, Pool) else radius[i]
            rho = per_row(radii, x, dtype=torch.float64)
        yield [x], [g], [buffers[i]] if buffers else [], rho, own


def _step_(
    xs: list[Tensor],
    gs: list[Tensor],
    vs: list[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Tensor,
    rows: bool | Pool,
    momentum: float,
    geodesic: bool,
) -> None:
    if vs:
        pull = _radial(xs, vs, rows=rows) * -momentum
        torch._foreach_mul_(vs, momentum)
        add_(vs, gs, 1.0)
        add_(vs, xs, pull)
        gs = vs
    if isinstance(lr, Tensor):
        lr = lr.to(xs[0].device)
    reach = lr * radius * radius
    if geodesic:
        ratio = _radial(xs, gs, rows=rows)
        tangents = (torch.addcmul(g.to(x.dtype), x, -ratio.to(x.device, x.dtype)) for x, g in zip(xs, gs, strict=True))
        cosine, sinc = arc(lr * radius * total([square_sum([u], rows=rows) for u in tangents]).sqrt())
        # The tangent part u = g - ratio x is measured but not stored: x cos - k u = x (cos + k ratio) - k g.
        reach = reach * sinc
        scale_by_(xs, cosine + reach * ratio)
    _rescale_(xs, radius, _move_(xs, gs, reach, rows=rows))


def _move_(xs: list[Tensor], gs: list[Tensor], reach: float | Tensor, *, rows: bool | Pool) -> Tensor:
    """``x <- x - reach g`` in place; returns the squared norm of the result."""
    kinds = alike(xs)
    if rows or not isinstance(reach, float) or not all(one_by_one(device) for device, _ in kinds):
        add_(xs, gs, -reach)
        return square_sum(xs, rows=rows)
    parts, start, held = [], 0, 0
    for end, x in enumerate(xs, 1):
        held += x.numel()
        if held >= _IN_CACHE or end == len(xs):
            torch._foreach_add_(xs[start:end], gs[start:end], alpha=-reach)
            parts += run_norms(xs[start:end])
            start, held = end, 0
    return sum_of_squares(parts)


def _rescale_(xs: list[Tensor], radius: float | Tensor, squares: Tensor) -> None:
    """``x <- x (radius / norm)``; the origin has no direction and stays, and so does what is not finite."""
    scale_by_(xs, scale_to(radius, squares.sqrt()))


def _rescale_narrow_(xs: list[Tensor], radius: float | Tensor, norm: Tensor, *, rows: bool | Pool) -> None:
    """The same for weights of which some are narrow: they are on their grid, and stay where a move does not help."""
    factor = scale_to(radius, norm)
    scaled = [wide(x) * factor.to(x.device, wide_dtype(x.dtype)) for x in xs]
    scaled = [round_evenly(y, x.dtype, norm.sum().to(x.device)) for x, y in zip(xs, scaled, strict=True)]
    nearer = (square_sum(scaled, rows=rows).sqrt() - radius).abs() < (norm - radius).abs()
    for x, y in zip(xs, scaled, strict=True):
        x.copy_(torch.where(nearer.to(x.device), y, x))


# -- lists of tensors times one factor: a float, a 0-d tensor, or (one tensor only) a column [R, 1, ...] ---------------


def scale_by_(xs: list[Tensor], factor: Tensor) -> None:
    """Compute ``x <- factor x`` in place."""
    for (device, dtype), ids in alike(xs).items():
        if factor.dim() > 0:
            xs[ids[0]].mul_(factor.to(dtype))
        else:
            # backwards: what was touched last is still in a cache
            torch._foreach_mul_([xs[i] for i in reversed(ids)], factor.to(device=device, dtype=dtype))


def add_(ys: list[Tensor], xs: Sequence[Tensor], factor: float | Tensor) -> None:
    """Compute ``y <- y + factor x`` in place."""
    for (device, dtype), ids in alike(ys).items():
        some_y, some_x = [ys[i] for i in ids], [xs[i].to(dtype) for i in ids]
        if isinstance(factor, float):
            torch._foreach_add_(some_y, some_x, alpha=factor)
            continue
        here = factor.to(device=device, dtype=dtype)
        if here.dim() > 0 or one_by_one(device):
            for y, x in zip(some_y, some_x, strict=True):
                y.addcmul_(x, here)
        else:  # one more temporary, two launches instead of one a tensor
            torch._foreach_add_(some_y, torch._foreach_mul(some_x, here))


def _radial(xs: list[Tensor], vs: list[Tensor], *, rows: bool | Pool) -> Tensor:
    """<x, v> / <x, x>: 0-d, or a column ``[R, 1, ...]``."""
    overlap = row_inner(xs[0], vs[0], rows) if rows else inner_sum(xs, vs)
    return finite_or_zero(overlap / square_sum(xs, rows=rows))
