"""The toy that shows true periods: scale-invariant pairs under gradient descent with weight decay.

    F(x, y) = sum_i a_i x_i² / (x_i² + y_i²),      x <- (1 - lr weight_decay) x - lr dF/dx,      |x_i| >= floor r_i

While its ELR lr / r² is below 1/a, a pair converges to x = 0, its gradient vanishes, weight decay shrinks r and the
ELR climbs at rate 2 lr weight_decay. Above 1/a the minimum is unstable: x grows again, and once it is of the order of r
the gradient throws r up and the ELR down. How long that takes depends on how small x became. The floor, which
stands for rounding or noise, sets it:

    T = √(2 ln(1/floor) / (lr weight_decay))        steps a period

since near the threshold ln|x/y| changes by 4 lr weight_decay t a step, t steps from crossing it: it falls as a parabola
to the floor and climbs back likewise. Without a floor nothing stops the fall: once x is exactly zero it never grows
again, and r decays for ever.

An orbit that does not come down to the floor keeps a shorter period of its own. Runs therefore start well below
the threshold, as networks do. Where lr weight_decay ln(1/floor) exceeds about 0.2 the jumps are so strong that what
follows one varies: periods scatter below the law, which stays an upper bound, and over hundreds of them orbits wander
to shorter ones (lr weight_decay 3e-3, floor 1e-40: 6 % below the law over ten periods, 12 % over a thousand).

In the whole space the pairs do not feel each other: every pair has this period, and the total ELR shows them all.

Source: Lobacheva, Kodryan et al., NeurIPS 2021 (periods and their mechanism); this toy and its law are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics._checks import Array, Numbers, decay_factor, fraction, plain, positive
from onsphere.dynamics.detect import DROP, ZigzagDetector
from onsphere.dynamics.toys._backends import choose, kernel
from onsphere.dynamics.toys._shared import coefficients, count, log_sum, random_pairs, started
from onsphere.dynamics.toys.periods_run import PeriodsRun

__all__ = ["SMALLEST_FLOOR", "period_law", "simulate_periods"]

#: The least floor other than 0: its square is carried relative to 1, and float64 loses digits below 1e-308.
SMALLEST_FLOOR = 1e-120

_START = 0.1  # the ELR of every pair at a random start, relative to its threshold 1/a
_PERIODS = 12  # that a default run lasts after its first descent: one of burn-in, ten to measure, one that is cut
_DECAYS = 20  # without a floor, and so without a period: the norm falls by exp(-20)
_LONGEST = 10_000_000  # steps that a default may choose
_LEAST_DECAY = 1e-12  # of lr weight_decay: 1 minus it keeps four digits of it
_TRACE = 2**19  # numbers per trace buffer


def period_law(lr: Numbers, weight_decay: Numbers, floor: Numbers) -> Any:
    """Steps of a period, ``√(2 ln(1/floor) / (lr weight_decay))``; infinite without a floor.

    To leading order: x must stay small through most of the period, so the floor lies well below √(lr weight_decay), and
    jumps must not be too strong, lr weight_decay ln(1/floor) below about 0.2. Measured periods are a little shorter:
    by 1 to 7 % for floors from 1e-8 to 1e-40 and lr weight_decay from 1e-4 to 3e-3, over ten periods, averaged.

    Args:
        lr: Learning rate of the optimiser, positive.
        weight_decay: Coupled weight decay, positive and below 1 / lr.
        floor: Least |x| relative to the pair's norm, in [0, 1).

    Returns:
        A float, or an array of the broadcast shape.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: derived from the linearised pair, see the module; the mechanism is that of Lobacheva, Kodryan et al.,
        NeurIPS 2021.
    """
    decay_factor(lr, weight_decay)
    least = fraction("floor", floor, zero=True)
    with np.errstate(divide="ignore"):
        depth = -np.log(least)
    return plain(np.sqrt(2 * depth / (positive("lr", lr) * positive("weight_decay", weight_decay))))


def simulate_periods(
    lr: Numbers,
    weight_decay: Numbers,
    *,
    floor: Numbers = 1e-16,
    alphas: Numbers = (1.0,),
    steps: int | None = None,
    seed: int = 0,
    start: Numbers | None = None,
    burn_in: int | None = None,
    record_every: int = 0,
    backend: Literal["auto", "numpy", "numba"] = "auto",
) -> PeriodsRun:
    """Gradient descent with coupled weight decay on the pairs, for many hyper-parameters at once.

    The squares of x and y are iterated in units of lr a, and the log of the norm is kept apart once x is exactly zero:
    floors down to 1e-120 have full relative accuracy in float64 (periods at 1e-40 equal those of 60-digit arithmetic),
    and the norm may fall below the smallest float.

    Args:
        lr: Learning rate, positive; ``lr``, ``weight_decay`` and ``floor`` are broadcast, and every entry is a run.
        weight_decay: Coupled weight decay, positive and below 1 / lr.
        floor: Least |x_i| relative to the pair's norm, in [1e-120, 1), or 0 for none. With 0, x ends at exactly zero
            once convergence takes its square below the smallest float (|x| about 1e-162 r); from the default start that
            needs lr weight_decay of at most about 2e-3, above it jumps come first.
        alphas: Coefficients a_i, positive, ``[n]``.
        steps: Steps of every run; by default ten periods of the slowest run after its burn-in (without a floor: enough
            for the norm to fall by exp(-20)).
        seed: Run k starts with random directions drawn from child k of ``numpy.random.SeedSequence(seed)``, every pair
            at a tenth of its threshold: r_i² = 10 lr a_i.
        start: (x, y) of every pair, ``[n, 2]`` or ``[K, n, 2]``, instead.
        burn_in: Steps in which jumps are not counted; by default until weight decay alone has brought all pairs to
            their thresholds, and one period of the law (none without a floor).
        record_every: Keep the traces before step 0 and then every so many steps; 0 keeps none.
        backend: ``"numpy"``, ``"numba"``, or ``"auto"``: numba where it is installed and the run is long. The numbers
            are the same.

    Returns:
        Jumps, periods beside their prediction, and the traces. Jumps are peaks of the total ELR followed by a drop of
        more than ln 1.25, or of half of what the law lets log ELR climb in a period, if that is less.

    Raises:
        ValueError: An argument is out of its range or empty; a default length exceeds ten million steps; a started
            pair's r² is more than 100 decades away from lr a.
        ImportError: ``backend="numba"`` and numba is not installed.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021 (the phenomenon); the toy is ours.

    Example:
        >>> simulate_periods(0.1, [0.01, 0.03])
        PeriodsRun: 1 pairs, 2 runs of 4409 steps
          lr 0.1, weight decay 0.01, floor 1e-16: 11 jumps, period 267, predicted 271.45
          lr 0.1, weight decay 0.03, floor 1e-16: 25 jumps, period 154, predicted 156.72
    """
    a = coefficients(alphas)
    rates, decays, floors, b, law = _hyper_parameters(lr, weight_decay, floor)
    n, runs = len(a), len(rates)
    record_every = count("record_every", record_every, least=0)
    units = rates[:, None] * a  # of squares, [K, n]: a pair whose square is 1 is at its threshold
    squares = _random_squares(seed, runs, n) if start is None else _given_squares(start, units)
    waits, steps = _lengths(squares.sum(axis=2).max(axis=1), b, law, burn_in, steps)
    backend_used = choose(backend, steps=steps, pairs=n * runs)

    drops = np.minimum(DROP, np.where(np.isfinite(law), law * rates * decays, np.inf))
    detectors = [
        ZigzagDetector(drop=drop, burn_in=wait) for drop, wait in zip(drops.tolist(), waits.tolist(), strict=True)
    ]
    kept: list[tuple[NDArray[Any], ...]] = []
    flat = np.ascontiguousarray(squares.transpose(2, 0, 1).reshape(2, runs * n))
    state = _State(flat, np.repeat(b, n), np.repeat(floors**2, n), kernel("decay", backend_used))
    for first, log_squares, u in state.advance(steps):
        shape = (-1, runs, n)
        log_norm = log_sum(log_squares.reshape(shape) + np.log(units), axis=2)  # log of the squared norm, [T, K]
        for detector, trace in zip(detectors, (np.log(rates) - log_norm).T.tolist(), strict=True):
            detector.extend_log(trace)
        if record_every:
            rows = slice(-first % record_every, None, record_every)
            traces = _traces(log_squares.reshape(shape)[rows], u.reshape(shape)[rows], log_norm[rows], a, rates, b)
            kept.append((np.arange(first, first + len(u))[rows], *traces))
    log_squares, u = state.read()
    log_norm = log_sum(log_squares.reshape(runs, n) + np.log(units), axis=1)
    jumps = tuple(np.array(detector.peaks, dtype=np.int64) for detector in detectors)
    recorded: list[Any] = [np.concatenate(parts) for parts in zip(*kept, strict=True)] if record_every else [None] * 5
    return PeriodsRun(
        lr=rates,
        weight_decay=decays,
        floor=floors,
        alphas=a,
        steps=steps,
        burn_in=waits,
        jumps=jumps,
        period=np.array([np.median(np.diff(found)) if len(found) > 1 else np.nan for found in jumps]),
        predicted_period=law,
        log_radius=log_norm / 2,
        fractions=u.reshape(runs, n),
        seed=seed if start is None else None,
        backend=backend_used,
        recorded_steps=recorded[0],
        **{
            f"recorded_{name}": None if trace is None else np.ascontiguousarray(trace.T)
            for name, trace in zip(
                ("log_radius", "loss", "effective_gradient_norm", "angle"), recorded[1:], strict=True
            )
        },
    )


def _hyper_parameters(lr: Numbers, weight_decay: Numbers, floor: Numbers) -> tuple[Array, Array, Array, Array, Array]:
    """lr, weight decay, floor, 1 - lr weight_decay and the law's period of every run, ``[K]`` each."""
    law = np.asarray(period_law(lr, weight_decay, floor))
    least = fraction("floor", floor, zero=True)
    small = least[(least > 0) & (least < SMALLEST_FLOOR)]
    if small.size:
        raise ValueError(
            f"floor is {small[0]:g}; float64 squares carry floors down to {SMALLEST_FLOOR:g}: take that, or 0 for none"
        )
    products = positive("lr", lr) * positive("weight_decay", weight_decay)
    if not (products >= _LEAST_DECAY).all():
        raise ValueError(
            f"lr * weight_decay is {products.min():g}; it must be at least {_LEAST_DECAY:g}, or a step's decay is lost"
        )
    arguments = positive("lr", lr), positive("weight_decay", weight_decay), least, decay_factor(lr, weight_decay), law
    rates, decays, floors, b, law = (np.array(x).reshape(-1) for x in np.broadcast_arrays(*arguments))
    return rates, decays, floors, b, law


