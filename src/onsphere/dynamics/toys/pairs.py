"""The toy that shows three regimes: scale-invariant pairs that share one sphere, at a fixed effective learning rate.

    F(x, y) = sum_i a_i x_i² / (x_i² + y_i²),      sum_i (x_i² + y_i²) = 1,      A = sum_i a_i

Every pair is scale-invariant by itself: with r_i² its share of the norm its own ELR is elr / r_i², and
1 / elr = sum_i 1 / elr_i. A pair converges to x_i = 0 while a_i elr_i < 1. All can do so only if elr < 1/A; above,
steps equalise, all a_i elr_i approach elr A, and the mean loss is (A - 1/elr) / 2. It tends to A/2, the value at random
directions, without a second sharp threshold.

Source: Kodryan et al., NeurIPS 2022, section 3 (the function and its regimes; closed forms derived anew).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, plain, positive
from onsphere.dynamics.toys._backends import choose, kernel
from onsphere.dynamics.toys._shared import coefficients, count, random_pairs, started
from onsphere.results import frame, plain_values

__all__ = ["PairsRun", "TwoCycle", "pair_loss", "pair_threshold", "simulate_pairs", "two_cycle"]

#: Where squares in float64 neither overflow nor vanish: elr times sum of alphas, and least share of a started pair.
_REACH = (1e-30, 1e30)
_LEAST_SHARE = 1e-60


@dataclass(frozen=True)
class TwoCycle:
    """The stable 2-cycle of a single pair above its threshold; x changes sign every step.

    Attributes:
        angle: Angle φ between the pair and the minimum x = 0, radians: cos 2φ = 1/c.
        fraction: x²/(x²+y²) on the cycle, its mean too: (1 - 1/c)/2. The loss is alpha times this.
        multiplier: By which one step multiplies a small deviation of x/y, up to the sign that x takes: 1 - 2/c².
    """

    angle: Any
    fraction: Any
    multiplier: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def two_cycle(c: Numbers) -> TwoCycle:
    """The 2-cycle of a single pair at ``c = alpha elr`` above 1 (below, the pair converges to x = 0).

    Args:
        c: alpha times ELR, above 1, any shape.

    Returns:
        Angle (radians), fraction and multiplier, of the shape of ``c``.

    Raises:
        ValueError: A ``c`` is not above 1 and finite, or there is none.

    Source: exact, from t' = t (1 + t² - 2c)/(1 + t² + 2ct²) for t = x/y; the toy is that of Kodryan et al.,
        NeurIPS 2022, section 3.

    Example:
        >>> two_cycle(2.0)
        TwoCycle(angle=0.523598775598..., fraction=0.25, multiplier=0.5)
    """
    product = numbers("c", c)
    if not (product > 1).all():
        raise ValueError(f"c is {product.min():g}; a 2-cycle needs alpha * elr above 1, below it the pair converges")
    inverse = 1 / product
    return TwoCycle(plain(np.arccos(inverse) / 2), plain((1 - inverse) / 2), plain(1 - 2 * inverse**2))


def pair_threshold(alphas: Numbers) -> float:
    """The largest ELR of the joint sphere at which all pairs can converge: ``1 / sum(alphas)``.

    It is 2 over the sharpness of the flattest minimum, at which every pair has the share alpha / A.

    Args:
        alphas: Coefficients a_i, positive, ``[n]``.

    Raises:
        ValueError: A coefficient is not positive and finite, or there is none.

    Source: Kodryan et al., NeurIPS 2022, section 3.
    """
    return float(1 / coefficients(alphas).sum())


def pair_loss(alphas: Numbers, elrs: Numbers) -> Any:
    """Mean loss in the long run: 0 up to the threshold 1/A, ``(A - 1/elr) / 2`` above it.

    Exact where the balanced 2-cycle is followed, up to elr A of about 1.7; beyond, the pairs move chaotically and the
    mean over time stays within 9 % of A/2 of the formula.

    Args:
        alphas: Coefficients a_i, positive, ``[n]``.
        elrs: Effective learning rates of the joint sphere, positive, any shape.

    Returns:
        A float, or an array of the shape of ``elrs``.

    Raises:
        ValueError: An argument is not positive and finite, or empty.

    Source: derived from equalised steps (Kodryan et al., NeurIPS 2022, section 3); the deviation is measured.
    """
    return plain(np.maximum(0.0, (coefficients(alphas).sum() - 1 / positive("elrs", elrs)) / 2))


@dataclass(frozen=True, repr=False, eq=False)
class PairsRun:
    """What :func:`simulate_pairs` found: K runs of n pairs.

    Attributes:
        alphas: Coefficients of the pairs, ``[n]``.
        elrs: Effective learning rate of the joint sphere in every run, ``[K]``.
        loss: Loss F averaged over the window, ``[K]``.
        predicted_loss: The loss that :func:`pair_loss` gives, ``[K]``.
        loss_at_random: Mean of F over random directions, A/2.
        shares: Shares r_i² of the squared norm after the last step, ``[K, n]``; rows add up to 1.
        fractions: x_i²/(x_i²+y_i²) after the last step, ``[K, n]``.
        individual_elrs: elr over the share's mean in the window, ``[K, n]``, so that 1/elr = sum_i 1/elr_i exactly.
        steps: Steps of every run.
        window: How many of the last steps are averaged.
        seed: Seed of the random starts; None if the start was given.
        backend: What ran: ``"numpy"`` or ``"numba"``. The numbers do not depend on it.
        recorded_steps: Steps before which the traces were read, ``[T]``; None without a record, as the next two.
        recorded_loss: Loss F before these steps, ``[K, T]``.
        recorded_elrs: Individual ELRs before these steps, ``[K, T, n]``.
    """

    alphas: Array
    elrs: Array
    loss: Array
    predicted_loss: Array
    loss_at_random: float
    shares: Array
    fractions: Array
    individual_elrs: Array
    steps: int
    window: int
    seed: int | None
    backend: str
    recorded_steps: Any = None
    recorded_loss: Any = None
    recorded_elrs: Any = None

    def rows(self) -> list[dict[str, float]]:
        """One row a run: elr, loss, predicted_loss, loss_at_random."""
        table = zip(self.elrs.tolist(), self.loss.tolist(), self.predicted_loss.tolist(), strict=True)
        return [
            {"elr": elr, "loss": loss, "predicted_loss": predicted, "loss_at_random": self.loss_at_random}
            for elr, loss, predicted in table
        ]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers and nested lists (None for what is not finite), and ``rows``."""
        found = {field.name: plain_values(getattr(self, field.name)) for field in fields(self)}
        return {**found, "rows": plain_values(self.rows())}

    def to_frame(self) -> Any:
        """A pandas data frame, one row a run: its losses, then share and individual ELR of every pair.

        Raises:
            ImportError: pandas is not installed.
        """
        rows = self.rows()
        for k, row in enumerate(rows):
            for i in range(len(self.alphas)):
                row |= {f"share_{i}": float(self.shares[k, i]), f"elr_{i}": float(self.individual_elrs[k, i])}
        return frame(rows)

    def __repr__(self) -> str:
        runs, shown = len(self.elrs), 6
        lines = [
            f"PairsRun: {len(self.alphas)} pairs, {runs} runs of {self.steps} steps, "
            f"threshold {pair_threshold(self.alphas):.4g}, loss at random {self.loss_at_random:.4g}"
        ]
        lines += [
            f"  ELR {row['elr']:.4g}: loss {row['loss']:.4g}, predicted {row['predicted_loss']:.4g}"
            for row in self.rows()[:shown]
        ]
        return "\n".join(lines + ([f"  and {runs - shown} more"] if runs > shown else []))


