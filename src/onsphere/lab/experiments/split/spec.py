"""What a study of memory splits is asked for: the fields of ``onsphere split`` with defaults, units and bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import (
    LARGEST,
    MOST,
    SMALLEST,
    DataOptions,
    EngineOptions,
    InputError,
    Options,
    different,
    list_text,
    split_list,
)

Metric = Literal["nll", "cnll", "accuracy"]
Count = Annotated[int, Field(ge=1)]
#: Whole numbers, comma separated, each named once; they are put into ascending order.
Counts = Annotated[
    tuple[Count, ...],
    AfterValidator(lambda values: tuple(sorted(different(values)))),
    Parameter(negative="", show_default=list_text),
]

_SUFFIXES = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
#: Trained networks, over all widths, that are still worth a page.
MOST_MEMBERS = 20_000
#: Networks that a prediction trains at each width.
PREDICTION_POOL = 4


def read_budgets(value: Any) -> Any:
    """``16k,1M`` as (16000, 1000000); what is no number stays for pydantic to refuse."""
    parts = split_list(value)
    return tuple(map(_amount, parts)) if isinstance(parts, tuple) else parts


def _amount(part: Any) -> Any:
    try:
        amount = float(part.strip()[:-1]) * _SUFFIXES[part.strip()[-1:].lower()]
    except (AttributeError, KeyError, ValueError):
        return part
    return int(amount) if amount == int(amount) else amount


#: What may differ from width to width.
PER_WIDTH = ("lr", "weight_decay", "dropout")
_FORM = "a setting is WIDTHS:NAME=VALUE, such as 8-16:lr=0.05 (widths 8, 8-16 or 8-)"


def read_setting(text: str) -> tuple[range, str, float]:
    """``8-16:lr=0.05`` as the widths, the name and the value; ``8`` is one width, ``8-`` all from 8.

    Raises:
        ValueError: It is written otherwise, names what does not differ from width to width, or a value out of range.
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?)?\s*:\s*([\w-]+)\s*=\s*([^\s=]+)\s*", text)
    if found is None:
        raise ValueError(_FORM)
    name, first = found[4].replace("-", "_"), int(found[1])
    last = int(found[3]) if found[3] else MOST if found[2] else first
    if name not in PER_WIDTH:
        raise ValueError(f"there is no setting {found[4]!r} of a width; there are {', '.join(PER_WIDTH)}")
    if not 1 <= first <= last:
        raise ValueError(f"there are no widths {first} to {last}; {_FORM}")
    try:
        value = float(found[5])
    except ValueError:
        raise ValueError(f"{found[5]!r} is no number; {_FORM}") from None
    least, most = (SMALLEST if name == "lr" else 0.0), (1.0 if name == "dropout" else LARGEST)
    if not least <= value < most:
        raise ValueError(f"{name} {found[5]} is out of range; it must be at least {least:g} and below {most:g}")
    return range(first, last + 1), name, value


