"""The fields that experiments share: data, model, training, engine. Each experiment's spec inherits them.

A spec is a frozen pydantic model: the same fields on the command line (``--label-noise``), in a TOML file
(``label_noise``), in ``run.json`` of a run and in Python. Nothing here imports torch, so ``--help`` stays fast.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from onsphere.lab.keyed import Keyed
from onsphere.lab.placement import Local, Placement, parse

# Far beyond what makes sense, far within what memory, float32 and a folder of files carry; a field's own may be less.
MOST = 10**9
MOST_OF = {
    **{"elrs": 1000, "seeds": 1000, "refine": 1000, "workers": 1024, "points": 10_000, "evaluations": 100_000},
    **{"gradients": 100_000, "averaged": 1000, "width": 100_000, "widths": 100_000, "chunk": 1_000_000},
    "seed": 2**63 - 1,
}
SMALLEST, LARGEST = 1e-37, 1e30
LONGEST_SHOWN = 80  # characters of a wrong value in a message


class InputError(ValueError):
    """Something the user gave is wrong. The message is one line: which field, what it was, what is allowed."""


def split_list(value: Any) -> Any:
    """Let a list be written as ``64,64`` on the command line, and as one value; it runs before the field's own."""
    if isinstance(value, str | int | float):
        value = [value]
    if isinstance(value, list | tuple):
        return tuple(part for item in value for part in (item.split(",") if isinstance(item, str) else [item]))
    return value


def list_text(values: Any) -> str:
    """A default that is a list, as it is written on the command line; "" where there is none."""
    if values is None:
        return ""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def different(values: Any) -> Any:
    """Refuse a list in which a value stands twice; a validator that runs after the field's own."""
    if len(set(values)) < len(values):
        raise ValueError("every value must be named once")
    return values


#: Positive numbers, comma separated, each named once; a field may bound how many.
Rates = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    BeforeValidator(split_list),
    AfterValidator(different),
    Parameter(negative="", show_default=list_text),
]

#: The same, put into ascending order.
AscendingRates = Annotated[Rates, AfterValidator(lambda values: tuple(sorted(values)))]

#: Widths of hidden layers, comma separated, or None for the default.
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, BeforeValidator(split_list), Parameter(negative="")]

#: Widths of the named networks where none is given: of the hidden layers, or of the first layer.
WIDTHS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "mlp": ((64, 64), None),
    "layer-norm-mlp": ((32,), None),
    "plain-mlp": ((64, 64), None),
    "convnet": ((), 32),
    "resnet18": ((), 32),
    "vgg16": ((), 64),
    "wrn28": ((), 160),
}


class Options(Keyed, BaseModel):
    """Base of every spec: unknown fields are an error, values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        """No number that only a slip of the finger asks for: it would fill the memory, or overflow while it trains."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > MOST_OF.get(str(info.field_name), MOST):
                raise ValueError(f"must be at most {MOST_OF.get(str(info.field_name), MOST):,}")
            if isinstance(number, float) and number != 0 and not SMALLEST <= abs(number) <= LARGEST:
                raise ValueError(f"must be a number between {SMALLEST:g} and {LARGEST:g}")
        return value


class DataOptions(Options):
    """Which data, how many of them, and what is done to them."""

    data: str = "digits"
    """Data set: digits, fashion-mnist, cifar10 or cifar100."""
    data_dir: str | None = None
    """Folder that holds the files of the data set (digits needs none)."""
    train: Annotated[int, Field(ge=2)] | None = 500
    """Number of training images, or all."""
    test: Annotated[int, Field(ge=1)] | None = None
    """Number of test images (default: all)."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Fraction of training labels replaced by another class, 0 to 1."""
    label_noise_kind: Literal["other", "any"] = "other"
    """Replaced labels are drawn among the other classes, or among any, the right one included (as published)."""
    pool: Annotated[int, Field(ge=1)] = 1
    """Average-pool images by this factor (fashion-mnist: 2 gives 14x14, 4 gives 7x7)."""
    standardise: bool = True
    """Subtract the training images' mean and divide by their standard deviation, per channel."""

    @model_validator(mode="before")
    @classmethod
    def _all_means_no_limit(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("train", "")).lower() == "all":
            values = values | {"train": None}
        return values


class NetworkOptions(Options):
    """Which network is trained, and how wide it is."""

    model: str = "mlp"
    """Network: mlp, layer-norm-mlp, plain-mlp, convnet, resnet18, vgg16, wrn28, or package.module:factory for your
    own."""
    widths: Widths = None
    """Hidden widths of the mlp, comma separated (default 64,64; layer-norm-mlp 32)."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Width of the convolutional networks: channels of the first layer (default 32, vgg16 64, wrn28 160)."""
    head_norm: Annotated[float, Field(gt=0)] | None = None
    """Frobenius norm of the frozen last layer (default 10 for cross-entropy, 3 for mse)."""

    @property
    def head_norm_used(self) -> float:
        """The given head norm, or what suits the loss: 10, or 3 for mse, whose targets a larger head overshoots."""
        return self.head_norm if self.head_norm is not None else (3.0 if getattr(self, "loss", "") == "mse" else 10.0)


