"""What is asked about learned features: the fields of ``onsphere landscape features`` with defaults, units, bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, field_validator, model_validator

from onsphere.lab.options import (
    AscendingRates,
    DataOptions,
    EngineOptions,
    ModelOptions,
    Options,
    TrainingOptions,
    list_text,
    split_list,
)

SYNTHETIC = "synthetic"

#: Ascending edges of bands, comma separated.
Edges = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], BeforeValidator(split_list)]


class FeatureOptions(Options):
    """From which effective learning rates to which one, how often, and whose accuracy is measured afterwards."""

    starts: Annotated[AscendingRates, Field(min_length=1, max_length=64)] = (
        *(3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 5.6e-3, 0.01, 0.013, 0.018, 0.032, 0.1, 0.32, 1.0),
    )
    """Effective learning rates (lr / norm², dimensionless) before the drop, comma separated. --end is added: the run
    that stays there is the control without a drop."""
    end: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """The small effective learning rate at which every run goes on."""
    drop_steps: Annotated[int, Field(ge=8)] = 20_000
    """Training steps at --end."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs at each start: initial weights, frozen head and batch order differ; the data are the same."""
    features: Annotated[int, Field(ge=2, le=1000)] = 16
    """Redundant features of an example of the synthetic data, each of two dimensions."""
    noise: Annotated[
        tuple[float, ...],
        Field(min_length=2, max_length=2),
        BeforeValidator(split_list),
        Parameter(negative="", show_default=list_text),
    ] = (0.3, 1.0)
    """Least and most noise of the synthetic features, comma separated: standard deviation over the distance of a
    corner from the axes."""
    others: Literal["redrawn", "mean"] = "redrawn"
    """What a synthetic feature is alone with: the others redrawn from other examples, or set to their mean."""
    bands: Annotated[Edges | None, Field(max_length=65), Parameter(negative="")] = None
    """Edges of the bands of frequency |f_x| + |f_y|, in periods over the image, comma separated (default: at most 8
    bands of equal width)."""

    @field_validator("noise")
    @classmethod
    def _least_and_most(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be a least and a most, both positive, the most not less than the least")
        return value

    @field_validator("bands")
    @classmethod
    def _ascending(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (len(value) < 2 or any(a >= b for a, b in pairwise(value))):
            raise ValueError("must be at least two edges, each larger than the one before")
        return value


class FeaturesSpec(EngineOptions, FeatureOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    data: str = SYNTHETIC
    """Data set: synthetic (redundant features), or images: digits, fashion-mnist, cifar10 or cifar100."""
    train: Annotated[int, Field(ge=2)] | None = 512
    """Number of training examples, or all."""
    test: Annotated[int, Field(ge=2)] | None = None
    """Number of test examples (default: all images; 4096 synthetic ones)."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training labels replaced by another class, 0 to 1."""
    model: str = "layer-norm-mlp"
    """Network: layer-norm-mlp, mlp, convnet, resnet18, or package.module:factory for your own."""
    steps: Annotated[int, Field(ge=8)] = 40_000
    """Training steps before the drop."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Examples per step."""

    @model_validator(mode="after")
    def _consistent(self) -> FeaturesSpec:
        idle: dict[str, str]
        if self.synthetic:
            idle = {"bands": "cuts images", "pool": "pools images", "data_dir": "names files", "standardise": ""}
            kind = "the synthetic data, which have none"
            idle["standardise"] = "may be switched off for images; the synthetic numbers are standardised already"
            if self.train is None:
                raise ValueError("--train: all is not allowed with the synthetic data: give a number")
        else:
            idle = {name: "is for the synthetic data" for name in ("features", "noise", "others")}
            kind = f"--data {self.data}"
        for name, reason in idle.items():
            value: Any = getattr(self, name)
            if value != type(self).model_fields[name].default:
                shown = ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else value
                raise ValueError(f"--{name.replace('_', '-')}: {shown} is not allowed with {kind}: it {reason}")
        return self

    @property
    def synthetic(self) -> bool:
        """Whether the data are redundant features, and not images."""
        return self.data == SYNTHETIC

    def all_starts(self) -> list[float]:
        """Starting effective learning rates, ascending, the control among them."""
        return sorted({*self.starts, self.end})
