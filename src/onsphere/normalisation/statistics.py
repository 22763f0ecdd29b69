"""Batch normalisation by the statistics of the batch alone, fast and accurate.

    y = (x - mean(x)) / sqrt(var(x) + eps)

per channel, without running buffers, so that training steps can be functions of the weights.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from onsphere.normalisation.frozen import frozen_norms

__all__ = ["BatchStatistics", "without_running_statistics"]

# Inputs [N, C] with N up to this go to torch's own kernel: one call instead of eight, worth 1.6x on a small
# MLP step. It sums along N in one go, so its error grows with N: 1e-6 here, 1e-5 at 65536, against 1e-7 for
# ours.
_SHORT_BATCH = 512


# -- batch statistics --------------------------------------------------------------------------------------
#
# Activations are viewed as "rows" [N, C, L], or [N, C], in whatever order they lie in memory. Means are taken in
# two levels, over L and then over N: one long float32 sum over N*L values, which torch's own channels_last kernel
# makes, loses four digits of the variance.


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.flatten(2)


def _channel_mean(rows: Tensor) -> Tensor:
    """Mean per channel of rows, shaped to broadcast against them: [C] or [C, 1]."""
    return rows.mean(0) if rows.dim() == 2 else rows.mean(2, keepdim=True).mean(0)


def _jacobian_product(y: Tensor, inv_std: Tensor, t: Tensor, t_inv_std: Tensor | None = None) -> Tensor:
    """The (symmetric) Jacobian applied to t: ``inv * (t - mean(t) - y * (mean(t*y) + t_inv_std*inv/n))``."""
    rows, t_rows = _rows(y), _rows(t)
    per_channel = (-1,) if rows.dim() == 2 else (-1, 1)
    inv = inv_std.reshape(per_channel)
    along = _channel_mean(t_rows * rows)
    if t_inv_std is not None:
        along = along + t_inv_std.reshape(per_channel) * inv * (y.shape[1] / y.numel())
    # Two passes over memory: first everything that does not scale t, then t itself.
    rest = torch.addcmul(-_channel_mean(t_rows) * inv, rows, -along * inv)
    return torch.addcmul(rest, t_rows, inv).reshape(y.shape)


class _Normalise(torch.autograd.Function):
    """x -> (y, inv_std), keeping only these two for the backward pass.

    ``inv_std`` is an output, not a stored intermediate, so that second derivatives see how it depends on x.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows = _rows(x)
        centred = rows - _channel_mean(rows)
        inv_std = torch.rsqrt(_channel_mean(centred * centred) + eps)
        return centred.mul_(inv_std).reshape(x.shape), inv_std.reshape(-1)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_inv_std: Tensor) -> tuple[Tensor, None]:
        y, inv_std = ctx.saved_tensors
        return _jacobian_product(y, inv_std, grad_y, grad_inv_std), None

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor, _eps: None) -> tuple[Tensor, Tensor]:
        y, inv_std = ctx.saved_tensors
        along = _channel_mean(_rows(y) * _rows(x_dot)).reshape(-1)
        return _jacobian_product(y, inv_std, x_dot), -inv_std.square() * along


def _normalise(x: Tensor, eps: float, *, under_vmap: bool) -> Tensor:
    if torch.compiler.is_compiling():
        # The compiler fuses the plain expression itself, and cannot trace a Function that has its own jvp.
        rows = _rows(x)
        centred = rows - _channel_mean(rows)
        return (centred * torch.rsqrt(_channel_mean(centred * centred) + eps)).reshape(x.shape)
    if x.dim() == 2 and x.shape[0] <= _SHORT_BATCH and eps > 0 and not under_vmap:
        return nn.functional.batch_norm(x, None, None, training=True, eps=eps)
    y, _ = cast("tuple[Tensor, Tensor]", _Normalise.apply(x, eps))  # type: ignore[no-untyped-call]
    return y


