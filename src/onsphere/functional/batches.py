"""What counts as batches: pairs (input, target), one such pair, and the arguments of a call that an input is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["as_batches", "call_arguments", "examples_in"]


def as_batches(batches: Any) -> list[tuple[Any, Any]]:
    """Batches as a list of pairs.

    Args:
        batches: An iterable of ``(input, target)``, or one pair.

    Raises:
        ValueError: There are none.
        TypeError: Something is not a pair.
    """
    if _is_one_pair(batches):
        return [(batches[0], batches[1])]
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches is a {type(batches).__name__}; it must be a pair (input, target) or an iterable of such pairs"
        )
    pairs = []
    for i, pair in enumerate(batches):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            what = f"{len(pair)} things" if isinstance(pair, tuple | list) else f"a {type(pair).__name__}"
            raise TypeError(f"batch {i} is {what}; every batch must be a pair (input, target)")
        pairs.append((pair[0], pair[1]))
    if not pairs:
        raise ValueError("batches is empty (an exhausted generator?): give at least one pair (input, target)")
    return pairs


def _is_one_pair(batches: Any) -> bool:
    if not isinstance(batches, tuple | list) or len(batches) != 2:
        return False
    return not all(isinstance(b, tuple | list) and len(b) == 2 for b in batches) or (
        isinstance(batches, tuple) and isinstance(batches[1], Tensor)
    )


def examples_in(inputs: Any, target: Any, index: int) -> int:
    """How many examples a batch has: the length of its target, else that of the first tensor of its input."""
    args, kwargs = call_arguments(inputs)
    for value in (target, *args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() > 0:
            if len(value) == 0:
                raise ValueError(f"batch {index} has no examples: a tensor of shape {tuple(value.shape)}")
            return len(value)
    return 1


def call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch's inputs as the arguments of one call of the model."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}
