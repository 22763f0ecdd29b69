"""One member of an ensemble: its weights put into the common architecture, its logits taken from what it returns.

``torch.func.functional_call`` swaps the parameters of a module. Recurrent layers keep a list of theirs besides, which
is swapped here as well. Scripted modules do not allow it; copies of them look at slices of the stacked weights instead,
so that they follow every change, but those weights get no gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["OutputError", "called", "is_scripted", "logits_of", "views"]


class OutputError(ValueError):
    """A member's output is no logits."""


def called(module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the module returns with these parameters and buffers."""
    with _recurrent_weights(module, tensors):
        return functional_call(module, dict(tensors), args, dict(kwargs))


def logits_of(output: Any) -> Tensor:
    """The logits of a member: its output, or the ``logits`` in it (as the models of Hugging Face return them).

    Raises:
        OutputError: There are none, or they are not ``[batch, classes]`` with at least two classes.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise OutputError(
            f"a member returns {type(output).__name__}; it must return one tensor of logits [batch, classes], or an "
            "object or dictionary that has it as 'logits'"
        )
    if found.ndim != 2:
        raise OutputError(f"a member returns {list(found.shape)}; it must return one tensor of logits [batch, classes]")
    if found.shape[1] < 2:
        raise OutputError(
            f"a member returns logits of shape {list(found.shape)}; there must be at least two classes, since the "
            "probability of a single one is 1 for every input: of one logit z for yes and no, return [0, z]"
        )
    return found


def is_scripted(module: nn.Module) -> bool:
    """Whether the module, or one inside, is TorchScript."""
    return any(isinstance(m, torch.jit.ScriptModule) for m in module.modules())


def views(stacked: nn.Module, members: int) -> list[nn.Module]:
    """Copies of a module with stacked tensors, one a member, that look at their slices."""
    found = []
    for i in range(members):
        with torch.no_grad():  # copies of scripted parameters are no leaves otherwise
            member = copy.deepcopy(stacked)
        own = {**dict(stacked.named_parameters()), **dict(stacked.named_buffers())}
        for name, tensor in [*member.named_parameters(), *member.named_buffers()]:
            tensor.data = own[name].detach()[i]
        found.append(member)
    return found


@contextmanager
def _recurrent_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The lists of weights that recurrent layers keep, of these tensors for a while."""
    before: list[tuple[nn.RNNBase, list[Tensor | None]]] = []
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase):
            before.append((layer, layer._flat_weights))
            names = [f"{prefix}.{name}" if prefix else name for name in layer._flat_weights_names]
            layer._flat_weights = [tensors[name] for name in names]
    try:
        yield
    finally:
        for layer, weights in before:
            layer._flat_weights = weights
