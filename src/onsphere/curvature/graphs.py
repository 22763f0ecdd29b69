"""What can be read from the graphs that autograd keeps: whether derivatives are missing, how much memory they hold."""

from __future__ import annotations

from torch import Tensor

from onsphere.functional.reads import nodes

__all__ = ["graph_bytes", "refuse_missing"]


def refuse_missing(roots: list[Tensor]) -> None:
    """A function marked ``once_differentiable`` ends the graph in a node that no path to the parameters meets.

    Its derivative would be taken for zero without a word.
    """
    if any(node.name().endswith("Error") for node in nodes(roots)):
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def graph_bytes(roots: list[Tensor]) -> int:
    """About how much the graphs of these tensors keep alive."""
    sizes = dict[int, int]()
    for node in nodes(roots):
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for value in (*saved, *getattr(node, "saved_tensors", ())):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
