"""The rows of a drop: runs after it, averages before it, paths between them.

Starts and ends are effective learning rates on the sphere, and ordinary ones in ordinary training, where angles and
gradient norms are those of the scale-invariant weights and missing where there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import computed_field

from onsphere.lab.result import Real

PathKind = Literal["geodesic", "chord"]


@dataclass(frozen=True)
class Continuation:
    """One run after the drop: one start, one final rate, one seed.

    Attributes:
        start: Learning rate before the drop.
        end: Learning rate after it; equal to ``start`` in the control without a drop.
        seed: Index of the seed.
        train_loss: Mean over all training examples at the end, batch statistics re-estimated; so are the next three.
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
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real
    gradient_norm: Real
    angle: Real
    sharpness: float | None
    finite: bool


@dataclass(frozen=True)
class Average:
    """The average of the last snapshots before the drop; losses and errors as in a continuation.

    Attributes:
        start: Learning rate at which the snapshots were taken.
        seed: Index of the seed.
        spread: Mean angle between the snapshots and their average, radians.
        snapshots: How many they are; None in a result of an older version.
    """

    start: float
    seed: int
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real
    spread: Real
    snapshots: int | None = None


@dataclass(frozen=True)
class AtLoss:
    """A continuation where its train loss is the asked one; losses and errors as in a continuation.

    Attributes:
        start: Learning rate before the drop.
        end: Learning rate after it.
        seed: Index of the seed.
        step: Steps after the drop.
        batch_loss: Mean over minibatches of training examples, with the batch statistics of each: what is matched.
        sharpness: Top eigenvalue of the training-mode Hessian on the unit sphere.
    """

    start: float
    end: float
    seed: int
    step: int
    batch_loss: Real
    sharpness: Real
    train_loss: Real
    train_error: Real
    test_loss: Real
    test_error: Real


@dataclass(frozen=True)
class GroupNorms:
    """The norms of the groups of weights that can be rescaled by themselves, over the joint norm, of all seeds.

    Attributes:
        start: Learning rate before the drop, at whose end they are measured; None for the initial weights.
        counts: How many groups lie between each two of the result's ``norm_edges``.
        smallest: Smallest of these norms.
        median: Half of these norms are below it.
        largest: Largest of these norms.
    """

    start: float | None
    counts: list[int]
    smallest: Real
    median: Real
    largest: Real


@dataclass(frozen=True)
class PathBarrier:
    """The path between two ends of one start and seed, on training examples.

    Attributes:
        start: Learning rate before the drop.
        seed: Index of the seed.
        pair: Its ends: continuations at the smallest (``low``) and largest (``high``) final rate, or the ``average``,
            where there are several that of the first number of snapshots.
        angle: Between the ends, radians.
        loss_barrier: Largest excess of the training loss over the line between the ends, at least 0.
        error_barrier: The same of the training error.
        allowed: The error barrier up to which the ends count as connected.
        path: The great circle, or the straight line of all weights.
        test_loss_barrier: The loss barrier over all test images; None where not measured.
        test_error_barrier: The error barrier over all test images; None where not measured.
    """

    start: float
    seed: int
    pair: Literal["low-high", "average-low", "average-high"]
    angle: Real
    loss_barrier: Real
    error_barrier: Real
    allowed: Real
    path: PathKind = "geodesic"
    test_loss_barrier: float | None = None
    test_error_barrier: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def connected(self) -> bool:
        """Whether the error barrier is within what is allowed."""
        return self.error_barrier <= self.allowed
