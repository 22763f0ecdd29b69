"""What a drop is asked for: the fields of ``onsphere landscape drop`` with defaults, units and bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import (
    LARGEST,
    SMALLEST,
    AscendingRates,
    DataOptions,
    EngineOptions,
    ModelOptions,
    Options,
    TrainingOptions,
    different,
    split_list,
)

#: Batch-norm eps of ordinary training: torch's own.
ORDINARY_EPS = 1e-5
#: Steps of the running loss by which runs at matched loss are found.
WINDOW = 20


def _alone(value: Any) -> Any:
    """A list of one as the one it holds."""
    values = split_list(value)
    return values[0] if isinstance(values, tuple) and len(values) == 1 else values


def _several(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """A number that is not negative, or several of at least 2, each named once."""
    if isinstance(value, tuple):
        if len(different(value)) < 2 or min(value) < 2:
            raise ValueError("several averages take 2 snapshots at least, each")
    elif value < 0:
        raise ValueError("must be at least 0")
    return value


#: A number, or several, comma separated.
OneOrSeveral = Annotated[
    int | tuple[int, ...], BeforeValidator(_alone), AfterValidator(_several), Parameter(negative="")
]


@dataclass(frozen=True)
class Staged:
    """A start in several stages of constant rate.

    Attributes:
        name: How it was written, such as ``0.06:1000+0.01``.
        rates: The rate of each stage.
        lengths: The steps of each stage.
    """

    name: str
    rates: tuple[float, ...]
    lengths: tuple[int, ...]

    @classmethod
    def read(cls, name: str, steps: int) -> Staged:
        """From its text; the last stage takes what is left of all steps.

        Raises:
            ValueError: It is no such text, or its steps are not ``steps`` in all.
        """
        wrong = f"--stages: {name!r} is not allowed: write RATE:STEPS+RATE:STEPS, such as 0.06:1000+0.01"
        parts = [part.partition(":") for part in name.split("+")]
        try:
            rates = tuple(float(rate) for rate, _, _ in parts)
            lengths = [int(length) for _, _, length in parts[:-1]]
            lengths.append(int(parts[-1][2]) if parts[-1][1] else steps - sum(lengths))
        except ValueError:
            raise ValueError(wrong) from None
        if len(parts) < 2 or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"{wrong}, with two stages or more and positive rates")
        if min(lengths) < 1 or sum(lengths) != steps:
            raise ValueError(
                f"--stages: {name!r} is not allowed: its stages must have at least one step each and together those of "
                f"--steps, {steps}; the last may leave its steps away"
            )
        return cls(name, rates, tuple(lengths))


class DropOptions(Options):
    """From which effective learning rates to which, how often, and what is measured afterwards."""

    starts: Annotated[AscendingRates, Field(min_length=1, max_length=32)] = (4e-3, 8e-3, 0.016, 0.032, 0.064, 0.2)
    """Effective learning rates (lr / norm², dimensionless) before the drop, comma separated; with --training space
    ordinary ones. The final ones are added: a run that goes on at its own rate is the control without a drop."""
    ends: Annotated[AscendingRates, Field(min_length=1, max_length=8)] = (5e-4, 2e-3)
    """Effective (or ordinary) learning rates after the drop, comma separated; every start goes on at each of them."""
    drop_steps: Annotated[int, Field(ge=8)] = 1500
    """Training steps after the drop."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs at each rate: initial weights, frozen head and batch order differ; differences are taken seed by seed."""
    averaged: OneOrSeveral = 5
    """Snapshots before the drop whose weights are averaged (0: no average), on the sphere or plainly in space; with
    several, such as 5,2,10, each makes an average, and paths lead to the first."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between these snapshots (default: one pass over the training images)."""
    barriers: bool = True
    """Measure loss and error on the paths between continuations and average of each start: great circles on the
    sphere, straight lines in space."""
    points: Annotated[int, Field(ge=3)] = 21
    """Points of such a path, the ends included."""
    examples: Annotated[int, Field(ge=2)] = 2000
    """Training images (the first so many, at most all) for paths and sharpness."""
    sharpness: bool = False
    """Also measure the top Hessian eigenvalue on the unit sphere at the end of every continuation; in space that of
    the scale-invariant weights."""
    training: Literal["sphere", "space"] = "sphere"
    """sphere: scale-invariant weights on the sphere, at effective learning rates. space: ordinary training at ordinary
    learning rates: every parameter is trained, norms have weights and biases, and so is the head; networks of your
    own are taken as they are."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser in space (adam: coupled decay, adamw: decoupled, torch's betas); it begins anew at the drop."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Heavy-ball momentum of sgd in space (default 0.9)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Weight decay in space (default 1e-4)."""
    stages: Annotated[
        tuple[str, ...], BeforeValidator(split_list), AfterValidator(different), Parameter(negative="")
    ] = ()
    """Starts in stages, comma separated, each RATE:STEPS+RATE:STEPS, such as 0.06:1000+0.01:500; with --steps in all
    (the last may leave its steps away). Their rates are added to the starts, so that each stage has its control."""
    test_barriers: bool = False
    """Also measure losses and errors of all test images on the paths."""
    chords: bool = False
    """On the sphere, also measure the straight lines between the same ends, as the published code does."""
    norms: bool = False
    """Also measure, before the drop, the norm of every group of weights that can be rescaled by itself (the filters and
    units ahead of a batch norm, otherwise tensors), as histograms."""
    matched_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Also meet every continuation where its train loss is this, by training it once more to there, and measure test
    error and sharpness at equal loss (default: not)."""
    augment: bool = False
    """Flip training images at random and crop them at random from zero padding; minibatch losses are then those of
    augmented images, all others are not."""


class DropSpec(EngineOptions, DropOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    steps: Annotated[int, Field(ge=8)] = 1500
    """Training steps before the drop."""

    @model_validator(mode="after")
    def _consistent(self) -> DropSpec:
        if self.averaged == 1:
            raise ValueError("--averaged: 1 is not allowed: an average takes 2 snapshots at least, 0 makes none")
        most = max(self.averages, default=0)
        if most and self.every is not None and (most - 1) * self.every >= self.steps:
            raise ValueError(
                f"--every: {self.every} is not allowed: {most} snapshots that far apart do not fit into --steps, which "
                f"is {self.steps}"
            )
        if self.matched_loss is not None and self.augment:
            raise ValueError(
                f"--matched-loss: {self.matched_loss:g} is not allowed with --augment: the losses along training, by "
                "which the place is found, are then those of other images"
            )
        if self.matched_loss is not None and self.drop_steps < 2 * WINDOW:
            raise ValueError(
                f"--matched-loss: {self.matched_loss:g} is not allowed with fewer than {2 * WINDOW} --drop-steps, of "
                f"which there are {self.drop_steps}"
            )
        for flag, there in (("--test-barriers", self.test_barriers), ("--chords", self.chords)):
            if there and not self.barriers:
                raise ValueError(f"{flag}: is not allowed with --no-barriers, which leaves out all paths")
        for staged in self.staged():  # raises where one is not allowed
            if not all(SMALLEST <= rate <= LARGEST for rate in staged.rates):
                raise ValueError(f"--stages: {staged.name!r} is not allowed: rates lie between 1e-37 and 1e30")
        return self

    @model_validator(mode="after")
    def _of_the_training(self) -> DropSpec:
        """Refuse what the way of training does not have."""
        if self.training == "sphere":
            given = {"optimizer": self.optimizer != "sgd", "momentum": self.momentum, "weight_decay": self.weight_decay}
            for name in (name for name, there in given.items() if there):
                raise ValueError(
                    f"--{name.replace('_', '-')}: {getattr(self, name)} is not allowed with --training sphere, where "
                    "plain SGD keeps the norm and with it the effective learning rate; it is for --training space"
                )
            return self
        if self.chords:
            raise ValueError("--chords: is not allowed with --training space, where all paths are straight lines")
        if self.preset != "sphere":
            raise ValueError(
                f"--preset: {self.preset} is not allowed with --training space, where initial norms and eps "
                f"{ORDINARY_EPS:g} are kept in any case"
            )
        if self.head_norm is not None:
            raise ValueError(
                f"--head-norm: {self.head_norm:g} is not allowed with --training space, where the head is trained"
            )
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(f"--momentum: {self.momentum:g} is not allowed with --optimizer {self.optimizer}")
        if self.optimizer != "adam" and self.decay_used * max(self.all_starts()) >= 1:
            raise ValueError(
                f"--weight-decay: {self.decay_used:g} is not allowed with lr {max(self.all_starts()):g}: their product "
                "must be below 1, since a step multiplies the weights by 1 - lr * weight decay"
            )
        return self

    @property
    def rate(self) -> str:
        """What starts and ends are, in short."""
        return "ELR" if self.training == "sphere" else "lr"

    @property
    def rate_name(self) -> str:
        """What starts and ends are."""
        return "effective learning rate" if self.training == "sphere" else "learning rate"

    @property
    def decay_used(self) -> float:
        """Weight decay of every step."""
        if self.training == "sphere":
            return 0.0
        return 1e-4 if self.weight_decay is None else self.weight_decay

    @property
    def momentum_used(self) -> float:
        """Heavy-ball momentum of every step."""
        if self.training == "sphere" or self.optimizer != "sgd":
            return 0.0
        return 0.9 if self.momentum is None else self.momentum

    @property
    def averages(self) -> tuple[int, ...]:
        """How many snapshots each average is of."""
        numbers = self.averaged if isinstance(self.averaged, tuple) else (self.averaged,)
        return tuple(number for number in numbers if number)

    def staged(self) -> list[Staged]:
        """The starts in stages."""
        return [Staged.read(name, self.steps) for name in self.stages]

    def all_starts(self) -> list[float]:
        """Starting learning rates, ascending, the controls among them."""
        return sorted({*self.starts, *self.ends, *(rate for one in self.staged() for rate in one.rates)})

    def apart(self, examples: int) -> int:
        """Steps between snapshots, with so many training images."""
        return self.every or -(-examples // self.batch_size)

    def snapshots(self, examples: int) -> tuple[int, ...]:
        """Steps after which the weights are averaged; fewer where the run is too short for all of them.

        Args:
            examples: Number of training images.
        """
        steps = [self.steps - i * self.apart(examples) for i in range(max(self.averages, default=0))]
        return tuple(sorted(step for step in steps if step > 0))