class ModelOptions(NetworkOptions):
    """Which network, and in whose numerics."""

    preset: Literal["sphere", "paper"] = "sphere"
    """sphere: unit norm, batch-norm eps 1e-12. paper: initial norm kept, eps 1e-5, as the published code does."""


class TrainingOptions(Options):
    """How each copy is trained."""

    steps: Annotated[int, Field(ge=8)] = 2500
    """Training steps of each copy."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per step."""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Loss; mse is the mean over classes with 0/1 targets."""
    evaluations: Annotated[int, Field(ge=1)] = 10
    """Evaluations on all training and test images along each run (one more is made at the start)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the whole run: initial weights, batch order and label noise follow from it."""


class ElrOptions(Options):
    """What effective learning rates are those of, in networks whose norms have gains and biases."""

    elr_of: Annotated[str, Field(min_length=1)] = "all"
    """Scale-invariant tensors that ELR, norm and effective gradient are of: all; weights (at least two dimensions:
    convolutions and matrices, as the published code counts); or globs of names, comma separated."""

    @property
    def counted(self) -> str | tuple[str, ...] | None:
        """The same as :func:`onsphere.sphere_groups` takes it (``only``)."""
        return {"all": None, "weights": "weights"}.get(self.elr_of, tuple(self.elr_of.split(",")))


def _placed(value: str | None) -> str | None:
    """Refuse a text that names no executor; a validator that runs after the field's own."""
    if value is not None:
        parse(value)
    return value


def _workers_of(text: str) -> int | None:
    """The N of ``local:N``; None for every other text, a wrong one included."""
    try:
        found = parse(text)
    except ValueError:
        return None
    return found.workers if isinstance(found, Local) else None


class EngineOptions(Options):
    """What executes the copies; changes the cost, not the question."""

    device: str = "cpu"
    """Device: cpu, cuda, cuda:1 (it needs float64, which mps lacks)."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Worker processes, one thread each (1: no other process)."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and activations."""
    mode: Literal["auto", "vmap", "loop"] = "auto"
    """vmap: many copies in one batched step; loop: one copy after another; auto: by a short timing."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Copies per shard (default: chosen with the mode)."""
    executor: Annotated[str | None, AfterValidator(_placed)] = None
    """Where shards run: local:N (the same as --workers N), ray, ray:num_cpus=1,num_gpus=0.5, ray:address=HOST:PORT,
    ray://HOST:PORT, or slurm:partition=NAME,time=MINUTES; there --workers is how many shards run at once at most."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between checkpoints: what a killed run loses at most."""
    compiled: Literal["auto", "yes", "no"] = "auto"
    """Compile the whole step with torch.compile (auto: only where it pays for itself)."""

    @model_validator(mode="before")
    @classmethod
    def _local_means_workers(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("executor"), str):
            number = _workers_of(values["executor"])
            if number is not None and str(values.get("workers", number)) != str(number):
                given, also = values["executor"], values["workers"]
                raise ValueError(f"--executor: {given} and --workers {also} are not allowed together: leave one out")
            return values if number is None else values | {"workers": number}
        return values

    @property
    def placement(self) -> Placement:
        """The parsed ``executor``; ``--workers`` processes of this machine where there is none."""
        found = Local() if self.executor is None else parse(self.executor)
        return Local(self.workers) if isinstance(found, Local) else found

    @property
    def senders(self) -> int:
        """How many processes the problem is sent to: 1 where it stays in this one."""
        return self.workers if isinstance(self.placement, Local) else max(self.workers, 2)


def one_line(error: ValidationError, *, style: Literal["option", "key"] = "option") -> str:
    """The first problem of a pydantic error as one line: field, what was given, what is allowed.

    Args:
        error: The error that pydantic raised.
        style: ``option`` writes ``--label-noise``, ``key`` writes ``label_noise``.
    """
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    field = str(problem["loc"][0]) if problem["loc"] else ""
    if not field:
        return message
    name = "--" + field.replace("_", "-") if style == "option" else field
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such field"
    message = message[0].lower() + message[1:]
    return f"{name}: {_shown(problem['input'])} is not allowed: {message}"


def misfit(error: Exception) -> str:
    """What is wrong with a file, on one line: where it first differs from its types, or else the error itself."""
    if not isinstance(error, ValidationError):
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, a list of too many lists
        return f"this {type(value).__name__}, which is too long to print,"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
