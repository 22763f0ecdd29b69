"""One member of an ensemble: its weights put into the common architecture, its logits taken from what it returns.

``torch.func.functional_call`` swaps the parameters of a module. Recurrent layers keep a list of theirs besides, which
is swapped here as well. Scripted modules do not allow it; copies of them look at slices of the stacked weights instead,
so that they follow every change, but those weights get no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from onsphere.functional.copying import duplicate

__all__ = ["OutputError", "called", "evaluated", "is_scripted", "logits_of", "views"]


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
        member = duplicate(stacked)
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


class _EvaluatedNorm(nn.Module):
    """A batch norm in evaluation mode as one multiplication and addition.

    It has the norm's tensors under the same names. torch's own fixes the batch size when it is exported under vmap.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, parameter in norm._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in norm._buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.running_var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        form = (-1, *(1,) * (x.ndim - 2))
        return torch.addcmul(shift.view(form), x, scale.view(form))

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


def evaluated(module: nn.Module) -> nn.Module:
    """The module with its batch norms replaced; those without running statistics stay, as they are in evaluation."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    # Not subclasses: they may compute something else.
    if isinstance(module, kinds) and type(module) in kinds and module.running_mean is not None:
        return _EvaluatedNorm(module)
    for name, child in module.named_children():
        setattr(module, name, evaluated(child))
    return module
