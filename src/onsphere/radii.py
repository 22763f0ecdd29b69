"""The norms of tensors on spheres, and the radii that users give: measured, and checked.

A radius is a float for a joint sphere; for rows a float for all of them or, for each tensor, one float64 tensor ``[R]``
(0-d for a tensor that is one row). Of a tensor that is spread over processes every process has the radii of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onsphere.products import row_norms, squared_norm
from onsphere.rounding import wide_dtype
from onsphere.sharding import check_parts

__all__ = ["as_radius", "check_range", "check_real", "measure_radius", "norms"]


@torch.no_grad()
def norms(tensors: Sequence[Tensor], *, rows: bool) -> float | list[Tensor]:
    """The present norm of tensors together, or of each of their rows."""
    return row_norms(tensors) if rows else math.sqrt(float(squared_norm(tensors)))


def check_real(tensor: object, name: str) -> None:
    """Refuse what cannot be on a sphere.

    Raises:
        TypeError: Not a tensor, or not one of real floating-point numbers, or a part of one that cannot be added up.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; a sphere holds torch tensors")
    check_parts(tensor, name)
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
        TypeError: Something is no tensor of real floating-point numbers, or a part of one that cannot be added up.
        ValueError: A norm is zero or not finite.
    """
    for tensor, name in zip(tensors, names, strict=True):
        check_real(tensor, name)
    radius = norms(tensors, rows=rows)
    _check_radii(radius, names)
    return radius
