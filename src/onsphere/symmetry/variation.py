"""Inputs that vary: a batch of equal examples (zeros, ones, one repeated token) shows less than a model is.

Behind a batch norm equal examples are zeros, whatever the weights before it; of one token only one embedding is seen.
A scaling symmetry holds for every input, so the search may look at others: a constant floating tensor is replaced by
random numbers, equal rows are moved apart, and repeated integers that look up rows of a table become other rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onsphere.functional.nests import mapped

__all__ = ["HUGE", "apart", "constant_floats", "drawn_tokens", "repeated_tokens", "varies"]

#: Beyond it a number stands for "never" (in an attention mask) and is left alone.
HUGE = 1e15


def constant_floats(value: Any) -> list[Tensor]:
    """Floating tensors in a nest that are one number, or equal rows; none if another varies.

    Beside examples that differ, such a tensor may be a mask.
    """
    floats = [t for t in _tensors(value) if t.is_floating_point() and t.numel() > 1 and t.layout is torch.strided]
    floats = [t for t in floats if bool((t.detach().abs() < HUGE).all())]  # neither a mask nor infinite
    alike = [t for t in floats if _is_one_number(t) or (len(t) > 1 and bool((t == t[:1]).all()))]
    return alike if len(alike) == len(floats) else []


def apart(tensor: Tensor, noise: Tensor) -> Tensor:
    """A tensor of the kind, with random numbers; one that is not zero keeps its sign, which its meaning may need."""
    wide = tensor.detach().double()
    if not _is_one_number(tensor):
        return wide + 0.3 * wide.std() * noise
    first = float(wide[(0,) * wide.dim()])
    return noise if first == 0 else first * (1 + 0.3 * noise.clamp(-2, 2))


def varies(value: Any) -> bool:
    """Whether some tensor in a nest holds different numbers."""
    return any(t.numel() > 1 and not _is_one_number(t) for t in _tensors(value))


def repeated_tokens(value: Any) -> list[Tensor]:
    """Integer tensors in a nest that hold one number several times."""
    return [t for t in _tensors(value) if _is_repeated(t)]


def drawn_tokens(value: Any, tables: Sequence[tuple[Tensor, int]], generator: torch.Generator) -> tuple[Any, bool]:
    """A nest in which repeated integers that look up rows of a table become random rows; and whether there were any.

    Args:
        value: Arguments of a call, as a nest.
        tables: Indices that a forward pass looked up, and how many rows there are.
        generator: The generator that draws the rows.
    """
    changed = False

    def draw(tensor: Tensor) -> Tensor:
        nonlocal changed
        if not _is_repeated(tensor):
            return tensor
        first = tensor[(0,) * tensor.dim()]
        rows = [n for at, n in tables if at.numel() == tensor.numel() and bool((at == first).all())]
        if not rows or min(rows) < 2:
            return tensor
        changed = True
        return torch.randint(min(rows), tensor.shape, generator=generator).to(tensor)

    return mapped(value, draw), changed


def _is_repeated(tensor: Tensor) -> bool:
    integer = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool
    return integer and tensor.numel() > 1 and tensor.layout is torch.strided and _is_one_number(tensor)


def _is_one_number(tensor: Tensor) -> bool:
    return bool((tensor == tensor[(0,) * tensor.dim()]).all())


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, look)
    return found
