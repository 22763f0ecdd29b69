"""Data sets by name: find the images, select, replace labels, pool, and scale them."""

from __future__ import annotations

import os
from typing import Any

import torch

from onsphere.lab.data.checks import DataError, Seed, fraction, seed_words, whole_number
from onsphere.lab.data.cifar import CIFAR10, CIFAR100, read_cifar
from onsphere.lab.data.dataset import Dataset
from onsphere.lab.data.digits import read_digits
from onsphere.lab.data.fashion_mnist import read_fashion_mnist
from onsphere.lab.data.orders import TEST_ORDER, TRAIN_ORDER, balanced_order, first
from onsphere.lab.data.places import named_place
from onsphere.lab.data.transforms import NoiseKind, RawImages, check_pool, pool_sums, replace_labels, to_float

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100")
"""The data sets :func:`load` knows."""


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train: int | None = None,
    test: int | None = None,
    label_noise: float = 0.0,
    label_noise_kind: NoiseKind = "other",
    pool: int = 1,
    standardise: bool = True,
    seed: Seed = 0,
    download: bool = True,
) -> Dataset:
    """A named data set as float32 images [N, C, H, W] on the CPU.

    The files are looked for in ``data_dir``; without it in the folder that the environment variable
    ONSPHERE_DATA names, then (Fashion-MNIST) in the Debian package dataset-fashion-mnist, then they are
    downloaded with a checksum. The digits come inside scikit-learn and need no folder.

    The images are in a fixed order of their own, not that of the files: made from a constant, class-balanced
    at every length. ``train=500`` is always the first 500 of it, whatever the seed.

    Args:
        name: Name of the set, one of :data:`NAMES`.
        data_dir: Folder that holds the official files, or their official subfolder. If given, they must be there.
        train: How many training images to take; None takes all.
        test: How many test images to take; None takes all.
        label_noise: Share of the training labels, exactly round(share · N) of them, replaced by a uniformly
            drawn *other* class. Test labels are never touched.
        label_noise_kind: ``any`` draws the replacement among all classes, the right one included.
        pool: Factor of average pooling; must divide both sides of the image.
        standardise: Give each channel mean 0 and standard deviation 1 over the selected training images (the
            test images are moved and scaled alike). Otherwise pixels are scaled to [0, 1].
        seed: Chooses the noisy labels, and nothing else.
        download: Whether the network may be used.

    Returns:
        The data set in memory.

    Raises:
        DataError: An argument is not allowed, or the files are missing, damaged or cannot be downloaded. The
            message is one line that says what to do.
    """
    if name not in NAMES:
        raise DataError(
            f"name: {name!r} is no data set; allowed: {', '.join(NAMES)}; own arrays go through from_arrays"
        )
    share = fraction("label_noise", label_noise)
    words = seed_words(seed)
    for field, value in (("train", train), ("test", test), ("pool", pool)):
        if value is not None or field == "pool":
            whole_number(field, value, 1)
    try:
        raw = _read(name, data_dir, download)
    except OSError as error:
        place = error.filename or name
        raise DataError(
            f"{place}: cannot be read ({error.strerror or error}); check that it exists and may be read"
        ) from error
    factor = check_pool(pool, *raw.x_train.shape[2:])
    chosen = balanced_order(raw.y_train, TRAIN_ORDER)[
        : first("train", train, len(raw.y_train), f"training images of {name}")
    ]
    tested = balanced_order(raw.y_test, TEST_ORDER)[: first("test", test, len(raw.y_test), f"test images of {name}")]
    y_train, noisy = replace_labels(raw.y_train[chosen], share, raw.classes, words, label_noise_kind)
    x_train, x_test = to_float(
        pool_sums(raw.x_train[chosen], factor), pool_sums(raw.x_test[tested], factor), raw.top * factor**2, standardise
    )
    return Dataset(
        name=name,
        x_train=torch.from_numpy(x_train),
        y_train=torch.from_numpy(y_train),
        x_test=torch.from_numpy(x_test),
        y_test=torch.from_numpy(raw.y_test[tested]),
        classes=raw.classes,
        noisy=torch.from_numpy(noisy),
        source=raw.source,
    )


def _read(name: str, data_dir: Any, download: bool) -> RawImages:
    if name == "digits":
        return read_digits()
    place = named_place(data_dir)
    if name == "fashion-mnist":
        return read_fashion_mnist(place, download)
    return read_cifar(CIFAR10 if name == "cifar10" else CIFAR100, place, download)
