"""Whether products with the Hessian are precise enough for an error to be known.

In bfloat16 and float16 a forward pass rounds every intermediate result to two or three digits, and the derivatives
with it: values come out off by a tenth, and no residual shows it, because it is measured with the same products. Nor
does the type of the weights: autocast inside the forward pass, a layer or a cast in half precision do the same to
float32 weights. So one forward pass is watched, operation by operation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onsphere.curvature.functional import Functional

__all__ = ["coarse_products"]


def coarse_products(functional: Functional) -> str | None:
    """What the derivatives of a loss are computed in, where that is coarser than float32; None where it is not.

    Args:
        functional: The loss; its first batch is computed once.
    """
    weights = functional.selected()
    watch = _Watch()
    watch.look(weights)
    with watch, torch.no_grad():
        functional.loss(weights, 0)
    if watch.found is not None:
        return watch.found
    if torch.float32 in {w.dtype for w in weights} and _matrix_products_are_rounded():
        return "float32 with set_float32_matmul_precision below 'highest'"
    return None


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the coarsest kind of number that an operation gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None

    def look(self, value: Any) -> None:
        for tensor in tree_leaves(value):
            if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            if torch.finfo(tensor.dtype).bits < 32:
                self.found = self.found or str(tensor.dtype).removeprefix("torch.")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.look(result)
        if "convolution" in str(func) and torch.backends.cudnn.allow_tf32:
            inputs = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            if any(x.is_cuda and x.dtype == torch.float32 for x in inputs):
                self.found = self.found or "TensorFloat-32 (torch.backends.cudnn.allow_tf32)"
        return result


def _matrix_products_are_rounded() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by both of torch's interfaces, and differently
        return True
