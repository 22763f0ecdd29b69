"""The result of the periods toy: jumps, periods, their law, what became of the run, and all of it in sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_number
from onsphere.lab.result import ToyResult

#: Above this lr weight_decay ln(1/floor) jumps are so strong that what follows one varies, and periods scatter.
STRONG = 0.2


@dataclass(frozen=True)
class Jump:
    """One destabilisation of training.

    Attributes:
        step: Where the ELR peaked.
        elr: ELR at the peak.
        trough_elr: Smallest ELR between this jump and the next, or the end.
        drop: ELR at the peak over the smallest after it.
    """

    step: int
    elr: float
    trough_elr: float
    drop: float


@dataclass(frozen=True)
class LawRow:
    """The period at one setting near the one that was asked for.

    Attributes:
        lr: Learning rate of the run.
        weight_decay: Weight decay of the run.
        floor: Relative floor of the run.
        jumps: How many jumps were counted.
        period: Median of their distances, steps; None with fewer than two jumps.
        predicted_period: √(2 ln(1/floor) / (lr weight_decay)).
        strength: lr weight_decay ln(1/floor): above 0.2 periods scatter below the law.
    """

    lr: float
    weight_decay: float
    floor: float
    jumps: int
    period: float | None
    predicted_period: float
    strength: float


@dataclass(frozen=True, repr=False, kw_only=True)
class ToyPeriodsResult(ToyResult):
    """What :func:`onsphere.lab.toy_periods` returns.

    Attributes:
        outcome: "periods" (two jumps or more), "instability" (x became exactly zero: the norm decays for ever), or
            "undecided" (neither within the steps).
        period: Median distance of consecutive jumps, steps; None with fewer than two.
        predicted_period: The law; None without a floor, where it says infinity.
        periods: All distances of consecutive jumps, steps.
        jumps: The jumps after the burn-in.
        threshold: 1 / A: the ELR above which the minimum is unstable.
        steps: Steps of the run.
        burn_in: Steps in which jumps were not counted.
        vanished: The step from which on the loss was exactly zero; None if it never was.
        log_radius: log of the norm at the start and at the end.
        law: Periods at other floors and weight decays beside their law.
    """

    command: ClassVar[str] = "toy periods"
    rows_field: ClassVar[str] = "jumps"

    spec: ToyPeriodsSpec
    outcome: str
    period: float | None
    predicted_period: float | None
    periods: list[int]
    jumps: list[Jump]
    threshold: float
    steps: int
    burn_in: int
    vanished: int | None
    log_radius: list[float]
    law: list[LawRow]

    def __post_init__(self) -> None:
        if len(self.periods) != max(len(self.jumps) - 1, 0):
            raise ValueError(f"periods are {len(self.periods)}, jumps {len(self.jumps)}: one lies between two")

    def __repr__(self) -> str:
        return f"ToyPeriodsResult: {self.steps} steps, {self.seconds:.1f} s\n  {describe(self)}\n  page: {self.report}"


def describe(result: ToyPeriodsResult) -> str:
    """The result in one line."""
    if result.outcome == "periods":
        law = "no law without a floor" if result.predicted_period is None else f"law {result.predicted_period:.1f}"
        return f"period {result.period:g} steps from {len(result.jumps)} jumps; {law}"
    if result.outcome == "instability":
        start, end = result.log_radius
        return f"no periods: x became zero and the norm fell by a factor e^{start - end:.1f}"
    return f"undecided: {len(result.jumps)} jumps in {result.steps} steps"


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
