"""Fair ratios on a shared machine: rounds in alternation, process CPU time, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

ROUNDS = 5


def alternate(candidates: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """CPU seconds per unit of work of every candidate, one value a round.

    Args:
        candidates: Each does some work and returns how many units it was.
        rounds: How often; every round runs every candidate once, after one round that is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, work in candidates.items():
            started = time.process_time()
            units = work()
            if number:
                seconds[name].append((time.process_time() - started) / units)
    return seconds


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> tuple[float, float, float]:
    """Median, least and largest over rounds of ``to``'s time divided by ``of``'s: how much faster ``of`` is."""
    each = [b / a for a, b in zip(seconds[of], seconds[to], strict=True)]
    return statistics.median(each), min(each), max(each)


def line(name: str, found: tuple[float, float, float], bar: float, *, at_most: bool = False) -> str:
    """A row of the report: the ratio, its range over rounds, the bar, whether it is met."""
    median, low, high = found
    met = median <= bar if at_most else median >= bar
    sign = "<=" if at_most else ">="
    return f"{name:<64} {median:6.3g}  ({low:.3g} to {high:.3g})  bar {sign} {bar:g}  {'met' if met else 'MISSED'}"
