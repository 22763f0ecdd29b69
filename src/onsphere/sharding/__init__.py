"""Tensors of which a process holds only a part: what it holds, and sums that are the whole tensor's.

The tensors are DTensors, as ``torch.distributed.fsdp.fully_shard`` and tensor parallelism make them. Local parts are
worked on as they are, sums over them are added up over the processes: one all-reduce of one float64 vector a mesh.
"""

from onsphere.sharding.agreement import agree
from onsphere.sharding.parts import check_current, check_parts, held_rows, is_spread, like, part, rows_here, same_layout
from onsphere.sharding.slices import Pool, Slices, SomeRows, column, each, transposed
from onsphere.sharding.sums import add_up

__all__ = [
    "Pool",
    "Slices",
    "SomeRows",
    "add_up",
    "agree",
    "check_current",
    "check_parts",
    "column",
    "each",
    "held_rows",
    "is_spread",
    "like",
    "part",
    "rows_here",
    "same_layout",
    "transposed",
]
