"""What a study of memory splits is asked for: the fields of ``onsphere split`` with defaults, units and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import DataOptions, EngineOptions, Options, different, list_text, split_list

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
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate along a run in the whole space: cosine from lr to 0, or constant."""
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
            if self.lr is not None or self.weight_decay:
                name = "--lr" if self.lr is not None else "--weight-decay"
                raise ValueError(f"{name}: is not allowed with --geometry sphere, where --elr says how far a step goes")
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
