"""The inner loops of the deterministic toys, twice: over whole arrays (numpy) and over numbers (for numba).

The state of a pair (x, y) is held as squares X = x², Y = y², for which gradient descent on a x²/(x²+y²) is closed:
with u = X/(X+Y), v = Y/(X+Y) and c = ELR of the pair times a,

    X' = X (b - 2cv)²        Y' = Y (b + 2cu)²        b = 1 on the sphere, 1 - lr weight_decay in the whole space

Squares keep the relative accuracy of u however small it becomes, and need one division a pair. Both versions do the
same operations in the same order on every number, so they give the same bits; there is no fast-math. Arrays have
the runs last, which is the axis that is vectorised.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onsphere.dynamics._checks import Array

__all__ = ["SMALLEST", "decay_loops", "decay_numpy", "sphere_loops", "sphere_numpy"]

#: Least square of an x on the unit sphere. Far below anything that shows, far above where float64 loses digits and
#: speed (1e-308), so a pair that loses its share of the norm can still grow again.
SMALLEST = 1e-200

_BLOCK = 64  # runs per block of the compiled loops: their working set stays in the first-level cache
_CACHED = 8192  # pairs times runs per block of the numpy version: its temporaries stay in the second-level cache


def sphere_numpy(squares: Array, strengths: Array, steps: int, fractions: Array, shares: Array) -> None:
    """Gradient descent on the joint unit sphere, in place.

    Args:
        squares: ``[2, n, K]``, X and Y of n pairs in K runs; they add up to 1 in every run. K is at least 2.
        strengths: ``[n, K]``, 2 ELR a.
        steps: How many steps are taken.
        fractions: ``[n, K]``, to which u before every step is added.
        shares: ``[n, K]``, to which X + Y before every step is added.
    """
    _, n, runs = squares.shape
    edges = list(range(0, runs, max(_BLOCK, _CACHED // n)))
    if runs - edges[-1] == 1:  # numpy would sum a lone column in another order
        edges.pop()
    for block in (slice(*ends) for ends in pairwise([*edges, runs])):
        parts = [np.ascontiguousarray(whole[..., block]) for whole in (squares, strengths, fractions, shares)]
        _sphere_block(parts[0], parts[1], steps, parts[2], parts[3])
        squares[..., block], fractions[..., block], shares[..., block] = parts[0], parts[2], parts[3]


def _sphere_block(squares: Array, strengths: Array, steps: int, fractions: Array, shares: Array) -> None:
    _, n, runs = squares.shape
    x, y = squares
    flat = squares.reshape(2 * n, runs)
    signed = np.stack([-strengths, strengths])
    total, inverse, norm = np.empty((n, runs)), np.empty((n, runs)), np.empty(runs)
    pull, ratios, factors = np.empty_like(squares), np.empty_like(squares), np.empty_like(squares)
    u, swapped = ratios[0], ratios[::-1]
    add, multiply, reciprocal, maximum, reduce = np.add, np.multiply, np.reciprocal, np.maximum, np.add.reduce
    for _ in range(steps):
        add(x, y, out=total)
        reciprocal(total, out=inverse)
        multiply(signed, inverse, out=pull)
        multiply(squares, inverse, out=ratios)
        add(fractions, u, out=fractions)
        add(shares, total, out=shares)
        multiply(pull, swapped, out=factors)
        add(factors, 1.0, out=factors)
        multiply(squares, factors, out=squares)
        multiply(squares, factors, out=squares)
        maximum(x, SMALLEST, out=x)
        reduce(flat, axis=0, out=norm)
        reciprocal(norm, out=norm)
        multiply(squares, norm, out=squares)


def sphere_loops(squares: Array, strengths: Array, steps: int, fractions: Array, shares: Array) -> None:
    """As :func:`sphere_numpy`, written for a compiler: blocks of runs, one pass over the pairs a step."""
    n, runs = strengths.shape
    x, y = np.empty((n, _BLOCK)), np.empty((n, _BLOCK))
    k, us, ss = np.empty((n, _BLOCK)), np.empty((n, _BLOCK)), np.empty((n, _BLOCK))
    norm = np.empty(_BLOCK)
    for first in range(0, runs, _BLOCK):
        for i in range(n):
            for j in range(_BLOCK):
                at = min(first + j, runs - 1)  # the rest of the last block repeats its last run
                x[i, j], y[i, j] = squares[0, i, at], squares[1, i, at]
                k[i, j], us[i, j], ss[i, j] = strengths[i, at], fractions[i, at], shares[i, at]
        for _ in range(steps):
            for j in range(_BLOCK):
                norm[j] = 0.0
            for i in range(n):
                for j in range(_BLOCK):
                    total = x[i, j] + y[i, j]
                    inverse = 1.0 / total
                    pull = k[i, j] * inverse
                    u, v = x[i, j] * inverse, y[i, j] * inverse
                    us[i, j] += u
                    ss[i, j] += total
                    down, up = 1.0 - pull * v, 1.0 + pull * u
                    square = x[i, j] * down * down
                    square = SMALLEST if square < SMALLEST else square  # keeps NaN, as np.maximum does
                    x[i, j], y[i, j] = square, y[i, j] * up * up
                    norm[j] += square
            for i in range(n):  # all x first, then all y: the order in which numpy adds them
                for j in range(_BLOCK):
                    norm[j] += y[i, j]
            for j in range(_BLOCK):
                norm[j] = 1.0 / norm[j]
            for i in range(n):
                for j in range(_BLOCK):
                    x[i, j] *= norm[j]
                    y[i, j] *= norm[j]
        for i in range(n):
            for j in range(min(_BLOCK, runs - first)):
                squares[0, i, first + j], squares[1, i, first + j] = x[i, j], y[i, j]
                fractions[i, first + j], shares[i, first + j] = us[i, j], ss[i, j]


def decay_numpy(squares: Array, b: Array, least: Array, totals: Array, fractions: Array) -> None:
    """Gradient descent with weight decay in the whole space, in place; every pair by itself.

    Args:
        squares: ``[2, M]``, X and Y of M pairs in units of lr a, so that c = 1 / (X + Y).
        b: ``[M]``, 1 - lr weight_decay.
        least: ``[M]``, square of the floor: X is kept at least so large relative to X + Y.
        totals: ``[T, M]``, written: X + Y before each of the T steps.
        fractions: ``[T, M]``, written: u before each of the T steps.
    """
    x, y = squares
    inverse, pull = np.empty_like(x), np.empty_like(x)
    factor, v = np.empty_like(x), np.empty_like(x)
    add, subtract, multiply = np.add, np.subtract, np.multiply
    for total, u in zip(totals, fractions, strict=True):
        add(x, y, out=total)
        np.reciprocal(total, out=inverse)
        add(inverse, inverse, out=pull)
        multiply(x, inverse, out=u)
        multiply(y, inverse, out=v)
        multiply(pull, v, out=factor)
        subtract(b, factor, out=factor)
        multiply(x, factor, out=x)
        multiply(x, factor, out=x)
        multiply(pull, u, out=factor)
        add(b, factor, out=factor)
        multiply(y, factor, out=y)
        multiply(y, factor, out=y)
        add(x, y, out=v)
        multiply(least, v, out=v)
        np.maximum(x, v, out=x)


def decay_loops(squares: Array, b: Array, least: Array, totals: Array, fractions: Array) -> None:
    """The computation of :func:`decay_numpy` in loops, written for a compiler."""
    steps, pairs = totals.shape
    for first in range(0, pairs, _BLOCK):
        last = min(first + _BLOCK, pairs)
        for t in range(steps):
            for j in range(first, last):
                x, y = squares[0, j], squares[1, j]
                total = x + y
                inverse = 1.0 / total
                pull = inverse + inverse
                u, v = x * inverse, y * inverse
                totals[t, j], fractions[t, j] = total, u
                down, up = b[j] - pull * v, b[j] + pull * u
                x, y = x * down * down, y * up * up
                floor = least[j] * (x + y)
                x = floor if x < floor else x
                squares[0, j], squares[1, j] = x, y
