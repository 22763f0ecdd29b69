"""What is known of single runs: continuations after the drop, averages before it, paths between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pair = Literal["low-high", "average-low", "average-high"]
PAIRS: tuple[Pair, ...] = ("low-high", "average-low", "average-high")


@dataclass(frozen=True)
class Continuation:
    """One run after the drop: one start, one final effective learning rate, one seed.

    Losses and errors are over all examples at the last step, batch statistics re-estimated over the training set.

    Attributes:
        start: Effective learning rate before the drop.
        end: Effective learning rate after it; equal to ``start`` in the control without a drop.
        seed: Index of the seed.
        train_loss: Mean over training examples.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
        gradient_norm: Mean effective norm of the stochastic gradient over the last quarter of the steps after the drop.
        angle: Between the weights at the drop and at the end, radians.
        sharpness: Top eigenvalue of the training-mode Hessian on the unit sphere at the end, or None if not asked for.
        finite: False if the run became non-finite.
    """

    start: float
    end: float
    seed: int
    train_loss: float
    train_error: float
    test_loss: float
    test_error: float
    gradient_norm: float
    angle: float
    sharpness: float | None
    finite: bool


@dataclass(frozen=True)
class Average:
    """The average of the last snapshots before the drop, on the sphere; losses and errors as in a continuation.

    Attributes:
        start: Effective learning rate at which the snapshots were taken.
        seed: Index of the seed.
        train_loss: Mean over training examples.
        train_error: Share of wrong predictions on training examples.
        test_loss: Mean over test examples.
        test_error: Share of wrong predictions on test examples.
        spread: Mean angle between the snapshots and their average, radians.
    """

    start: float
    seed: int
    train_loss: float
    train_error: float
    test_loss: float
    test_error: float
    spread: float


@dataclass(frozen=True)
class PathBarrier:
    """The great circle between two ends of one start and seed, on all training examples.

    Attributes:
        start: Effective learning rate before the drop.
        seed: Index of the seed.
        pair: Its ends: ``low`` and ``high`` are the continuations at the smallest and at the largest final effective
            learning rate, ``average`` is that of the snapshots.
        angle: Between the ends, radians.
        loss_barrier: Largest excess of the training loss over the line between the ends, at least 0.
        error_barrier: The same of the training error.
        allowed: The error barrier up to which the ends count as connected.
    """

    start: float
    seed: int
    pair: Pair
    angle: float
    loss_barrier: float
    error_barrier: float
    allowed: float

    @property
    def connected(self) -> bool:
        """Whether the error barrier is within what is allowed."""
        return self.error_barrier <= self.allowed
