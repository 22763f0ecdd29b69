"""From the rings of recorders to readings on the host: sums over parts of tensors become sums over the whole ones.

The sums of all tensors that are spread over processes go round together, one all-reduce a mesh. A reading that is
missing on one process is missing on all that add up with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onsphere.monitor.readings import Block
from onsphere.monitor.recorder import Recorder
from onsphere.sharding import add_up, is_spread

__all__ = ["emptied"]


def emptied(recorders: Sequence[Recorder]) -> list[Block]:
    """Take all readings out of the rings; with spread tensors every process that has a part of them must do it.

    Args:
        recorders: The recorders; on all processes with as many readings.

    Returns:
        For each recorder steps ``[n]``, sums ``[n, T, 5]`` and settings ``[n, P, 5]``.
    """
    taken = [recorder.take() for recorder in recorders]
    tensors = [tensor for recorder in recorders for tensor in recorder.tensors]
    sums = [one for _, block, _ in taken for one in block.unbind()]
    if any(map(is_spread, tensors)):
        sums = add_up(sums, tensors, by_row=[False] * len(tensors))
    found, start = [], 0
    for recorder, (steps, block, settings) in zip(recorders, taken, strict=True):
        mine = sums[start : start + len(block)]
        start += len(block)
        added = torch.stack(mine, dim=1).cpu().numpy() if mine else block.transpose(0, 1).cpu().numpy()
        there = ~added[..., 5].any(axis=1)
        if not there.all():
            recorder.fail(f"reading stopped at step {steps[~there][0]} (it failed on another process)")
        found.append((steps[there], added[there][..., :5].copy(), settings[there]))
    return found
