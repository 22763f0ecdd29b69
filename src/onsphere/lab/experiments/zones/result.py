"""What was found about the zone of high sharpness: sharpness along paths, and what became of every continuation.

A continuation begins at loss L0 on a path and has an ELR of its own. Two questions decide:

    does it rise          its highest loss (running mean over an epoch) is above 1.2 L0
    does it come through  its mean loss over the last quarter is at most 1.05 times that of the path at the same steps

                          comes through     does not
    does not rise         at once           held      stays above, does not enter the zone that the path passes
    rises                 up first          leaves    thrown back to where it cannot come from
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.result import Real, Rows, TrainedResult

Array = NDArray[np.float64]
Outcome = Literal["at once", "up first", "held", "leaves"]
OUTCOMES: tuple[Outcome, ...] = ("at once", "up first", "held", "leaves")
RISE = 1.2
THROUGH = 1.05
THRESHOLD = 2.0  # of ELR times sharpness


@dataclass(frozen=True)
class PathPoint:
    """A step of a path.

    Attributes:
        elr: Effective learning rate of the path.
        seed: Index of the seed.
        step: Number of the step.
        loss: Training loss, training mode, on the images that sharpness is measured on.
        sharpness: Top eigenvalue of its Hessian on the unit sphere.
        error: Bound of the eigenvalue's error.
        converged: Whether the bound is within the tolerance.
    """

    elr: float
    seed: int
    step: int
    loss: Real
    sharpness: Real
    error: Real
    converged: bool

    @property
    def product(self) -> float:
        """ELR times sharpness; gradient descent is stable below 2."""
        return self.elr * self.sharpness


@dataclass(frozen=True)
class Continuation:
    """A run that branched off a path with another ELR.

    Attributes:
        checkpoint: Step of the path at which it began.
        seed: Index of the seed.
        elr: Its effective learning rate.
        loss: Loss where it began.
        sharpness: Sharpness where it began.
        peak: Highest loss on its way (running mean over an epoch) over ``loss``.
        end: Mean loss over its last quarter.
        path_end: That of the path itself over the same steps.
        end_sharpness: Sharpness where it ended.
        test_error: Fraction, at its end, batch statistics re-estimated.
        outcome: ``at once``, ``up first``, ``held`` or ``leaves``.
    """

    checkpoint: int
    seed: int
    elr: float
    loss: Real
    sharpness: Real
    peak: Real
    end: Real
    path_end: Real
    end_sharpness: Real
    test_error: Real
    outcome: str

    @property
    def product(self) -> float:
        """ELR times the sharpness where it began."""
        return self.elr * self.sharpness

    @property
    def rises(self) -> bool:
        """Whether its loss went up first, whatever came later."""
        return self.outcome in ("up first", "leaves")

    @property
    def comes_through(self) -> bool:
        """Whether it ended no higher than the path."""
        return self.outcome in ("at once", "up first")


@dataclass(frozen=True)
class Zone:
    """Where sharpness is highest on a path after a lower stretch.

    Attributes:
        elr: Effective learning rate of the path.
        seed: Index of the seed.
        step: Step of the highest sharpness after the lowest before it.
        loss: Loss at that step.
        sharpness: Sharpness at that step.
        rise: Over the lowest sharpness before it; 1 if sharpness falls all along.
    """

    elr: float
    seed: int
    step: int
    loss: Real
    sharpness: Real
    rise: Real


def judge(loss: float, course: Array, path_end: float) -> tuple[float, float, Outcome]:
    """What became of a continuation.

    Args:
        loss: Loss where the continuation began.
        course: Its running mean loss, [T].
        path_end: Mean loss of the path over the steps of the continuation's last quarter.

    Returns:
        Its highest loss over ``loss``, its mean loss over the last quarter, and the outcome; NaN and
        ``leaves`` if it became non-finite.
    """
    if not np.isfinite(course).all():
        return math.nan, math.nan, "leaves"
    peak, end = float(course.max() / loss), float(course[-max(1, len(course) // 4) :].mean())
    rises, through = peak > RISE, end <= THROUGH * path_end
    if through:
        return peak, end, "up first" if rises else "at once"
    return peak, end, "leaves" if rises else "held"


def course(loss: Array, epoch: int) -> Array:
    """Running means of minibatch losses over so many steps; with full batches the losses themselves."""
    width = max(1, min(epoch, len(loss) // 8))
    return np.convolve(loss, np.ones(width) / width, "valid")


def zone(points: Sequence[PathPoint]) -> Zone:
    """Where the sharpness of one path, whose points are by step, is highest above its lowest before."""
    lowest = np.minimum.accumulate([point.sharpness for point in points])
    rises = [point.sharpness / low for point, low in zip(points, lowest, strict=True)]
    best = int(np.argmax(rises))
    if rises[best] <= 1:  # falls all along: the highest is the first
        best = 0
    point = points[best]
    return Zone(point.elr, point.seed, point.step, point.loss, point.sharpness, float(rises[best]))


def agreement(rows: Sequence[Continuation]) -> tuple[int, int, int, int]:
    """How well ELR times sharpness where they began tells which continuations rise.

    Returns:
        Above 2: how many rise, of how many; below: how many do not, of how many.
    """
    above = [row for row in rows if row.product > THRESHOLD]
    below = [row for row in rows if row.product <= THRESHOLD]
    return sum(row.rises for row in above), len(above), sum(not row.rises for row in below), len(below)


@dataclass(frozen=True, repr=False, kw_only=True)
class ZonesResult(TrainedResult):
    """What :func:`onsphere.lab.map_zones` returns.

    Attributes:
        continuations: One row a continuation.
        path: Sharpness along the paths.
        zones: One row a path.
    """

    command: ClassVar[str] = "landscape zones"
    rows_field: ClassVar[str] = "continuations"

    spec: ZonesSpec
    continuations: Rows[Continuation]
    path: Rows[PathPoint]
    zones: Rows[Zone]

    @property
    def main(self) -> list[PathPoint]:
        """The paths that continuations branch off."""
        return [point for point in self.path if point.elr == self.spec.path_elrs[0]]

    def counts(self) -> dict[str, int]:
        """How many continuations had each outcome."""
        return {name: sum(row.outcome == name for row in self.continuations) for name in OUTCOMES}

    def __repr__(self) -> str:
        told = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"ZonesResult: {len(self.continuations)} continuations: {told}\n  page: {self.report}"
