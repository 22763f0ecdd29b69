"""The course of a copy along its steps: loss, norm, effective learning rate, gradient and angle, and how to thin it.

With ρ_t the norm of the scale-invariant weights before step t and g̃_t = ρ_t ‖∇_t‖ their effective gradient norm:

    ELR_t = lr_t / ((1 - α) ρ_t²)    α the heavy-ball momentum
    1 - cos θ_t                      from tan θ_t = ELR_t g̃_t / (1 - lr weight_decay)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics import cosine_distance
from onsphere.lab.population.copies import Copy, Schedule, lr_factors
from onsphere.lab.population.phases import phase_lrs
from onsphere.lab.population.readings import Readings
from onsphere.lab.population.shard_folder import ShardFolder

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Course:
    """The course of one copy, each [T], as far as it is finite.

    Attributes:
        copy: The copy that it is the course of.
        loss: Loss of the minibatch of the step.
        elr: Effective learning rate of the scale-invariant weights.
        gradient: Effective gradient norm of these weights.
        radius: Norm of these weights.
        cosine_distance: 1 - cos of each step's angle; None with momentum, whose updates are not those of a gradient,
            and with a schedule, under which no one δ tells jumps from other steps.
        finite: Whether the whole run is finite.
        factors: What the schedule multiplies the copy's lr by; None where it is constant.
    """

    copy: Copy
    loss: Array
    elr: Array
    gradient: Array
    radius: Array
    cosine_distance: Array | None
    finite: bool
    factors: Array | None = None

    @property
    def norm_elr(self) -> Array:
        """The ELR with the lr of step 0: what of it changes with the norm."""
        return self.elr if self.factors is None else np.asarray(self.elr / self.factors)

    def copy_at(self, steps: int | slice) -> Copy:
        """The copy with its lr at a step, or its mean lr over several."""
        if self.factors is None:
            return self.copy
        return replace(self.copy, lr=self.copy.lr * float(np.mean(self.factors[steps])))

    @property
    def effective_step(self) -> Array:
        """The effective step s: ELR times the effective gradient norm."""
        return np.asarray(self.elr * self.gradient)

    @property
    def decay(self) -> float:
        """1 - b: the share of the norm that weight decay takes in a step without gradient."""
        return decay_of(self.copy)

    @property
    def tau(self) -> float:
        """The natural unit of time, 1 / (2 (1 - b)), steps."""
        return 1 / (2 * self.decay)


def decay_of(copy: Copy) -> float:
    """1 - b, b the factor by which a step without gradient multiplies the weights."""
    product, alpha = copy.lr * copy.weight_decay, copy.momentum
    if alpha == 0:
        return product
    middle = 1 + alpha - product
    inner = middle**2 - 4 * alpha
    # with a negative discriminant the weights swing while they shrink, by √α a step
    return 1 - (math.sqrt(alpha) if inner < 0 else (middle + math.sqrt(inner)) / 2)


def courses(
    readings: Readings, copies: Sequence[Copy], invariant: Sequence[str] | None = None, factors: Array | None = None
) -> list[Course]:
    """The courses of a shard's copies.

    Args:
        readings: The readings of the shard.
        copies: The copies of the shard.
        invariant: Names of the scale-invariant tensors among the trained ones; None for all.
        factors: [T], of a schedule (``Problem.lr_factors``); all 1 or None for a constant lr. A copy with phases has
            its own.
    """
    here = [i for i, name in enumerate(readings.names) if invariant is None or name in invariant]
    norm2 = readings.moment("norm2")[..., here].sum(-1)
    gradient2 = readings.moment("gradient2")[..., here].sum(-1)
    loss = readings.loss
    scheduled = None if factors is None or (factors == 1).all() else factors
    own = [phase_lrs(c.phases, len(loss), 0, len(loss)) / c.lr if c.phases else scheduled for c in copies]
    return [_course(copy, loss[:, k], norm2[:, k], gradient2[:, k], own[k]) for k, copy in enumerate(copies)]


def courses_of(
    shard: ShardFolder, invariant: Sequence[str] | None = None, schedule: Schedule = "constant"
) -> list[Course]:
    """The courses of an ended shard's copies over all of their steps, as :func:`courses` says, under a schedule."""
    readings = shard.readings()
    steps = len(readings.values)
    return courses(readings, shard.copies(), invariant, lr_factors(schedule, steps, 0, steps))


def _course(copy: Copy, loss: Array, norm2: Array, gradient2: Array, factors: Array | None) -> Course:
    good = np.isfinite(loss) & np.isfinite(gradient2) & np.isfinite(norm2) & (norm2 > 0)
    end = len(good) if good.all() else int(np.argmin(good))
    loss, norm2, gradient = loss[:end], norm2[:end], np.sqrt(norm2[:end] * gradient2[:end])
    elr = copy.lr / ((1 - copy.momentum) * norm2)
    distance = None
    if factors is not None:
        factors = factors[:end]
        elr = factors * elr
    elif copy.momentum == 0 and end:
        distance = np.asarray(cosine_distance(elr * gradient, copy.lr, copy.weight_decay))
    return Course(copy, loss, elr, gradient, np.sqrt(norm2), distance, end == len(good), factors)


def thinned(values: Array, bins: int) -> tuple[Array, Array]:
    """Steps and values of the lowest and the highest reading of each bin of steps, in the order of steps.

    Args:
        values: [T], one a step; zeros and what is not finite become gaps.
        bins: How many bins there are, at most.
    """
    steps = np.arange(len(values), dtype=np.float64)
    clean = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    if len(values) <= 2 * bins:
        return steps, clean
    edges = np.unique(np.linspace(0, len(values), bins + 1).round().astype(int))
    keep = []
    for first, last in pairwise(edges):
        part = clean[first:last]
        if np.isnan(part).all():
            keep.append(first)
        else:
            keep += sorted({first + int(np.nanargmin(part)), first + int(np.nanargmax(part))})
    return steps[keep], clean[keep]
