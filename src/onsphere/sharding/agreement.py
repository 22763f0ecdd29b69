"""Processes that make the same object for the same sharded tensors see beforehand that it is the same.

What they call later adds up numbers over all of them. If one had other tensors, or none, the others would wait for it
or add up what does not belong together. They compare notes through the store that torch.distributed keeps for its
rendezvous, which needs no process that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from onsphere.sharding.parts import is_spread

__all__ = ["agree"]

#: How long the others are waited for, seconds; less if torch.distributed itself waits less.
_PATIENCE = 120.0

_made: dict[str, int] = {}


def agree(what: str, tensors: Sequence[Tensor], notes: Sequence[str]) -> None:
    """Compare notes with the other processes of the tensors' meshes. Without a DTensor nothing is done.

    Args:
        what: What is being made, for the message: ``SphereSGD``, ``a Monitor``.
        tensors: Its tensors, of which some may be spread over processes.
        notes: What has to be the same on all of them, a line each.

    Raises:
        ValueError: They differ; it says in what.
        RuntimeError: A process has not made one in time.
    """
    meshes = dict.fromkeys(t.device_mesh for t in tensors if is_spread(t))  # type: ignore[attr-defined]
    for mesh in sorted(meshes, key=lambda mesh: mesh.mesh.flatten().tolist()):
        ranks = mesh.mesh.flatten().tolist()
        if len(ranks) > 1:
            _compare(what, ranks, list(notes))


def _compare(what: str, ranks: list[int], notes: list[str]) -> None:
    store: Any = torch.distributed.distributed_c10d._get_default_store()
    patience = timedelta(seconds=min(_PATIENCE, store.timeout.total_seconds()))
    about = f"onsphere/{what}/{','.join(map(str, ranks))}"
    number = _made[about] = _made.get(about, 0) + 1
    place, me = f"{about}/{number}", torch.distributed.get_rank()
    if me != ranks[0]:
        store.set(f"{place}/{me}", json.dumps(notes))
        verdict = _waited(store, f"{place}/verdict", patience, what, ranks[0])
    else:
        verdict = ""
        for rank in ranks[1:]:
            theirs = json.loads(_waited(store, f"{place}/{rank}", patience, what, rank))
            if theirs != notes and not verdict:
                verdict = _difference(what, ranks[0], notes, rank, theirs)
        store.set(f"{place}/verdict", verdict or " ")
    if verdict.strip():
        raise ValueError(verdict)


def _waited(store: Any, key: str, patience: timedelta, what: str, rank: int) -> str:
    try:
        store.wait([key], patience)
    except Exception as error:
        raise RuntimeError(
            f"rank {rank} has not made {what} of the same sharded tensors within {patience.total_seconds():.0f} s; "
            "make it on every rank of their mesh, in the same order"
        ) from error
    text: str = store.get(key).decode()
    return text


def _difference(what: str, first: int, notes: list[str], rank: int, theirs: list[str]) -> str:
    mine, other = (sorted(set(a) - set(b)) for a, b in ((notes, theirs), (theirs, notes)))
    seen = f"rank {first} has {', '.join(mine[:3]) or 'no more'}, rank {rank} {', '.join(other[:3]) or 'no more'}"
    if not mine and not other:
        seen = f"rank {first} and rank {rank} have the same in another order"
    return f"{what} is not the same on all ranks: {seen}; give it the same tensors and settings on every rank"