class BatchStatistics(nn.Module):
    """Batch normalisation by the statistics of the current batch alone, in training and evaluation mode.

    ``y = (x - mean) / sqrt(var + eps)`` per channel with the biased variance, then ``y * weight + bias``
    where those are given. Accurate to float32 rounding in every memory format (torch's channels_last kernel
    is not: its variance is off by 4e-5), keeps the input's memory format, and works under ``torch.func``
    transforms (``vmap(grad(...))``, ``jvp``, second derivatives), ``make_fx`` and ``torch.compile``. The
    backward pass is ``dx = inv_std * (dy - mean(dy) - y * mean(dy * y))`` and stores nothing but y and
    inv_std.

    Args:
        num_features: number of channels C of inputs [N, C, *].
        eps: added to the variance, non-negative. With 0 a channel without variance gives NaN.
        weight: gain of shape [C], or None. A given Parameter is shared, not copied.
        bias: shift of shape [C], or None.
        under_vmap: set when the module runs under ``torch.func.vmap``: torch's own kernel, which short batches of
            vectors otherwise use, would copy its input there.

    Raises:
        ValueError: for a non-positive ``num_features``, a negative or non-finite ``eps``, a ``weight`` or
            ``bias`` of another shape; when called, for an input that is not [N, C, *] or has one value per
            channel.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-12,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        under_vmap: bool = False,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be a positive number of channels, not {num_features}")
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be finite and not negative, not {eps}; 1e-12 suits weights on a sphere")
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None and tuple(value.shape) != (num_features,):
                raise ValueError(
                    f"{name} must have one element per channel, shape ({num_features},), not {tuple(value.shape)}"
                )
            if value is not None and not isinstance(value, nn.Parameter):
                value = nn.Parameter(value)
            self.register_parameter(name, value)
        self.num_features = num_features
        self.eps = eps
        self.under_vmap = under_vmap

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [N, C, *] (floating point; half precisions are computed in float32) per channel."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchStatistics({self.num_features}) needs an input [N, {self.num_features}, ...], "
                f"not one of shape {tuple(x.shape)}"
            )
        if x.numel() <= self.num_features:
            raise ValueError(
                f"batch statistics need more than one value per channel, and the input has shape "
                f"{tuple(x.shape)}: give a larger batch"
            )
        half = x.dtype in (torch.float16, torch.bfloat16)
        y = _normalise(x.float() if half else x, self.eps, under_vmap=self.under_vmap)
        # In place would save a copy but overwrite what the backward pass needs.
        channels = (self.num_features,) + (1,) * (x.dim() - 2)
        if self.weight is not None:
            y = y * self.weight.view(channels)
        if self.bias is not None:
            y = y + self.bias.view(channels)
        return y.to(x.dtype) if half else y

    def extra_repr(self) -> str:
        """What ``repr`` shows between the brackets."""
        affine = " and ".join(n for n in ("weight", "bias") if getattr(self, n) is not None) or "no affine"
        return f"{self.num_features}, eps={self.eps}, {affine}"


# -- batch norms as functions ------------------------------------------------------------------------------


def without_running_statistics(model: nn.Module) -> nn.Module:
    """Replace every batch norm of ``model``, in place, by a :class:`BatchStatistics` sharing its parameters.

    Functional training steps (``torch.func.functional_call`` under ``grad`` and ``vmap``) cannot update
    buffers in place. Parameters stay the same objects under the same names; the running buffers leave the
    state dict, and evaluation mode uses batch statistics too. Work on a copy if the model is still needed
    as it is.

    Args:
        model: any module. Synchronised batch norms become local ones; frozen ones (``frozen_norms``) stay.

    Returns:
        ``model`` itself, or its replacement if ``model`` is a batch norm.

    Raises:
        ValueError: if a batch norm is lazy and has not seen a batch yet.
    """
    replacements: dict[int, BatchStatistics] = {}
    kept = set(frozen_norms(model).values())

    def replacement(name: str, norm: _BatchNorm) -> BatchStatistics:
        if id(norm) not in replacements:
            if norm.num_features < 1 or isinstance(norm.weight, nn.UninitializedParameter):
                raise ValueError(
                    f"batch norm {name or type(norm).__name__!r} does not know its number of channels yet: "
                    "run one forward pass before replacing it"
                )
            new = BatchStatistics(norm.num_features, norm.eps, norm.weight, norm.bias)
            new.training = norm.training
            replacements[id(norm)] = new
        return replacements[id(norm)]

    if isinstance(model, _BatchNorm):
        return model if model in kept else replacement("", model)
    for prefix, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm) and child not in kept:
                parent._modules[name] = replacement(f"{prefix}.{name}".lstrip("."), child)
    return model