def _random_squares(seed: int, runs: int, pairs: int) -> Array:
    """X and Y in units of lr a ``[K, n, 2]``, random directions at the default norm."""
    squares = random_pairs(seed, runs, pairs) ** 2
    return np.asarray(squares / (_START * squares.sum(axis=2, keepdims=True)))


def _given_squares(start: Numbers, units: Array) -> Array:
    """X and Y in units of lr a ``[K, n, 2]`` of given x and y."""
    scaled = started(start, *units.shape) / np.sqrt(units)[..., None]
    sizes = np.abs(scaled).max(axis=2)
    if not ((sizes > 1e-50) & (sizes < 1e50)).all():
        raise ValueError("start holds a pair whose squared norm is more than 100 decades away from lr * alpha")
    return np.asarray(scaled**2)


def _lengths(
    largest: Array, b: Array, law: Array, burn_in: int | None, steps: int | None
) -> tuple[NDArray[np.int64], int]:
    """Burn-in of every run ``[K]`` and steps, as given or by default; ``largest`` are squared norms at the start."""
    periodic, rate = np.isfinite(law), -2 * np.log(b)
    descent = np.maximum(0.0, np.log(largest)) / rate
    waits = np.where(periodic, descent + law, 0.0)
    if burn_in is not None:
        waits[:] = count("burn_in", burn_in, least=0)
    if steps is None:
        measured = np.maximum(waits, descent + law) + (_PERIODS - 1) * law
        needed = float(np.where(periodic, measured, descent + 2 * _DECAYS / rate).max())
        if needed > _LONGEST:
            raise ValueError(f"ten periods would take {needed:.3g} steps; give steps, or a larger lr * weight_decay")
        steps = max(1, math.ceil(needed))
    return np.ceil(waits).astype(np.int64), count("steps", steps)


