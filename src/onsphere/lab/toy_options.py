"""What the pairs toys share: their fields, and what is needed to run them. Nothing here imports numpy or torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import BeforeValidator, Field

from onsphere.lab.options import InputError, Options, list_text, split_list

# Far beyond what makes sense, far within what float64 squares carry.
Coefficient = Annotated[float, Field(ge=1e-12, le=1e12, allow_inf_nan=False)]
Coefficients = Annotated[
    tuple[Coefficient, ...],
    BeforeValidator(split_list),
    Field(min_length=1, max_length=64),
    Parameter(negative="", show_default=list_text),
]
Rate = Annotated[float, Field(ge=1e-12, le=1e12, allow_inf_nan=False)]


class PairsOptions(Options):
    """How the pairs are simulated."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random starting directions."""
    backend: Literal["auto", "numpy", "numba"] = "auto"
    """What runs the inner loops, to the same bits: numpy, numba where it is installed, or auto by the run's length."""


def check_backend(spec: PairsOptions, *given: object) -> None:
    """Prepare a pairs toy, which needs nothing but what runs its loops; ``given`` is what trained experiments take.

    Raises:
        InputError: numba was asked for and is not installed.
    """
    if spec.backend == "numba" and find_spec("numba") is None:
        raise InputError(
            "--backend: 'numba' is not allowed: numba is not installed: pip install 'onsphere[fast]', or take numpy or "
            "auto"
        )
