"""The result of the free-energy toy: one row an ELR and model, and what the rows say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onsphere.dynamics.toys.objects import THRESHOLD
from onsphere.lab.experiments.toy_free_energy.spec import ToyFreeEnergySpec
from onsphere.lab.report.words import format_number, rough_percent
from onsphere.lab.result import Real, Rows, ToyResult

__all__ = ["NAMES", "ObjectsRow", "ToyFreeEnergyResult", "answer", "bounded", "describe", "power", "small"]

#: What each model is called in prose.
NAMES = {"under": "under-parameterised", "over": "over-parameterised"}
#: ELRs up to which the laws, which are of first order, are compared.
_SMALL = 0.1


@dataclass(frozen=True)
class ObjectsRow:
    """One ELR of one model; errors are standard errors.

    Attributes:
        model: Which of the models, "under" or "over".
        elr: The effective learning rate of the row.
        energy: U, the mean loss over copies and steps.
        energy_error: Its standard error, from the spread over copies.
        predicted_energy: Least loss + elr TrΣ / 4, the law of small ELRs.
        converged: Share of the copies whose loss has gone to zero.
        entropy: S of the directions, nats; not finite where they have converged, or stay on a few directions.
        entropy_error: Standard error of the entropy.
        predicted_entropy: The law of small ELRs; not finite for "over".
        low: Lowest temperature at which this state has the least U - T S of the model's states; not finite without S.
        high: Highest such temperature; below ``low`` where there is none, not finite for the highest entropy.
        temperature: elr TrΣ / (2 (d - 1)) with TrΣ at the minimum, the law of small ELRs.
        signal_to_noise: |grad L| / sqrt(TrΣ) over the directions visited; not finite where copies have converged.
    """

    model: str
    elr: float
    energy: Real
    energy_error: Real
    predicted_energy: Real
    converged: float
    entropy: Real
    entropy_error: Real
    predicted_entropy: Real
    low: Real
    high: Real
    temperature: Real
    signal_to_noise: Real

    @property
    def exists(self) -> bool:
        """Whether this state has the least free energy at some temperature; for the hottest there is no upper end."""
        return math.isfinite(self.low) and not self.high < self.low


@dataclass(frozen=True, repr=False, kw_only=True)
class ToyFreeEnergyResult(ToyResult):
    """What :func:`onsphere.lab.toy_free_energy` returns.

    Attributes:
        rows: One an ELR, by model.
    """

    command: ClassVar[str] = "toy free-energy"
    rows_field: ClassVar[str] = "rows"

    spec: ToyFreeEnergySpec
    rows: Rows[ObjectsRow]

    def of(self, model: str) -> list[ObjectsRow]:
        """The rows of one model by ELR."""
        return [row for row in self.rows if row.model == model]

    def __repr__(self) -> str:
        return (
            f"ToyFreeEnergyResult: {len(self.rows)} settings, {self.seconds:.1f} s\n  {describe(self)}\n"
            f"  page: {self.report}"
        )


def small(result: ToyFreeEnergyResult) -> list[ObjectsRow]:
    """The under-parameterised rows at which the laws of small ELRs are compared."""
    return [row for row in result.of("under") if row.elr <= _SMALL]


def bounded(rows: Sequence[ObjectsRow]) -> list[ObjectsRow]:
    """The rows whose interval of temperatures is there and bounded on both sides, away from zero."""
    return [row for row in rows if row.exists and row.low > 0 and math.isfinite(row.high)]


def power(rows: Sequence[ObjectsRow]) -> float:
    """The exponent of T ~ ELR^power by the middles of the intervals of :func:`bounded`; NaN of one."""
    found = bounded(rows)
    if len(found) < 2:
        return math.nan
    elrs, middles = [row.elr for row in found], [math.sqrt(row.low * row.high) for row in found]
    return float(np.polyfit(np.log(elrs), np.log(middles), 1)[0])


def _left_out(rows: Sequence[ObjectsRow]) -> str:
    """Which ELRs the power does not count, in brackets; nothing where it counts all."""
    kept = bounded(rows)
    left = [format_number(row.elr) for row in rows if row not in kept]
    if not left:
        return ""
    why = "where the interval of temperatures is empty or open at an end"
    return f" (without {', '.join(left)}, {why})"


def describe(result: ToyFreeEnergyResult) -> str:
    """The result in one line."""
    return "; ".join(filter(None, (_over(result), _under(result))))


def _under(result: ToyFreeEnergyResult) -> str:
    own = result.of("under")
    if not own:
        return ""
    grown = power(own)
    law = f", T as ELR^{grown:.2f}" if math.isfinite(grown) else ""
    return f"under-parameterised: loss never below {format_number(min(row.energy for row in own))}{law}"


def _over(result: ToyFreeEnergyResult) -> str:
    own = result.of("over")
    if not own:
        return ""
    whole = [row.elr for row in own if row.converged == 1]
    return (
        f"over-parameterised: zero loss up to ELR {format_number(max(whole))}"
        if whole
        else ("over-parameterised: zero loss at no ELR")
    )


def answer(result: ToyFreeEnergyResult) -> list[str]:
    """What the models do, the one beside the other, and how well the laws of small ELRs hold."""
    said, under, over = [], result.of("under"), result.of("over")
    if over:
        converge, rest = [row for row in over if row.converged == 1], [row for row in over if row.converged < 1]
        below = (
            f"converges to zero loss up to an ELR of {format_number(converge[-1].elr)}"
            if converge
            else ("converges at none of these ELRs")
        )
        above = f" and no longer at {format_number(rest[0].elr)}" if converge and rest else ""
        said.append(
            f"The over-parameterised model {below}{above}: there its temperature is zero, and it minimises the loss. "
            f"By the law it does so below {THRESHOLD:g}."
        )
    if under:
        grown = power(under)
        said.append(
            "The under-parameterised model never does: its loss grows with the ELR from "
            + format_number(under[0].energy)
            + (
                f", and its temperature as the power {grown:.2f} of the ELR{_left_out(under)}."
                if math.isfinite(grown)
                else "."
            )
        )
        compared = small(result)
        if compared:
            off = max(abs(row.energy / row.predicted_energy - 1) for row in compared)
            inside = sum(
                row.exists and row.low <= row.temperature and not row.high < row.temperature for row in compared
            )
            said.append(
                f"At ELRs up to {_SMALL:g} its loss is within {rough_percent(off)} of its law, and at {inside} of "
                f"{len(compared)} of them the law's temperature is one at which that state has the least free energy."
            )
    if under and over:
        known = [row for row in under if math.isfinite(row.signal_to_noise)]
        said.append(
            "What tells them apart is the signal-to-noise ratio of the gradient: "
            f"{format_number(known[0].signal_to_noise)} at the smallest ELR of the under-parameterised model, where "
            "noise is all that is left at the minimum; at the other's minimum noise vanishes as the gradient does."
        )
    return said
