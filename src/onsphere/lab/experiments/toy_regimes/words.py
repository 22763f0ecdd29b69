"""What was found with the regimes toy, in sentences."""

from __future__ import annotations

from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult, deviation
from onsphere.lab.report.words import format_number, rough_percent

__all__ = ["answer", "subtitle"]

EXACT_UP_TO = 1.7  # ELR A up to which the balanced 2-cycle is followed; beyond it pairs move chaotically
MOST_PAIRS = 6  # of which a line lists every one


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
    below = [row for row in result.rows if row.relative_elr < 1]
    above = [row for row in result.rows if row.relative_elr >= 1]
    parts = [f"{_how_many(rows)} {side} it" for rows, side in ((below, "below"), (above, "above")) if rows]
    threshold = f"Training converges below an ELR of 1/A = {format_number(result.threshold)}"
    return [f"{threshold}: every seed did at {' and at '.join(parts)}.", _agreement(above)]


def _how_many(rows: list[RegimesRow]) -> str:
    converged, n = sum(row.converged for row in rows), len(rows)
    if n == 1:
        return "the one ELR" if converged else "none of one ELR"
    return f"all {n} ELRs" if converged == n else f"{converged or 'none'} of {n} ELRs"


def _agreement(above: list[RegimesRow]) -> str:
    exact = deviation([row for row in above if row.relative_elr <= EXACT_UP_TO])
    beyond = deviation([row for row in above if row.relative_elr > EXACT_UP_TO])
    parts = []
    if exact is not None:
        parts.append(f"within {rough_percent(exact)} of the level of random directions up to {EXACT_UP_TO} / A")
    if beyond is not None:
        parts.append(f"within {rough_percent(beyond)} beyond, where the pairs move chaotically")
    if not parts:
        return "No ELR above the threshold was run."
    return (
        f"Above it the mean loss follows (A − 1/ELR)/2: {', '.join(parts)}. It tends to A/2, the level of random "
        "directions, without a sharp second threshold."
    )
