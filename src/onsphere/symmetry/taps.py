"""The products Σ grad_i θ_i of large tensors without their gradients.

A row of the log-scale Jacobian needs of a weight's gradient only its product with the weight. Where z = x W^T,

    <dL/dW, W> = Σ dL/dz z,

which the backward pass has at hand: half of its work, and all gradients as large as the model, need not be. A tap
passes z on, and is told of dL/dz. What a model does with its weights in other ways is differentiated as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Taps"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)


class Taps:
    """Where parameters are used in one forward pass.

    Args:
        parameters: Those whose products are wanted.

    Attributes:
        leaves: One for each parameter; its gradient holds the product, and the sum of the sizes of its terms.
        inside: Whether the forward pass itself took gradients, for which the weights are constants here.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.leaves = [p.new_zeros(2).requires_grad_() for p in parameters]
        self.inside = False
        self.open = True
        self._places = {id(p): i for i, p in enumerate(parameters) if p.is_floating_point()}

    def __call__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function that uses a parameter as its weight, or NotImplemented."""
        if not torch.is_grad_enabled():
            return NotImplemented
        bias = None
        if func is F.linear and len(args) >= 2 and self._has(args[1]):
            weight, bias = args[1], args[2] if len(args) > 2 else kwargs.get("bias")
            z = F.linear(args[0], weight.detach())
        elif func in _CONVOLUTIONS and len(args) >= 2 and self._has(args[1]):
            weight, bias = args[1], args[2] if len(args) > 2 else kwargs.get("bias")
            z = func(args[0], weight.detach(), None, *args[3:], **{k: v for k, v in kwargs.items() if k != "bias"})
            bias = None if bias is None else bias.reshape(-1, *[1] * (weight.dim() - 2))
        elif func is F.embedding and len(args) >= 2 and self._has(args[1]) and not _changes(args, kwargs):
            weight = args[1]
            z = F.embedding(args[0], weight.detach())
        elif func in _MATRIX_PRODUCTS and len(args) == 2 and self._has(args[1]) and not kwargs:
            weight = args[1]
            z = func(args[0], weight.detach())
        elif func is torch.addmm and len(args) == 3 and self._has(args[2]) and not kwargs:
            bias, weight = args[0], args[2]
            z = torch.mm(args[1], weight.detach())
        else:
            return NotImplemented
        z = _Tap.apply(z, self.leaves[self._places[id(weight)]], self)  # type: ignore[no-untyped-call]
        return z if bias is None else z + bias

    def _has(self, weight: Any) -> bool:
        return id(weight) in self._places


def _changes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an embedding renormalises its rows, or leaves one out of the gradient, or scales by frequency."""
    given = dict(zip(("padding_idx", "max_norm", "norm_type", "by_frequency"), args[2:6], strict=False)) | kwargs
    return (
        given.get("padding_idx") not in (None, -1)
        or given.get("max_norm") is not None
        or bool(given.get("by_frequency") or given.get("scale_grad_by_freq"))
    )


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, leaf: Tensor, taps: Taps) -> Tensor:
        ctx.save_for_backward(z)
        ctx.taps = taps
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), (z,) = gradients, ctx.saved_tensors
        if ctx.taps.open:
            ctx.taps.inside = True
        # An example whose units are all dead has z = 0 and, before a norm without eps, a gradient of 1e100: no term.
        terms = gradient * z
        return gradient, torch.stack([terms.sum(), terms.abs().sum()]), None
