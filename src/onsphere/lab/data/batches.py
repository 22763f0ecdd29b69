"""Which examples each training step sees, as a function of the seed and the step alone.

The stream of examples is one permutation of the training set per epoch, end to end. Step t takes the elements

    t·B, t·B + 1, ..., t·B + B - 1

of that stream, so every batch is full, a batch may span the border of two epochs, and every example is seen
equally often. Epoch e's permutation is drawn by numpy's PCG64 from ``SeedSequence(seed)`` with e in the spawn
key. Nothing is remembered between calls: a run resumed at step t reads on where it would have been.

Independent batches take the same stream's place where noise must not remember an epoch: each element is drawn anew from
all examples, the i-th of the stream by PCG64's i-th word.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onsphere.lab.data.checks import Seed, integer, seed_words
from onsphere.lab.data.orders import BATCHES, INDEPENDENT, stream, uniform


def batch_indices(examples: int, batch_size: int, seed: Seed, start: int, stop: int) -> Tensor:
    """Indices of the training examples of the steps ``start`` to ``stop``.

    The cost is one permutation for each epoch touched, wherever ``start`` lies. With ``batch_size == examples`` (full
    batch) every step is the whole set in its own order and the rows share their memory: clone before writing.

    Args:
        examples: Number of training examples N.
        batch_size: Examples a step, B, from 1 to N.
        seed: A non-negative integer or a non-empty sequence of them.
        start: First step, from 0.
        stop: Step after the last one, at least ``start``.

    Returns:
        int64 [stop - start, B] on the CPU.

    Raises:
        ValueError: An argument is out of range, or a batch is larger than the set.
    """
    examples = _at_least("examples", examples, 1)
    batch_size = _at_least("batch_size", batch_size, 1)
    start = _at_least("start", start, 0)
    stop = _at_least("stop", stop, start)
    words = seed_words(seed, ValueError)
    if batch_size > examples:
        raise ValueError(
            f"batch_size={batch_size} is larger than the training set; allowed: 1 to {examples} ({examples} "
            "is full batch)"
        )
    if batch_size == examples:
        return torch.arange(examples).expand(stop - start, examples)
    begin, end = start * batch_size, stop * batch_size
    if begin == end:
        return torch.empty((0, batch_size), dtype=torch.int64)
    first_epoch, last_epoch = begin // examples, (end - 1) // examples
    epochs = np.empty((last_epoch - first_epoch + 1, examples), dtype=np.int64)
    for row, epoch in enumerate(range(first_epoch, last_epoch + 1)):
        epochs[row] = np.random.Generator(stream(BATCHES, words, epoch)).permutation(examples)
    offset = begin - first_epoch * examples
    indices = epochs.reshape(-1)[offset : offset + end - begin]
    return torch.from_numpy(indices.reshape(stop - start, batch_size).copy())


def drawn_indices(examples: int, batch_size: int, seed: Seed, start: int, stop: int) -> Tensor:
    """Indices of examples that are drawn independently, with replacement, in the steps ``start`` to ``stop``.

    Args:
        examples: Number of training examples N.
        batch_size: Examples a step, B, at least 1.
        seed: A non-negative integer or a non-empty sequence of them.
        start: First step, from 0.
        stop: Step after the last one, at least ``start``.

    Returns:
        int64 [stop - start, B] on the CPU, each entry uniform on 0 to N - 1.

    Raises:
        ValueError: An argument is out of range.
    """
    examples = _at_least("examples", examples, 1)
    batch_size = _at_least("batch_size", batch_size, 1)
    start = _at_least("start", start, 0)
    stop = _at_least("stop", stop, start)
    bits = stream(INDEPENDENT, seed_words(seed, ValueError))
    bits.advance(start * batch_size)
    drawn = (uniform(bits, (stop - start) * batch_size) * examples).astype(np.int64)
    return torch.from_numpy(drawn.reshape(stop - start, batch_size))


def _at_least(field: str, value: int, smallest: int) -> int:
    number = integer(value)
    if number is None or number < smallest:
        raise ValueError(f"{field}={value!r} is not allowed; give an integer of at least {smallest}")
    return number
