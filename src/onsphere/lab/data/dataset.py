"""A data set in memory: the arrays that training and evaluation read, and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.lab.data.checks import DataError


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A classification data set, whole and in memory.

    Attributes:
        name: A name of :data:`onsphere.lab.data.NAMES`, or the user's own.
        x_train: Training inputs, floating [N, C, H, W] for images (any [N, ...] for own arrays).
        y_train: Training labels, int64 [N], after label noise if there is any.
        x_test: Test inputs, floating [M, ...].
        y_test: Test labels, int64 [M], never noisy.
        classes: Number of classes; labels run from 0 to ``classes - 1``.
        noisy: Which training labels are not the right ones, bool [N].
        source: Where the data came from, in words.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    noisy: Tensor
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, such as (3, 32, 32)."""
        return tuple(self.x_train.shape[1:])

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Dataset:
        """The same data set with its tensors on ``device`` and its inputs in ``dtype`` (labels stay int64).

        Args:
            device: Where the tensors should live; None leaves them.
            dtype: A floating dtype for the inputs; None leaves it.

        Raises:
            DataError: ``dtype`` is not floating.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise DataError(f"dtype: {dtype} is not allowed for inputs; give a floating one such as torch.float32")
        return replace(
            self,
            x_train=self.x_train.to(device=device, dtype=dtype),
            y_train=self.y_train.to(device=device),
            x_test=self.x_test.to(device=device, dtype=dtype),
            y_test=self.y_test.to(device=device),
            noisy=self.noisy.to(device=device),
        )

    def fingerprint(self) -> str:
        """SHA-256 over the five arrays (name, dtype, shape and little-endian bytes of each), as 64 hex digits.

        It does not depend on the device, on the name or on the source. Two data sets with the same
        fingerprint train alike.
        """
        digest = hashlib.sha256()
        for field in ("x_train", "y_train", "x_test", "y_test", "noisy"):
            tensor: Tensor = getattr(self, field)
            digest.update(f"{field} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(_little_endian(tensor).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        kind = str(self.x_train.dtype).removeprefix("torch.")
        noise = int(self.noisy.sum())
        return (
            f"Dataset({self.name}: {len(self.x_train)} train + {len(self.x_test)} test, inputs {shape} "
            f"{kind} on {self.x_train.device}, {self.classes} classes"
            + (f", {noise} training labels replaced" if noise else "")
            + f"; from {self.source})"
        )


def _little_endian(tensor: Tensor) -> NDArray[Any]:
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:  # numpy has no such type; its two bytes are hashed as they are
        plain = plain.view(torch.int16)
    array = plain.numpy()
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
