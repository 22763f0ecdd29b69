"""What a drop of the ELR is asked for: the fields of ``onsphere landscape drop`` with defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from onsphere.lab.options import AscendingRates, DataOptions, EngineOptions, ModelOptions, Options, TrainingOptions


class DropOptions(Options):
    """From which effective learning rates to which, how often, and what is measured afterwards."""

    starts: Annotated[AscendingRates, Field(min_length=1, max_length=32)] = (4e-3, 8e-3, 0.016, 0.032, 0.064, 0.2)
    """Effective learning rates (lr / norm², dimensionless) before the drop, comma separated. The final ones are
    added: a run that goes on at its own ELR is the control without a drop."""
    ends: Annotated[AscendingRates, Field(min_length=1, max_length=8)] = (5e-4, 2e-3)
    """Effective learning rates after the drop, comma separated; every start goes on at each of them."""
    drop_steps: Annotated[int, Field(ge=8)] = 1500
    """Training steps after the drop."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs at each ELR: initial weights, frozen head and batch order differ; differences are taken seed by seed."""
    averaged: Annotated[int, Field(ge=0)] = 5
    """Snapshots before the drop whose weights are averaged on the sphere (0: no average)."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between these snapshots (default: one pass over the training images)."""
    barriers: bool = True
    """Measure loss and error on the great circles between continuations and average of each start."""
    points: Annotated[int, Field(ge=3)] = 21
    """Points of such a path, the ends included."""
    examples: Annotated[int, Field(ge=2)] = 2000
    """Training images (the first so many, at most all) for paths and sharpness."""
    sharpness: bool = False
    """Also measure the top Hessian eigenvalue on the unit sphere at the end of every continuation."""


class DropSpec(EngineOptions, DropOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    steps: Annotated[int, Field(ge=8)] = 1500
    """Training steps before the drop."""

    @model_validator(mode="after")
    def _consistent(self) -> DropSpec:
        if self.averaged == 1:
            raise ValueError("--averaged: 1 is not allowed: an average takes 2 snapshots at least, 0 makes none")
        if self.averaged and self.every is not None and (self.averaged - 1) * self.every >= self.steps:
            raise ValueError(
                f"--every: {self.every} is not allowed: {self.averaged} snapshots that far apart do not fit into "
                f"--steps, which is {self.steps}"
            )
        return self

    def all_starts(self) -> list[float]:
        """Starting effective learning rates, ascending, the controls among them."""
        return sorted({*self.starts, *self.ends})

    def snapshots(self, examples: int) -> tuple[int, ...]:
        """Steps after which the weights are averaged; fewer where the run is too short for all of them.

        Args:
            examples: Number of training images.
        """
        every = self.every or -(-examples // self.batch_size)
        steps = [self.steps - i * every for i in range(self.averaged)]
        return tuple(sorted(step for step in steps if step > 0))
