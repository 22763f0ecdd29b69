"""What ``onsphere landscape conventional`` is asked for: its fields with defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import (
    AscendingRates,
    DataOptions,
    ElrOptions,
    EngineOptions,
    NetworkOptions,
    Options,
    TrainingOptions,
    list_text,
    split_list,
)

Setup = Literal["sphere", "invariant", "all"]
SETUPS: tuple[Setup, ...] = ("sphere", "invariant", "all")
Several = Annotated[AscendingRates, Field(min_length=1, max_length=24)]
#: Batch-norm eps of an ordinary network: torch's own.
ORDINARY_EPS = 1e-5


class ConventionalOptions(Options):
    """Which runs, in which set-ups."""

    setups: Annotated[
        tuple[Setup, ...],
        BeforeValidator(split_list),
        Field(min_length=1),
        AfterValidator(lambda values: tuple(setup for setup in SETUPS if setup in values)),
        Parameter(negative="", show_default=list_text),
    ] = SETUPS
    """sphere: scale-invariant weights at fixed ELRs; invariant: the same network in the whole space with --lr and
    --weight-decay; all: an ordinary network, every parameter trained, with --momentum and --schedule as well."""
    elr: Several = (1e-3, 4e-3, 8e-3, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.3)
    """Effective learning rates on the sphere (lr / norm², dimensionless), comma separated."""
    lr: Several = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Learning rates in the whole space, comma separated."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Weight decay as in torch's SGD (added to the gradient); times each lr it is below 1."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Heavy-ball momentum of the ordinary network."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate of the ordinary network: constant, or cosine from lr to 0 over --steps."""
    augment: bool = False
    """Flip training images at random and crop them at random from zero padding, in every set-up; minibatch losses are
    then those of augmented images."""
    seeds: Annotated[int, Field(ge=1)] = 2
    """Runs at each setting: initial weights, frozen head and batch order differ."""


class ConventionalSpec(EngineOptions, ElrOptions, ConventionalOptions, TrainingOptions, NetworkOptions, DataOptions):
    """All that a comparison depends on; the same spec on the same machine and engine gives the same bits."""

    steps: Annotated[int, Field(ge=16)] = 2500
    """Training steps of each copy."""

    @model_validator(mode="after")
    def _consistent(self) -> ConventionalSpec:
        if self.weight_decay * max(self.lr) >= 1:
            raise ValueError(
                f"--weight-decay: {self.weight_decay:g} is not allowed with lr {max(self.lr):g}: their product must "
                "be below 1, since a step multiplies the weights by 1 - lr * weight decay"
            )
        return self

    def rates(self, setup: Setup) -> tuple[float, ...]:
        """The learning rates of a set-up; on the sphere they are effective ones."""
        return self.elr if setup == "sphere" else self.lr
