"""Extreme eigenvalues of a symmetric matrix known by its products with vectors: Lanczos, fully reorthogonalised.

Products with q_1, q_2, ... build an orthonormal basis Q in which the matrix is tridiagonal,

    A Q_m = Q_m T_m + beta_m q_{m+1} e_m',          T_m = tridiag(alpha, beta)

The eigenvalues theta of T_m (Ritz values) approach those of A, the outer ones first. With s the unit eigenvector,

    residual   r = |A y - theta y| = |beta_m s_m|,  y = Q_m s:      some eigenvalue of A lies within r of theta

to which the error of the products is added as it shows: <q_i, A q_j> is zero for i < j - 1 and beta_j for i = j - 1,
and what it is instead is noise. This sum is the error that is given. A bound that assumes the eigenvalue alone (Kato
and Temple's r² / gap) is not: two eigenvalues closer together than r pass for one.

That it is the *first* eigenvalue nobody can know who has not computed all, but the odds can be known. A hidden one,
above theta by g, needs a first vector with a part along it of at most 1 / |p_m(theta + g)|, p_m the polynomial with
p_m(A) q_1 = q_{m+1}, and near theta this is |s_1| r / g. For a random first vector in n dimensions such a part has the
probability

    sqrt(2 n / pi) |s_1| r / g

and a search goes on until that is below ``_ODDS`` for g of the tolerance. Fewer products do for the residual alone, but
then a few of a thousand random small networks show their second eigenvalue as converged; ``python -m benchmarks
spectra`` counts them. A first vector that was given says nothing of the kind: a search from an eigenvector ends there.

Where the space spanned so far is invariant (beta = 0) the next vector is a random one orthogonal to it, so that equal
eigenvalues are found as often as they occur; a search that ends earlier shows them once.

Source: Parlett, The Symmetric Eigenvalue Problem, chapters 11 and 13; van Dorsselaer, Hochstenbach and van der Vorst
2000 (bounds in probability from the polynomial).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from onsphere.curvature.krylov import Krylov

__all__ = ["Krylov", "Ritz", "Which", "lanczos"]

Which = Literal["largest", "smallest", "magnitude"]

_ODDS = 0.15  # times the tolerance: most of sqrt(2 n / pi) |s_1| r / theta


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenvalues, best first, and how good they are.

    Attributes:
        values: ``[k]`` in the order asked for.
        residuals: ``[k]``, |A y - value y|, and how far the products are from symmetric.
        errors: ``[k]``, the distance within which an eigenvalue lies: the residuals.
        converged: Whether each error is at most the tolerance times the value, or both are zero to the precision of the
            products.
        products: How many matrix-vector products were needed.
        vectors: float64 ``[k, P]``, unit vectors y.
    """

    values: np.ndarray[Any, np.dtype[np.float64]]
    residuals: np.ndarray[Any, np.dtype[np.float64]]
    errors: np.ndarray[Any, np.dtype[np.float64]]
    converged: tuple[bool, ...]
    products: int
    vectors: Tensor


