"""A monitor's readings as one block of bytes, for checkpoints.

Distributed checkpoints load every tensor into one of its size, and readings grow: as bytes they are a value like any
other. The block is numpy's own archive of plain arrays, which nothing needs to be trusted for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onsphere.monitor.readings import Block

__all__ = ["packed", "unpacked"]

_PARTS = ("steps", "sums", "settings")


def packed(blocks: Sequence[Block], notes: Mapping[str, Any]) -> bytes:
    """The readings of each optimiser, and notes (plain values)."""
    arrays = {f"{name}{k}": part for k, block in enumerate(blocks) for name, part in zip(_PARTS, block, strict=True)}
    np.savez(file := io.BytesIO(), allow_pickle=False, notes=np.array(json.dumps(notes)), **arrays)
    return file.getvalue()


def unpacked(state: Mapping[str, Any]) -> tuple[list[Block], dict[str, Any]]:
    """What :func:`packed` was given, out of a monitor's state, one of an earlier version included.

    Args:
        state: A state from :meth:`onsphere.Monitor.state_dict`.

    Raises:
        ValueError: The readings are damaged.
    """
    runs = state["runs"]
    if "readings" not in state:  # before: tensors in the runs
        blocks = [tuple(run[name].cpu().numpy().copy() for name in _PARTS) for run in runs]
        return blocks, {"shown": dict(state["shown"]), "alarmed": list(state["alarmed"])}
    try:
        with np.load(io.BytesIO(state["readings"]), allow_pickle=False) as file:
            notes = json.loads(str(file["notes"]))
            blocks = [tuple(file[f"{name}{k}"] for name in _PARTS) for k in range(len(runs))]
    except Exception as error:
        raise ValueError(f"the loaded state's readings are damaged ({type(error).__name__}: {error})") from error
    return blocks, notes
