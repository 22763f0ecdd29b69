"""What a loss must be: one real number, the mean over the examples of a batch, the same in every pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LossFunction", "check_deterministic", "check_mean", "one_number", "precision_of"]

#: ``loss_fn(output, target)``: a mean over examples, as a 0-d tensor.
LossFunction = Callable[[Any, Any], Tensor]


def one_number(loss: Any) -> Tensor:
    """A loss as a 0-d tensor.

    Raises:
        TypeError: It is no tensor of real floating point.
        ValueError: It is more than one number.
    """
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        found = f"a tensor of {loss.dtype}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TypeError(f"loss_fn returned {found}; it must return a 0-d tensor of real floating point")
    if loss.numel() != 1:
        raise ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; it must return one number, the mean over the "
            "examples (reduction='mean')"
        )
    return loss.reshape(())


def precision_of(dtype: torch.dtype) -> float:
    """How far rounding may take two sums of the same numbers apart, relative."""
    eps = torch.finfo(dtype).eps
    return min(1e3 * eps, max(1e-3, 8 * eps))


def check_deterministic(outputs: tuple[Any, Any], losses: tuple[float, float], precision: float) -> None:
    """Refuse a model or loss that gives something else in a second pass over the same batch (ValueError)."""
    first, second = outputs
    if abs(losses[0] - losses[1]) > precision * max(map(abs, losses)):
        raise ValueError(
            f"the model is not deterministic: two forward passes of the same batch give the losses "
            f"{losses[0]:.9g} and {losses[1]:.9g} (dropout layers are off already); draw no random numbers in "
            "the forward pass or the loss"
        )
    if not (isinstance(first, Tensor) and first.is_floating_point()):
        return
    size, apart = float(first.double().norm()), float((first.double() - second.double()).norm())
    if apart > max(1e-3, precision) * size:
        raise ValueError(
            f"the model is not deterministic: with dropout off, two passes over one batch differ by {apart:.3g} at an "
            f"output of norm {size:.3g}; take the noise out of its forward pass"
        )


def check_mean(
    loss_fn: LossFunction, output: Any, target: Any, whole: float, examples: int, precision: float, *, alone: bool
) -> None:
    """Refuse a loss of a batch that is not the mean of those of its two parts, of 1/3 and 2/3 of the examples.

    Args:
        loss_fn: The loss as a function ``loss_fn(output, target)``.
        output: What a model gave for the batch.
        target: The target of the batch.
        whole: The loss of the batch.
        examples: How many examples the batch has.
        precision: Relative size of what rounding may do.
        alone: It is the only batch. Then any average will do, a weighted one for example.

    Raises:
        ValueError: It is no mean.
    """
    n = examples
    if n < 2 or not _splits(output, n) or not _splits(target, n):
        return
    cut = max(1, n // 3)
    try:
        parts = [float(one_number(loss_fn(output[s], target[s])).detach()) for s in (slice(0, cut), slice(cut, n))]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return  # a loss that needs the whole batch
    if not all(map(math.isfinite, (*parts, whole))):
        return  # every target of a part ignored, for example
    allowed = precision * max(abs(whole), *map(abs, parts))
    mean = (cut * parts[0] + (n - cut) * parts[1]) / n
    if abs(whole - mean) <= allowed:
        return
    if not alone or not min(parts) - allowed <= whole <= max(parts) + allowed:
        raise ValueError(
            f"loss_fn is not a mean over examples: it gives {whole:.6g} for {n} examples, and {parts[0]:.6g} and "
            f"{parts[1]:.6g} for the first {cut} and the other {n - cut}, whose mean is {mean:.6g}. Use "
            "reduction='mean' (a weighted average is fine with a single batch)"
        )


def _splits(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == n
