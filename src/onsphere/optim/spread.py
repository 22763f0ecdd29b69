"""The step of :mod:`onsphere.optim.updates` on tensors that are spread over processes, all spheres of them at once.

A step needs norms before and after the move. Here both come from the scalar products of position x, gradient g and
momentum v, which every process takes over what it holds and which one all-reduce adds up:

    v' = m v + g - m r x,   r = <x,v> / <x,x>            ||v'||² and <x,v'> from the products
    y  = c x - k v'                                      c = 1, k = lr rho²; on the great circle as in ``updates``
    ||y||² = c² <x,x> - 2 c k <x,v'> + k² ||v'||²        x <- y rho / ||y||

The position itself is measured at every step, so nothing accumulates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from onsphere.optim.sums import inner_sum, row_square_sums, square_sum
from onsphere.optim.updates import arc, finite_or_zero, scale_to
from onsphere.products import per_row
from onsphere.rounding import FULL, round_evenly, wide, wide_dtype
from onsphere.sharding import Pool, SomeRows, add_up, each, is_spread, part, rows_here, same_layout

__all__ = ["Move", "move_", "project_spread_"]


@dataclass(frozen=True)
class Move:
    """A step of one sphere group.

    Attributes:
        params: Its tensors, at least one of them spread over processes; changed.
        grads: A gradient for each, or None; empty where nothing moves.
        buffers: A momentum buffer for each, laid out as the tensors; empty without momentum; changed.
        radius: Radius rho; for rows a float for all of them or one tensor ``[R]`` for each tensor.
        rows: Whether every slice along dimension 0 has a sphere of its own, or blocks of these for each tensor.
        lr: Effective learning rate, a float or a 0-d tensor.
        momentum: Factor of the buffers, in [0, 1).
        geodesic: Whether to follow the great circle.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor | None]
    buffers: Sequence[Tensor]
    radius: float | Sequence[Tensor]
    rows: SomeRows
    lr: float | Tensor
    momentum: float = 0.0
    geodesic: bool = False


@torch._disable_dynamo  # type: ignore[attr-defined]  # a compiler breaks at each of many places here; so it breaks once
@torch.no_grad()
def move_(moves: Sequence[Move]) -> None:
    """One step of several sphere groups, with one all-reduce a mesh; every process of the meshes has to take part.

    A sphere of which no process has a gradient stays where it is.

    Args:
        moves: What each of the sphere groups is to do.
    """
    spheres = [sphere for move in moves for sphere in _spheres(move)]
    for sphere, products in zip(spheres, _added_up(spheres, [_products(s) for s in spheres]), strict=True):
        _step_(sphere, products)


@torch.no_grad()
def project_spread_(groups: Sequence[tuple[Sequence[Tensor], float | Sequence[Tensor], SomeRows]]) -> None:
    """Rescale several sphere groups in place to their radii, with one all-reduce a mesh.

    Args:
        groups: For each its tensors, its radius and its rows, as in :class:`Move`.
    """
    spheres = [
        sphere for params, radius, rows in groups for sphere in _spheres(Move(params, [], [], radius, rows, 0.0))
    ]
    sums = [[_per_sphere(s, s.xs[i]).unsqueeze(-1) for i in _layouts(s)] for s in spheres]
    for sphere, total in zip(spheres, _added_up(spheres, sums), strict=True):
        _rescale_(sphere, total[..., 0].sqrt())


# -- what moves together ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sphere:
    """The parts held here of the tensors of a joint sphere, or of one tensor of rows."""

    tensors: Sequence[Tensor]
    xs: dict[int, list[Tensor]]
    gs: dict[int, list[Tensor]]
    vs: dict[int, list[Tensor]]
    narrow: list[tuple[Tensor, Tensor]]
    radius: float | Tensor
    present: dict[int, int]
    move: Move
    pool: Pool | None


def _spheres(move: Move) -> list[_Sphere]:
    """A joint sphere as a whole, rows tensor by tensor."""
    everything = range(len(move.params))
    return [_sphere(move, [i]) for i in everything] if move.rows else [_sphere(move, list(everything))]


