"""The one error of this package and the small checks of single arguments that every reader shares.

A message is one line and says, in this order: the field or file, what was found, what is allowed, what to do.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

Seed = int | Sequence[int]
"""A non-negative integer, or a non-empty sequence of them, as ``numpy.random.SeedSequence`` takes it."""


class DataError(ValueError):
    """A data set, one of its files or one of the options it was asked for with is not usable."""


def integer(value: Any) -> int | None:
    """``value`` as an int, or None if it is not a whole number (True and False are not)."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(field: str, value: Any, smallest: int) -> int:
    """Check an argument that counts something.

    Raises:
        DataError: ``value`` is not an integer, or is below ``smallest``.
    """
    number = integer(value)
    if number is None or number < smallest:
        raise DataError(f"{field}: {value!r} is not allowed; give an integer of at least {smallest}")
    return number


def fraction(field: str, value: Any) -> float:
    """Check an argument that is a share of something.

    Raises:
        DataError: ``value`` is not a number in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or not 0 <= value <= 1:
        raise DataError(f"{field}: {value!r} is not allowed; give a number from 0 to 1")
    return float(value)


def seed_words(seed: Any, error: type[ValueError] = DataError) -> tuple[int, ...]:
    """A seed as a non-empty tuple of non-negative integers.

    Raises:
        ValueError: (of the class given as ``error``) anything else was given.
    """
    single = integer(seed)
    if single is not None:
        words: list[int | None] = [single]
    elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes):
        words = [integer(word) for word in seed]
    else:
        words = []
    checked = tuple(word for word in words if word is not None and word >= 0)
    if not checked or len(checked) != len(words):
        raise error(f"seed: {seed!r} is not allowed; give a non-negative integer or a tuple of them, such as (0, 3)")
    return checked
