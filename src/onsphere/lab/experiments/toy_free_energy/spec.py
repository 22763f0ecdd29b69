"""What a run of the free-energy toy is asked for: the fields of ``onsphere toy free-energy``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field

from onsphere.lab.options import AscendingRates, Options, different, list_text, split_list

Kind = Literal["under", "over"]


class ToyFreeEnergySpec(Options):
    """All that a run depends on."""

    models: Annotated[
        tuple[Kind, ...],
        BeforeValidator(split_list),
        AfterValidator(different),
        Field(min_length=1),
        Parameter(negative="", show_default=list_text),
    ] = ("under", "over")
    """Objects in three dimensions, comma separated: under (three, which leave noise at the minimum), over (two, which
    do not)."""
    elrs: Annotated[
        AscendingRates, Field(min_length=3, max_length=64), AfterValidator(lambda elrs: _in_range(elrs))
    ] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.9, 1.2, 2.0, 4.0)
    """Effective learning rates, comma separated, from 1e-3 to 100."""
    copies: Annotated[int, Field(ge=2, le=100_000)] = 256
    """Independent copies of each ELR; errors come from their spread."""
    points: Annotated[int, Field(ge=16, le=100_000)] = 4096
    """Directions of each ELR from which its entropy is estimated."""
    neighbours: Annotated[int, Field(ge=1, le=10)] = 3
    """Which nearest neighbour the entropy estimate looks at."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all draws and starting directions."""


def _in_range(elrs: tuple[float, ...]) -> tuple[float, ...]:
    wrong = [elr for elr in elrs if not 1e-3 <= elr <= 100]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is not allowed: give effective learning rates from 1e-3 to 100")
    return elrs
