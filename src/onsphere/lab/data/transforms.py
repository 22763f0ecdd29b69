"""From stored integers to what the network reads: average pooling, scaling, standardising, label noise.

Images are kept as integers v in 0 .. top until the last moment and pooled by summing (top grows by the square
of the factor). Then

    x = (v - mean) / std        standardised: per channel, population moments of the selected training images
    x = v / top                 otherwise, in [0, 1]

The sums behind mean and std are integers, hence exact, so the result is the same to the bit on every machine;
and since v takes few values, the division is done once for each value and looked up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError, whole_number
from onsphere.lab.data.orders import LABEL_NOISE, shuffled, stream

NoiseKind = Literal["other", "any"]

_CHUNK = 4096  # images counted at a time: numpy's bincount widens what it is given to 8 bytes


@dataclass(frozen=True)
class RawImages:
    """What a reader returns: a named image set as its files hold it.

    Attributes:
        x_train: Integers [N, C, H, W] in 0 .. top.
        y_train: Training labels, int64 [N].
        x_test: Integers [M, C, H, W] in 0 .. top.
        y_test: Test labels, int64 [M].
        classes: Number of different labels.
        top: The value of a white pixel (16 or 255).
        source: Where it came from, in words.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    classes: int
    top: int
    source: str


def check_pool(pool: int, height: int, width: int) -> int:
    """The pooling factor, checked.

    Raises:
        DataError: It is not a positive integer that divides both sides of the image.
    """
    factor = whole_number("pool", pool, 1)
    sides = (height,) if height == width else (height, width)
    for side in sides:
        if side % factor:
            common = math.gcd(height, width)
            allowed = ", ".join(str(d) for d in range(1, common + 1) if common % d == 0)
            raise DataError(f"pool: pool {factor} does not divide {side}; allowed: {allowed}")
    return factor


def pool_sums(images: NDArray[np.integer], factor: int) -> NDArray[np.integer]:
    """Sums over factor x factor squares: [N, C, H, W] -> [N, C, H/factor, W/factor]; factor 1 returns the images."""
    if factor == 1:
        return images
    n, c, h, w = images.shape
    squares = images.reshape(n, c, h // factor, factor, w // factor, factor)
    sums: NDArray[np.int32] = squares.sum(axis=(3, 5), dtype=np.int32)
    return sums


def channel_moments(images: NDArray[np.integer], top: int) -> list[tuple[float, float]]:
    """Mean and population standard deviation of each channel of integer images [N, C, H, W] in 0 .. top."""
    moments = []
    for channel in range(images.shape[1]):
        counts = np.zeros(top + 1, dtype=np.int64)
        for begin in range(0, len(images), _CHUNK):
            values = images[begin : begin + _CHUNK, channel].reshape(-1)
            counts += np.bincount(values, minlength=top + 1)
        present = np.flatnonzero(counts)
        pairs = [(int(value), int(counts[value])) for value in present]
        n = sum(count for _, count in pairs)
        total = sum(value * count for value, count in pairs)
        squares = sum(value * value * count for value, count in pairs)
        moments.append((total / n, math.sqrt((n * squares - total * total) / (n * n))))
    return moments


def to_float(
    train: NDArray[np.integer], test: NDArray[np.integer], top: int, standardise: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Integer images as float32: standardised by the training images' moments, or scaled to [0, 1].

    A channel that is constant over the training images is only centred.
    """
    values = np.arange(top + 1, dtype=np.float64)
    if standardise:
        tables = [(values - mean) / (std or 1.0) for mean, std in channel_moments(train, top)]
    else:
        tables = [values / top] * train.shape[1]
    outputs = []
    for images in (train, test):
        output = np.empty(images.shape, dtype=np.float32)
        for channel, table in enumerate(tables):
            output[:, channel] = table.astype(np.float32)[images[:, channel]]
        outputs.append(output)
    return outputs[0], outputs[1]


def standardise_floats(
    train: NDArray[np.float32], test: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Float inputs [N, C, ...] with dimension 1 brought to mean 0 and standard deviation 1 over the training inputs.

    Sums are taken in float64 and the moments rounded to float32 before use, which hides the order of
    summation; a constant channel is only centred.
    """
    axes = (0, *range(2, train.ndim))
    shape = (1, -1, *(1,) * (train.ndim - 2))
    mean = train.mean(axis=axes, dtype=np.float64).astype(np.float32).astype(np.float64).reshape(shape)
    square = np.zeros(train.shape[1], dtype=np.float64)
    for begin in range(0, len(train), _CHUNK):
        square += np.square(train[begin : begin + _CHUNK] - mean).sum(axis=axes)
    std = np.sqrt(square / (train.size // train.shape[1])).astype(np.float32).astype(np.float64)
    constant = train.max(axis=axes) == train.min(axis=axes)
    std = np.where(constant | (std == 0), 1.0, std).reshape(shape)
    outputs = []
    for inputs in (train, test):
        output = np.empty_like(inputs)
        for begin in range(0, len(inputs), _CHUNK):
            output[begin : begin + _CHUNK] = (inputs[begin : begin + _CHUNK] - mean) / std
        outputs.append(output)
    return outputs[0], outputs[1]


def replace_labels(
    labels: NDArray[np.int64], share: float, classes: int, seed: tuple[int, ...], kind: NoiseKind = "other"
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Label noise: exactly round(share · N) labels are drawn anew, uniformly.

    Args:
        labels: The right labels, int64 [N].
        share: Share of labels to replace, in [0, 1].
        classes: Number of classes, at least 2.
        seed: The run's seed, as a tuple of non-negative integers.
        kind: ``other``: among the other classes. ``any``: among all classes, so that about one in C stays right, as the
            published code of Kodryan et al. 2022 draws them.

    Returns:
        The labels and which of them are wrong now: int64 [N], bool [N].
    """
    count = round(share * len(labels))
    bits = stream(LABEL_NOISE, seed)
    chosen = shuffled(bits, len(labels))[:count]
    # The high 32 bits times (C - 1), divided by 2^32: uniform over 0 .. C-2 within 2^-32 C. Likewise with C.
    words = bits.random_raw(count) if count else np.empty(0, dtype=np.uint64)
    among, first = (classes - 1, 1) if kind == "other" else (classes, 0)
    step = ((words >> np.uint64(32)) * np.uint64(among)) >> np.uint64(32)
    replaced = labels.copy()
    replaced[chosen] = (labels[chosen] + first + step.astype(np.int64)) % classes
    return replaced, replaced != labels
