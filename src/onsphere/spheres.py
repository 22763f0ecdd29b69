"""Tensors that share one norm: measure it, hold it, split a vector into its radial and tangent parts.

Weights x = (x_1, ..., x_n) whose common rescaling leaves a network unchanged live on a sphere:

    rho²  = sum_i ||x_i||²                          the radius of the joint sphere (Frobenius norms)
    P v   = v - x <x, v> / <x, x>                   the tangent part of a vector at x
    angle = 2 atan2(|x̂ - ŷ|, |x̂ + ŷ|)                between two points, x̂ = x / ||x||

The angle is Kahan's formula: a cosine in float32 cannot see angles below 3e-4, this one sees 1e-15.
:class:`Sphere` holds such a list of tensors, either as one joint sphere or with one sphere a row (the filters in front
of a batch norm), a column, or a block of either (the heads of an attention). Everything accumulates in float64
(:mod:`onsphere.products`).

Source: Lobacheva, Kodryan et al., NeurIPS 2021, and Kodryan et al., NeurIPS 2022 (total norm of all
scale-invariant parameters; gradients of scale-invariant functions are tangent).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from onsphere.products import check_same_shapes, inner, listed, per_row, row_inner, squared_norm, squares
from onsphere.radii import as_radius, check_real, checked_slices, measure_radius, norms, slices_named
from onsphere.rounding import FULL, scale_, wide, wide_dtype
from onsphere.sharding import (
    Pool,
    SomeRows,
    add_up,
    each,
    is_spread,
    like,
    part,
    rows_here,
    same_layout,
)

__all__ = ["Sphere"]


class Sphere:
    """A list of tensors and the sphere, or spheres, they were on when this object was made.

    The tensors are referred to, not copied: :meth:`project_` changes them in place.

    Args:
        tensors: Real floating-point tensors, none of them (for ``rows``: no row of them) zero or non-finite.
        rows: ``False``: all tensors share one norm. ``True``: every slice along dimension 0 of every tensor
            is on a sphere of its own; a tensor with fewer than two dimensions is one row.
        dim: With ``rows`` or ``blocks`` the dimension of the slices: 0, or 1 for columns.
        blocks: For each tensor one label 0 to B - 1 for each of its slices along ``dim``; slices with equal labels
            share a sphere.

    Raises:
        TypeError: Something is not a tensor, or its numbers are integers or complex, or it is spread over processes.
        ValueError: The list is empty, or a norm is zero or not finite, so there is no direction to keep.

    Example:
        >>> weights = [torch.tensor([3.0]), torch.tensor([[4.0]])]
        >>> sphere = Sphere(weights)
        >>> sphere.radius
        5.0
        >>> sphere.shares()
        tensor([0.3600, 0.6400], dtype=torch.float64)
    """

    def __init__(
        self,
        tensors: Tensor | Iterable[Tensor],
        *,
        rows: bool = False,
        dim: int = 0,
        blocks: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.tensors = listed(tensors)
        self.slices = checked_slices(self.tensors, rows=rows, dim=dim, blocks=blocks)
        self.rows = self.slices.rows
        self._radius = self._checked_norm()

    @property
    def radius(self) -> float | list[Tensor]:
        """The radius recorded at construction or by the last :meth:`project_` with a radius.

        A float for a joint sphere. For rows, one float64 tensor ``[R]`` (0-d for a tensor that is one row)
        each; for columns ``[C]``, for blocks ``[B]``.
        """
        return self._radius

    def norm(self) -> float | list[Tensor]:
        """The norm now, in the form of :attr:`radius`."""
        views, rows = self._views()
        return norms(views, rows=rows)

    def _views(self) -> tuple[list[Tensor], SomeRows]:
        """The tensors, turned so that slices are rows, and how these share norms."""
        views = self.slices.views(self.tensors)
        return views, self.slices.pools(views)

    def _checked_norm(self) -> float | list[Tensor]:
        names = [f"tensor {i}" for i in range(len(self.tensors))]
        for tensor, name in zip(self.tensors, names, strict=True):
            check_real(tensor, name)
        views, rows = self._views()
        return measure_radius(views, names, rows=rows, slices=slices_named(self.slices))

    @torch.no_grad()
    def project_(self, radius: float | Sequence[Tensor] | None = None) -> Self:
        """Rescale the tensors, in place, onto the sphere; directions do not change.

        Args:
            radius: ``None``: back to :attr:`radius`. A number: every sphere gets it. A sequence (rows
                only): one tensor ``[R]`` of radii for each tensor. What is given becomes :attr:`radius`.

        Returns:
            This sphere, so that calls can be chained.

        Raises:
            ValueError: ``radius`` is not positive and finite or does not fit, or a norm is zero or not
                finite now.
        """
        views, rows = self._views()
        radius = self._radius if radius is None else as_radius(radius, views, rows=rows)
        norm = self._checked_norm()
        if isinstance(norm, float):
            assert isinstance(radius, float)
            for tensor in self.tensors:
                scale_(part(tensor), radius / norm)
        else:
            radius = [torch.full_like(n, radius) for n in norm] if isinstance(radius, float) else radius
            for i, (view, r, n) in enumerate(zip(views, radius, norm, strict=True)):
                scale_(part(view), per_row(_here(r / n, view, each(rows, i)), part(view), dtype=torch.float64))
        self._radius = radius
        return self

    def tangent(self, vectors: Tensor | Iterable[Tensor]) -> list[Tensor]:
        """The part of ``vectors`` orthogonal to the position: ``v - x <x, v> / <x, x>``.

        Vectors that are not finite have none and are returned as they are: one such entry does not spread to all.

        Args:
            vectors: One tensor of the same shape for each tensor of the sphere, a gradient for example.

        Returns:
            New tensors of the vectors' shapes and dtypes.

        Raises:
            ValueError: The number of tensors or a shape differs.
        """
        vs = listed(vectors)
        check_same_shapes(self.tensors, vs)
        vs = [same_layout(v, x) for v, x in zip(vs, self.tensors, strict=True)]
        vs, xs = self.slices.views(vs), self.slices.views(self.tensors)
        triples = zip(map(part, vs), self._radial(vs), map(part, xs), strict=True)
        parts = [(wide(v) - c * wide(x)).to(v.dtype) for v, c, x in triples]
        return self.slices.views([like(t, v) for t, v in zip(parts, vs, strict=True)])

    @torch.no_grad()
    def tangent_(self, vectors: Tensor | Iterable[Tensor]) -> list[Tensor]:
        """Replace ``vectors`` in place by the part orthogonal to the position, as :meth:`tangent` computes it.

        Args:
            vectors: One tensor of the same shape for each tensor of the sphere; changed.

        Returns:
            The tensors that were given.

        Raises:
            ValueError: The number of tensors or a shape differs.
        """
        vs = listed(vectors)
        check_same_shapes(self.tensors, vs)
        if any(same_layout(v, x) is not v for v, x in zip(vs, self.tensors, strict=True)):
            raise TypeError(
                "vectors to be changed in place must be laid out over the processes as the sphere's tensors"
            )
        views = self.slices.views(vs)
        triples = zip(map(part, views), self._radial(views), map(part, self._views()[0]), strict=True)
        for v, c, x in triples:
            if v.dtype in FULL:
                v.sub_(c * wide(x))
            else:
                v.copy_(wide(v) - c * wide(x))
        return vs

    def _radial(self, vectors: list[Tensor]) -> list[Tensor]:
        """<x, v> / <x, x> per view, broadcastable, in the vector's dtype; zero where it is not finite."""
        if self.rows:
            views, rows = self._views()
            pairs = [(x, v, each(rows, i)) for i, (x, v) in enumerate(zip(views, vectors, strict=True))]
            ratios = [row_inner(x, v, own) / row_inner(x, x, own) for x, v, own in pairs]
        else:
            ratios = [inner(self.tensors, vectors) / squared_norm(self.tensors)] * len(vectors)
        return [
            torch.where(r.isfinite(), r, 0.0).to(device=part(v).device, dtype=wide_dtype(v.dtype))
            for r, v in zip(ratios, vectors, strict=True)
        ]

    @torch.no_grad()
    def shares(self) -> Tensor:
        """What part of rho² each tensor holds: rho_i² / rho², summing to one.

        On a joint sphere only the total norm is fixed; tensors that turn faster gain share and lose effective
        learning rate (1 / ELR = sum of 1 / ELR_i).

        Returns:
            float64 tensor ``[n]``, on the CPU.
        """
        parts = torch.stack([square.cpu() for square in squares(self.tensors)])
        return parts / parts.sum()

    @torch.no_grad()
    def angle_to(self, other: Sphere | Tensor | Iterable[Tensor]) -> float | list[Tensor]:
        """The angle, in radians, between this position and another; radii do not matter.

        Args:
            other: A sphere, or tensors, of the same shapes.

        Returns:
            A float in [0, pi]; with ``rows`` one float64 tensor for each tensor, in the form of
            :attr:`radius`.

        Raises:
            ValueError: The number of tensors or a shape differs, or a norm is zero or not finite.
        """
        theirs = other.tensors if isinstance(other, Sphere) else other
        there = Sphere(theirs, rows=self.rows, dim=self.slices.dim, blocks=self.slices.labels)
        check_same_shapes(self.tensors, there.tensors)
        views, rows = self._views()
        xs = [_unit(x, n, each(rows, i)) for i, (x, n) in enumerate(_with_norms(views, self.norm()))]
        others = [same_layout(y, x) for y, x in zip(there._views()[0], views, strict=True)]
        ys = [_unit(y, m, each(rows, i)).to(xs[i].device) for i, (y, m) in enumerate(_with_norms(others, there.norm()))]
        triples = [(x, y, each(rows, i)) for i, (x, y) in enumerate(zip(xs, ys, strict=True))]
        sums = [_sums(x - y, own) for x, y, own in triples] + [_sums(x + y, own) for x, y, own in triples]
        if any(map(is_spread, views)):
            sums = add_up(sums, views * 2, by_row=[own is True for _, _, own in triples] * 2, whole=True)
        near, far = sums[: len(xs)], sums[len(xs) :]
        if self.rows:
            return [2 * torch.atan2(a.sqrt(), b.sqrt()) for a, b in zip(near, far, strict=True)]
        a, b = (torch.stack([one.to(xs[0].device) for one in each]).sum() for each in (near, far))
        return float(2 * torch.atan2(a.sqrt(), b.sqrt()))

    def __repr__(self) -> str:
        kind = slices_named(self.slices)
        numbers = sum(t.numel() for t in self.tensors)
        radius = f", radius={self._radius:.6g}" if isinstance(self._radius, float) else ""
        return f"Sphere({kind}, {len(self.tensors)} tensors, {numbers} numbers{radius})"


def _with_norms(tensors: Sequence[Tensor], norms: float | list[Tensor]) -> list[tuple[Tensor, float | Tensor]]:
    return [(t, norms if isinstance(norms, float) else norms[i]) for i, t in enumerate(tensors)]


def _here(values: Tensor, tensor: Tensor, rows: bool | Pool) -> Tensor:
    """What belongs to rows ``[R]``, or blocks ``[B]``, for each of the rows held here."""
    return rows.spread(values) if isinstance(rows, Pool) else rows_here(values, tensor)


def _unit(tensor: Tensor, norm: float | Tensor, rows: bool | Pool) -> Tensor:
    """What is held here of a tensor, float64, over its norm or the norms of its rows or blocks."""
    here = part(tensor).to(torch.float64)
    return here / (norm if isinstance(norm, float) else per_row(_here(norm, tensor, rows), here))


def _sums(x: Tensor, rows: bool | Pool) -> Tensor:
    """Sum of squares, 0-d, or of each row, ``[R]``, or block, ``[B]``; 0-d for a tensor that is one row."""
    if rows is False or x.dim() < 2:
        return x.square().sum()
    sums = x.square().sum(dim=tuple(range(1, x.dim())))
    return rows.sums(sums) if isinstance(rows, Pool) else sums
