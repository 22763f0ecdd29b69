"""What a study of the periods is asked for: the fields of ``onsphere periods`` with defaults, units and bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import (
    DataOptions,
    ElrOptions,
    EngineOptions,
    NetworkOptions,
    Options,
    Rates,
    different,
    list_text,
    split_list,
)

Schedule = Literal["constant", "cosine", "steps", "linear"]
Setup = Literal["scale-invariant", "all-parameters", "practical"]
Several = Annotated[Rates, Field(min_length=1, max_length=64)]
#: Settings times seeds whose jumps are still worth a page.
MOST_RUNS = 2000


class PopulationOptions(Options):
    """Which runs: every learning rate with every weight decay and every seed."""

    lr: Several = (1.0,)
    """Learning rates of SGD in the whole space, comma separated."""
    weight_decay: Several = (3e-3,)
    """Weight decays as in torch's SGD (added to the gradient), comma separated; each times each lr is below 1."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Runs at each setting: initial weights, frozen head and batch order differ."""
    setup: Setup = "scale-invariant"
    """scale-invariant: norms without affine, frozen head; all-parameters: affine norms and the head are trained as
    well; practical: the latter with momentum 0.9; the published one also has --schedule cosine and --augment."""
    each_width: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100_000)], ...] | None,
        BeforeValidator(split_list),
        AfterValidator(lambda values: None if values is None else different(values)),
        Parameter(negative=""),
    ] = None
    """Widths, comma separated, at each of which every setting is trained: channels of the first layer, of the mlp units
    of every hidden layer."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Heavy-ball momentum (default 0, or 0.9 in the practical set-up)."""
    norm_scale: Annotated[float, Field(gt=0)] = 1.0
    """What the initial scale-invariant weights (those of --elr-of) are multiplied by: the network starts as the same
    function, at an ELR that is smaller by the square."""


class PeriodsTraining(Options):
    """How each copy is trained."""

    steps: Annotated[int, Field(ge=8)] = 4000
    """Training steps of each copy."""
    batch_size: Annotated[int, Field(ge=2)] | Literal["full"] = 128
    """Images per step, or full: every step sees all of them."""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Loss; mse is the mean over classes with 0/1 targets."""
    schedule: Schedule = "constant"
    """Learning rate along the run: constant; cosine from lr to 0 over --steps; steps: from each step of --drops on lr
    times its factor; linear: in straight lines from lr through the points of --drops, constant after the last."""
    drops: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\d+:\d*\.?\d+(e[+-]?\d+)?$")], ...] | None,
        BeforeValidator(split_list),
        Parameter(negative=""),
    ] = None
    """STEP:FACTOR, comma separated, ascending: 2000:0.1,3000:0.01 with --schedule steps or linear."""
    augment: bool = False
    """Flip training images at random and crop them at random from zero padding (4 pixels, or 1/8 of a small side);
    minibatch loss and error are those of augmented images, evaluations those of the images as they are."""
    evaluations: Annotated[int, Field(ge=1)] = 50
    """Evaluations on all training and test images along each run (one more is made at the start)."""
    eps: Annotated[float, Field(gt=0, le=1e-2)] = 1e-12
    """eps of the batch norms; the published code has 1e-5."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the whole run: initial weights, batch order and label noise follow from it."""


class Continuation(Options):
    """Going on from a step of another run instead of from new networks."""

    continue_from: str | None = None
    """Folder of a run of periods of one setting, whose networks go on with this run's lr, weight decay, schedule and
    steps; set-up, network, data, batches and seed are the same."""
    at: Annotated[int, Field(ge=1)] | None = None
    """Step of that run at which its networks are taken (default: its last)."""
    order: Annotated[int, Field(ge=0)] = 0
    """Batches of what follows: 0 for those that the first run would have seen next; another number for others."""
    fix_norm: bool = False
    """Also go on with the norm fixed at its value there, by projection after each step."""


class FollowUps(Options):
    """What is done with the runs besides measuring their periods."""

    compare_sphere: bool = False
    """Also train the same networks on the sphere at fixed ELRs around the measured ones: no periods, equal loss."""
    minima: bool = False
    """Also keep the weights at the loss minimum of each period: angles, disagreement, ensembles (trains twice)."""
    sharpness: bool = False
    """Also measure ELR times sharpness before the first jumps of each setting's first seed (trains part of it twice);
    stable below 2."""
    traces: Annotated[int, Field(ge=0, le=1000)] = 0
    """Also estimate the traces of Hessian and Gauss-Newton matrix at the start and at so many evenly spaced steps of
    each setting's first seed."""
    burn_in: Annotated[int, Field(ge=0)] = 100
    """Steps at the start in which jumps are not counted: the norm of a new network grows at first."""


