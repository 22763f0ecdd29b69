"""What the toys share: checks of their arguments and random starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, positive

__all__ = ["coefficients", "count", "log_sum", "random_pairs", "started"]


def coefficients(alphas: Numbers) -> Array:
    """``alphas`` as a vector ``[n]`` of positive numbers within 30 decades of each other (ValueError)."""
    vector = np.atleast_1d(positive("alphas", alphas))
    if vector.ndim != 1:
        raise ValueError(f"alphas has shape {vector.shape}; it must be a list of coefficients, one a pair")
    if vector.min() < 1e-30 * vector.max():
        raise ValueError(f"alphas reach from {vector.min():g} to {vector.max():g}; at most 30 decades are allowed")
    return vector


def count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """``value`` as a whole number of at least ``least`` and at most ``most`` (ValueError)."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number {limits}")
    return int(value)


def random_pairs(seed: int, runs: int, pairs: int) -> Array:
    """Uniformly random directions ``[K, n, 2]`` (x, y); run k depends on ``seed`` and k alone."""
    children = np.random.SeedSequence(count("seed", seed, least=0)).spawn(runs)
    found = np.empty((runs, pairs, 2))
    for row, child in zip(found, children, strict=True):
        row[:] = np.random.default_rng(child).standard_normal((pairs, 2))
    return found


def started(start: Numbers, runs: int, pairs: int) -> Array:
    """``start`` as an array ``[K, n, 2]`` of (x, y), no pair of which is zero (ValueError)."""
    given = numbers("start", start)
    if given.shape not in {(pairs, 2), (runs, pairs, 2)}:
        raise ValueError(
            f"start has shape {given.shape}; it must be ({pairs}, 2) for the same x, y of every pair in all runs, "
            f"or ({runs}, {pairs}, 2)"
        )
    if not (given != 0).any(axis=-1).all():
        raise ValueError("start holds a pair (0, 0), which has no direction; give every pair a non-zero x or y")
    return np.array(np.broadcast_to(given, (runs, pairs, 2)))


def log_sum(logs: Array, axis: int) -> Array:
    """Log of the sum of exp(``logs``) along an axis; the sum itself may be out of range."""
    top = logs.max(axis=axis, keepdims=True)
    return np.asarray(np.log(np.exp(logs - top).sum(axis=axis)) + top.squeeze(axis))
