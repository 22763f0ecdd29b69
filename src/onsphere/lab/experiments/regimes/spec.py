"""What a regime map is asked for: the fields of ``onsphere regimes`` with their defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated, Literal

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


HEAD_LR = 0.05  # of the published code


class SphereOptions(Options):
    """What is on which sphere, and what is trained beside it."""

    spheres: Literal["joint", "groups", "rows"] = "joint"
    """joint: one sphere, ELR = lr / norm² of all scale-invariant weights. groups: a sphere for every scale-invariant
    group, each at this ELR. rows: every filter at one common norm, ELR = lr / the sum of their norms²."""
    head: Literal["frozen", "trained"] = "frozen"
    """trained: the last layer, and whatever else of your own network is trainable and no weight on a sphere, is trained
    by SGD with --head-lr."""
    head_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Ordinary learning rate of what is trained beside the spheres (default 0.05)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Heavy-ball momentum of torch's SGD, projected after its step; ELR is still lr / norm²."""

    @model_validator(mode="after")
    def _head(self) -> SphereOptions:
        if self.head == "frozen" and self.head_lr is not None:
            raise ValueError(f"--head-lr: {self.head_lr:g} is not allowed with --head frozen: nothing is trained by it")
        if self.head == "trained" and getattr(self, "head_norm", None) is not None:
            raise ValueError("--head-norm: is not allowed with --head trained, which begins at torch's default weights")
        return self

    @property
    def head_lr_used(self) -> float:
        """The given learning rate of what is trained beside the spheres, or that of the published code."""
        return HEAD_LR if self.head_lr is None else self.head_lr


class MeasuringOptions(Options):
    """What is measured besides."""

    running_statistics: bool = False
    """Also keep batch norms' running statistics and evaluate test images by them, as the published code does."""
    converged_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-2
    """Steps to convergence are counted until the mean minibatch loss over an epoch is below this."""


class RegimesSpec(
    EngineOptions,
    TrainingOptions,
    MeasuringOptions,
    SphereOptions,
    GridOptions,
    ModelOptions,
    DataOptions,
):
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
