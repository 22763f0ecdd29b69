"""Sums over the parts of tensors, added up over the processes that hold them.

    sum over the whole = sum over processes, a replicated one counted once, of the sum over its part

All sums that are asked for at once go into one float64 vector a mesh, which is all-reduced once, over those dimensions
of the mesh along which any of the tensors is cut. A tensor that is replicated along one of these counts at its first
process alone. Sums over rows need no process but those that hold parts of the same rows; where the vector goes to
others as well, rows are put at their place among all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onsphere.sharding.parts import cut, held_rows, is_spread

__all__ = ["add_up"]


@torch.no_grad()
def add_up(
    sums: Sequence[Tensor], tensors: Sequence[Tensor], *, by_row: Sequence[bool], whole: bool = False
) -> list[Tensor]:
    """Make sums over local parts sums over the whole tensors.

    Every process that has a part of the tensors must call it, with sums of the same tensors in the same order.

    Args:
        sums: For each tensor a float64 tensor of what was summed over its local part: of any shape, or, where it is
            summed by row, ``[R_here, ...]`` with the rows of the local part.
        tensors: The tensors. For those that are not spread over processes the sum is what it is.
        by_row: For each tensor whether each of its slices along dimension 0 has a sum of its own.
        whole: Whether sums by row come back for all rows, ``[R, ...]``, instead of those held here.

    Returns:
        The sums, of the same shapes (but for ``whole``) and on the same devices.
    """
    found = list(sums)
    meshes: dict[Any, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if is_spread(tensor) and _summed(tensor, by_row=by_row[i] and not whole):
            meshes.setdefault(tensor.device_mesh, []).append(i)  # type: ignore[attr-defined]
    for mesh, places in meshes.items():
        over = sorted({d for i in places for d in _summed(tensors[i], by_row=by_row[i] and not whole)})
        sent = [_share(sums[i], tensors[i], over, by_row=by_row[i]) for i in places]
        # Where the processes of the mesh can send from: parts may be kept on the host.
        device = sent[0].device if sent[0].device.type == mesh.device_type else torch.device(mesh.device_type)
        vector = torch.cat([one.detach().reshape(-1).to(device, torch.float64) for one in sent])
        _all_reduce(vector, mesh, over)
        for i, one, total in zip(places, sent, torch.split(vector, [one.numel() for one in sent]), strict=True):
            total = total.view(one.shape).to(sums[i].device)
            if by_row[i] and not whole and one.shape != sums[i].shape:
                total = total[held_rows(tensors[i]).to(total.device)]
            found[i] = total
    return found


def _summed(tensor: Tensor, *, by_row: bool) -> list[int]:
    """Dimensions of the mesh over which sums over the parts of a tensor are to be added up."""
    cuts = [cut(placement) for placement in tensor.placements]  # type: ignore[attr-defined]
    return [d for d, at in enumerate(cuts) if at is not None and not (by_row and at == 0 and tensor.dim() > 1)]


def _share(sums: Tensor, tensor: Tensor, over: Sequence[int], *, by_row: bool) -> Tensor:
    """What this process adds to the sum over some dimensions of the mesh."""
    spread: Any = tensor
    places, placements = spread.device_mesh.get_coordinate(), spread.placements
    if any(cut(placements[d]) is None and places[d] > 0 for d in over):
        sums = torch.zeros_like(sums)  # another process has the same part and counts it
    if by_row and tensor.dim() > 1 and any(cut(placements[d]) == 0 for d in over):
        everywhere = sums.new_zeros(tensor.shape[0], *sums.shape[1:])
        return everywhere.index_copy_(0, held_rows(tensor).to(sums.device), sums)
    return sums


def _all_reduce(vector: Tensor, mesh: Any, over: Sequence[int]) -> None:
    """Add a vector up, in place, over some dimensions of a mesh: at once if they have a group of processes."""
    for group in _groups(mesh, over):
        torch.distributed.all_reduce(vector, group=group)


def _groups(mesh: Any, over: Sequence[int]) -> list[Any]:
    distributed = torch.distributed
    if len(over) == 1:
        return [mesh.get_group(over[0])]
    if len(over) == mesh.ndim and mesh.size() == distributed.get_world_size():
        return [distributed.group.WORLD]
    if mesh.mesh_dim_names:
        return [mesh[tuple(mesh.mesh_dim_names[d] for d in over)]._flatten().get_group()]
    return [mesh.get_group(d) for d in over]
