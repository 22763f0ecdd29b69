"""The density of the eigenvalues of a curvature matrix, by stochastic Lanczos quadrature.

For a random unit vector v, m steps of Lanczos give the tridiagonal matrix T = U diag(θ) Uᵀ and with it Gauss's
quadrature for the measure that v sees:

    v's measure        sum_k <v, u_k>² δ(λ - λ_k)   ≈   sum_j U_1j² δ(λ - θ_j)       (λ_k, u_k: eigenpairs)
    eigenvalues' own   sum_k δ(λ - λ_k)              =   n E_v [ v's measure ]        (v uniform on the unit sphere)

The quadrature is exact for polynomials up to degree 2 m - 1. The total mass is the number n of eigenvalues: of the
parameters P, or on the sphere of the tangent space, P - 1 (the position is not a direction there). So moments are
traces, moment(k) = tr Aᵏ, and the mass of an interval counts the eigenvalues in it.

Source: Lin, Saad & Yang 2016; Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019 (for networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from onsphere.curvature.lanczos import Krylov
from onsphere.curvature.operators import hessian_operator
from onsphere.curvature.trace import Estimate, without_error
from onsphere.functional.batches import Batches, Forward
from onsphere.functional.selection import Selection
from onsphere.results import frame

if TYPE_CHECKING:
    from onsphere.curvature.operators import Kind

__all__ = ["SpectralDensity", "estimate_density", "spectral_density"]

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class SpectralDensity:
    """Where the eigenvalues of a curvature matrix lie.

    Attributes:
        nodes: Array ``[probes, steps]``: eigenvalues of each probe's tridiagonal matrix, ascending. The outermost
            approach the outermost eigenvalues; those inside are places, not eigenvalues.
        weights: Array ``[probes, steps]``: the number of eigenvalues that each node stands for. Every row sums to
            ``dimension``.
        dimension: Number of eigenvalues, the total mass.
        products: Matrix-vector products that were spent.
        coarse: None, or what the products were computed in where that is coarser than the weights' float32 or float64:
            half precision, or finite differences. Moments and counts then have no standard error (NaN).
    """

    nodes: Array
    weights: Array
    dimension: int
    products: int
    coarse: str | None = None

    @property
    def mass(self) -> float:
        """The total mass: :attr:`dimension`, up to rounding."""
        return float(self.weights.sum(1).mean())

    def density(self, grid: ArrayLike, width: float | None = None) -> Array:
        """Eigenvalues per unit of λ, each node spread as a Gaussian.

        Args:
            grid: Values of λ, of any shape.
            width: Standard deviation of the Gaussian, in units of λ; None: a hundredth of the nodes' range.

        Returns:
            Array of ``grid``'s shape; its integral over all λ is :attr:`mass`.

        Raises:
            ValueError: ``width`` is not positive and finite.
        """
        width = self._width(width)
        points = np.asarray(grid, dtype=np.float64)
        bells = np.exp(-(((points[..., None] - self.nodes.ravel()) / width) ** 2) / 2)
        return np.asarray(bells @ self.weights.ravel() / (len(self.nodes) * width * math.sqrt(2 * math.pi)))

    def grid(self, points: int = 512, width: float | None = None) -> Array:
        """Evenly spaced λ that hold all of :meth:`density` at this width, five widths beyond the nodes.

        Raises:
            ValueError: ``points`` is below 2, or ``width`` is not positive and finite.
        """
        if points < 2:
            raise ValueError(f"points is {points}; a grid needs at least 2")
        beyond = 5 * self._width(width)
        return np.linspace(self.nodes.min() - beyond, self.nodes.max() + beyond, points)

    def moment(self, order: int) -> Estimate:
        """Trace of Aᵏ, the sum of the eigenvalues' k-th powers; order 0 is the mass, order 1 the trace.

        Args:
            order: k, from 0 to 2 steps - 1, up to where the quadrature is exact.

        Returns:
            The sum, with the standard error over probes.

        Raises:
            ValueError: ``order`` is out of its range.
        """
        highest = 2 * self.nodes.shape[1] - 1
        if int(order) != order or not 0 <= order <= highest:
            raise ValueError(f"order is {order}; {self.nodes.shape[1]} steps give the moments 0 to {highest}")
        return self._estimate((self.weights * self.nodes**order).sum(1))

    def count(self, low: float = -math.inf, high: float = math.inf) -> Estimate:
        """About how many eigenvalues lie from ``low`` to ``high``, with the standard error over probes.

        A node stands for the eigenvalues around it, so the count blurs edges that cut through many eigenvalues.

        Raises:
            ValueError: ``low`` is not below ``high``.
        """
        if not low < high:
            raise ValueError(f"low is {low} and high is {high}; low must be below high")
        return self._estimate(np.where((self.nodes >= low) & (self.nodes <= high), self.weights, 0.0).sum(1))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain numbers and lists."""
        arrays = {"nodes": self.nodes.tolist(), "weights": self.weights.tolist()}
        return arrays | {"dimension": self.dimension, "products": self.products, "coarse": self.coarse}

    def to_frame(self) -> Any:
        """A pandas table with the columns probe, node, weight (needs pandas)."""
        probe = np.repeat(np.arange(len(self.nodes)), self.nodes.shape[1])
        return frame({"probe": probe, "node": self.nodes.ravel(), "weight": self.weights.ravel()})

    def __repr__(self) -> str:
        probes, steps = self.nodes.shape
        span = f"nodes from {self.nodes.min():.4g} to {self.nodes.max():.4g}"
        known = "" if self.coarse is None else f", no standard errors: products in {self.coarse}"
        return f"SpectralDensity({self.dimension} eigenvalues, {span}; {probes} probes of {steps} steps{known})"

    def _estimate(self, samples: Array) -> Estimate:
        count = len(samples)
        error = float(samples.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
        found = Estimate(float(samples.mean()), error, count, self.products, self.dimension)
        return found if self.coarse is None else without_error(found, self.coarse)

    def _width(self, width: float | None) -> float:
        if width is None:
            span = float(self.nodes.max() - self.nodes.min())
            return span / 100 if span > 0 else max(abs(float(self.nodes.max())), 1.0) / 100
        if not 0 < width < math.inf:
            raise ValueError(f"width is {width}; it must be positive and finite")
        return float(width)


def spectral_density(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Batches,
    parameters: Selection = None,
    sphere: bool = False,
    mode: Literal["train", "eval"] = "train",
    *,
    kind: Kind = "hessian",
    probes: int = 10,
    steps: int = 30,
    seed: int = 0,
    forward: Forward | None = None,
) -> SpectralDensity:
    """The density of the eigenvalues of a loss's curvature, from ``probes * steps`` matrix-vector products.

    Args:
        model: Any module. It comes back as it was: buffers, gradients, flags, random state.
        loss_fn: ``loss_fn(output, target) -> scalar``, a mean over examples.
        batches: One ``(input, target)`` pair or an iterable of them; weighted by their numbers of examples.
        parameters: What to differentiate by: None (all that require grad), names, patterns, tensors, or a group of
            :func:`onsphere.sphere_groups`.
        sphere: Take the parameters as one point of the unit sphere: the Riemannian Hessian's P - 1 eigenvalues on
            the tangent space.
        mode: ``train``: batch norm uses the statistics of each batch; ``eval``: running statistics.
        kind: ``hessian``, ``ggn`` or ``finite-difference``.
        probes: Random starts; more give smaller standard errors.
        steps: Lanczos steps from each start, at most the number of eigenvalues; more resolve finer structure. They
            keep ``steps`` vectors of the parameters' size in memory.
        seed: Seed of the random starts.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        Nodes and weights, with the smoothed density, moments and counts.

    Raises:
        ValueError: ``probes`` or ``steps`` is below 1, a product is not finite, or anything the curvature operator
            refuses (empty batches, NaN weights, a loss that is no mean).

    Source: see the module.
    """
    _check(probes, steps)
    operator = hessian_operator(model, loss_fn, batches, parameters, sphere, mode, kind=kind, forward=forward)
    coarse = operator.coarse or ("differences of gradients" if kind == "finite-difference" else None)
    found = estimate_density(
        operator.product,
        operator.size,
        probes=probes,
        steps=steps,
        orthogonal_to=operator.position,
        device=operator.device,
        seed=seed,
    )
    return replace(found, coarse=coarse)


def estimate_density(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    probes: int = 10,
    steps: int = 30,
    orthogonal_to: Tensor | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> SpectralDensity:
    """The spectral density of any symmetric matrix that is known by its products with vectors.

    Args:
        product: From a float64 vector ``[size]`` to the matrix times it.
        size: Number of rows and columns of the matrix.
        probes: Number of random starts; more give smaller standard errors.
        steps: Lanczos steps from each start, at most the number of eigenvalues.
        orthogonal_to: A vector ``[size]`` outside the space: the matrix maps what is orthogonal to it to the same.
        device: The device on which the vectors lie.
        seed: Seed of the random starts.

    Returns:
        The density of ``size`` eigenvalues, one fewer with ``orthogonal_to``.

    Raises:
        ValueError: ``probes`` or ``steps`` is below 1, or a product is not finite.
    """
    _check(probes, steps)
    dimension = size - (orthogonal_to is not None)
    steps = min(steps, dimension)
    generator = torch.Generator().manual_seed(seed)
    nodes, weights, products = np.zeros((probes, steps)), np.zeros((probes, steps)), 0
    for row in range(probes):
        # Gaussian: its direction is uniform, and stays so in the tangent space.
        start = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
        krylov = Krylov(product, size, start=start, seed=seed, orthogonal_to=orthogonal_to, device=device)
        while krylov.steps < steps and krylov.advance():
            products += 1
        matrix = krylov.matrix()[:steps, :steps]
        if not np.isfinite(matrix).all():
            raise ValueError("a matrix-vector product is not finite; check the loss and the weights, or use float64")
        values, vectors = np.linalg.eigh(matrix)
        nodes[row], weights[row] = values, dimension * vectors[0] ** 2
    return SpectralDensity(nodes, weights, dimension, products)


def _check(probes: int, steps: int) -> None:
    for name, value in {"probes": probes, "steps": steps}.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} is {value}; it must be a whole number of at least 1")
