"""Norms written out as plain arithmetic, with right derivatives of every order.

    y = (x - mean(x)) / sqrt(var(x) + eps) weight + bias

torch's own kernels have a first and a second derivative. Their third (a Hessian of a loss whose forward pass
differentiates already, as physics-informed networks do) is wrong in torch 2.13 for layer, batch and instance norm,
without a word. Where it is needed, the functions are computed from operations that torch can differentiate as often as
wanted. Forward-mode derivatives of the kernels, which ``torch.func.hessian`` takes, are wrong as well; nothing here
uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from onsphere.functional.reads import nodes

__all__ = ["NormsWrittenOut", "differentiates_norms"]


class NormsWrittenOut(TorchFunctionMode):
    """While it is entered, layer, group, batch, instance and RMS norms are computed by plain arithmetic.

    Those called by the name of an operator (``torch.ops.aten...``) are not.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, or what is written out for it."""
        return _WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))


def differentiates_norms(root: Tensor) -> bool:
    """Whether the graph of a tensor holds the derivative of a norm's derivative."""
    return any("Norm" in node.name() and node.name().count("Backward") > 1 for node in nodes([root]))


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _standard(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _scaled(_standard(input, list(range(-len(normalized_shape), 0)), eps), weight, bias)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _scaled(input * torch.rsqrt(input.square().mean(dims, keepdim=True) + eps), weight, None)


def _per_channel(values: Tensor | None, x: Tensor) -> Tensor | None:
    return None if values is None else values.view(-1, *[1] * (x.dim() - 2))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    rows = input.reshape(input.shape[0], num_groups, -1)
    return _scaled(
        _standard(rows, [-1], eps).reshape(input.shape), _per_channel(weight, input), _per_channel(bias, input)
    )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        y = _standard(input, [0, *range(2, input.dim())], eps)
    else:
        mean, var = (t.view(-1, *[1] * (input.dim() - 2)) for t in (running_mean, running_var))
        y = (input - mean) * torch.rsqrt(var + eps)
    return _scaled(y, _per_channel(weight, input), _per_channel(bias, input))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    y = _standard(input, list(range(2, input.dim())), eps)
    return _scaled(y, _per_channel(weight, input), _per_channel(bias, input))


_WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
}
