"""What was found with the periods toy, in sentences."""

from __future__ import annotations

import math
from statistics import median

from onsphere.lab.experiments.toy_periods.result import STRONG, ToyPeriodsResult
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number

__all__ = ["answer", "subtitle"]


def subtitle(result: ToyPeriodsResult) -> str:
    """What was simulated, in a line."""
    spec = result.spec
    alphas = ", ".join(format_number(alpha) for alpha in spec.alphas)
    floor = f"floor {format_number(spec.floor)}" if spec.floor else "no floor"
    return (
        f"F = Σ αᵢ xᵢ²/(xᵢ² + yᵢ²) with weight decay · α = {alphas} · lr {format_number(spec.lr)}, weight decay "
        f"{format_number(spec.weight_decay)}, {floor}"
    )


def answer(result: ToyPeriodsResult) -> list[str]:
    """What was found, in one sentence, and what happens in a period."""
    if result.outcome == "instability":
        return _instability(result)
    if result.period is None:
        return [
            f"No period was seen: {counted(len(result.jumps), 'jump')} in {result.steps} steps.",
            "Give more steps, or a larger product of lr and weight decay.",
        ]
    peak, drop = (median(getattr(jump, name) for jump in result.jumps) for name in ("elr", "drop"))
    second = (
        f"Before a jump the ELR stands at {format_number(peak / result.threshold)} / A, above the threshold 1/A = "
        f"{format_number(result.threshold)}; the jump divides it by {format_number(drop)} (medians)."
    )
    return [f"A period takes {format_number(result.period, 4)} steps{_against_law(result)}.", second]


def _against_law(result: ToyPeriodsResult) -> str:
    if result.predicted_period is None or result.period is None:
        return "; without a floor there is no law to compare with: how far x fell by itself decides"
    off = 100 * (result.period / result.predicted_period - 1)
    side = "less" if off < 0 else "more"
    words = f", {format_number(abs(off), 2)} % {side} than the law's {format_number(result.predicted_period, 4)}"
    strength = result.spec.lr * result.spec.weight_decay * math.log(1 / result.spec.floor)
    if strength > STRONG:
        words += (
            f"; jumps are strong here (lr · wd · ln(1/floor) = {format_number(strength)}, above {STRONG:g}), so "
            "periods scatter below the law"
        )
    return words


def _instability(result: ToyPeriodsResult) -> list[str]:
    start, end = (value / math.log(10) for value in result.log_radius)
    before = f" after {counted(len(result.jumps), 'jump')}" if result.jumps else ""
    return [
        f"There are no periods: at step {result.vanished}{before} x became exactly 0, and the norm decays for ever.",
        f"Without a gradient weight decay alone acts: the norm fell from {_power(start)} to {_power(end)} in "
        f"{result.steps} steps. A floor, which stands for rounding or noise, is what makes the loss come back.",
    ]


def _power(exponent: float) -> str:
    """10^exponent as a number, also where it is too small for a float."""
    return format_number(10**exponent) if abs(exponent) < 300 else f"1e{exponent:.0f}"
