"""Trace a function once into a flat list of tensor operations, and leave out those that do nothing.

The list is replayed without vmap, automatic differentiation or the module's Python at run time. What it leaves out:
vmap and differentiation write many reshapes to the shape a tensor already has; each costs a few microseconds in every
later call, which adds up where a whole one takes a millisecond.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

_aten = torch.ops.aten
_RESHAPES = {_aten.view.default, _aten._unsafe_view.default, _aten.expand.default}
_SWAP = _aten.transpose.int


def trace(function: Any, *example: Any) -> GraphModule:
    """Trace ``function`` on example arguments; only their shapes, types and memory order matter.

    Args:
        function: A function of nested lists of tensors without data-dependent control flow.
        *example: Arguments to trace it on.

    Returns:
        A module with the same arguments and results.
    """
    graph: GraphModule = make_fx(function)(*example)
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        source: Any = node.args[0] if node.args else None
        if node.target in _RESHAPES and _shape(node) == _shape(source) is not None:
            node.replace_all_uses_with(source)
        elif node.target is _SWAP and getattr(source, "target", None) is _SWAP and _swaps(node) == _swaps(source):
            node.replace_all_uses_with(source.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _shape(node: Any) -> torch.Size | None:
    value = getattr(node, "meta", {}).get("val")
    return value.shape if isinstance(value, torch.Tensor) else None


def _swaps(node: Any) -> set[int]:
    dimensions = node.meta["val"].dim() if "val" in node.meta else 0
    return {d % dimensions for d in node.args[1:]} if dimensions else set(node.args[1:])
