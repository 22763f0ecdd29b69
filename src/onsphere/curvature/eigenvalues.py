"""The top eigenvalues of a loss's Hessian: sharpness, in the whole space or on the sphere, once or while training.

On the sphere of scale-invariant weights lambda_max is the spherical sharpness rho² lambda_max(H), and gradient descent
with an effective learning rate ELR is stable as long as ELR * lambda_max < 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.curvature.functional import Functional
from onsphere.curvature.lanczos import Which, lanczos
from onsphere.curvature.operators import HessianOperator, Kind
from onsphere.functional.batches import Batches, Forward, as_batches, may_be_one_pair
from onsphere.functional.loss import LossFunction, Mode
from onsphere.functional.selection import Selection
from onsphere.results import frame, plain_values

__all__ = ["Eigenvalues", "SharpnessTracker", "operator_eigenvalues", "top_eigenvalues"]


@dataclass(frozen=True, eq=False, repr=False)
class Eigenvalues:
    """Eigenvalues of a Hessian, best first, with what is known of their errors.

    Attributes:
        values: ``[k]``, in the order asked for.
        residuals: ``[k]``, |H v - value v| with the products' own noise: some eigenvalue lies this close, whatever else
            is true (of exact products; see ``coarse``).
        errors: ``[k]``, the bound that ``converged`` is about: the residual, for finite differences with what their
            step leaves out. Infinite where no bound is known.
        converged: For each value whether its error is at most ``tolerance`` times its size.
        products: Matrix-vector products that were needed.
        vectors: float64 ``[k, P]``, unit eigenvectors over the selected parameters, flat.
        slices: Where each parameter lies in a vector, by name.
        shapes: The shapes of the parameters, by name.
        tolerance: What was asked for.
        sphere: Whether the values are those on the unit sphere.
        radius: The norm of the parameters; None when not on the sphere.
        kind: ``hessian``, ``ggn`` or ``finite-difference``.
        mode: ``train`` or ``eval`` batch norms.
        coarse: None, or what the products were computed in where that is coarser than float32, as in ``bfloat16`` or
            under autocast. Then nothing is known of the errors: they are infinite, and no value counts as converged.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    errors: tuple[float, ...]
    converged: tuple[bool, ...]
    products: int
    vectors: Tensor
    slices: Mapping[str, slice]
    shapes: Mapping[str, torch.Size]
    tolerance: float
    sphere: bool
    radius: float | None
    kind: Kind
    mode: Mode
    coarse: str | None = None

    def vector(self, index: int = 0) -> dict[str, Tensor]:
        """An eigenvector as tensors of the parameters' shapes, by name (float64; of unit length all together)."""
        return {name: self.vectors[index, where].reshape(self.shapes[name]) for name, where in self.slices.items()}

    def per_group(self, index: int = 0) -> dict[str, float]:
        """How an eigenvector is spread: the part of its squared length in each parameter, summing to one."""
        return {name: float(self.vectors[index, where].square().sum()) for name, where in self.slices.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vectors, for JSON."""
        return {
            "values": list(self.values),
            "residuals": list(self.residuals),
            "errors": plain_values(self.errors),
            "converged": list(self.converged),
            "products": self.products,
            "tolerance": self.tolerance,
            "parameters": self.vectors.shape[1],
            "sphere": self.sphere,
            "radius": self.radius,
            "kind": self.kind,
            "mode": self.mode,
            "coarse": self.coarse,
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each eigenvalue."""
        columns = {"value": self.values, "residual": self.residuals, "error": self.errors, "converged": self.converged}
        return frame(columns)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{v:.6g}{f' ± {e:.1g}' if math.isfinite(e) else ''}{'' if done else ' (not converged)'}"
            for v, e, done in zip(self.values, self.errors, self.converged, strict=True)
        )
        where = f"on the unit sphere (radius {self.radius:.4g})" if self.radius is not None else "in the whole space"
        if self.coarse is not None:
            where += f", no error bounds: products in {self.coarse}"
        return (
            f"Eigenvalues({shown}; {self.kind}, {self.vectors.shape[1]} parameters {where}, mode={self.mode!r}, "
            f"{self.products} products)"
        )