class _State:
    """Pairs on their way: squares in units of lr a, and for those whose x is exactly zero the log they have lost."""

    def __init__(self, squares: Array, b: Array, least: Array, run: Any) -> None:
        self.squares, self.b, self.least, self.run = squares, b, least, run
        self.lost = np.zeros(len(b))

    def advance(self, steps: int) -> Iterator[tuple[int, Array, Array]]:
        """Yield pieces: first step, log of X + Y and u before every step, ``[T, M]``."""
        # No longer than free decay takes to lose 100 decades, after which _rescale starts from 1 again.
        decay = math.ceil(230 / -math.log(self.b.min() ** 2))
        piece = max(1, min(_TRACE // len(self.b), decay))
        for first in range(0, steps, piece):
            self._rescale()
            totals = np.empty((min(piece, steps - first), len(self.b)))
            u = np.empty_like(totals)
            self.run(self.squares, self.b, self.least, totals, u)
            yield first, np.log(totals) + self.lost, u

    def read(self) -> tuple[Array, Array]:
        """Log of X + Y, and u, ``[M]``."""
        totals = self.squares.sum(axis=0)
        return np.log(totals) + self.lost, self.squares[0] / totals

    def _rescale(self) -> None:
        # With x = 0 there is no gradient at any norm, so the pair may have norm 1 and remember the rest.
        x, y = self.squares
        dead = x == 0
        self.lost[dead] += np.log(y[dead])
        y[dead] = 1.0


def _traces(log_squares: Array, u: Array, log_norm: Array, a: Array, rates: Array, b: Array) -> tuple[Array, ...]:
    """Log radius, loss, effective gradient norm, angle ``[T, K]`` from ``[T, K, n]``."""
    # |dF_i|² = 4 a_i² u v / r_i² with r_i² = lr a_i exp(log_squares); logs, because r_i may be out of range.
    with np.errstate(divide="ignore"):
        parts = np.log(4 * a * u * (1 - u)) - log_squares
        log_gradient = np.log(np.exp(parts).sum(axis=2)) - np.log(rates)
    effective_step = np.exp((log_gradient - log_norm) / 2 + np.log(rates))
    return log_norm / 2, u @ a, np.exp((log_gradient + log_norm) / 2), np.arctan2(effective_step, b)