def _sphere(move: Move, indices: Sequence[int]) -> _Sphere:
    tensors = [move.params[i] for i in indices]
    held = [part(t) for t in tensors]
    buffers = [part(move.buffers[i]) for i in indices] if move.buffers else []
    given = [None if (g := move.grads[i]) is None else same_layout(g, move.params[i]) for i in indices if move.grads]
    xs, vs = [wide(x) for x in held], [wide(v) for v in buffers]
    gs = [torch.zeros_like(x) if g is None else part(g).to(x.dtype) for g, x in zip(given, xs, strict=False)]
    narrow = [(x, exact) for x, exact in zip([*held, *buffers], [*xs, *vs], strict=True) if x is not exact]
    own, radius = each(move.rows, indices[0]), cast(Any, move.radius)
    pool = own if isinstance(own, Pool) else None
    if not isinstance(radius, float) and pool is not None:
        radius = radius[indices[0]]
    elif not isinstance(radius, float):
        radius = per_row(rows_here(radius[indices[0]], tensors[0]), xs[0], dtype=torch.float64)
    layouts = _by_layout(tensors)

    def by_layout(values: list[Any]) -> dict[int, list[Any]]:
        return {i: [values[k] for k in ids] for i, ids in layouts.items() if values}

    present = {i: sum(g is not None for g in values) for i, values in by_layout(given).items()}
    return _Sphere(tensors, by_layout(xs), by_layout(gs), by_layout(vs), narrow, radius, present, move, pool)


def _by_layout(tensors: Sequence[Tensor]) -> dict[int, list[int]]:
    """Positions of tensors that are spread in the same way, under the position of the first of them."""
    first: dict[Any, int] = {}
    found: dict[int, list[int]] = {}
    for i, t in enumerate(tensors):
        key = (t.device_mesh, t.placements) if is_spread(t) else t.device  # type: ignore[attr-defined]
        found.setdefault(first.setdefault(key, i), []).append(i)
    return found


def _layouts(sphere: _Sphere) -> list[int]:
    return list(sphere.xs)


# -- scalar products ---------------------------------------------------------------------------------------------


def _products(s: _Sphere) -> list[Tensor]:
    """<x,x>, <x,g>, <g,g>, gradients that are there, and with momentum <x,v>, <v,v>, <v,g>: for each layout one tensor.

    Shape ``[7]`` or ``[4]``, or ``[R_here, ...]`` for rows, ``[B, ...]`` for blocks.
    """
    found = []
    for i in _layouts(s):
        xs, gs = s.xs[i], s.gs[i]
        squares = _per_sphere(s, xs)
        columns = [squares, _per_sphere(s, xs, gs), _per_sphere(s, gs), torch.full_like(squares, float(s.present[i]))]
        if s.vs:
            columns += [_per_sphere(s, xs, s.vs[i]), _per_sphere(s, s.vs[i]), _per_sphere(s, s.vs[i], gs)]
        found.append(torch.stack(columns, dim=-1))
    return found


def _per_sphere(s: _Sphere, xs: list[Tensor], ys: list[Tensor] | None = None) -> Tensor:
    """<x, y> over what is held here, 0-d, or for a tensor of rows ``[R_here]``, of blocks ``[B]``."""
    if not s.move.rows or xs[0].dim() < 2:
        return square_sum(xs, rows=False) if ys is None else inner_sum(xs, ys)
    if ys is None:
        sums = row_square_sums(xs[0]).flatten()
    else:
        product = xs[0].to(torch.float64) * ys[0].to(torch.float64)
        sums = product.sum(dim=tuple(range(1, product.dim())))
    return sums if s.pool is None else s.pool.sums(sums)


def _added_up(spheres: Sequence[_Sphere], sums: Sequence[list[Tensor]]) -> list[Tensor]:
    """The products of each sphere over all processes and layouts."""
    flat = [one for per_layout in sums for one in per_layout]
    owners = [(s.tensors[i], bool(s.move.rows) and s.pool is None) for s in spheres for i in _layouts(s)]
    totals = iter(add_up(flat, [t for t, _ in owners], by_row=[rows for _, rows in owners]))
    found = []
    for per_layout in sums:
        mine = [next(totals) for _ in per_layout]
        found.append(mine[0] if len(mine) == 1 else torch.stack([m.to(mine[0].device) for m in mine]).sum(0))
    return found


