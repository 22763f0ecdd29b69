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
from onsphere.sharding import Slices, SomeRows, check_parts

__all__ = ["as_radius", "check_range", "check_real", "checked_slices", "measure_radius", "norms", "slices_named"]


@torch.no_grad()
def norms(tensors: Sequence[Tensor], *, rows: SomeRows) -> float | list[Tensor]:
    """The present norm of tensors together, or of each of their rows."""
    return row_norms(tensors, rows) if rows else math.sqrt(float(squared_norm(tensors)))


def checked_slices(
    tensors: Sequence[Tensor], *, rows: bool, dim: int = 0, blocks: Sequence[Sequence[int]] | None = None
) -> Slices:
    """Which slices of tensors share a norm, as a user has said it.

    Args:
        tensors: The tensors on the spheres.
        rows: Whether every slice has a sphere of its own.
        dim: The dimension along which the slices are counted.
        blocks: For each tensor one label for each slice; equal ones share a sphere.

    Returns:
        The slices that share norms, in the form that spheres and steps take.

    Raises:
        ValueError: ``dim`` is neither 0 nor 1, or labels do not fit a tensor.
    """
    if dim not in (0, 1) or isinstance(dim, bool):
        raise ValueError(f"dim is {dim!r}; it must be 0 (slices are rows) or 1 (slices are columns)")
    if blocks is None:
        return Slices(rows, dim if rows else 0)
    if len(blocks) != len(tensors):
        raise ValueError(f"blocks has {len(blocks)} entries for {len(tensors)} tensors; give one tuple of labels each")
    found = []
    for i, (given, tensor) in enumerate(zip(blocks, tensors, strict=True)):
        labels = tuple(given)
        if tensor.dim() < 2:
            raise ValueError(
                f"blocks are of tensors of at least two dimensions; tensor {i} has the shape {tuple(tensor.shape)}: "
                "leave it out of the group"
            )
        if len(labels) != tensor.shape[dim]:
            raise ValueError(
                f"blocks has {len(labels)} labels for the {tensor.shape[dim]} slices of tensor {i} along dimension "
                f"{dim}; give one for each"
            )
        if not all(isinstance(one, int) for one in labels) or set(labels) != set(range(len(set(labels)))):
            raise ValueError(
                f"the labels of tensor {i} are {sorted(set(labels), key=str)[:8]}; they must be the whole numbers from "
                "0 on, each of them at least once"
            )
        found.append(labels)
    return Slices(True, dim, tuple(found))


def slices_named(slices: Slices) -> str:
    """What spheres of these slices are called: joint, rows, columns or blocks."""
    if slices.labels is not None:
        return "blocks"
    return ("columns" if slices.dim else "rows") if slices.rows else "joint"


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


def as_radius(radius: object, tensors: Sequence[Tensor], *, rows: SomeRows) -> float | list[Tensor]:
    """Check a radius given by a user.

    Args:
        radius: A positive number, a 0-d or one-element tensor, or (rows only) a sequence of tensors, one
            for each of ``tensors``, with as many entries as it has rows.
        tensors: The tensors on the sphere or spheres.
        rows: Whether every row has a sphere of its own, or blocks of rows of each tensor.

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
        shape = (rows[i].size if not isinstance(rows, bool) else tensor.shape[0],) if tensor.dim() > 1 else ()
        if r.numel() != math.prod(shape):
            what = _SLICES[isinstance(rows, bool)]
            raise ValueError(f"radius {i} has shape {tuple(r.shape)}; tensor {i} has {math.prod(shape)} {what}")
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


#: What has a norm of its own, by whether it is no block.
_SLICES = ("blocks", "rows")


def _check_radii(radius: float | list[Tensor], names: Sequence[str], slices: str) -> None:
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
                f"{name} has {slices} that are zero and so have no direction ({slices} {where[:8]}); initialise them, "
                "or use one joint sphere"
            )


def measure_radius(
    tensors: Sequence[Tensor], names: Sequence[str], *, rows: SomeRows, slices: str = ""
) -> float | list[Tensor]:
    """The present norm or norms of tensors, checked.

    Args:
        tensors: The tensors on the sphere or spheres.
        names: What to call each of them in an error.
        rows: Whether every row has a sphere of its own, or blocks of rows of each tensor.

        slices: What to call rows or blocks in an error, if not so.

    Returns:
        The norm in the form of :attr:`Sphere.radius`.

    Raises:
        TypeError: Something is no tensor of real floating-point numbers, or a part of one that cannot be added up.
        ValueError: A norm is zero or not finite.
    """
    for tensor, name in zip(tensors, names, strict=True):
        check_real(tensor, name)
    radius = norms(tensors, rows=rows)
    _check_radii(radius, names, slices or _SLICES[isinstance(rows, bool)])
    return radius
