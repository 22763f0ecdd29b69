"""The result of the regimes toy: one row an effective learning rate, and what they say in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.report.words import format_number, rough_percent
from onsphere.lab.result import Rows, ToyResult

#: A run whose mean loss is a smaller part of the loss at random directions has converged.
CONVERGED = 1e-6
EXACT_UP_TO = 1.7  # ELR A up to which the balanced 2-cycle is followed; beyond it pairs move chaotically
MOST_PAIRS = 6  # of which a line lists every one


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


def describe(result: ToyRegimesResult) -> str:
    """The result in one line."""
    below, above = _sides(result)
    parts = [f"threshold 1/A = {result.threshold:.4g}"]
    if below:
        parts.append(f"{sum(row.converged for row in below)} of {len(below)} ELRs below it converged")
    if above:
        parts.append(f"losses of the {len(above)} above it within {100 * _deviation(above):.2g} % of the law")
    return "; ".join(parts)


def subtitle(result: ToyRegimesResult) -> str:
    """What was simulated, in a line."""
    alphas = ", ".join(format_number(alpha) for alpha in result.alphas[:MOST_PAIRS])
    more = ", …" if len(result.alphas) > MOST_PAIRS else ""
    return (
        f"F = Σ αᵢ xᵢ²/(xᵢ² + yᵢ²) on one sphere · α = {alphas}{more} · A = {format_number(sum(result.alphas))} · "
        f"{result.spec.steps} steps"
    )


def answer(result: ToyRegimesResult) -> list[str]:
    """What was found, in one sentence, and how well the law holds."""
    below, above = _sides(result)
    parts = [f"{_how_many(rows)} {side} it" for rows, side in ((below, "below"), (above, "above")) if rows]
    threshold = f"Training converges below an ELR of 1/A = {format_number(result.threshold)}"
    return [f"{threshold}: every seed did at {' and at '.join(parts)}.", _agreement(above)]


def _sides(result: ToyRegimesResult) -> tuple[list[RegimesRow], list[RegimesRow]]:
    """The rows below the threshold, and those from it on."""
    return [row for row in result.rows if row.relative_elr < 1], [row for row in result.rows if row.relative_elr >= 1]


def _deviation(rows: list[RegimesRow]) -> float:
    """The largest distance of a mean loss from its prediction, relative to the loss at random."""
    return max(abs(row.loss - row.predicted_loss) / row.loss_at_random for row in rows)


def _how_many(rows: list[RegimesRow]) -> str:
    converged, n = sum(row.converged for row in rows), len(rows)
    if n == 1:
        return "the one ELR" if converged else "none of one ELR"
    return f"all {n} ELRs" if converged == n else f"{converged or 'none'} of {n} ELRs"


def _agreement(above: list[RegimesRow]) -> str:
    exact = [row for row in above if row.relative_elr <= EXACT_UP_TO]
    beyond = [row for row in above if row.relative_elr > EXACT_UP_TO]
    parts = []
    if exact:
        share = rough_percent(_deviation(exact))
        parts.append(f"within {share} of the level of random directions up to {EXACT_UP_TO} / A")
    if beyond:
        parts.append(f"within {rough_percent(_deviation(beyond))} beyond, where the pairs move chaotically")
    if not parts:
        return "No ELR above the threshold was run."
    return (
        f"Above it the mean loss follows (A − 1/ELR)/2: {', '.join(parts)}. It tends to A/2, the level of random "
        "directions, without a sharp second threshold."
    )