# -- the step ---------------------------------------------------------------------------------------------------------


def _step_(s: _Sphere, products: Tensor) -> None:
    xx, xg, gg, present, *rest = products.unbind(-1)
    rho = s.radius.flatten() if isinstance(s.radius, Tensor) and xx.dim() else s.radius
    lr = s.move.lr.detach().to(xx.device, torch.float64) if isinstance(s.move.lr, Tensor) else s.move.lr
    moves = present > 0
    m, pull, xv, vv = xx, xx, xg, gg
    if rest:
        old_xv, old_vv, vg = rest
        m = torch.where(moves, torch.full_like(xx, s.move.momentum), 1.0)
        pull = torch.where(moves, finite_or_zero(old_xv / xx) * -s.move.momentum, 0.0)
        xv = pull * xx + m * old_xv + xg
        vv = pull * pull * xx + m * m * old_vv + gg + 2 * (pull * (m * old_xv + xg) + m * vg)
    c: Tensor = torch.ones_like(xx)
    k = lr * rho * rho * c
    if s.move.geodesic:
        ratio = finite_or_zero(xv / xx)
        cosine, sinc = arc(lr * rho * (vv - xv * ratio).clamp(min=0.0).sqrt())
        k = k * sinc
        c = cosine + k * ratio
    scale = scale_to(rho, (c * c * xx - 2 * c * k * xv + k * k * vv).clamp(min=0.0).sqrt())
    c, k = torch.where(moves, scale * c, 1.0), torch.where(moves, scale * k, 0.0)
    if s.pool is not None:
        c, k, m, pull = (s.pool.spread(one) for one in (c, k, m, pull))
    for i in _layouts(s):
        xs, gs = s.xs[i], s.gs[i]
        if s.vs:
            vs = s.vs[i]
            _combine_(vs, m, gs, None)
            _combine_(vs, None, xs, pull)
            gs = vs
        _combine_(xs, c, gs, -k)
    for narrow, exact in s.narrow:
        narrow.copy_(exact)


def _combine_(ys: list[Tensor], a: Any, xs: list[Tensor], b: Any) -> None:
    """``y <- a y + b x`` in place; a factor that is None is 1, others are 0-d or, for one tensor of rows, ``[R]``."""
    for y, x in zip(ys, xs, strict=True):
        if a is not None:
            y.mul_(_factor(a, y))
        if b is None:
            y.add_(x)
        else:
            y.addcmul_(x, _factor(b, y))


def _factor(factor: Tensor, y: Tensor) -> Tensor:
    return per_row(factor, y) if factor.dim() else factor.to(y.device, y.dtype)


def _rescale_(s: _Sphere, norm: Tensor) -> None:
    """Scale to the radius. Narrow weights stay if they are as near to it as rounding lets them be on average."""
    rho = s.radius.flatten() if isinstance(s.radius, Tensor) and norm.dim() else s.radius
    factor = scale_to(rho, norm)
    together = 1
    if s.pool is not None:
        together = max(1, s.tensors[0].shape[0] // s.pool.size)
        rho = s.pool.spread(rho) if isinstance(rho, Tensor) else rho
        norm, factor = s.pool.spread(norm), s.pool.spread(factor)
    for t in s.tensors:
        x = part(t)
        if x.dtype in FULL:
            x.mul_(_factor(factor, x))
            continue
        numbers = together * math.prod(t.shape[1:]) if norm.dim() else sum(other.numel() for other in s.tensors)
        near = (norm / rho - 1).abs() <= torch.finfo(x.dtype).eps / (2 * math.sqrt(numbers))
        kept = torch.where(near, 1.0, factor)
        exact = wide(x)
        exact = exact * (per_row(kept, exact) if kept.dim() else kept.to(x.device, wide_dtype(x.dtype)))
        x.copy_(round_evenly(exact, x.dtype, norm.sum().to(x.device)))
