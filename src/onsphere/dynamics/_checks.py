"""Arguments of the laws: numbers of any kind in, float64 arrays out, and one sentence where they make no sense."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Numbers", "decay_factor", "fraction", "non_negative", "numbers", "plain", "positive"]

Array: TypeAlias = NDArray[np.float64]

#: What the functions take: a number, a nest of numbers, a numpy array or a torch tensor.
Numbers: TypeAlias = Any


def numbers(name: str, value: Numbers, *, finite: bool = True) -> Array:
    """``value`` as a float64 array.

    Args:
        name: What the user calls it, for the message.
        value: A number, a sequence, a numpy array or a torch tensor on any device.
        finite: Whether NaN and infinity are refused.

    Returns:
        An array of the value's shape.

    Raises:
        ValueError: It is empty, not of real numbers, or (with ``finite``) not finite.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value if value.is_complex() else value.double()).numpy()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a real number or an array of them") from None
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one number")
    array = array.astype(np.float64)
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name} holds {_worst(array, ~np.isfinite(array))}; it must be finite")
    return array


def positive(name: str, value: Numbers) -> Array:
    """As :func:`numbers`; every entry must be above zero (ValueError)."""
    array = numbers(name, value)
    if not (array > 0).all():
        raise ValueError(f"{name} is {_worst(array, array <= 0)}; it must be positive")
    return array


def non_negative(name: str, value: Numbers) -> Array:
    """As :func:`numbers`; no entry may be below zero (ValueError)."""
    array = numbers(name, value)
    if not (array >= 0).all():
        raise ValueError(f"{name} is {_worst(array, array < 0)}; it must not be negative")
    return array


def fraction(name: str, value: Numbers, *, zero: bool = False) -> Array:
    """As :func:`numbers`; every entry must lie in (0, 1), or with ``zero`` in [0, 1) (ValueError)."""
    array = numbers(name, value)
    bad = (array >= 1) | ((array < 0) if zero else (array <= 0))
    if bad.any():
        raise ValueError(f"{name} is {_worst(array, bad)}; it must lie in {'[' if zero else '('}0, 1)")
    return array


def decay_factor(lr: Numbers, weight_decay: Numbers) -> Array:
    """``b = 1 - lr * weight_decay``, by which one step of SGD shrinks the weights before the gradient moves them.

    Raises:
        ValueError: ``lr`` is not positive, ``weight_decay`` is negative or at least 1 / lr.
    """
    rate, decay = positive("lr", lr), non_negative("weight_decay", weight_decay)
    product = rate * decay
    if not (product < 1).all():
        worst = np.unravel_index(int(np.argmax(product)), product.shape)
        rates, decays = np.broadcast_arrays(rate, decay)
        raise ValueError(
            f"weight_decay is {decays[worst]:g} at lr {rates[worst]:g}; it must be below 1 / lr = "
            f"{1 / rates[worst]:g}, or one step would turn the weights around"
        )
    return np.asarray(1 - product)


def plain(array: Any) -> Any:
    """A float if 0-d, the array otherwise."""
    array = np.asarray(array, dtype=np.float64)
    return float(array) if array.ndim == 0 else array


def _worst(array: Array, bad: NDArray[np.bool_]) -> str:
    return f"{array[bad].flat[0]:g}"
