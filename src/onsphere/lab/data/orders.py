"""Which examples a subset holds: a fixed, class-balanced order of a data set, and the random streams behind it.

The order is the same on every machine and never depends on a run's seed. Within a class the examples are
shuffled; the one of rank r (0, 1, ...) among the n_c examples of class c then gets the position

    (r + u) / n_c,        u uniform in [0, 1), drawn for each example,

and the positions are sorted. So the first k examples hold each class in its share, k n_c / N, to within
1 + C n_c / N (two, where the C classes are equal), and they look shuffled: with equal classes every block of C
examples holds each class once.

Only numpy's raw PCG64 words are used, whose values numpy guarantees for good; its ``Generator`` methods may
change between releases (NEP 19), and a subset must not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError, whole_number

# What a stream is for. Each purpose has its own, so adding one changes no other.
DIGITS_ORDER, TRAIN_ORDER, TEST_ORDER, LABEL_NOISE, BATCHES = 101, 102, 103, 104, 105
# The two that share a number differ in their counters: one has none, the other always has.
INDEPENDENT, REDUNDANT, REDRAWN = 106, 106, 107


def stream(purpose: int, key: Sequence[int] = (0,), *counters: int) -> np.random.PCG64:
    """The random stream of one purpose.

    ``purpose``, the key's length and ``counters`` go into the spawn key and not behind the key itself, where
    numpy could not tell the key (7,) with counter 1 from the key (7, 1) with counter 0.
    """
    return np.random.PCG64(np.random.SeedSequence(tuple(key), spawn_key=(purpose, len(key), *counters)))


def shuffled(bits: np.random.PCG64, size: int) -> NDArray[np.int64]:
    """A random permutation of 0 .. size-1 made from raw words alone: int64 [size].

    Each word keeps its high bits and carries an index in its low ones, so that sorting has no ties to break.
    """
    if size == 0:
        return np.empty(0, dtype=np.int64)
    low = np.uint64((1 << (size - 1).bit_length()) - 1)
    words = (bits.random_raw(size) & ~low) | np.arange(size, dtype=np.uint64)
    words.sort()
    return (words & low).astype(np.int64)


def uniform(bits: np.random.PCG64, size: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits: float64 [size]."""
    return (bits.random_raw(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def balanced_order(labels: NDArray[np.int64], purpose: int) -> NDArray[np.int64]:
    """The fixed order, int64 [N], of examples of these classes by the stream of a purpose such as ``TRAIN_ORDER``."""
    bits = stream(purpose)
    order = shuffled(bits, len(labels))
    classes = labels[order]
    by_class = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    firsts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - firsts[classes[by_class]]
    position = (rank + uniform(bits, len(labels))) / counts[classes]
    return order[np.argsort(position, kind="stable")]


def first(field: str, wanted: int | None, available: int, what: str) -> int:
    """How many of the ``available`` examples to take; None takes all. ``what`` they are stands in the message.

    Raises:
        DataError: ``wanted`` is not an integer from 1 to ``available``.
    """
    if wanted is None:
        return available
    number = whole_number(field, wanted, 1)
    if number > available:
        raise DataError(f"{field}={number}: there are {available} {what}; allowed: 1 to {available}, or None for all")
    return number
