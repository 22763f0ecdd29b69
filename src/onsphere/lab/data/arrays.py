"""Data sets from the user's own arrays, checked so that training cannot stumble over them later."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.lab.data.checks import DataError, Seed, fraction, seed_words, whole_number
from onsphere.lab.data.dataset import Dataset
from onsphere.lab.data.orders import first
from onsphere.lab.data.transforms import NoiseKind, replace_labels, standardise_floats


def from_arrays(
    x_train: Tensor | NDArray[Any],
    y_train: Tensor | NDArray[Any],
    x_test: Tensor | NDArray[Any],
    y_test: Tensor | NDArray[Any],
    *,
    name: str = "arrays",
    classes: int | None = None,
    train: int | None = None,
    test: int | None = None,
    label_noise: float = 0.0,
    label_noise_kind: NoiseKind = "other",
    standardise: bool = True,
    seed: Seed = 0,
    source: str = "arrays in memory",
) -> Dataset:
    """A data set from numpy arrays or torch tensors, copied to float32 on the CPU.

    Dimension 1 counts the channels, as in torch's batch norm: [N, F] features, [N, C, L] series, [N, C, H, W]
    images (give grey images as [N, 1, H, W]). Bytes (uint8) are divided by 255, floats are taken as they are.

    Args:
        x_train: Training inputs [N, C, ...], floating or uint8, all finite.
        y_train: Training labels [N], integers from 0.
        x_test: Test inputs [M, C, ...], shaped like the training inputs.
        y_test: Test labels [M], integers from 0.
        name: Name of the data set.
        classes: Number of classes; None takes the largest label of both parts plus one.
        train: How many training examples to take, from the front (the order is yours); None takes all.
        test: How many test examples to take, from the front; None takes all.
        label_noise: Share of the training labels replaced by a uniformly drawn *other* class (exactly
            round(share · N)).
        label_noise_kind: ``any`` draws the replacement among all classes, the right one included.
        standardise: Give each channel mean 0 and standard deviation 1 over the selected training inputs, and
            move and scale the test inputs alike.
        seed: Chooses the noisy labels, and nothing else.
        source: Where the data came from, in words.

    Returns:
        The data set; it shares no memory with the arrays given.

    Raises:
        DataError: A shape, dtype, label, value or option is not allowed.
    """
    share = fraction("label_noise", label_noise)
    words = seed_words(seed)
    inputs = _inputs("x_train", x_train)
    labels = _labels("y_train", y_train, len(inputs))
    test_inputs = _inputs("x_test", x_test)
    test_labels = _labels("y_test", y_test, len(test_inputs))
    if test_inputs.shape[1:] != inputs.shape[1:]:
        raise DataError(
            f"x_test: examples of shape {test_inputs.shape[1:]}, those of x_train have {inputs.shape[1:]}; "
            "give both the same shape"
        )
    number = _classes(classes, labels, test_labels)
    keep = first("train", train, len(labels), "training examples")
    keep_test = first("test", test, len(test_labels), "test examples")
    inputs, test_inputs = inputs[:keep], test_inputs[:keep_test]
    if standardise:
        with np.errstate(over="ignore"):
            inputs, test_inputs = standardise_floats(inputs, test_inputs)
        if not np.isfinite(test_inputs).all():
            raise DataError(
                "x_test: leaves float32 when standardised by x_train; scale both alike, or pass standardise=False"
            )
    noisy_labels, noisy = replace_labels(labels[:keep], share, number, words, label_noise_kind)
    return Dataset(
        name=str(name),
        x_train=torch.from_numpy(inputs.copy()),
        y_train=torch.from_numpy(noisy_labels),
        x_test=torch.from_numpy(test_inputs.copy()),
        y_test=torch.from_numpy(test_labels[:keep_test].copy()),
        classes=number,
        noisy=torch.from_numpy(noisy),
        source=str(source),
    )


def _array(field: str, given: object) -> NDArray[Any]:
    if isinstance(given, Tensor):
        plain = given.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{field}: is no array ({error}); give a numpy array or a torch tensor") from error


def _inputs(field: str, given: object) -> NDArray[np.float32]:
    array = _array(field, given)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{field}: dtype {array.dtype} is not allowed; give floats (float32), or bytes (uint8, divided by 255)"
        )
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(
            f"{field}: shape {array.shape} is not allowed; give [examples, channels or features, ...], none of them 0"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        inputs = array.astype(np.float32)
    finite = np.isfinite(inputs)
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(inputs), -1).all(axis=1))[0])
        wrong = int(inputs.size - np.count_nonzero(finite))
        raise DataError(
            f"{field}: {wrong} values are NaN, infinite or beyond float32, first in example {row}; remove or "
            "replace them"
        )
    return inputs


def _labels(field: str, given: object, examples: int) -> NDArray[np.int64]:
    array = _array(field, given)
    if array.dtype.kind not in "iu":
        raise DataError(
            f"{field}: dtype {array.dtype} is not allowed; give integer class labels, as by .astype('int64')"
        )
    if array.shape != (examples,):
        raise DataError(
            f"{field}: shape {array.shape} for {examples} examples; give one label an example, shape ({examples},)"
        )
    for row in (int(array.argmin()), int(array.argmax())):
        if not 0 <= int(array[row]) < 2**31:
            raise DataError(
                f"{field}: label {array[row]} of example {row} is not allowed; number the classes 0, 1, 2, ..."
            )
    return array.astype(np.int64)


def _classes(given: int | None, labels: NDArray[np.int64], test_labels: NDArray[np.int64]) -> int:
    largest = int(max(labels.max(), test_labels.max()))
    classes = largest + 1 if given is None else whole_number("classes", given, 2)
    if classes < 2:
        raise DataError("y_train: every label is 0; give labels of at least two classes, or say classes=2")
    if largest >= classes:
        field = "y_train" if labels.max() >= classes else "y_test"
        raise DataError(
            f"{field}: label {largest} with classes={classes}; allowed: 0 to {classes - 1}; give classes={largest + 1}"
        )
    return classes
