"""Ensembles of one size of one width, and laws through them, as the result keeps them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onsphere.ensembles.calibration import Temperature
from onsphere.lab.keyed import Keyed
from onsphere.lab.result import Real

#: What a fixed temperature divides: the averaged log-probabilities, or every member's logits (setups 1 and 2).
KINDS: tuple[Temperature, ...] = ("averaged", "members")


@dataclass(frozen=True)
class Point:
    """Ensembles of one size of one width.

    Attributes:
        width: Width of the networks.
        size: How many of them an ensemble has.
        groups: How many ensembles; 0 where all subsets of a small pool were taken.
        mean: Accuracy (fraction), NLL and CNLL (nats).
        standard_error: Standard error of each mean; None where it is not known.
        temperature: The best temperature, geometric mean; NaN in results that were made before it was kept.
    """

    width: int
    size: int
    groups: int
    mean: dict[str, Real]
    standard_error: dict[str, float | None]
    temperature: Real = math.nan


@dataclass(frozen=True)
class AtTemperatures:
    """NLL at fixed temperatures of ensembles of one size of one width.

    Attributes:
        width: Width of the networks.
        size: How many of them an ensemble has.
        kind: What the temperature divides: ``averaged`` log-probabilities, or the logits of the ``members``.
        temperatures: Those that were applied, in ascending order.
        nll: Nats, at each of them; means over ensembles.
    """

    width: int
    size: int
    kind: str
    temperatures: tuple[float, ...]
    nll: tuple[Real, ...]


@dataclass(frozen=True)
class Fit(Keyed):
    """A fitted law as the result keeps it; see :class:`onsphere.ensembles.PowerLaw`.

    Attributes:
        limit: What infinitely many networks reach.
        scale: Factor of the power.
        exponent: Exponent of the size, negative.
        intervals: Ends for each of the three; None where the data do not bound it.
        confidence: Confidence of the intervals.
        residual: Root mean square deviation of the values, in their unit.
        sizes: The sizes fitted to.
        fixed_exponent: Whether the exponent was given rather than fitted.
    """

    limit: float
    scale: float
    exponent: float
    intervals: dict[str, tuple[float | None, float | None]]
    confidence: float
    residual: Real
    sizes: tuple[float, ...]
    fixed_exponent: bool


@dataclass(frozen=True)
class Law:
    """A law, limit + scale * size^exponent.

    Attributes:
        width: Width of the networks; 0 where the law goes over widths.
        metric: ``nll``, ``cnll`` or ``accuracy``.
        law: The fit; None where none fits.
        note: Why there is none, or that its exponent was fixed.
        along: What the size is: ``members`` of an ensemble, ``size`` of a network in parameters, or ``budget`` spent
            on the best split.
        members: Members of the ensembles of a law over the size of a network; 0 otherwise.
    """

    width: int
    metric: str
    law: Fit | None
    note: str
    along: str = "members"
    members: int = 0

    def __call__(self, sizes: Any) -> Any:
        """The law at sizes; NaN without one."""
        n = np.asarray(sizes, dtype=np.float64)
        if self.law is None:
            return np.full_like(n, np.nan)
        return self.law.limit + self.law.scale * n**self.law.exponent
