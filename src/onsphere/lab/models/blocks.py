"""What the reference networks share: the frozen head, and checks of their arguments.

Every norm is a batch norm without weight and bias, so the weights before it are scale-invariant, and the
head is scaled to a given Frobenius norm and frozen: ``W <- head_norm * W / ‖W‖``. The norms' eps is 1e-12
unless told otherwise, because the usual 1e-5 is not negligible once all weights share one unit sphere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

L = TypeVar("L", bound=nn.Linear)


class ModelError(ValueError):
    """A model was asked for that does not exist or cannot be built from the given arguments."""


def frozen(head: L, norm: float) -> L:
    """``head`` with its weight scaled to Frobenius norm ``norm`` and nothing in it trainable."""
    with torch.no_grad():
        head.weight.mul_(norm / float(head.weight.double().norm()))
    return head.requires_grad_(False)


def positive_integer(name: str, value: object) -> int:
    """``value`` if it is a positive integer.

    Raises:
        ModelError: if it is not; True and False are not integers here.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{name} must be a positive integer, not {value!r}")
    return value


def probability(name: str, value: float) -> float:
    """``value`` if it lies in [0, 1).

    Raises:
        ModelError: if it does not.
    """
    if not 0 <= value < 1:
        raise ModelError(f"{name} must lie in [0, 1), not {value}")
    return value


def check_common(input_shape: Sequence[int], classes: int, head_norm: float = 1.0, eps: float = 1.0) -> None:
    """Check what every reference network takes; the last two where a network has a frozen head and norms to choose.

    Raises:
        ModelError: naming the argument, what it was and what is allowed.
    """
    if not input_shape:
        raise ModelError("input_shape must name at least one dimension, such as (64,) or (3, 32, 32), not ()")
    for size in input_shape:
        positive_integer("every entry of input_shape", size)
    positive_integer("classes", classes)
    for name, value in (("head_norm", head_norm), ("eps", eps)):
        if not (math.isfinite(value) and value > 0):
            raise ModelError(f"{name} must be positive and finite, not {value}")


def square_image(model: str, input_shape: Sequence[int], smallest: int) -> tuple[int, int]:
    """(channels, side) of an input [channels, side, side].

    Raises:
        ModelError: if it is not a square image or its side is below ``smallest``.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ModelError(f"{model} needs square images, input_shape (channels, side, side), not {tuple(input_shape)}")
    if input_shape[1] < smallest:
        raise ModelError(
            f"{model} needs images of at least {smallest} x {smallest}, not {input_shape[1]} x {input_shape[2]}"
        )
    return input_shape[0], input_shape[1]
