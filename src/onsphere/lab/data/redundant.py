"""Examples that say the same many times over: redundant two-dimensional features, any of which predicts the label.

Feature i of an example with label y = 0 or 1 is a point of the plane, drawn around one of four corners:

    x_i = [(a, b) + σ_i n] / √(1 + σ_i²),   a = ±1 with equal chances,  b = a if y = 1, else -a
                                            n two independent normal numbers of variance 1

so the sign of the product of its coordinates predicts the label, and no line does: the classes have the same mean. The
best prediction from feature i alone is that sign; with Φ the normal distribution's, it is right with probability

    p_i² + (1 - p_i)²,   p_i = Φ(1 / σ_i)

Every coordinate has mean 0 and variance 1, so no feature is larger than another; they differ in σ_i alone, which goes
in equal steps from the least to the most. Given the label, features are independent.

What a network makes of one feature is seen where all others say nothing: each of them is replaced by that of another
example, drawn for every feature anew, so that it keeps its distribution and says nothing of the label.

After the synthetic example of Sadrtdinov, Kodryan et al., NeurIPS 2024 (16 redundant features of two dimensions); how
its features are drawn is not recorded, and this pattern is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.lab.data.checks import DataError, Seed, seed_words, whole_number
from onsphere.lab.data.dataset import Dataset
from onsphere.lab.data.orders import REDRAWN, REDUNDANT, shuffled, stream, uniform


def redundant_features(
    *,
    features: int = 16,
    train: int = 512,
    test: int = 4096,
    noise: tuple[float, float] = (0.3, 1.0),
    seed: Seed = 0,
) -> Dataset:
    """Draw a data set of two classes with redundant features.

    Args:
        features: How many features an example has.
        train: Number of training examples, half of each class.
        test: Number of test examples, drawn likewise and independently.
        noise: Least and most standard deviation σ_i of the noise; feature 0 has the least.
        seed: All draws follow from it.

    Returns:
        Inputs float32 [N, 2 features], the coordinates of feature i at 2 i and 2 i + 1; labels 0 and 1.

    Raises:
        DataError: An argument is not allowed.
    """
    for field, value, least in (("features", features, 1), ("train", train, 2), ("test", test, 2)):
        whole_number(field, value, least)
    deviations = noise_levels(features, noise)
    words = seed_words(seed)
    x_train, y_train = _drawn(deviations, train, words, 0)
    x_test, y_test = _drawn(deviations, test, words, 1)
    return Dataset(
        name="redundant features",
        x_train=torch.from_numpy(x_train),
        y_train=torch.from_numpy(y_train),
        x_test=torch.from_numpy(x_test),
        y_test=torch.from_numpy(y_test),
        classes=2,
        noisy=torch.zeros(train, dtype=torch.bool),
        source="random numbers",
    )


def redrawn(x: Tensor, labels: Tensor, features: int, seed: Seed = 0) -> Tensor:
    """Inputs whose every feature is that of another example, by a permutation of its own that knows no label.

    Of the examples of either label the same share is given features of each label, so that not even by chance does a
    redrawn feature say anything of the label.

    Args:
        x: Inputs [N, 2 features].
        labels: Their labels, 0 and 1: [N].
        features: How many features there are.
        seed: All permutations follow from it.

    Returns:
        Inputs of the same shape.
    """
    words, zeros, ones = seed_words(seed), *(np.flatnonzero(labels.numpy() == label) for label in (0, 1))
    stay = round(len(zeros) ** 2 / max(1, len(x)))  # examples of label 0 that get a feature of label 0
    orders = np.empty((len(x), features), dtype=np.int64)
    for i in range(features):
        bits = stream(REDRAWN, words, i)
        targets, sources = ([own[shuffled(bits, len(own))] for own in (zeros, ones)] for _ in range(2))
        given = len(zeros) - stay
        orders[targets[0], i] = np.concatenate([sources[0][:stay], sources[1][:given]])
        orders[targets[1], i] = np.concatenate([sources[0][stay:], sources[1][given:]])
    points = x.reshape(len(x), features, 2)
    return points[torch.from_numpy(orders), torch.arange(features)].reshape(x.shape)


def with_feature(x: Tensor, other: Tensor, feature: int) -> Tensor:
    """The inputs ``other`` [N, 2 features] with one feature of ``x``."""
    found = other.clone()
    found[:, 2 * feature : 2 * feature + 2] = x[:, 2 * feature : 2 * feature + 2]
    return found


def noise_levels(features: int, noise: tuple[float, float]) -> NDArray[np.float64]:
    """Standard deviations of the features' noise: float64 [features].

    Raises:
        DataError: They are not positive and finite, or the most is less than the least.
    """
    least, most = noise
    if not 0 < least <= most < np.inf:
        raise DataError(f"noise: {noise} is not allowed; give a least and a most, both positive, the most not less")
    return np.linspace(least, most, features)


def best_accuracies(features: int, noise: tuple[float, float]) -> NDArray[np.float64]:
    """The accuracy of the best prediction from each feature alone, p_i² + (1 - p_i)²: float64 [features]."""
    from scipy.special import ndtr

    right = ndtr(1 / noise_levels(features, noise))
    return np.asarray(right**2 + (1 - right) ** 2)


def _drawn(
    deviations: NDArray[np.float64], examples: int, words: tuple[int, ...], part: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    from scipy.special import ndtri

    bits, shape = stream(REDUNDANT, words, part), (examples, len(deviations))
    labels = shuffled(bits, examples) % 2
    first = np.where(uniform(bits, shape[0] * shape[1]).reshape(shape) < 0.5, -1.0, 1.0)
    second = first * np.where(labels == 1, 1.0, -1.0)[:, None]
    noise = ndtri(uniform(bits, 2 * shape[0] * shape[1]) + 2.0**-54).reshape(*shape, 2)
    points = np.stack([first, second], axis=-1) + deviations[:, None] * noise
    points /= np.sqrt(1 + deviations**2)[:, None]
    return points.reshape(examples, -1).astype(np.float32), labels
