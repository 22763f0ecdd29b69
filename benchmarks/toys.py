"""The three-pair toy at 256 ELRs: compiled, on numpy, and as one would write it, a Python loop a run.

An update is one step of one ELR: all three pairs moved, the sphere restored, the means of the result kept.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Literal

import numpy as np

from benchmarks.measure import alternate, line, ratio
from onsphere.dynamics.toys import simulate_pairs

ALPHAS = (1.0, 2.0, 4.0)
ELRS = np.geomspace(0.01, 10, 256)


def plain_run(elr: float, steps: int) -> float:
    """One run in Python numbers: gradient, step, norm, loss of every step; returns the mean loss."""
    xs, ys, total = [0.1, 0.2, 0.3], [0.5, 0.6, 0.5], 0.0
    for _ in range(steps):
        square = 0.0
        for i, alpha in enumerate(ALPHAS):
            x, y = xs[i], ys[i]
            r2 = x * x + y * y
            total += alpha * x * x / r2
            push = 2 * elr * alpha * x * y / (r2 * r2)
            xs[i], ys[i] = x - push * y, y + push * x
            square += xs[i] * xs[i] + ys[i] * ys[i]
        norm = math.sqrt(square)
        xs, ys = [x / norm for x in xs], [y / norm for y in ys]
    return total / steps


def pairs() -> Iterator[str]:
    """Million updates a second of each, and how many times the plain loop."""

    def plain() -> int:
        for elr in ELRS.tolist():
            plain_run(elr, 20)
        return 20 * len(ELRS)

    def simulated(backend: Literal["numpy", "numba"], steps: int) -> Callable[[], int]:
        def work() -> int:
            simulate_pairs(ALPHAS, ELRS, steps, backend=backend)
            return steps * len(ELRS)

        return work

    candidates = {"plain": plain, "numpy": simulated("numpy", 10_000)}
    if find_spec("numba") is None:
        yield "toy pairs on numba: not measured, numba is not installed (pip install onsphere[fast])"
    else:
        candidates["numba"] = simulated("numba", 100_000)
    seconds = alternate(candidates)
    for name, bar in (("numba", 40), ("numpy", 10)):
        if name in seconds:
            rates = [1e-6 / each for each in seconds[name]]
            found = statistics.median(rates), min(rates), max(rates)
            yield line(f"three pairs, 256 ELRs, {name}: million updates/s", found, bar)
            median, low, high = ratio(seconds, name, "plain")
            yield f"{'    over a plain Python loop a run':<64} {median:6.3g}  ({low:.3g} to {high:.3g})"