def lanczos(
    product: Callable[[Tensor], Tensor],
    size: int,
    k: int = 1,
    *,
    which: Which = "largest",
    tolerance: float = 1e-3,
    max_products: int = 200,
    start: Tensor | None = None,
    seed: int = 0,
    orthogonal_to: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Ritz:
    """The k largest, smallest or largest-in-magnitude eigenvalues of a symmetric matrix.

    Args:
        product: The matrix times a float64 vector ``[P]``.
        size: Length P of the vectors.
        k: How many eigenvalues; fewer come back where the space has fewer dimensions.
        which: ``largest`` and ``smallest`` with their signs, or ``magnitude``.
        tolerance: Relative error at which a value counts as converged.
        max_products: Most products, and most vectors of length P that are stored.
        start: First vector; eigenvectors of a matrix nearby (their sum) save most of the work. A rival that has no part
            in it is not looked for.
        seed: Seed of the random first vector.
        orthogonal_to: A vector ``[P]`` outside the space: everything computed is orthogonal to it.
        dtype: Precision of the product, in which vectors are stored.
        device: The device on which the vectors lie.

    Returns:
        The values with their residuals; see ``converged`` for whether they are what was asked for.

    Raises:
        ValueError: An argument is out of range, or a product is not finite.
    """
    if which not in get_args(Which):
        raise ValueError(f"which is {which!r}; it must be one of {', '.join(get_args(Which))}")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if max_products < k:
        raise ValueError(f"max_products is {max_products}; it must be at least k = {k}")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance is {tolerance}; it must be positive and finite")
    drawn = start is None
    krylov = Krylov(product, size, start=start, seed=seed, orthogonal_to=orthogonal_to, dtype=dtype, device=device)
    krylov.random_block |= drawn
    if krylov.dimension < 1:
        raise ValueError("there is no direction left: a sphere of a single number is a pair of points")
    k = min(k, krylov.dimension)
    next_check = k
    while True:
        krylov.advance()
        last = krylov.exhausted or krylov.steps >= max_products
        if not last and not krylov.invariant and krylov.steps < next_check:
            continue
        next_check = krylov.steps + max(1, krylov.steps // 20)
        ordered = _ordered(krylov, which)
        if last or (_resolved(krylov, ordered, k, tolerance, drawn) and _complete(krylov, k, which, tolerance)):
            break
    theta, residuals, s = (part[..., :k] for part in ordered)
    floor = _floor(krylov, ordered[0])
    floor += min(krylov.noise, 10 * floor)
    allowed = np.where(np.abs(theta) > floor, tolerance * np.abs(theta), floor)
    converged = tuple((residuals <= allowed).tolist())
    return Ritz(theta, residuals, residuals.copy(), converged, krylov.steps, krylov.combine(s))


def _floor(krylov: Krylov, theta: Any) -> float:
    """Below this no product is precise."""
    return float(10 * krylov.precision * np.abs(theta).max(initial=0.0))


def _ordered(krylov: Krylov, which: Which, first: int = 0) -> tuple[Any, Any, Any]:
    """Ritz values of the basis from a step on, best first, how near an eigenvalue is, and their vectors."""
    theta, s = np.linalg.eigh(krylov.matrix()[first:, first:])
    order = np.argsort(-_rank(theta, which), kind="stable")
    theta, s = theta[order], s[:, order]
    return theta, krylov.beta * np.abs(s[-1]) + krylov.noise, s


def _resolved(krylov: Krylov, ordered: tuple[Any, Any, Any], k: int, tolerance: float, drawn: bool) -> bool:
    """Whether the first k are as near an eigenvalue as wanted, and the odds small that a better one is hidden."""
    theta, residuals, s = (part[..., :k] for part in ordered)
    if len(theta) < k:
        return False
    wanted, searched = tolerance * np.abs(theta), residuals - krylov.noise
    # More products make no noise smaller.
    near = searched <= np.maximum(wanted - krylov.noise, wanted / 10)
    if drawn and len(krylov.blocks) == 1:
        near &= np.sqrt(2 * krylov.dimension / np.pi) * np.abs(s[0]) * searched <= _ODDS * wanted
    return bool((near | (searched <= _floor(krylov, ordered[0]))).all())


def _rank(values: Any, which: Which) -> Any:
    """Larger is more wanted."""
    return {"largest": values, "smallest": -values, "magnitude": np.abs(values)}[which]


def _complete(krylov: Krylov, k: int, which: Which, tolerance: float) -> bool:
    """Whether a basis that ended in an invariant space, and began another, shows all it must.

    A random vector has a part along every eigenvector, so its block holds every eigenvalue that is left, once. Nothing
    is missing when the best of the last such block has converged and is not above the k-th best of all.
    """
    block = krylov.blocks[-1]
    if block == 0 and not krylov.invariant:
        return True
    if not krylov.random_block:
        return False
    values = np.sort(_rank(np.linalg.eigvalsh(krylov.matrix()), which))[::-1]
    theta, residuals, _ = _ordered(krylov, which, block)
    floor = 10 * krylov.precision * np.abs(values).max()
    close = residuals[0] - krylov.noise <= max(tolerance * abs(values[k - 1]), floor)
    return bool(close and values[k - 1] >= _rank(theta, which)[0] - floor)
