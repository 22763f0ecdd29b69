"""What can be read from the graphs that autograd keeps: whether derivatives are missing, how much memory they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

__all__ = ["graph_bytes", "refuse_missing"]


def _nodes(roots: list[Tensor]) -> Iterator[Any]:
    """Every node of the graphs of these tensors, once."""
    waiting: list[Any] = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following


def refuse_missing(roots: list[Tensor]) -> None:
    """A function marked ``once_differentiable`` ends the graph in a node that no path to the parameters meets.

    Its derivative would be taken for zero without a word.
    """
    if any(node.name().endswith("Error") for node in _nodes(roots)):
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def graph_bytes(roots: list[Tensor]) -> int:
    """About how much the graphs of these tensors keep alive."""
    sizes = dict[int, int]()
    for node in _nodes(roots):
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for value in (*saved, *getattr(node, "saved_tensors", ())):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
