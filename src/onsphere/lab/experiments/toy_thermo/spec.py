"""What a run of the thermodynamics toy is asked for: the fields of ``onsphere toy thermo``."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, model_validator

from onsphere.lab.options import Options, list_text, split_list

Protocol = Literal["fixed_elr", "fixed_lr", "sphere"]
Several = Annotated[
    tuple[Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)], ...],
    BeforeValidator(split_list),
    Field(min_length=1, max_length=32),
    Parameter(negative="", show_default=list_text),
]

#: Relaxation times to wait (of the directions, of the norm) and between two points of the entropy.
_WAIT, _WAIT_NORM, _APART = 10, 5, 4
_MOST_STEPS = 1_000_000
#: Largest squared angle of a step, radians: the laws are of small steps.
_LARGEST_STEP = 0.25


class ToyThermoSpec(Options):
    """All that a run depends on. Every protocol runs a grid: its rates times its weight decays, or radii."""

    dimension: Annotated[int, Field(ge=2, le=100)] = 3
    """Number d of scale-invariant weights."""
    sigma: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Scale of the gradient noise on the unit sphere, per tangent direction; the loss is 1 + cos(angle)."""
    protocols: Annotated[
        tuple[Protocol, ...],
        BeforeValidator(split_list),
        Field(min_length=1),
        Parameter(negative="", show_default=list_text),
    ] = ("fixed_elr", "fixed_lr", "sphere")
    """What is held fixed, comma separated: fixed_elr, fixed_lr, sphere (ELR and norm)."""
    elrs: Several = (0.01, 0.02, 0.04)
    """Effective learning rates of fixed_elr and sphere, comma separated."""
    lrs: Several = (0.01, 0.03, 0.1)
    """Learning rates of fixed_lr, comma separated."""
    weight_decays: Several = (0.01, 0.03, 0.1)
    """Weight decays of fixed_elr and fixed_lr, comma separated."""
    radii: Several = (0.5, 1.0, 2.0)
    """Norms of sphere, comma separated."""
    copies: Annotated[int, Field(ge=2, le=100_000)] = 512
    """Independent copies of each setting; errors come from their spread."""
    points: Annotated[int, Field(ge=16, le=100_000)] = 8192
    """Directions of each setting from which its entropy is estimated."""
    neighbours: Annotated[int, Field(ge=1, le=10)] = 3
    """Which nearest neighbour the entropy estimate looks at."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all noise and starting directions."""

    @model_validator(mode="after")
    def _small_steps(self) -> ToyThermoSpec:
        spread = self.sigma**2 * (self.dimension - 1)
        for protocol in self.protocols:
            fixed_lr = protocol == "fixed_lr"
            name, rates = ("lrs", self.lrs) if fixed_lr else ("elrs", self.elrs)
            for rate in rates:
                angle = 2 * rate * max(self.weight_decays) if fixed_lr else rate**2 * spread
                if angle > _LARGEST_STEP:
                    words = "2 lr * weight decay" if fixed_lr else "elr² sigma² (d - 1)"
                    raise ValueError(
                        f"--{name}: {rate:g} is not allowed: the squared angle of a step, {words}, is {angle:.3g} and "
                        f"must be at most {_LARGEST_STEP:g}"
                    )
                needed = sum(self.lengths(protocol, rate))
                if needed > _MOST_STEPS:
                    raise ValueError(
                        f"--{name}: {rate:g} is not allowed: {protocol} would need {needed:.2g} steps to settle and be "
                        f"measured, more than {_MOST_STEPS}; take a larger rate (or weight decay)"
                    )
        return self

    def lengths(self, protocol: Protocol, rate: float) -> tuple[int, int]:
        """Steps to wait and to measure at one rate: as many relaxation times as make points independent.

        Directions relax in 1 / ELR steps; the norm in 1 / (4 lr wd) at a fixed lr, in 1 / s² at a fixed ELR, where s is
        the angle of a step.
        """
        spread = self.sigma**2 * (self.dimension - 1)
        directions, norm = 1 / rate, 0.0
        if protocol == "fixed_lr":
            decay = min(self.weight_decays)
            directions = math.sqrt(spread / (2 * rate * decay))  # 1 / ELR at the stationary norm
            norm = 1 / (4 * rate * decay)
        elif protocol == "fixed_elr":
            norm = 1 / (rate**2 * spread)
        snapshots = -(-self.points // self.copies)
        wait = max(_WAIT * directions, _WAIT_NORM * norm)
        return math.ceil(wait), math.ceil(max(_APART * snapshots, 40) * directions)
