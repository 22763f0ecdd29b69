"""The part of a tensor that this process holds, and which rows are in it.

A placement says, for each dimension of the mesh of processes, how the tensor lies along it: ``Replicate`` (all of them
have it), ``Shard(d)`` (cut along its dimension d, unevenly if need be), or the strided shard that FSDP makes of a
dimension which tensor parallelism has cut already. Others (``Partial``: a sum still to be taken) are refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_current", "check_parts", "cut", "held_rows", "is_spread", "like", "part", "rows_here", "same_layout"]

#: Attributes of parameters that FSDP 1 and DeepSpeed's third stage have replaced by their local part.
_SPLIT = ("_fsdp_flattened", "ds_tensor")
_PLAIN = (Tensor, torch.nn.Parameter)
#: What ``fully_shard`` (and ``replicate`` by FSDP 2) leaves on a parameter that it has replaced in its module.
_REPLACED = "_fsdp_orig_uid"
#: Names of the placements that are understood.
_CUTS, _COPIES = ("Shard", "_StridedShard"), ("Replicate",)


def is_spread(tensor: object) -> bool:
    """Whether it is a DTensor: a tensor on a mesh of processes."""
    # Not by its class, whose module takes longer to load than a step does.
    return type(tensor) not in _PLAIN and isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: a view of its part of a DTensor (possibly empty), or the tensor itself."""
    return tensor.to_local() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def cut(placement: object) -> int | None:
    """The dimension along which a placement cuts; None: it does not."""
    return int(placement.dim) if type(placement).__name__ in _CUTS else None  # type: ignore[attr-defined]


def check_current(tensor: object, name: str) -> None:
    """Refuse a tensor that no longer is the parameter of its model: it gets no gradient any more.

    Args:
        tensor: What is to be trained or watched.
        name: What to call it in the message.

    Raises:
        ValueError: ``fully_shard`` has put another parameter in its place.
    """
    if hasattr(tensor, _REPLACED):
        raise ValueError(
            f"{name} is no longer a parameter of its model, because fully_shard has put a sharded one in its place: "
            "make optimizer and groups from onsphere.regroup(groups, model)"
        )


def check_parts(tensor: object, name: str) -> None:
    """Refuse a tensor whose parts this package cannot add up.

    Args:
        tensor: What is to be summed over.
        name: What to call it in the message.

    Raises:
        TypeError: It is a DTensor with a placement that is not understood or on a mesh without this process, or a
            parameter that FSDP 1 or DeepSpeed has flattened or split.
        ValueError: ``fully_shard`` has put another parameter in its place.
    """
    check_current(tensor, name)
    if is_spread(tensor):
        spread: Any = tensor
        odd = [p for p in spread.placements if type(p).__name__ not in _CUTS + _COPIES]
        if odd:
            raise TypeError(
                f"{name} is a DTensor with the placement {odd[0]!r}, whose parts do not add up to its norm; "
                "redistribute it to Shard or Replicate first"
            )
        if spread.device_mesh.get_coordinate() is None:
            raise TypeError(f"{name} is a DTensor on a mesh that this process is not part of; leave it out here")
    elif any(hasattr(tensor, mark) for mark in _SPLIT):
        raise TypeError(
            f"{name} is split by FSDP or DeepSpeed: a norm taken here would be that of this process's part, not of the "
            "whole tensor; use torch.distributed.fsdp.fully_shard, whose parameters are DTensors"
        )


def held_rows(tensor: Tensor) -> Tensor:
    """Which slices along dimension 0 this process holds at least a part of.

    Args:
        tensor: A DTensor ``[R, ...]``, or a plain tensor.

    Returns:
        int64 tensor with their numbers, from 0 to R - 1, in the order of the local part, on the CPU.

    Raises:
        TypeError: They are not as many as the local part has.
    """
    rows = torch.arange(tensor.shape[0])
    if not is_spread(tensor):
        return rows
    spread: Any = tensor
    mesh = spread.device_mesh
    for size, place, placement in zip(mesh.shape, mesh.get_coordinate(), spread.placements, strict=True):
        if cut(placement) == 0:
            blocks = rows.chunk(getattr(placement, "split_factor", 1))
            rows = torch.cat([rows[:0], *(_piece(block, size, place) for block in blocks)])
    if len(rows) != part(tensor).shape[0]:
        raise TypeError(
            f"a DTensor of shape {tuple(tensor.shape)} with the placements {spread.placements} has "
            f"{part(tensor).shape[0]} rows here where {len(rows)} are expected; this way of sharding is not understood"
        )
    return rows


def rows_here(values: Tensor, tensor: Tensor) -> Tensor:
    """The entries of ``values`` ``[R]``, one for each row of a tensor, whose rows are held here; a 0-d one stays."""
    if not is_spread(tensor) or values.dim() == 0:
        return values
    return values[held_rows(tensor).to(values.device)]


def same_layout(tensor: Tensor, other: Tensor) -> Tensor:
    """``tensor``, laid out over the processes as ``other`` is, as an elementwise operation of the two would have it.

    Raises:
        TypeError: One is spread over processes and the other is not, or over other processes.
    """
    if not is_spread(tensor) and not is_spread(other):
        return tensor
    if is_spread(tensor) != is_spread(other):
        raise TypeError(
            f"a tensor of shape {tuple(other.shape)} is {'' if is_spread(other) else 'not '}a DTensor and what belongs "
            f"to it is {'' if is_spread(tensor) else 'not '}one: give both in the same form"
        )
    here, there = _layout(tensor), _layout(other)
    if here == there:
        return tensor
    if here[0] != there[0]:
        raise TypeError(f"two DTensors that belong together are on the meshes {here[0]} and {there[0]}; use one mesh")
    return tensor.redistribute(*there)  # type: ignore[attr-defined, no-any-return]


def like(local: Tensor, tensor: Tensor) -> Tensor:
    """A local part as a tensor laid out over the processes as ``tensor``; itself if that is not spread."""
    if not is_spread(tensor):
        return local
    mesh, placements = _layout(tensor)
    made: Tensor = type(tensor.data).from_local(  # type: ignore[attr-defined]
        local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
    return made


def _layout(tensor: Tensor) -> tuple[Any, Any]:
    return tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]


def _piece(rows: Tensor, pieces: int, number: int) -> Tensor:
    """The ``number``-th of at most so many chunks of equal size, the last ones shorter or empty."""
    chunks = rows.chunk(pieces)
    return chunks[number] if number < len(chunks) else rows[:0]
