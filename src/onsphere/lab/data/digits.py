"""The digits that come inside scikit-learn: 1797 grey 8x8 images, values 0 .. 16, ten classes, no files and no network.

They carry no official split. Ours is fixed: a class-balanced order made from a constant, its first 1437
images for training and the remaining 360 for testing.
"""

from __future__ import annotations

import numpy as np

from onsphere.lab.data.checks import DataError
from onsphere.lab.data.orders import DIGITS_ORDER, balanced_order
from onsphere.lab.data.transforms import RawImages

TRAIN_IMAGES = 1437


def read_digits() -> RawImages:
    """The images in the fixed order, already split.

    Returns:
        uint8 [1437, 1, 8, 8] for training and [360, 1, 8, 8] for testing, 0 .. 16.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits: the images come with scikit-learn, which is not installed; install the extra: pip "
            "install 'onsphere[lab]'"
        ) from error
    bunch = load_digits()
    images = np.asarray(bunch.images).astype(np.uint8)[:, np.newaxis]
    labels = np.asarray(bunch.target).astype(np.int64)
    order = balanced_order(labels, DIGITS_ORDER)
    train, test = order[:TRAIN_IMAGES], order[TRAIN_IMAGES:]
    return RawImages(
        images[train], labels[train], images[test], labels[test], 10, 16, "scikit-learn's digits (8x8, embedded)"
    )
