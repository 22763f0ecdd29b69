"""Logits and labels at the border: arrays or tensors in, float64 arrays out, one sentence where they make no sense."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Labels", "as_array", "check_labels", "check_logits", "log_softmax", "positive_integer"]

Array: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]


def as_array(value: Any) -> NDArray[Any]:
    """A numpy array of numbers, numpy arrays or torch tensors of any floating type and device."""
    if isinstance(value, list | tuple) and any(hasattr(v, "detach") for v in value):
        value = [as_array(v) for v in value]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def check_logits(logits: Any, *, dimensions: int = 3) -> Array:
    """Logits (or log-probabilities) as float64.

    Args:
        logits: ``[members, examples, classes]``, or ``[examples, classes]`` where ``dimensions`` is 2.
        dimensions: How many dimensions the logits must have.

    Returns:
        The same values. -inf is kept: it is the logarithm of a probability of zero.

    Raises:
        ValueError: Other dimensions, no members or examples, fewer than two classes, NaN or +inf, or an example
            whose classes are all -inf.
    """
    form = "[members, examples, classes]" if dimensions == 3 else "[examples, classes]"
    try:
        array = as_array(logits)
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"logits must be real numbers of shape {form}, all members with equal shapes") from None
    if array.ndim != dimensions:
        raise ValueError(f"logits have shape {array.shape}; they must be {form}")
    if 0 in array.shape or array.shape[-1] < 2:
        raise ValueError(f"logits have shape {array.shape}; there must be examples, and at least two classes")
    array = array.astype(np.float64)
    if np.isnan(array).any() or (array == np.inf).any():
        raise ValueError(f"logits hold NaN or inf{_where(array)}; leave such members out (failed_members names them)")
    if np.isneginf(array).all(axis=-1).any():
        raise ValueError("an example has -inf for every class; at least one class must have a probability above 0")
    return array


def _where(array: Array) -> str:
    bad = np.isnan(array) | (array == np.inf)
    members = np.flatnonzero(bad.any(axis=(1, 2))).tolist() if array.ndim == 3 else list[int]()
    return f" in member{'s' * (len(members) > 1)} {', '.join(map(str, members[:5]))}" if members else ""


def check_labels(labels: Any, examples: int, classes: int) -> Labels:
    """Class numbers as int64 (ValueError: another shape, no whole numbers, or outside 0 .. classes - 1)."""
    array = as_array(labels)
    if array.shape != (examples,):
        raise ValueError(f"labels have shape {array.shape}; {examples} examples need shape ({examples},)")
    if array.dtype.kind not in "iu":
        raise ValueError(f"labels are of type {array.dtype}; they must be whole numbers from 0 to {classes - 1}")
    if array.min() < 0 or array.max() >= classes:
        worst = int(array.min()) if array.min() < 0 else int(array.max())
        raise ValueError(f"labels hold {worst}; with {classes} classes they must lie in 0 to {classes - 1}")
    return array.astype(np.int64)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities along the last dimension, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def positive_integer(name: str, value: Any) -> int:
    """``value`` as an int (ValueError unless it is a whole number of at least 1; numpy's are fine, bools are not)."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)