def top_eigenvalues(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    k: int = 1,
    parameters: Selection = None,
    sphere: bool = False,
    mode: Mode = "train",
    *,
    kind: Kind = "hessian",
    tolerance: float = 1e-3,
    max_products: int = 200,
    start: Eigenvalues | Tensor | None = None,
    which: Which = "largest",
    seed: int = 0,
    forward: Forward | None = None,
) -> Eigenvalues:
    """The top eigenvalues of the Hessian of a loss, with error bounds.

    Args:
        model: Any module; it stays as it is.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: An iterable of ``(input, target)``, or one pair. Several are weighted by their numbers of examples; in
            mode ``train`` each has its own batch statistics.
        k: How many eigenvalues are wanted, at least 1.
        parameters: The parameters to differentiate by (:mod:`onsphere.functional.selection`). None: all that require a
            gradient; with ``sphere`` all that are scale-invariant.
        sphere: Values on the joint unit sphere of these parameters (the Riemannian Hessian), which do not depend on
            the norm of scale-invariant weights.
        mode: ``train`` (statistics of each batch; what training sees) or ``eval`` (running statistics) in batch norms.
            Dropout is off in both.
        kind: ``hessian``, ``ggn`` (Gauss-Newton) or ``finite-difference`` (where second derivatives are missing).
        tolerance: Relative error at which a value counts as converged. Float32 products allow about 1e-5: below that a
            search ends at their precision and says that it has not converged. Of products in half precision, whether
            the weights are or the forward pass casts to it, no value counts as converged: ask about ``model.float()``.
        max_products: Most matrix-vector products, and most vectors of length P in memory.
        start: Eigenvalues found nearby (or a vector ``[P]``, or several ``[n, P]``): saves most of the work.
        which: ``largest`` and ``smallest`` with their signs, or ``magnitude``.
        seed: Seed of the random first vector.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Raises:
        ValueError: No batches or parameters, an unknown name, weights or losses that are not finite, a model that is
            not deterministic, a loss that is not a mean over examples, an argument out of range.
        TypeError: A batch is not a pair, or the loss is not a 0-d tensor.
        RuntimeError: The model has no second derivatives.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]])
        >>> linear = nn.Linear(1, 1, bias=False)
        >>> top_eigenvalues(linear, nn.functional.mse_loss, (x, y)).values
        (5.0,)
    """
    functional = Functional(model, loss_fn, batches, parameters, sphere=sphere, mode=mode, forward=forward)
    operator = HessianOperator(functional, kind=kind)
    return operator_eigenvalues(
        operator, k, tolerance=tolerance, max_products=max_products, start=start, which=which, seed=seed
    )


def operator_eigenvalues(
    operator: HessianOperator,
    k: int = 1,
    *,
    tolerance: float = 1e-3,
    max_products: int = 200,
    start: Eigenvalues | Tensor | None = None,
    which: Which = "largest",
    seed: int = 0,
) -> Eigenvalues:
    """The top eigenvalues of an operator that was made before, with error bounds.

    Args:
        operator: The curvature matrix, as products with vectors.
        k: How many eigenvalues are wanted, at least 1.
        tolerance: Relative error at which a value counts as converged.
        max_products: Most matrix-vector products that are spent, and most vectors of length P in memory.
        start: Eigenvalues found nearby, a vector ``[P]`` or several ``[n, P]`` to start from; None draws one.
        which: ``largest`` and ``smallest`` with their signs, or ``magnitude``.
        seed: Seed of the random first vector.
    """
    functional, before = operator.functional, operator.products
    ritz = lanczos(
        operator.product,
        operator.size,
        k,
        which=which,
        tolerance=tolerance,
        max_products=max_products,
        start=_start(start, operator.size),
        seed=seed,
        orthogonal_to=operator.position,
        dtype=operator.dtype,
        device=operator.device,
    )
    values, residuals = ritz.values.tolist(), ritz.residuals.tolist()
    errors, converged = ritz.errors.tolist(), list(ritz.converged)
    if operator.kind == "finite-difference":
        for i, vector in enumerate(ritz.vectors):
            errors[i] = max(errors[i], operator.deviation(vector, values[i]))
            converged[i] = converged[i] and errors[i] <= tolerance * abs(values[i])
    if operator.coarse is not None:
        errors, converged = [math.inf for _ in errors], [False for _ in converged]
    return Eigenvalues(
        values=tuple(values),
        residuals=tuple(residuals),
        errors=tuple(errors),
        converged=tuple(converged),
        products=operator.products - before,
        vectors=ritz.vectors,
        slices=dict(functional.slices),
        shapes=dict(zip(functional.names, functional.shapes, strict=True)),
        tolerance=tolerance,
        sphere=functional.sphere,
        radius=operator.radius,
        kind=operator.kind,
        mode=functional.mode,
        coarse=operator.coarse,
    )