def simulate_pairs(
    alphas: Numbers,
    elrs: Numbers,
    steps: int = 20_000,
    *,
    seed: int = 0,
    window: int | None = None,
    record_every: int = 0,
    start: Numbers | None = None,
    backend: Literal["auto", "numpy", "numba"] = "auto",
) -> PairsRun:
    """Gradient descent on the pairs' joint unit sphere, for many ELRs at once: step, then back to norm 1.

    The squares of all x and y are iterated, which is exact but for rounding and for one floor: no x² falls below
    1e-200, so that a converged pair can still leave x = 0 once its ELR exceeds its threshold.

    Args:
        alphas: Coefficients a_i, positive, ``[n]``.
        elrs: Effective learning rate of every run, positive, ``[K]`` or one number. Repeat one for several starts.
        steps: Steps of every run.
        seed: Run k starts in a uniformly random direction drawn from child k of ``numpy.random.SeedSequence(seed)``:
            more ELRs do not change the runs before them.
        window: How many last steps the means are taken over; the last half by default.
        record_every: Read loss and individual ELRs before step 0 and then every so many steps; 0 keeps no traces.
        start: (x, y) of every pair, ``[n, 2]`` or ``[K, n, 2]``, instead of a random start. Only directions matter.
        backend: ``"numpy"``, ``"numba"`` (compiled, ten times as fast and more), or ``"auto"``: numba where it is
            installed and the run is long. The numbers are the same.

    Returns:
        Mean loss beside its prediction, final shares, individual ELRs, and the traces.

    Raises:
        ValueError: An argument is out of its range or empty, or ``elrs`` times ``sum(alphas)`` leaves [1e-30, 1e30].
        ImportError: ``backend="numba"`` and numba is not installed.

    Source: Kodryan et al., NeurIPS 2022, section 3.

    Example:
        >>> simulate_pairs([1, 2, 4], [0.1, 0.2], steps=1000)
        PairsRun: 3 pairs, 2 runs of 1000 steps, threshold 0.1429, loss at random 3.5
          ELR 0.1: loss ...e-86, predicted 0
          ELR 0.2: loss 0.9999, predicted 1
    """
    a, rates = coefficients(alphas), np.atleast_1d(positive("elrs", elrs))
    n, runs, height = len(a), len(rates), float(a.sum())
    if rates.ndim != 1:
        raise ValueError(f"elrs has shape {rates.shape}; it must be a list, one ELR a run")
    product = rates * height
    if not ((product >= _REACH[0]) & (product <= _REACH[1])).all():
        worst = product.min() if product.min() < _REACH[0] else product.max()
        raise ValueError(f"elrs * sum(alphas) reaches {worst:g}; it must lie in [{_REACH[0]:g}, {_REACH[1]:g}]")
    steps = count("steps", steps)
    window = (steps + 1) // 2 if window is None else count("window", window, most=steps)
    record_every = count("record_every", record_every, least=0)
    backend_used = choose(backend, steps=steps, pairs=n * runs)
    advance = kernel("sphere", backend_used)
    positions = random_pairs(seed, runs, n) if start is None else started(start, runs, n)

    # A second column where there is one run: numpy would sum a lone one in another order.
    squares = _unit_squares(positions if runs > 1 else np.repeat(positions, 2, axis=0))
    strengths = np.ascontiguousarray(2 * a[:, None] * (rates if runs > 1 else np.repeat(rates, 2)))
    fractions, shares = np.zeros(strengths.shape), np.zeros(strengths.shape)
    at_steps = range(0, steps + 1, record_every) if record_every else range(0)
    losses, individual = np.empty((runs, len(at_steps))), np.empty((runs, len(at_steps), n))
    done = 0
    for stop in sorted({*at_steps, steps - window, steps}):
        advance(squares, strengths, stop - done, fractions, shares)
        done = stop
        if stop == steps - window:
            fractions[:], shares[:] = 0, 0
        if stop in at_steps:
            share, fraction = _read(squares, runs)
            losses[:, stop // record_every] = fraction @ a
            individual[:, stop // record_every] = rates[:, None] / share
    share, fraction = _read(squares, runs)
    return PairsRun(
        alphas=a,
        elrs=rates,
        loss=a @ fractions[:, :runs] / window,
        predicted_loss=np.atleast_1d(pair_loss(a, rates)),
        loss_at_random=height / 2,
        shares=share,
        fractions=fraction,
        individual_elrs=rates[:, None] / (shares[:, :runs].T / window),
        steps=steps,
        window=window,
        seed=seed if start is None else None,
        backend=backend_used,
        recorded_steps=np.array(at_steps) if record_every else None,
        recorded_loss=losses if record_every else None,
        recorded_elrs=individual if record_every else None,
    )


def _unit_squares(positions: Array) -> Array:
    """Squares ``[2, n, K]`` of positions ``[K, n, 2]`` on the unit sphere."""
    scaled = positions / np.abs(positions).max(axis=(1, 2), keepdims=True)
    squares = scaled**2
    squares /= squares.sum(axis=(1, 2), keepdims=True)
    if not (squares.sum(axis=2) >= _LEAST_SHARE).all():
        raise ValueError(
            f"start holds a pair with less than {_LEAST_SHARE:g} of the squared norm; let none be so small"
        )
    return np.ascontiguousarray(squares.transpose(2, 1, 0))


def _read(squares: Array, runs: int) -> tuple[Array, Array]:
    """Shares and fractions ``[K, n]`` of the first so many runs."""
    totals = squares.sum(axis=0)
    return np.ascontiguousarray(totals.T[:runs]), np.ascontiguousarray((squares[0] / totals).T[:runs])
