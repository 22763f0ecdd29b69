"""What a comparison of schedules is asked for: the fields of ``onsphere schedule`` with defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, model_validator

from onsphere.lab.options import DataOptions, EngineOptions, NetworkOptions, Options, Rates, TrainingOptions, split_list

#: Fields that a map's run hands down unless they are given: the same network on the same data, trained alike.
FROM_MAP = (
    *("data", "data_dir", "train", "test", "label_noise", "label_noise_kind", "pool", "standardise"),
    *("model", "widths", "width", "head_norm"),
    *("steps", "batch_size", "loss", "seed", "dtype"),
)

Family = Literal["proposed", "constant", "cosine", "space-constant", "space-cosine"]
NAMES: dict[Family, str] = {
    "proposed": "proposed schedule",
    "constant": "constant ELR",
    "cosine": "cosine ELR",
    "space-constant": "constant lr + weight decay",
    "space-cosine": "cosine lr + weight decay",
}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Numbers = Annotated[Rates, Field(min_length=1, max_length=64)]


class MapOptions(Options):
    """Where convergence ends: a map, numbers, or nothing, and then a quick map is made first."""

    map: str | None = None
    """Folder of an ended regime map (onsphere regimes); data, network and training not given here are those of the map.
    Without it, and without --convergence, a quick map is made first."""
    convergence: Annotated[
        Annotated[tuple[Positive, ...], Field(min_length=1, max_length=2)] | None,
        BeforeValidator(split_list),
        Parameter(negative=""),
    ] = None
    """ELR at which convergence ends, or the two between which it does, comma separated, instead of a map's."""
    divergence: Positive | None = None
    """ELR at which divergence begins, instead of a map's; the schedule stays at most at half of it."""
    basis: Annotated[Literal["boundary", "labels", "divergence"], Parameter(show=False)] = "boundary"
    """What the convergence that was read from a map follows from; see onsphere.optim.propose_elrs."""


class ProposalOptions(Options):
    """The rule of the proposal."""

    start_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """Start ELR of the proposal over the threshold at which convergence ends."""
    end_factor: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """End ELR of the proposal over that threshold."""
    hold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the steps at the start ELR."""
    tail: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the steps at the end ELR."""
    shape: Literal["linear", "cosine", "geometric"] = "linear"
    """Way from start to end: straight, cosine, or by equal factors a step."""


class RivalOptions(Options):
    """What the proposal is compared with."""

    constant: Numbers = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    """Constant ELRs on the sphere, in thresholds, comma separated."""
    peaks: Numbers = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Peaks of cosine schedules on the sphere, in thresholds, comma separated."""
    lr: Numbers = (0.3, 1.0, 3.0)
    """Learning rates in the whole space, each constant and as a peak of a cosine, comma separated."""
    weight_decay: Numbers = (3e-4, 3e-3)
    """Weight decays in the whole space, each with each lr, comma separated."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs of each method: initial weights, frozen head and batch order differ, and are the same in all methods."""


class ScheduleSpec(
    EngineOptions, RivalOptions, ProposalOptions, MapOptions, TrainingOptions, NetworkOptions, DataOptions
):
    """All that a comparison depends on; the same spec on the same machine and engine gives the same bits."""

    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced by another class, 0 to 1."""
    evaluations: Annotated[int, Field(ge=1)] = 20
    """Evaluations on all training and test images along each run (one more is made at the start)."""

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleSpec:
        if self.convergence is not None and self.convergence[0] > self.convergence[-1]:
            low, high = self.convergence
            raise ValueError(f"--convergence: {low:g},{high:g} is not allowed: the first must not be above the second")
        if self.hold + self.tail > 1:
            raise ValueError(f"--tail: {self.tail:g} is not allowed: --hold is {self.hold:g}, and they are at most 1")
        largest = max(self.lr) * max(self.weight_decay)
        if largest >= 1:
            raise ValueError(
                f"--weight-decay: {max(self.weight_decay):g} is not allowed with lr {max(self.lr):g}: their product "
                "must be below 1, since a step multiplies the weights by 1 - lr * weight decay"
            )
        return self
