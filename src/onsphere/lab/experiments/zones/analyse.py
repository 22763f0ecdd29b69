"""What became of a continuation, and where on a path the zone of high sharpness is.

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

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.zones.result import Continuation, Outcome, PathPoint, Zone

__all__ = ["RISE", "agreement", "course", "judge", "zone"]

Array = NDArray[np.float64]

RISE = 1.2
THROUGH = 1.05
THRESHOLD = 2.0  # of ELR times sharpness


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
    """Where the sharpness of one path is highest above its lowest before.

    Args:
        points: The points of one path, by step.
    """
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
