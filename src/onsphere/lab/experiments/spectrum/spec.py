"""What a spectrum is asked for: the fields of ``onsphere landscape spectrum`` with defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from onsphere.lab.options import (
    AscendingRates,
    DataOptions,
    EngineOptions,
    ModelOptions,
    Options,
    TrainingOptions,
    Widths,
)


class SpectrumOptions(Options):
    """Which runs, where they are compared, and what is measured there."""

    elr: Annotated[AscendingRates, Field(min_length=2, max_length=16)] = (1e-3, 2.5e-3, 6.3e-3, 1.6e-2)
    """Effective learning rates (lr / norm², dimensionless) of regime 1, comma separated; onsphere regimes finds it."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Runs at each effective learning rate: initial weights, frozen head and batch order differ."""
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Training loss at which runs are compared (default: the lowest running mean of minibatch losses that every
    converging run reaches)."""
    window: Annotated[int, Field(ge=1)] = 20
    """Steps of that running mean."""
    gradients: Annotated[int, Field(ge=2)] = 16
    """Minibatches over which train loss (to match) and stochastic gradient norm are averaged; the same for every run
    of a seed."""
    examples: Annotated[int, Field(ge=2)] = 2000
    """Training images (the first so many, at most all) for sharpness and barriers."""
    points: Annotated[int, Field(ge=3)] = 11
    """Points of a path between two minima, the ends included."""


class SpectrumSpec(EngineOptions, SpectrumOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that a spectrum depends on; the same spec on the same machine and engine gives the same bits."""

    train: Annotated[int, Field(ge=2)] | None = None
    """Number of training images, or all."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced by another class, 0 to 1."""
    widths: Widths = None
    """Hidden widths of the mlp, comma separated (default 32,32)."""
    steps: Annotated[int, Field(ge=8)] = 1500
    """Training steps of each copy."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per step."""

    @model_validator(mode="after")
    def _consistent(self) -> SpectrumSpec:
        if self.window > self.steps // 2:
            raise ValueError(
                f"--window: {self.window} is not allowed: must be at most half of --steps, which is {self.steps}"
            )
        return self

    @property
    def widths_used(self) -> tuple[int, ...] | None:
        """The given widths, or those of the default mlp."""
        return self.widths or ((32, 32) if self.model == "mlp" else None)
