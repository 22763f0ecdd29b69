"""An optimiser's update, seen from outside and changed by the policies of :mod:`onsphere.optim.policies`.

    before the step   keep x
    after it          d = what the weights are now - x;   x <- a x + b d,  or  a x + b u  with  u = d - x <x,d>/<x,x>

a and b are one number for a joint sphere and one a row for spheres of rows. Scalar products are in float64 and of whole
tensors where these are spread over processes: all spheres of a step share one all-reduce a mesh, and a turn takes a
second one, since the norm of u by subtraction would lose its digits where most of the update is radial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onsphere.optim.inplace import add_, scale_by_
from onsphere.optim.policies import Brake, Floor, brake_factor, floor_factor, turn_factors
from onsphere.optim.sums import inner_sum, square_sum, total
from onsphere.optim.updates import finite_or_zero
from onsphere.products import per_row
from onsphere.rounding import wide
from onsphere.sharding import add_up, is_spread, part, rows_here, same_layout

__all__ = ["Steered", "brake_", "floor_", "project_gradients_", "steered", "turn_"]


@dataclass(frozen=True)
class Steered:
    """What moves together: the tensors of a joint sphere, or one tensor of rows.

    Attributes:
        tensors: The tensors, which the optimiser has moved.
        before: What this process holds of each, as it was before the step.
        rows: Whether every slice along dimension 0 is by itself.
        radius: Radius of the sphere, a float or a column ``[R_here, 1, ...]``.
        lr: Learning rate: radians a step for a turn.
    """

    tensors: Sequence[Tensor]
    before: Sequence[Tensor]
    rows: bool
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
    rows: bool,
    lr: float | Tensor = 0.0,
) -> list[Steered]:
    """A sphere group as what moves together: a joint sphere as a whole, rows tensor by tensor."""
    if not rows:
        assert isinstance(radius, float)
        return [Steered(params, before, False, radius, lr)]
    found = []
    for i, (p, x) in enumerate(zip(params, before, strict=True)):
        rho = radius if isinstance(radius, float) else per_row(rows_here(radius[i], p), x, dtype=torch.float64)
        found.append(Steered([p], [x], True, rho, lr))
    return found


@torch.no_grad()
def turn_(spheres: Sequence[Steered]) -> None:
    """Turn every sphere by its lr, in radians, in the direction of its update."""
    updates = [_update(s) for s in spheres]
    xx, xd = _products(spheres, lambda i: (_before(spheres[i]), None), lambda i: (_before(spheres[i]), updates[i]))
    for s, update, square, overlap in zip(spheres, updates, xx, xd, strict=True):
        add_(update, _before(s), -finite_or_zero(overlap / square))
    (uu,) = _products(spheres, lambda i: (updates[i], None))
    for s, update, square, tangent in zip(spheres, updates, xx, uu, strict=True):
        a, b = turn_factors(square, tangent, radius=s.radius, angle=s.lr, least=s.least)
        scale_by_(update, b)
        add_(update, _before(s), a)
        _store(s, update)


@torch.no_grad()
def brake_(spheres: Sequence[Steered], policy: Brake) -> None:
    """Scale the outward part of every sphere's update."""
    updates = [_update(s) for s in spheres]
    xx, xd = _products(spheres, lambda i: (_before(spheres[i]), None), lambda i: (_before(spheres[i]), updates[i]))
    for s, update, square, overlap in zip(spheres, updates, xx, xd, strict=True):
        add_(update, _before(s), brake_factor(square, overlap, outward=policy.outward))
        _store(s, update)


@torch.no_grad()
def floor_(spheres: Sequence[Steered], policy: Floor) -> None:
    """Lengthen the updates of spheres that are small beside their weights."""
    updates = [_update(s) for s in spheres]
    xx, dd = _products(spheres, lambda i: (_before(spheres[i]), None), lambda i: (updates[i], None))
    for s, update, square, length in zip(spheres, updates, xx, dd, strict=True):
        scale_by_(update, floor_factor(square, length, ratio=policy.ratio, least=s.least))
        add_(update, _before(s), 1.0)
        _store(s, update)