def _readable(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        read_setting(value)
    return tuple(different(values))


#: Settings of widths, comma separated; of several for one width the last counts.
Settings = Annotated[
    tuple[str, ...],
    BeforeValidator(split_list),
    AfterValidator(_readable),
    Parameter(negative="", show_default=list_text),
]

#: The published settings beside what all widths have: each holds up to half way (by ratio) to the next published width.
PUBLISHED: dict[tuple[str, str], tuple[str, ...]] = {
    ("vgg16", "cifar10"): ("1-6:lr=0.005", "1-13:weight_decay=0.001", "20-76:dropout=0.25"),
    ("vgg16", "cifar100"): (
        "1-6:lr=0.005",
        "1-76:weight_decay=0.001",
        "153-:weight_decay=0.001",
        "1-6:dropout=0.25",
        "20-53:dropout=0.25",
        "54-:dropout=0.5",
    ),
    ("wrn28", "cifar10"): (),
    ("wrn28", "cifar100"): (),
}
#: Epochs of the published recipe, and the images of the whole data sets.
EPOCHS, IMAGES = 200, 50_000


def published(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of the published recipe for the model and data among them, where they name none.

    Raises:
        InputError: There is no published recipe for this model and these data.
    """
    model, data = fields.get("model", "mlp"), fields.get("data", "digits")
    settings = PUBLISHED.get((model, data)) if isinstance(model, str) and isinstance(data, str) else None
    if settings is None:
        raise InputError(
            "--preset: paper is not allowed here: the published recipe is for --model vgg16 or wrn28 with --data "
            "cifar10 or cifar100"
        )
    batch, train = fields.get("batch_size", 128), fields.get("train", 500)
    recipe: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.9,
        "lr": 0.05 if model == "vgg16" else 0.1,
        "weight_decay": 3e-4,
        "schedule": "paper",
        "augment": True,
        "batch_size": 128,
        "failed_accuracy": 0.15,
    }
    if isinstance(batch, int) and batch > 0:
        images = train if isinstance(train, int) else IMAGES
        recipe["steps"] = EPOCHS * math.ceil(images / batch)
    own = split_list(fields.get("settings", ()))
    own = own if isinstance(own, tuple) else ()
    by_width = [one for one in settings if read_setting(one)[1] not in fields and one not in own]
    return recipe | dict(fields) | {"settings": (*by_width, *own)}


class BudgetOptions(Options):
    """What may be spent, and which ways of spending it are tried."""

    budget: Annotated[Counts, BeforeValidator(read_budgets), Field(min_length=1, max_length=16)] = (16_000,)
    """Parameters of all members together: 16000, 16k or 1M; several, comma separated, draw the envelope."""
    members: Annotated[Counts, BeforeValidator(split_list), Field(min_length=1, max_length=32)] = (1, 2, 4, 8, 16)
    """Numbers of networks that a budget is split into, comma separated; 1 is the single wide network."""
    unit: Literal["parameters", "bytes"] = "parameters"
    """What --budget counts: parameters, or bytes of parameters and buffers."""
    seeds: Count = 5
    """Ensembles of every split, each of networks of its own; errors and intervals are over them."""
    metric: Metric = "nll"
    """What the recommendation and --save go by: nll, cnll (NLL at the best temperature) or accuracy."""
    predict: bool = False
    """Train only four networks at each width, fit the power laws, and predict which split is best."""
    failed_accuracy: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Networks of at most this accuracy (a fraction of the test images; published: 0.15) are dropped from their pool
    before it is cut into ensembles. Default: those at chance are left out of their ensembles."""
    curves: bool = True
    """Also measure smaller ensembles of every width and fit the power laws to them; trains nothing more."""
    save: str | None = None
    """File for the ensemble of the best split (safetensors): that of the first seed, for the largest budget."""


class SplitNetwork(Options):
    """Which family of networks."""

    model: str = "mlp"
    """Network: mlp, plain-mlp (no norm, all trained), convnet, resnet18, vgg16, wrn28, or package.module:factory."""
    layers: Annotated[int, Field(ge=1, le=32)] = 2
    """Hidden layers, all of one width, of the mlp and the plain-mlp."""
    head_norm: Annotated[float, Field(gt=0)] = 10.0
    """Frobenius norm of the frozen last layer of mlp, convnet and resnet18."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a unit is dropped: before the first two linear layers of vgg16, after the first convolution of every
    block of wrn28; a model of yours must have an argument of that name."""


class SplitTraining(Options):
    """How each network is trained."""

    steps: Annotated[int, Field(ge=8)] = 400
    """Training steps of each network."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per step."""
    geometry: Literal["space", "sphere"] = "space"
    """space: ordinary training; sphere: scale-invariant weights on the unit sphere at a fixed ELR."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimiser in the whole space; sgd has momentum."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learning rate in the whole space (default 3e-3, or 0.05 for sgd)."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight decay in the whole space."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Heavy-ball momentum of sgd in the whole space."""
    schedule: Literal["cosine", "constant", "paper"] = "cosine"
    """Learning rate along a run in the whole space: cosine from lr to 0; constant; paper: constant to half of the
    steps, linear to 1 % at nine tenths, constant again."""
    augment: bool = False
    """Flip and crop training images at random: mirrored with probability 1/2, cropped after zero padding of 4."""
    settings: Settings = ()
    """Settings of single widths, comma separated: WIDTHS:NAME=VALUE with lr, weight_decay or dropout, such as
    6:lr=0.005,23-64:dropout=0.25 (8- is every width from 8); of several for one width the last counts."""
    preset: Literal["paper"] | None = None
    """paper: the published recipe of vgg16 and wrn28 on cifar10 and cifar100 (sgd, momentum 0.9, batch 128, 200 epochs,
    --schedule paper, --augment, --failed-accuracy 0.15, lr, weight decay and dropout by width); options given win."""
    elr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Effective learning rate on the sphere."""
    map: str | None = None
    """Folder of an ended regime map (onsphere regimes): the ELR on the sphere is the largest that still converged."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the whole run: initial weights and batch order follow from it."""


class SplitSpec(EngineOptions, BudgetOptions, SplitTraining, SplitNetwork, DataOptions):
    """All that a study depends on; the same spec on the same machine and engine gives the same bits."""

    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced by another class, 0 to 1."""
    pool: Annotated[int, Field(ge=1)] = 1
    """Average-pool images by this factor or to this side, whichever leaves larger ones (fashion-mnist: 4 or 7: 7x7)."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Worker processes, one thread each (1: no other process); every width starts its own."""

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.geometry == "sphere":
            if (self.elr is None) == (self.map is None):
                given = "neither was" if self.elr is None else "both were"
                raise ValueError(f"--elr: --geometry sphere needs --elr or --map, one of them; {given} given")
            if self.lr is not None or self.weight_decay or self.settings:
                name = "--lr" if self.lr is not None else "--weight-decay" if self.weight_decay else "--settings"
                raise ValueError(f"{name}: is not allowed with --geometry sphere, where --elr says how far a step goes")
            if self.schedule == "paper":
                raise ValueError("--schedule: paper is not allowed with --geometry sphere, where the ELR is constant")
        else:
            for name in ("elr", "map"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name}: is not allowed with --geometry space; add --geometry sphere")
        if self.predict and self.save is not None:
            raise ValueError("--save: is not allowed with --predict, which trains no whole ensemble; leave one out")
        trained = sum(self.members) * self.seeds * len(self.budget)
        if not self.predict and trained > MOST_MEMBERS:
            raise ValueError(
                f"--seeds: {self.seeds} seeds of these splits are up to {trained:,} networks; at most {MOST_MEMBERS:,}"
            )
        return self

    @property
    def lr_used(self) -> float:
        """The given learning rate, or what suits the optimiser."""
        return self.lr if self.lr is not None else (0.05 if self.optimizer == "sgd" else 3e-3)

    def settings_of(self, width: int) -> dict[str, float]:
        """``lr``, ``weight_decay`` and ``dropout`` of the networks of a width."""
        found = {"lr": self.lr_used, "weight_decay": self.weight_decay, "dropout": self.dropout}
        return found | {name: value for widths, name, value in map(read_setting, self.settings) if width in widths}
