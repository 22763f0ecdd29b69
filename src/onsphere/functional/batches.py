"""What counts as batches, and how a model is called with one.

    (x, y)                       one batch, a tuple or, as a data loader gives it, a list
    [(x, y), (x, y)], a loader   batches
    ((u, v), y)                  a model of two inputs is called model(u, v)
    ({"a": u, "b": v}, y)        and here model(a=u, b=v)
    forward(model, x)            where that is not how it is called: ``forward`` gets the input as it is

Two pairs of two, ``((u, v), (a, b))``, can be read in two ways: as two batches, or as one of two inputs and two
targets. The model decides: where it can be called in one of the ways alone, that one is meant. Else a list means two
batches, and a tuple is refused.

Everything that takes batches reads them by these rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset, IterableDataset

from onsphere.functional.nests import mapped, tensors_in

__all__ = [
    "Batches",
    "Called",
    "Forward",
    "aliases",
    "as_batches",
    "call",
    "call_arguments",
    "call_with",
    "examples_in",
    "first_examples",
    "may_be_one_pair",
    "placed",
]

#: Pairs (input, target), or one such pair.
Batches: TypeAlias = Any
#: How a model is called, ``forward(model, input)``, where that is not ``model(input)``.
Forward: TypeAlias = Callable[[Any, Any], Any]


def as_batches(
    batches: Batches, model: nn.Module | None = None, *, forward: Forward | None = None, name: str = "batches"
) -> list[tuple[Any, Any]]:
    """Batches as a list of pairs.

    Args:
        batches: An iterable of ``(input, target)``, or one pair.
        model: What will be called with the inputs; decides how two pairs of two are meant.
        forward: How it will be called, where it is not by its own signature.
        name: What to call the argument in errors.

    Raises:
        ValueError: There are none, or a tuple can be read in two ways.
        TypeError: Something is not a pair.
    """
    if _is_one_pair(batches, model, forward, name):
        return [(batches[0], batches[1])]
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError(f"{name} is a {type(batches).__name__} of single examples; give a DataLoader over it")
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            f"{name} is a {type(batches).__name__}; it must be a pair (input, target) or an iterable of such pairs"
        )
    pairs = []
    for i, pair in enumerate(batches):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            what = f"{len(pair)} things" if isinstance(pair, tuple | list) else f"a {type(pair).__name__}"
            of = "" if name == "batches" else f" of {name}"
            raise TypeError(f"batch {i}{of} is {what}; every batch must be a pair (input, target)")
        pairs.append((pair[0], pair[1]))
    if not pairs:
        raise ValueError(f"{name} is empty (an exhausted generator?): give at least one pair (input, target)")
    return pairs


def may_be_one_pair(batches: Batches) -> bool:
    """Whether only a model can say if these are two batches or one."""
    return (
        isinstance(batches, tuple | list)
        and len(batches) == 2
        and all(isinstance(part, tuple | list) and len(part) == 2 for part in batches)
    )


def _is_one_pair(batches: Batches, model: nn.Module | None, forward: Forward | None, name: str) -> bool:
    if not isinstance(batches, tuple | list) or len(batches) != 2:
        return False
    first, second = batches
    if not may_be_one_pair(batches):
        if isinstance(batches, tuple) or isinstance(second, Tensor):
            return True
        # Two dictionaries alike, or one pair of two: these are batches, and what is wrong with them is said there.
        alike = isinstance(first, Mapping) and isinstance(second, Mapping) and set(first) == set(second)
        return not alike and not any(isinstance(part, tuple) and len(part) == 2 for part in batches)
    known = model is not None and forward is None
    whole = known and _takes(model, first)
    parts = known and _takes(model, first[0]) and _takes(model, second[0])
    if whole != parts:
        return whole
    if isinstance(batches, tuple):
        raise ValueError(
            f"{name} is a tuple of two pairs, which can mean two batches or one of two inputs and two targets: write "
            "[(u, v), (a, b)] for two, [((u, v), (a, b))] for one"
        )
    return False


def _takes(model: nn.Module | None, inputs: Any) -> bool:
    """Whether the signature of a model's forward pass takes these inputs; True where it cannot be read."""
    assert model is not None
    args, kwargs = call_arguments(inputs)
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch's inputs as the arguments of one call of the model."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def call(model: nn.Module, inputs: Any, forward: Forward | None = None) -> Any:
    """What a model gives for the inputs of a batch."""
    if forward is not None:
        return forward(model, inputs)
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


class Called(nn.Module):
    """A model together with the way it is called; its parameters are the model's, under ``model.``.

    Args:
        model: The module that is called.
        forward: How the model is called, ``forward(model, input)``; None stands for ``model(input)``.
    """

    prefix = "model."

    def __init__(self, model: nn.Module, forward: Forward | None = None) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # the model's own flags are left alone
        self._forward = forward

    def forward(self, inputs: Any) -> Any:
        """The model's output for the inputs of a batch."""
        return call(self.model, inputs, self._forward)


def call_with(called: Called, state: Mapping[str, Tensor], inputs: Any) -> Any:
    """What a model gives with other parameters and buffers, by the model's own names."""
    return functional_call(called, {called.prefix + name: tensor for name, tensor in state.items()}, (inputs,))


def examples_in(inputs: Any, target: Any, index: int) -> int:
    """How many examples a batch has: the length of the first tensor of its target, else of its input."""
    for tensor in tensors_in((target, inputs)):
        if tensor.dim() > 0:
            if len(tensor) == 0:
                raise ValueError(f"batch {index} has no examples: a tensor of shape {tuple(tensor.shape)}")
            return len(tensor)
    return 1


def first_examples(inputs: Any, examples: int, most: int) -> Any:
    """The inputs of the first examples of a batch: of tensors that have a row for each of them."""
    if examples <= most:
        return inputs
    return mapped(inputs, lambda t: t[:most] if t.dim() and len(t) == examples else t)


def placed(batches: list[tuple[Any, Any]], model: nn.Module) -> list[tuple[Any, Any]]:
    """Batches where the model is.

    A batch stays as it is if the model is in several places, or if a tensor of it is there already: then whoever made
    it has placed it (lengths of sequences, for example, belong on the CPU).
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) != 1:
        return batches
    (device,) = devices
    return [
        pair if any(t.device == device for t in tensors_in(pair)) else mapped(pair, lambda t: t.to(device))
        for pair in batches
    ]


def aliases(value: Any) -> Any:
    """The same numbers as tensors of their own; what a forward pass does to these (``requires_grad_``) stays there.

    A tensor that occurs twice is still one, so that a target can be differentiated by that is the input as well.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, whose id is then no other's

    def alias(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = tensor, tensor.detach().requires_grad_(tensor.requires_grad)
        return made[id(tensor)][1]

    return mapped(value, alias)
