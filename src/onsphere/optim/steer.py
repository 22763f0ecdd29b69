"""An optimiser's update, seen from outside and changed by the policies of :mod:`onsphere.optim.policies`.

    before the step   keep x
    after it          d = what the weights are now - x;   x <- a x + b d,  or  a x + b u  with  u = d - x <x,d>/<x,x>

a and b are one number for a joint sphere and one a row for spheres of rows. Scalar products are in float64 and of whole
tensors where these are spread over processes: all spheres of a step share one all-reduce a mesh. The norm of u by
subtraction, ||d||² - <x,d>²/<x,x>, loses its digits where most of the update is radial; u is then made and measured,
which takes a second all-reduce for each sphere, and is done always where a look at the numbers would have to be waited
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onsphere.optim.inplace import add_, scale_by_
from onsphere.optim.policies import Brake, Floor, brake_factor, floor_factor, turn_factors
from onsphere.optim.sums import inner_sum, one_by_one, row_inner_sums, row_square_sums, square_sum, total
from onsphere.optim.updates import finite_or_zero
from onsphere.products import per_row
from onsphere.rounding import wide
from onsphere.sharding import Pool, Slices, SomeRows, add_up, each, is_spread, part, rows_here, same_layout, transposed

#: So many numbers of each of two lists are in cache together.
_IN_CACHE = 1 << 18
#: The part of an update beside the sphere, squared, below which its norm by subtraction is not exact enough.
_MOSTLY_RADIAL = 1e-2

__all__ = ["Steered", "brake_", "floor_", "project_gradients_", "steered", "turn_"]


@dataclass(frozen=True)
class Steered:
    """What moves together: the tensors of a joint sphere, or one tensor of rows.

    Attributes:
        tensors: The tensors, which the optimiser has moved.
        before: What this process holds of each, as it was before the step.
        rows: Whether every slice along dimension 0 is by itself, or in which blocks.
        radius: Radius of the sphere, a float or a column ``[R_here, 1, ...]``.
        lr: Learning rate: radians a step for a turn.
    """

    tensors: Sequence[Tensor]
    before: Sequence[Tensor]
    rows: bool | Pool
    radius: float | Tensor
    lr: float | Tensor = 0.0

    @property
    def least(self) -> float:
        """Norm of an update over that of the weights that rounding alone can make."""
        return max(torch.finfo(t.dtype).eps for t in self.tensors)


def steered(
    params: Sequence[Tensor],
    before: Sequence[Tensor],
    radius: float | Sequence[Tensor],
    *,
    rows: SomeRows,
    lr: float | Tensor = 0.0,
) -> list[Steered]:
    """A sphere group as what moves together: a joint sphere as a whole, rows tensor by tensor."""
    if not rows:
        assert isinstance(radius, float)
        return [Steered(params, before, False, radius, lr)]
    found = []
    for i, (p, x) in enumerate(zip(params, before, strict=True)):
        own = each(rows, i)
        rho: float | Tensor
        if isinstance(radius, float):
            rho = radius
        else:
            radii = own.spread(radius[i]) if isinstance(own, Pool) else rows_here(radius[i], p)
            rho = per_row(radii, x, dtype=torch.float64)
        found.append(Steered([p], [x], own, rho, lr))
    return found


@torch.no_grad()
def turn_(spheres: Sequence[Steered]) -> None:
    """Turn every sphere by its lr, in radians, in the direction of its update."""
    updates = _updates(spheres)
    for s, update, (xx, xd, dd) in zip(spheres, updates, _measured(spheres, updates), strict=True):
        ratio = finite_or_zero(xd / xx)
        uu = dd - ratio * xd
        if not _on_the_host(s, (uu > _MOSTLY_RADIAL * dd) | (dd == 0)):
            for xs, us in _pieces(s, update):
                add_(us, xs, -ratio)
            (uu,) = _whole([s], [[(us, us) for _, us in _pieces(s, update)]])
            ratio = torch.zeros_like(ratio)
        a, b = turn_factors(xx, uu, radius=s.radius, angle=s.lr, least=s.least)
        _combine_(s, update, a - b * ratio, b)


@torch.no_grad()
def brake_(spheres: Sequence[Steered], policy: Brake) -> None:
    """Scale the outward part of every sphere's update."""
    updates = _updates(spheres)
    for s, update, (xx, xd, _) in zip(spheres, updates, _measured(spheres, updates), strict=True):
        _combine_(s, update, brake_factor(xx, xd, outward=policy.outward), None)


@torch.no_grad()
def floor_(spheres: Sequence[Steered], policy: Floor) -> None:
    """Lengthen the updates of spheres that are small beside their weights."""
    updates = _updates(spheres)
    for s, update, (xx, _, dd) in zip(spheres, updates, _measured(spheres, updates), strict=True):
        _combine_(s, update, 1.0, floor_factor(xx, dd, ratio=policy.ratio, least=s.least))


