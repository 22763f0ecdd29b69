"""The learning rate of one copy along its run, in phases.

phase with start a, the next one at b:   lr(t), a <= t < b, goes from lr towards end_lr with u = (t - a) / (b - a)
linear:     lr + (end_lr - lr) u
cosine:     end_lr + (lr - end_lr) (1 + cos(pi u)) / 2
geometric:  lr (end_lr / lr)^u
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Shape = Literal["constant", "linear", "cosine", "geometric"]


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        start: Its first step; it lasts until the next phase or the end of the run.
        lr: Learning rate at its first step.
        end_lr: What the learning rate goes towards; None: it stays.
        shape: How the learning rate moves within the phase.
    """

    start: int
    lr: float
    end_lr: float | None = None
    shape: Shape = "constant"


def check_phases(phases: Sequence[Phase]) -> None:
    """Raise ValueError unless the phases begin at step 0, follow one another, and have allowed learning rates."""
    if not phases:
        return
    starts = [phase.start for phase in phases]
    if starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        raise ValueError(f"phases start at steps {starts}; the first must start at 0, each later than the one before")
    for phase in phases:
        if not 0 < phase.lr < float("inf"):
            raise ValueError(f"a phase has the learning rate {phase.lr}; it must be positive and finite")
        if (phase.end_lr is None) != (phase.shape == "constant"):
            raise ValueError(f"a {phase.shape} phase has end_lr={phase.end_lr}; all shapes but constant need one")
        least = 0.0 if phase.shape != "geometric" else 5e-324
        if phase.end_lr is not None and not least <= phase.end_lr < float("inf"):
            raise ValueError(f"a {phase.shape} phase ends at the learning rate {phase.end_lr}, which is not allowed")


def phase_lrs(phases: Sequence[Phase], steps: int, start: int, stop: int) -> NDArray[np.float64]:
    """Learning rates of steps ``start`` to ``stop``, float64 [stop - start]; the last phase ends at ``steps``."""
    t = np.arange(start, stop, dtype=np.float64)
    values = np.empty(stop - start)
    ends = [phase.start for phase in phases[1:]] + [max(steps, phases[-1].start + 1)]
    for phase, end in zip(phases, ends, strict=True):
        inside = (t >= phase.start) & (t < end)
        values[inside] = _along(phase, (t[inside] - phase.start) / (end - phase.start))
    return values


def _along(phase: Phase, u: NDArray[np.float64]) -> NDArray[np.float64]:
    if phase.end_lr is None:
        return np.full_like(u, phase.lr)
    if phase.shape == "linear":
        return phase.lr + (phase.end_lr - phase.lr) * u
    if phase.shape == "cosine":
        return np.asarray(phase.end_lr + (phase.lr - phase.end_lr) * (1 + np.cos(np.pi * u)) / 2)
    return np.asarray(phase.lr * (phase.end_lr / phase.lr) ** u)