def _start(start: Eigenvalues | Tensor | None, size: int) -> Tensor | None:
    """One vector with a part along each of those given."""
    vectors = start.vectors if isinstance(start, Eigenvalues) else start
    if vectors is None:
        return None
    if vectors.dim() not in (1, 2) or vectors.shape[-1] != size:
        raise ValueError(f"start holds vectors of shape {tuple(vectors.shape)}; they must have {size} numbers each")
    rows = vectors.detach().double().reshape(-1, size)
    total: Tensor = (rows / rows.norm(dim=1, keepdim=True)).sum(0)
    return total


class SharpnessTracker:
    """The top eigenvalues again and again while a model trains, each search starting from the last one's vectors.

    The vectors turn little between readings a few steps apart, so a reading takes a few products instead of ten or
    twenty. A search that starts at an eigenvector ends there and does not see a rival that has grown elsewhere, so
    every ``refresh``-th reading starts from a random vector.

    Args:
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: What the loss is measured on, the same in every reading; kept in memory.
        k: How many eigenvalues a reading has.
        parameters: As in :func:`top_eigenvalues`; with ``sphere`` and None they are found once.
        sphere: Whether values are those on the unit sphere.
        mode: ``train`` or ``eval`` batch norms.
        kind: ``hessian``, ``ggn`` or ``finite-difference``.
        tolerance: Relative error at which a value counts as converged.
        max_products: Most matrix-vector products of one reading.
        refresh: Readings from one random start to the next; 0 never does but for the first.
        seed: Seed of the random starts.
        forward: How the model is called, as in :func:`top_eigenvalues`.

    Raises:
        ValueError: ``refresh`` is negative; in a reading, as :func:`top_eigenvalues`.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]])
        >>> linear = nn.Linear(1, 1, bias=False)
        >>> tracker = SharpnessTracker(nn.functional.mse_loss, (x, y))
        >>> tracker(linear).values  # in the training loop, every few steps
        (5.0,)
    """

    def __init__(
        self,
        loss_fn: LossFunction,
        batches: Batches,
        k: int = 1,
        parameters: Selection = None,
        sphere: bool = False,
        mode: Mode = "train",
        *,
        kind: Kind = "hessian",
        tolerance: float = 1e-3,
        max_products: int = 200,
        refresh: int = 25,
        seed: int = 0,
        forward: Forward | None = None,
    ) -> None:
        if refresh < 0:
            raise ValueError(f"refresh is {refresh}; it must be a number of readings, or 0 for never")
        self._loss_fn, self._k, self._forward = loss_fn, k, forward
        self._batches = batches if may_be_one_pair(batches) else as_batches(batches)  # the model decides
        self._parameters, self._sphere, self._mode, self._kind = parameters, sphere, mode, kind
        self._search = {"tolerance": tolerance, "max_products": max_products}
        self._refresh, self._seed, self._readings = refresh, seed, 0
        self._last: Eigenvalues | None = None

    @property
    def last(self) -> Eigenvalues | None:
        """The last reading, or None before the first."""
        return self._last

    def __call__(self, model: nn.Module) -> Eigenvalues:
        """Measure at the model's present weights; it stays as it is."""
        functional = Functional(
            model,
            self._loss_fn,
            self._batches,
            self._parameters,
            sphere=self._sphere,
            mode=self._mode,
            forward=self._forward,
        )
        self._parameters = functional.names
        cold = self._last is None or (self._refresh > 0 and self._readings % self._refresh == 0)
        self._last = operator_eigenvalues(
            HessianOperator(functional, kind=self._kind),
            self._k,
            start=None if cold else self._last,
            seed=self._seed + self._readings,
            **self._search,  # type: ignore[arg-type]
        )
        self._readings += 1
        return self._last

    def __repr__(self) -> str:
        return f"SharpnessTracker(k={self._k}, readings={self._readings}, last={self._last!r})"
