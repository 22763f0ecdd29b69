"""What a run of the periods toy is asked for: the fields of ``onsphere toy periods``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from onsphere.lab.toy_options import Coefficients, PairsOptions, Rate

#: The least floor other than 0 whose square float64 carries with all its digits.
LEAST_FLOOR = 1e-120
#: The smallest lr times weight decay whose default length is bearable.
_LEAST_DECAY = 1e-5


class ToyPeriodsSpec(PairsOptions):
    """All that a run depends on; A is the sum of the alphas."""

    lr: Rate = 0.1
    """Learning rate."""
    weight_decay: Rate = 0.01
    """Weight decay as in torch's SGD (added to the gradient); below 1 / lr."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 1e-16
    """Least |x| of a pair relative to its norm, which stands for rounding or noise; 0 for none."""
    alphas: Coefficients = (1.0,)
    """Coefficients of the pairs in the loss, comma separated."""
    steps: Annotated[int, Field(ge=8, le=10_000_000)] | None = None
    """Steps of the run (default: ten periods after the first; without a floor, a fall of the norm by exp(-20))."""

    @field_validator("floor")
    @classmethod
    def _carried(cls, value: float) -> float:
        if 0 < value < LEAST_FLOOR:
            raise ValueError(f"must be 0, or at least {LEAST_FLOOR:g}")
        return value

    @model_validator(mode="after")
    def _decays(self) -> ToyPeriodsSpec:
        product = self.lr * self.weight_decay
        if product >= 1:
            raise ValueError(
                f"--weight-decay: {self.weight_decay:g} is not allowed: must be below 1 / lr, which is {1 / self.lr:g}"
            )
        if product < _LEAST_DECAY and self.steps is None:
            raise ValueError(
                f"--steps: must be given, because lr * weight decay is {product:g}, below {_LEAST_DECAY:g}: a single "
                "period takes thousands of steps"
            )
        if product < 1e-12:
            raise ValueError(f"--weight-decay: lr * weight decay is {product:g}; must be at least 1e-12")
        return self
