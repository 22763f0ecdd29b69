"""What was found about the zone of high sharpness: sharpness along paths, and the fate of every continuation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.result import Real, Rows, TrainedResult

Outcome = Literal["at once", "up first", "held", "leaves"]
OUTCOMES: tuple[Outcome, ...] = ("at once", "up first", "held", "leaves")


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
