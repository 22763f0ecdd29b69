"""Wrappers that training frameworks put around optimisers, and the torch optimisers inside them."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

__all__ = ["torch_optimizers"]

#: Wrappers around wrappers of an optimiser that are looked into.
_DEEPEST = 8


def torch_optimizers(optimizers: object, who: str) -> list[Optimizer]:
    """The torch optimisers themselves, out of the wrappers that Accelerate and Lightning put around them.

    Args:
        optimizers: An optimiser or such a wrapper, or a list or tuple of them.
        who: Who was given it, for the message.

    Returns:
        At least one optimiser, each once.

    Raises:
        TypeError: Something is not an optimiser, or the list is empty.
        ValueError: One is given twice.
    """
    given: list[Any] = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
    found: list[Optimizer] = []
    for inner in given:
        kind, depth = type(inner).__name__, 0
        while getattr(inner, "optimizer", None) is not None and depth < _DEEPEST:
            inner, depth = inner.optimizer, depth + 1
        if not isinstance(inner, Optimizer):
            kind = kind if not isinstance(optimizers, (list, tuple)) else f"{type(optimizers).__name__} with a {kind}"
            raise TypeError(f"{who} was given a {kind}; give it a torch.optim.Optimizer or a list of them")
        found.append(inner)
    if not found:
        raise TypeError(f"{who} was given no optimizer; give it at least one")
    if len({id(one) for one in found}) < len(found):
        raise ValueError("an optimizer is given twice; give each once")
    return found
