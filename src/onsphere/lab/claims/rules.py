"""What decides a claim: numbers of seeds, their interval, and on which side of a bound it lies.

    interval wholly on the right side of the bound    holds
    interval wholly on the wrong side                 does not hold
    it holds the bound, or there is none              not decided

A rule is of the mean of the seeds' numbers (Student's t-interval, 95 %, :mod:`onsphere.lab.intervals`), or of the share
of seeds that lie on the right side, which is to be above one half (Wilson's interval, 95 %: with five seeds all of them
must agree). Fewer than two seeds, or a seed without a number, decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onsphere.lab.intervals import interval
from onsphere.lab.report.words import format_number
from onsphere.lab.result import Real

Verdict = Literal["holds", "does not hold", "not decided", "not run"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not decided"
NOT_RUN: Verdict = "not run"
VERDICTS: tuple[Verdict, ...] = (HOLDS, FAILS, OPEN, NOT_RUN)

#: Where a bound comes from.
Origin = Literal["statement", "derived", "earlier seeds"]
ORIGINS: dict[Origin, str] = {
    "statement": "the statement itself says which side, such as more or less",
    "derived": "a law says the number; the tolerance is not from these runs",
    "earlier seeds": "a margin set after earlier runs, wide of what they showed; some of their seeds are among these",
}

_NORMAL = 1.959963984540054  # the 97.5 % quantile that Wilson's interval takes


@dataclass(frozen=True)
class Seen:
    """What the numbers of the seeds come to.

    Attributes:
        numbers: One a seed; NaN where there is none.
        middle: Their mean, or the share of seeds on the right side.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end of the interval.
        verdict: ``holds``, ``does not hold`` or ``not decided``.
    """

    numbers: tuple[Real, ...]
    middle: Real
    low: Real
    high: Real
    verdict: Verdict


@dataclass(frozen=True)
class Rule:
    """The side of a bound, or the stretch between two, on which a claim holds.

    Attributes:
        low: The numbers are to be above it.
        high: The numbers are to be below it.
        of: The ``mean`` of the seeds, or the ``share`` of seeds on the right side, which is to be above one half.
        origin: Where the bounds come from.
    """

    low: float = -math.inf
    high: float = math.inf
    of: Literal["mean", "share"] = "mean"
    origin: Origin = "statement"

    def decide(self, numbers: Sequence[float]) -> Seen:
        """Decide by the numbers of the seeds."""
        given = tuple(float(number) for number in numbers)
        if len(given) < 2 or not all(math.isfinite(number) for number in given):
            middle = given[0] if len(given) == 1 and self.of == "mean" else math.nan
            return Seen(given, middle, math.nan, math.nan, OPEN)
        if self.of == "share":
            share, low, high = wilson(sum(self.low < number < self.high for number in given), len(given))
            return Seen(given, share, low, high, HOLDS if low > 0.5 else FAILS if high < 0.5 else OPEN)
        found = interval(given)
        if self.low < found.low and found.high < self.high:
            verdict = HOLDS
        elif found.high <= self.low or found.low >= self.high:
            verdict = FAILS
        else:
            verdict = OPEN
        return Seen(given, found.mean, found.low, found.high, verdict)

    def __str__(self) -> str:
        low, high = format_number(self.low), format_number(self.high)
        if math.isinf(self.low):
            bounds = f"below {high}"
        elif math.isinf(self.high):
            bounds = f"above {low}"
        else:
            bounds = f"{low} to {high}"
        return f"{bounds} in most seeds" if self.of == "share" else bounds


def above(bound: float, *, of: Literal["mean", "share"] = "mean", origin: Origin = "statement") -> Rule:
    """The rule that numbers are above a bound."""
    return Rule(low=bound, of=of, origin=origin)


def below(bound: float, *, of: Literal["mean", "share"] = "mean", origin: Origin = "statement") -> Rule:
    """The rule that numbers are below a bound."""
    return Rule(high=bound, of=of, origin=origin)


def within(low: float, high: float, *, of: Literal["mean", "share"] = "mean", origin: Origin = "statement") -> Rule:
    """The rule that numbers are between two bounds."""
    return Rule(low, high, of, origin)


def near(law: float, tolerance: float, *, of: Literal["mean", "share"] = "mean", origin: Origin = "derived") -> Rule:
    """The rule that numbers are within a tolerance of what a law says."""
    return Rule(law - tolerance, law + tolerance, of, origin)


#: In most seeds a measure that is 1 where the statement is true, else 0, is 1.
MOST_SEEDS = above(0.5, of="share")


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson 1927); hits are at most count, which is at least 1."""
    share, square = hits / count, _NORMAL**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    reach = _NORMAL * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return share, min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach))