@torch.no_grad()
def project_gradients_(groups: Sequence[tuple[Sequence[Tensor], bool]]) -> None:
    """Replace ``grad`` of the tensors of sphere groups by its part orthogonal to the weights, ``P g``.

    Args:
        groups: For each its tensors and whether it is of rows. A tensor without a gradient counts as one of zeros.

    Raises:
        TypeError: A gradient is sparse.
    """
    spheres = [s for params, rows in groups for s in steered(params, [part(p) for p in params], 1.0, rows=rows)]
    for p in (p for s in spheres for p in s.tensors):
        if p.grad is not None and p.grad.is_sparse:
            raise TypeError("a sparse gradient has no tangent part here; use dense gradients (sparse=False)")
    laid_out = [[None if t.grad is None else same_layout(t.grad, t) for t in s.tensors] for s in spheres]
    grads = [
        [wide(part(g)) if g is not None else torch.zeros_like(wide(x)) for g, x in zip(own, s.before, strict=True)]
        for own, s in zip(laid_out, spheres, strict=True)
    ]
    xx, xg = _products(spheres, lambda i: (_before(spheres[i]), None), lambda i: (_before(spheres[i]), grads[i]))
    for s, own, given, square, overlap in zip(spheres, grads, laid_out, xx, xg, strict=True):
        add_(own, _before(s), -finite_or_zero(overlap / square))
        for tensor, whole, exact in zip(s.tensors, given, own, strict=True):
            if whole is None:
                continue
            if part(whole) is not exact:
                part(whole).copy_(exact)
            if whole is not tensor.grad:
                tensor.grad = whole


# -- what is measured -------------------------------------------------------------------------------------------------


def _before(s: Steered) -> list[Tensor]:
    return [wide(x) for x in s.before]


def _update(s: Steered) -> list[Tensor]:
    """What the optimiser added to each tensor; in the tensor's own memory unless that is narrow."""
    moved = [wide(part(t)) for t in s.tensors]
    add_(moved, _before(s), -1.0)
    return moved


def _store(s: Steered, moved: Sequence[Tensor]) -> None:
    for t, exact in zip(s.tensors, moved, strict=True):
        if part(t) is not exact:
            part(t).copy_(exact)


Pick = Callable[[int], tuple[list[Tensor], list[Tensor] | None]]


def _products(spheres: Sequence[Steered], *picks: Pick) -> list[list[Tensor]]:
    """Scalar products over whole spheres: for each pair of lists that is picked, one float64 tensor a sphere.

    0-d for a joint sphere, a column ``[R_here, 1, ...]`` for a tensor of rows.
    """
    spread = any(is_spread(t) for s in spheres for t in s.tensors)
    sums: list[Tensor] = []
    counts: list[int] = []
    owners: list[tuple[Tensor, bool]] = []
    for pick in picks:
        for i, s in enumerate(spheres):
            xs, ys = pick(i)
            # Sums over processes are taken tensor by tensor, since each may be laid out in its own way.
            pieces = [[k] for k in range(len(xs))] if spread else [list(range(len(xs)))]
            sums += [_product([xs[k] for k in p], ys and [ys[k] for k in p], rows=s.rows) for p in pieces]
            owners += [(s.tensors[p[0]], s.rows) for p in pieces]
            counts.append(len(pieces))
    if spread:
        sums = add_up(sums, [t for t, _ in owners], by_row=[rows for _, rows in owners])
    parts = iter(sums)
    whole = [total([next(parts) for _ in range(count)]) for count in counts]
    return [whole[k : k + len(spheres)] for k in range(0, len(whole), len(spheres))]


def _product(xs: list[Tensor], ys: list[Tensor] | None, *, rows: bool) -> Tensor:
    if ys is None:
        return square_sum(xs, rows=rows)
    if not rows or xs[0].dim() < 2:
        return inner_sum(xs, ys)
    return (xs[0].to(torch.float64) * ys[0].to(torch.float64)).sum(dim=tuple(range(1, xs[0].dim())), keepdim=True)
