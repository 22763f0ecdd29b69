"""What a model of the zoo is: how to make it, how to call it, and what its scaling symmetries are on paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A model and its symmetries by hand.

    Attributes:
        name: of the factory.
        factory: returns the model and the arguments of one call, in float32.
        groups: the scale-invariant groups, disjoint.
        rescalings: with the groups and the tensors without effect a basis of all symmetries.
        without_effect: tensors the output does not depend on.
        fixed: tensors in no symmetry.
        row_invariant: tensors each of whose rows is scale-invariant by itself.
    """

    name: str
    factory: Callable[[], tuple[nn.Module, Call]]
    groups: Sequence[Sequence[str]]
    rescalings: Sequence[Mapping[str, int]]
    without_effect: Sequence[str]
    fixed: Sequence[str]
    row_invariant: Sequence[str]

    @property
    def dimension(self) -> int:
        return len(self.groups) + len(self.rescalings) + len(self.without_effect)

    @property
    def invariant(self) -> set[str]:
        return {name for group in self.groups for name in group}

    def make(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Call]:
        """The model, always with the same weights, and a call, both in ``dtype``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, call = self.factory()

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        args, kwargs = tuple(map(cast, call.args)), {k: cast(v) for k, v in call.kwargs.items()}
        return model.to(dtype), Call(args, kwargs)

    def generators(self, names: Sequence[str]) -> np.ndarray:
        """A basis of all symmetries on paper, [dimension, names]."""
        vectors: list[Mapping[str, int]] = [dict.fromkeys(group, 1) for group in self.groups]
        vectors += [*self.rescalings, *({name: 1} for name in self.without_effect)]
        rows = np.zeros((len(vectors), len(names)))
        for row, vector in zip(rows, vectors, strict=True):
            for name, exponent in vector.items():
                row[names.index(name)] = exponent
        return rows


ZOO: dict[str, Entry] = {}


def on_paper(
    *,
    groups: Sequence[Sequence[str]] = (),
    rescalings: Sequence[Mapping[str, int]] = (),
    without_effect: Sequence[str] = (),
    fixed: Sequence[str] = (),
    row_invariant: Sequence[str] = (),
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Put a factory into the zoo; it returns the model and its positional arguments, or a :class:`Call`."""

    def register(factory: Callable[[], Any]) -> Callable[[], Any]:
        def normalised() -> tuple[nn.Module, Call]:
            model, *args = factory()
            return model, args[0] if args and isinstance(args[0], Call) else Call(tuple(args))

        name = factory.__name__
        assert name not in ZOO, f"two models are called {name}"
        ZOO[name] = Entry(name, normalised, groups, rescalings, without_effect, fixed, row_invariant)
        return factory

    return register


def against(up: str, down: str) -> dict[str, int]:
    """The rescaling that scales the first names (separated by blanks) by a and the second by 1/a."""
    return {**dict.fromkeys(up.split(), 1), **dict.fromkeys(down.split(), -1)}


def with_tiny_eps(model: nn.Module, eps: float = 1e-12) -> nn.Module:
    """Set the eps of every norm layer, in place; an eps written into a forward pass stays."""
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = eps
    return model


def loss_of(output: Any, seed: int = 0) -> Tensor:
    """Mean squared distance of all floating tensors of an output to fixed random targets."""
    generator = torch.Generator().manual_seed(seed)
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]
    tensors = [t for t in values if isinstance(t, Tensor) and t.is_floating_point()]
    losses = [(t - torch.randn(t.shape, generator=generator).to(t)).square().mean() for t in tensors]
    return torch.stack(losses).sum()
