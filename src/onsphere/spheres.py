"""Tensors that share one norm: measure it, hold it, split a vector into its radial and tangent parts.

Weights x = (x_1, ..., x_n) whose common rescaling leaves a network unchanged live on a sphere:

    rho²  = sum_i ||x_i||²                          the radius of the joint sphere (Frobenius norms)
    P v   = v - x <x, v> / <x, x>                   the tangent part of a vector at x
    angle = 2 atan2(|x̂ - ŷ|, |x̂ + ŷ|)                between two points, x̂ = x / ||x||

The angle is Kahan's formula: a cosine in float32 cannot see angles below 3e-4, this one sees 1e-15.
:class:`Sphere` holds such a list of tensors, either as one joint sphere or with one sphere a row (the
filters in front of a batch norm). Everything accumulates in float64 (:mod:`onsphere.products`).

Source: Lobacheva, Kodryan et al., NeurIPS 2021, and Kodryan et al., NeurIPS 2022 (total norm of all
scale-invariant parameters; gradients of scale-invariant functions are tangent).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from onsphere.products import check_same_shapes, check_whole, inner, listed, per_row, row_inner, squared_norm
from onsphere.rounding import FULL, scale_, wide, wide_dtype

__all__ = ["Sphere"]


class Sphere:
    """A list of tensors and the sphere, or spheres, they were on when this object was made.

    The tensors are referred to, not copied: :meth:`project_` changes them in place.

    Args:
        tensors: Real floating-point tensors, none of them (for ``rows``: no row of them) zero or non-finite.
        rows: ``False``: all tensors share one norm. ``True``: every slice along dimension 0 of every tensor
            is on a sphere of its own; a tensor with fewer than two dimensions is one row.

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

    def __init__(self, tensors: Tensor | Iterable[Tensor], *, rows: bool = False) -> None:
        self.tensors = listed(tensors)
        self.rows = rows
        self._radius = self._checked_norm()

    @property
    def radius(self) -> float | list[Tensor]:
        """The radius recorded at construction or by the last :meth:`project_` with a radius.

        A float for a joint sphere. For rows, one float64 tensor ``[R]`` (0-d for a tensor that is one row)
        each.
        """
        return self._radius

    def norm(self) -> float | list[Tensor]:
        """The norm now, in the form of :attr:`radius`."""
        return _norm(self.tensors, rows=self.rows)

    def _checked_norm(self) -> float | list[Tensor]:
        return measure_radius(self.tensors, [f"tensor {i}" for i in range(len(self.tensors))], rows=self.rows)

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
        radius = self._radius if radius is None else as_radius(radius, self.tensors, rows=self.rows)
        norm = self._checked_norm()
        if isinstance(norm, float):
            assert isinstance(radius, float)
            for tensor in self.tensors:
                scale_(tensor, radius / norm)
        else:
            radius = [torch.full_like(n, radius) for n in norm] if isinstance(radius, float) else radius
            for tensor, r, n in zip(self.tensors, radius, norm, strict=True):
                scale_(tensor, per_row(r / n, tensor, dtype=torch.float64))
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
        return [(wide(v) - c * wide(x)).to(v.dtype) for v, c, x in zip(vs, self._radial(vs), self.tensors, strict=True)]

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
        for v, c, x in zip(vs, self._radial(vs), self.tensors, strict=True):
            if v.dtype in FULL:
                v.sub_(c * wide(x))
            else:
                v.copy_(wide(v) - c * wide(x))
        return vs

    def _radial(self, vectors: list[Tensor]) -> list[Tensor]:
        """<x, v> / <x, x> per tensor, broadcastable, in the vector's dtype; zero where it is not finite."""
        if self.rows:
            ratios = [row_inner(x, v) / row_inner(x, x) for x, v in zip(self.tensors, vectors, strict=True)]
        else:
            ratios = [inner(self.tensors, vectors) / squared_norm(self.tensors)] * len(vectors)
        return [
            torch.where(r.isfinite(), r, 0.0).to(device=v.device, dtype=wide_dtype(v.dtype))
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
        squares = torch.stack([squared_norm(t).cpu() for t in self.tensors])
        return squares / squares.sum()

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
        there = Sphere(other.tensors if isinstance(other, Sphere) else other, rows=self.rows)
        check_same_shapes(self.tensors, there.tensors)
        here, norms, theirs = self.tensors, self.norm(), there.norm()
        if isinstance(norms, list) and isinstance(theirs, list):
            return [
                _angle([_unit_rows(x, n)], [_unit_rows(y.to(x.device), m.to(x.device))], n.shape)
                for x, n, y, m in zip(here, norms, there.tensors, theirs, strict=True)
            ]
        assert isinstance(norms, float)
        assert isinstance(theirs, float)
        xs = [x.to(torch.float64).reshape(1, -1) / norms for x in here]
        moved = [y.to(x.device, torch.float64) for x, y in zip(here, there.tensors, strict=True)]
        ys = [y.reshape(1, -1) / theirs for y in moved]
        return float(_angle(xs, ys, torch.Size()))

    def __repr__(self) -> str:
        kind = "rows" if self.rows else "joint"
        numbers = sum(t.numel() for t in self.tensors)
        radius = f", radius={self._radius:.6g}" if isinstance(self._radius, float) else ""
        return f"Sphere({kind}, {len(self.tensors)} tensors, {numbers} numbers{radius})"


# -- checks, shared with the optimisers --------------------------------------------------------------------


def check_real(tensor: object, name: str) -> None:
    """Refuse what cannot be on a sphere.

    Raises:
        TypeError: Not a tensor, or not one of real floating-point numbers, or one that is spread over processes.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; a sphere holds torch tensors")
    check_whole(tensor, name)
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; a sphere holds real floating-point numbers: convert it with "
            ".float(), or leave it out"
        )


def as_radius(radius: object, tensors: Sequence[Tensor], *, rows: bool) -> float | list[Tensor]:
    """Check a radius given by a user.

    Args:
        radius: A positive number, a 0-d or one-element tensor, or (rows only) a sequence of tensors, one
            for each of ``tensors``, with as many entries as it has rows.
        tensors: The tensors on the sphere or spheres.
        rows: Whether every row has a sphere of its own.

    Returns:
        A float, or a list of float64 tensors ``[R]`` (0-d for a tensor that is one row) on the tensors'
        devices.

    Raises:
        ValueError: A radius is not positive and finite, or the sequence does not fit the tensors.
    """
    if isinstance(radius, Tensor) and radius.numel() == 1:
        radius = float(radius)
    if isinstance(radius, (int, float)) and not isinstance(radius, bool):
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"radius is {radius}; it must be positive and finite")
        check_range(float(radius), tensors)
        return float(radius)
    if not rows or not isinstance(radius, Sequence) or isinstance(radius, str):
        form = "a positive number" + (" or a list with one tensor of radii for each parameter" if rows else "")
        raise ValueError(f"radius is {radius!r}; it must be {form}")
    if len(radius) != len(tensors):
        raise ValueError(f"radius has {len(radius)} entries for {len(tensors)} tensors; give one for each")
    radii = []
    for i, (given, tensor) in enumerate(zip(radius, tensors, strict=True)):
        r = torch.as_tensor(given, dtype=torch.float64, device=tensor.device).detach()
        shape = (tensor.shape[0],) if tensor.dim() > 1 else ()
        if r.numel() != math.prod(shape):
            raise ValueError(f"radius {i} has shape {tuple(r.shape)}; tensor {i} has {math.prod(shape)} rows")
        r = r.reshape(shape).clone()
        if not bool((torch.isfinite(r) & (r > 0)).all()):
            raise ValueError(f"radius {i} holds {r.tolist()}; every radius must be positive and finite")
        radii.append(r)
    check_range(radii, tensors)
    return radii


def check_range(radius: float | Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Refuse radii at which weights or steps (of size lr radius² gradient) overflow or vanish in the tensors' dtypes.

    Args:
        radius: One for all, or one tensor of them for each of ``tensors``.
        tensors: The tensors that are to be on the spheres.

    Raises:
        ValueError: A radius is too small or too large.
    """
    for i, tensor in enumerate(tensors):
        computed, stored = torch.finfo(wide_dtype(tensor.dtype)), torch.finfo(tensor.dtype)
        low, high = max(math.sqrt(computed.tiny), stored.tiny), min(math.sqrt(computed.max), stored.max)
        found = [radius] if isinstance(radius, float) else radius[i].flatten().tolist()
        wrong = [r for r in found if not low <= r <= high]
        if wrong:
            raise ValueError(
                f"a radius is {wrong[0]:.6g}; with weights of {str(tensor.dtype).removeprefix('torch.')} it must be "
                f"from {low:.2g} to {high:.2g}, or weights and steps overflow or vanish: give another radius, or "
                "rescale the weights first"
            )


def _check_radii(radius: float | list[Tensor], names: Sequence[str]) -> None:
    """Refuse norms that leave no direction to keep."""
    if isinstance(radius, float):
        if radius == 0.0:
            raise ValueError("all tensors are zero: they have no direction; initialise the weights first")
        if not math.isfinite(radius):
            raise ValueError(f"the norm is {radius}; the tensors hold infinities or NaNs")
        return
    for name, norms in zip(names, radius, strict=True):
        if not bool(torch.isfinite(norms).all()):
            raise ValueError(f"{name} holds infinities or NaNs")
        if not bool((norms > 0).all()):
            where = (norms == 0).flatten().nonzero().flatten().tolist()
            raise ValueError(
                f"{name} has rows that are zero and so have no direction (rows {where[:8]}); initialise them, "
                "or use one joint sphere"
            )


def measure_radius(tensors: Sequence[Tensor], names: Sequence[str], *, rows: bool) -> float | list[Tensor]:
    """The present norm or norms of tensors, checked.

    Args:
        tensors: The tensors on the sphere or spheres.
        names: What to call each of them in an error.
        rows: Whether every row has a sphere of its own.

    Returns:
        The norm in the form of :attr:`Sphere.radius`.

    Raises:
        TypeError: Something is no tensor of real floating-point numbers, or is spread over processes.
        ValueError: A norm is zero or not finite.
    """
    for tensor, name in zip(tensors, names, strict=True):
        check_real(tensor, name)
    radius = _norm(tensors, rows=rows)
    _check_radii(radius, names)
    return radius


@torch.no_grad()
def _norm(tensors: Sequence[Tensor], *, rows: bool) -> float | list[Tensor]:
    if not rows:
        return math.sqrt(float(squared_norm(tensors)))
    norms = [row_inner(t, t).sqrt() for t in tensors]
    return [n.flatten() if t.dim() > 1 else n for n, t in zip(norms, tensors, strict=True)]


def _unit_rows(tensor: Tensor, norms: Tensor) -> Tensor:
    """Rows of unit length, float64 ``[R, n]``."""
    return tensor.to(torch.float64).reshape(norms.numel(), -1) / norms.reshape(-1, 1)


def _angle(xs: list[Tensor], ys: list[Tensor], shape: torch.Size) -> Tensor:
    """Angles between rows of unit length over all tensors, each ``[R, n_i]``; the result has ``shape``."""
    device = xs[0].device
    near = torch.stack([(x - y).square().sum(1).to(device) for x, y in zip(xs, ys, strict=True)]).sum(0)
    far = torch.stack([(x + y).square().sum(1).to(device) for x, y in zip(xs, ys, strict=True)]).sum(0)
    return 2 * torch.atan2(near.sqrt(), far.sqrt()).reshape(shape)