@torch.no_grad()
def project_gradients_(groups: Sequence[tuple[Sequence[Tensor], Slices]]) -> None:
    """Replace ``grad`` of the tensors of sphere groups by its part orthogonal to the weights, ``P g``.

    Args:
        groups: For each its tensors and which slices of them have norms of their own. A tensor without a gradient
            counts as one of zeros.

    Raises:
        TypeError: A gradient is sparse.
    """
    spheres: list[Steered] = []
    owners: list[Sequence[Tensor]] = []
    turned: list[bool] = []
    for params, slices in groups:
        views = slices.views(params)
        found = steered(views, [part(v) for v in views], 1.0, rows=slices.pools(views))
        spheres += found
        owners += [[p] for p in params] if slices.rows else [params]
        turned += [slices.dim == 1] * len(found)
    for p in (p for own in owners for p in own):
        if p.grad is not None and p.grad.is_sparse:
            raise TypeError("a sparse gradient has no tangent part here; use dense gradients (sparse=False)")
    laid_out = [[None if t.grad is None else same_layout(t.grad, t) for t in own] for own in owners]
    viewed = [[transposed(g) for g in own] if turn else own for own, turn in zip(laid_out, turned, strict=True)]
    grads = [
        [wide(part(g)) if g is not None else torch.zeros_like(wide(x)) for g, x in zip(own, s.before, strict=True)]
        for own, s in zip(viewed, spheres, strict=True)
    ]
    pieces = [_pieces(s, own) for s, own in zip(spheres, grads, strict=True)]
    sums = _whole([*spheres, *spheres], [*([(x, x) for x, _ in p] for p in pieces), *pieces])
    for i, own in enumerate(grads):
        radial = finite_or_zero(sums[len(spheres) + i] / sums[i])
        for xs, gs in pieces[i]:
            add_(gs, xs, -radial)
        for tensor, whole, view, exact in zip(owners[i], laid_out[i], viewed[i], own, strict=True):
            if whole is None or view is None:
                continue
            if view.dtype != exact.dtype:
                part(view).copy_(exact)
            if whole is not tensor.grad:
                tensor.grad = whole


# -- what is measured, and what is made of it, piece by piece while the numbers are in cache ---------------------------

Lists = tuple[list[Tensor], list[Tensor]]


def _updates(spheres: Sequence[Steered]) -> list[list[Tensor]]:
    """Room for what the optimiser added to each tensor: the tensor's own memory unless that is narrow."""
    return [[wide(part(t)) for t in s.tensors] for s in spheres]


def _pieces(s: Steered, others: Sequence[Tensor]) -> list[Lists]:
    """The weights before the step and what belongs to them, so many at a time as a cache holds.

    On an accelerator the number of calls counts, so all at once. Of what is spread over processes one tensor at a time,
    since each may be laid out in its own way.
    """
    pairs = [(wide(x), y) for x, y in zip(s.before, others, strict=True)]
    if any(map(is_spread, s.tensors)):
        return [([x], [y]) for x, y in pairs]
    found: list[Lists] = []
    room = 0
    for x, y in pairs:
        room -= x.numel()
        if room < 0 and (not found or one_by_one(x.device)):
            found.append(([], []))
            room = _IN_CACHE - x.numel()
        found[-1][0].append(x)
        found[-1][1].append(y)
    return found


def _measured(spheres: Sequence[Steered], updates: Sequence[list[Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Turn the weights into updates d, in place; returns <x,x>, <x,d> and <d,d> of each sphere."""
    local: list[list[Tensor]] = []
    for s, update in zip(spheres, updates, strict=True):
        products: list[list[Tensor]] = [[], [], []]
        for xs, ds in _pieces(s, update):
            add_(ds, xs, -1.0)
            for k, (one, other) in enumerate(((xs, xs), (xs, ds), (ds, ds))):
                products[k].append(_product(one, other, rows=s.rows))
        local += products
    sums = iter(_added_up([s for s in spheres for _ in range(3)], local))
    return [(next(sums), next(sums), next(sums)) for _ in spheres]


def _whole(spheres: Sequence[Steered], pieces: Sequence[Sequence[Lists]]) -> list[Tensor]:
    """Scalar products of lists of each sphere: 0-d, or for a tensor of rows ``[R_here, 1, ...]``."""
    local = [[_product(xs, ys, rows=s.rows) for xs, ys in own] for s, own in zip(spheres, pieces, strict=True)]
    return _added_up(spheres, local)


def _added_up(spheres: Sequence[Steered], local: Sequence[list[Tensor]]) -> list[Tensor]:
    """Sums over pieces, and over the processes that hold parts of the tensors."""
    flat = [one for own in local for one in own]
    if any(is_spread(t) for s in spheres for t in s.tensors):
        # a sphere that is not spread may come in larger pieces: its first tensor stands for each
        owners = [
            (s.tensors[k if len(own) == len(s.tensors) else 0], s.rows is True)
            for s, own in zip(spheres, local, strict=True)
            for k in range(len(own))
        ]
        flat = add_up(flat, [t for t, _ in owners], by_row=[rows for _, rows in owners])
    parts = iter(flat)
    sums = [total([next(parts) for _ in own]) for own in local]
    return [
        per_row(s.rows.spread(one), s.before[0], dtype=torch.float64) if isinstance(s.rows, Pool) else one
        for s, one in zip(spheres, sums, strict=True)
    ]


def _product(xs: list[Tensor], ys: list[Tensor], *, rows: bool | Pool) -> Tensor:
    if isinstance(rows, Pool):
        return rows.sums(row_square_sums(xs[0]) if xs is ys else row_inner_sums(xs[0], ys[0]))
    if xs is ys:
        return square_sum(xs, rows=rows)
    return row_inner_sums(xs[0], ys[0]) if rows else inner_sum(xs, ys)


def _combine_(s: Steered, update: Sequence[Tensor], a: float | Tensor, b: Tensor | None) -> None:
    """The weights become ``a x + b d``."""
    for xs, ds in _pieces(s, update):
        if b is not None:
            scale_by_(ds, b)
        add_(ds, xs, a)
    for t, exact in zip(s.tensors, update, strict=True):
        if part(t) is not exact:
            part(t).copy_(exact)


def _on_the_host(s: Steered, sound: Tensor) -> bool:
    """Whether a condition holds, where looking at it costs nothing: on the host, and for one process alone."""
    return sound.device.type == "cpu" and not any(map(is_spread, s.tensors)) and bool(sound.all())