class PeriodsSpec(
    EngineOptions, FollowUps, Continuation, ElrOptions, PeriodsTraining, PopulationOptions, NetworkOptions, DataOptions
):
    """All that a study depends on; the same spec on the same machine and engine gives the same bits."""

    train: Annotated[int, Field(ge=2)] | None = None
    """Number of training images, or all."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced by another class, 0 to 1."""
    widths: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...] | None, BeforeValidator(split_list), Parameter(negative="")
    ] = None
    """Hidden widths of the mlp, comma separated (default 32,32)."""

    @model_validator(mode="after")
    def _consistent(self) -> PeriodsSpec:
        largest = max(self.lr) * max(self.weight_decay)
        if largest >= 1:
            raise ValueError(
                f"--weight-decay: {max(self.weight_decay):g} is not allowed with lr {max(self.lr):g}: their product "
                "must be below 1, since a step multiplies the weights by 1 - lr * weight decay"
            )
        places = len(self.settings()) * len(self.each_width or (0,))
        if places * self.seeds > MOST_RUNS:
            raise ValueError(
                f"--seeds: {self.seeds} seeds of {places} settings are too many runs; at most {MOST_RUNS} together"
            )
        self._check_widths()
        if self.burn_in > self.steps // 2:
            raise ValueError(
                f"--burn-in: {self.burn_in} is not allowed: must be at most half of --steps, which is {self.steps}"
            )
        self._check_drops()
        self._check_continuation()
        if self.compare_sphere and self.setup != "scale-invariant":
            raise ValueError(
                f"--compare-sphere: is not allowed with --setup {self.setup}: on the sphere only scale-invariant "
                "weights are trained"
            )
        if self.compare_sphere and self.schedule != "constant":
            raise ValueError(
                f"--compare-sphere: is not allowed with --schedule {self.schedule}: on the sphere "
                "training is at fixed ELRs"
            )
        return self

    def _check_widths(self) -> None:
        """Raise ValueError if several widths are given together with what is done at one alone."""
        if self.each_width is None:
            return
        if not self.each_width or (self.width is not None and self.model != "mlp"):
            said = (
                "name at least one width" if not self.each_width else "is not allowed with --width: it names the widths"
            )
            raise ValueError(f"--each-width: {said}")
        for name in ("compare_sphere", "minima", "sharpness", "traces", "continue_from"):
            if getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')}: is not allowed with --each-width: give one --width")

    def _check_drops(self) -> None:
        """Raise ValueError unless there are points where the schedule has some, one after another within the run."""
        has = self.schedule in ("steps", "linear")
        if has != (self.drops is not None and len(self.drops) > 0):
            raise ValueError(
                f"--drops: {'must be given' if has else 'is not allowed'} with --schedule {self.schedule}; points as "
                "2000:0.1,3000:0.01 belong to steps and linear"
            )
        places = [step for step, _ in self.points]
        last = self.steps if self.schedule == "linear" else self.steps - 1
        if any(a >= b for a, b in pairwise([0, *places])) or (places and places[-1] > last):
            raise ValueError(
                f"--drops: {list_text(self.drops)} is not allowed: steps must ascend from 1 to at most {last} of "
                f"--steps {self.steps}"
            )
        if any(not factor > 0 for _, factor in self.points):
            raise ValueError(f"--drops: {list_text(self.drops)} is not allowed: factors must be positive")

    def _check_continuation(self) -> None:
        """Raise ValueError if options of a continued run are given without one, or do not go together with it."""
        for name, default in (("at", None), ("order", 0), ("fix_norm", False)):
            if self.continue_from is None and getattr(self, name) != default:
                raise ValueError(f"--{name.replace('_', '-')}: is not allowed without --continue-from")
        if self.continue_from is not None and (self.norm_scale != 1 or self.compare_sphere):
            given = "--norm-scale" if self.norm_scale != 1 else "--compare-sphere"
            raise ValueError(f"{given}: is not allowed with --continue-from: its runs begin at a checkpoint's norm")
        if self.fix_norm and (self.setup != "scale-invariant" or self.momentum_used or self.schedule != "constant"):
            raise ValueError(
                "--fix-norm: needs --setup scale-invariant, no momentum and --schedule constant: with a fixed norm "
                "only scale-invariant weights are trained, at a fixed ELR"
            )

    @property
    def smooth(self) -> Literal["constant", "cosine"]:
        """The schedule that all copies share; one of steps or straight lines is each copy's own."""
        return "cosine" if self.schedule == "cosine" else "constant"

    @property
    def points(self) -> list[tuple[int, float]]:
        """Steps and factors of the schedule."""
        return [(int(step), float(factor)) for step, factor in (point.split(":") for point in self.drops or ())]

    def settings(self) -> list[tuple[float, float]]:
        """(lr, weight decay) of every setting."""
        return [(lr, decay) for lr in self.lr for decay in self.weight_decay]

    @property
    def momentum_used(self) -> float:
        """The given momentum, or what the set-up has."""
        return self.momentum if self.momentum is not None else (0.9 if self.setup == "practical" else 0.0)

    @property
    def widths_used(self) -> tuple[int, ...] | None:
        """The given widths, or those of the default mlp."""
        return self.widths or ((32, 32) if self.model == "mlp" else None)
