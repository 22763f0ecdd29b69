"""What a regime map is asked for: the fields of ``onsphere regimes`` with their defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from onsphere.lab.options import DataOptions, EngineOptions, ModelOptions, Options, TrainingOptions


class GridOptions(Options):
    """Which effective learning rates are tried, how often, and how finely the boundaries are bracketed."""

    elr_min: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    """Smallest effective learning rate of the grid (lr / norm², dimensionless)."""
    elr_max: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Largest effective learning rate of the grid."""
    elrs: Annotated[int, Field(ge=1)] = 12
    """Number of effective learning rates, evenly spaced in log."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Runs at each effective learning rate: initial weights, frozen head and batch order differ."""
    refine: Annotated[int, Field(ge=0)] = 3
    """Rounds that bisect each seed's two boundaries after the grid (0: the grid alone)."""
    refine_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.5
    """A boundary is fine enough when high / low is at most this."""


class RegimesSpec(EngineOptions, TrainingOptions, GridOptions, ModelOptions, DataOptions):
    """All that a regime map depends on; the same spec on the same machine and engine gives the same bits."""

    @model_validator(mode="after")
    def _consistent(self) -> RegimesSpec:
        if self.elrs > 1 and not self.elr_min < self.elr_max:
            raise ValueError(
                f"--elr-min: {self.elr_min:g} is not allowed: must be below --elr-max, which is {self.elr_max:g}"
            )
        return self

    def grid(self) -> list[float]:
        """The effective learning rates of the first round, ascending."""
        if self.elrs == 1:
            return [self.elr_min]
        ratio = (self.elr_max / self.elr_min) ** (1 / (self.elrs - 1))
        return [*(self.elr_min * ratio**i for i in range(self.elrs - 1)), self.elr_max]
