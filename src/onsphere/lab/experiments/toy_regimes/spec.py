"""What a run of the regimes toy is asked for: the fields of ``onsphere toy regimes``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, model_validator

from onsphere.lab.options import split_list
from onsphere.lab.toy_options import Coefficients, PairsOptions, Rate

#: Ends of the default grid, in units of the threshold 1 / A.
GRID_ENDS = (0.2, 50.0)

Rates = Annotated[tuple[Rate, ...], Field(min_length=1, max_length=1000)]


class ToyRegimesSpec(PairsOptions):
    """All that a run depends on; A is the sum of the alphas."""

    alphas: Coefficients = (1.0, 2.0, 4.0)
    """Coefficients of the pairs in the loss, comma separated."""
    elrs: Annotated[Rates | None, BeforeValidator(split_list), Parameter(negative="")] = None
    """Effective learning rates of the joint sphere, comma separated (default: a grid even in log)."""
    elr_min: Rate | None = None
    """Smallest effective learning rate of the grid (default: 0.2 / A)."""
    elr_max: Rate | None = None
    """Largest effective learning rate of the grid (default: 50 / A)."""
    grid: Annotated[int, Field(ge=2, le=1000)] = 49
    """Number of effective learning rates in the grid."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 10
    """Random starting directions; each is run at every effective learning rate."""
    steps: Annotated[int, Field(ge=8, le=10_000_000)] = 20_000
    """Steps of every run; losses are means over the last half."""

    @model_validator(mode="after")
    def _consistent(self) -> ToyRegimesSpec:
        if self.elrs is not None:
            for name in ("elr_min", "elr_max"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name.replace('_', '-')} is not allowed with --elrs, which leaves no grid")
        elif not self.ends[0] < self.ends[1]:
            raise ValueError(
                f"--elr-min: {self.ends[0]:g} is not allowed: must be below --elr-max, which is {self.ends[1]:g}"
            )
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest effective learning rate of the grid."""
        low, high = (end / sum(self.alphas) for end in GRID_ENDS)
        return (low if self.elr_min is None else self.elr_min, high if self.elr_max is None else self.elr_max)

    def chosen(self) -> list[float]:
        """The effective learning rates, ascending, each once."""
        if self.elrs is not None:
            return sorted(set(self.elrs))
        low, high = self.ends
        return [*(low * (high / low) ** (i / (self.grid - 1)) for i in range(self.grid - 1)), high]
