"""The result of the regimes toy: one row an effective learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.result import Rows, ToyResult

#: A run whose mean loss is a smaller part of the loss at random directions has converged.
CONVERGED = 1e-6


@dataclass(frozen=True)
class RegimesRow:
    """All seeds at one effective learning rate.

    Attributes:
        elr: Effective learning rate of the joint sphere.
        relative_elr: elr / threshold = elr A.
        loss: Loss averaged over the last half of the steps, then over seeds.
        loss_low: Its smallest value over seeds.
        loss_high: Its largest value over seeds.
        predicted_loss: 0 up to the threshold, (A - 1/elr) / 2 above.
        loss_at_random: A / 2, the mean over random directions.
        converged: Whether the loss of every seed is below 1e-6 of that at random directions.
        individual_elrs: Individual ELR of every pair: elr over its mean share of the squared norm in the last half
            (harmonic mean over seeds, so that 1/elr = sum of 1/individual).
    """

    elr: float
    relative_elr: float
    loss: float
    loss_low: float
    loss_high: float
    predicted_loss: float
    loss_at_random: float
    converged: bool
    individual_elrs: list[float]


@dataclass(frozen=True, repr=False, kw_only=True)
class ToyRegimesResult(ToyResult):
    """What :func:`onsphere.lab.toy_regimes` returns.

    Attributes:
        alphas: Coefficients of the pairs.
        threshold: 1 / A: below it all pairs can converge.
        rows: One an effective learning rate, ascending.
    """

    command: ClassVar[str] = "toy regimes"
    rows_field: ClassVar[str] = "rows"

    spec: ToyRegimesSpec
    alphas: Rows[float]
    threshold: float
    rows: Rows[RegimesRow]

    def __repr__(self) -> str:
        asked = f"{len(self.alphas)} pairs, {len(self.rows)} ELRs x {self.spec.seeds} seeds"
        return f"ToyRegimesResult: {asked}, {self.seconds:.1f} s\n  {describe(self)}\n  page: {self.report}"


def deviation(rows: list[RegimesRow]) -> float | None:
    """The largest distance of a mean loss from its prediction, relative to the loss at random; None without rows."""
    return max((abs(row.loss - row.predicted_loss) / row.loss_at_random for row in rows), default=None)


def describe(result: ToyRegimesResult) -> str:
    """The result in one line."""
    below = [row for row in result.rows if row.relative_elr < 1]
    above = [row for row in result.rows if row.relative_elr >= 1]
    parts = [f"threshold 1/A = {result.threshold:.4g}"]
    if below:
        parts.append(f"{sum(row.converged for row in below)} of {len(below)} ELRs below it converged")
    if above:
        parts.append(f"losses of the {len(above)} above it within {100 * (deviation(above) or 0):.2g} % of the law")
    return "; ".join(parts)
