"""Hessian and Gauss-Newton matrices of a loss as products with vectors, in the whole space or on the sphere.

    hessian             H v          with H = sum_i (n_i / N) Hess L_i
    ggn                 J' B J v     J the Jacobian of the output, B the Hessian of the loss by the output
    finite-difference   (g(w + h v) - g(w - h v)) / 2h       where second derivatives are missing

On the sphere of radius rho through w, with x = w / rho, P = 1 - x x' and gradient g, everything is measured at the unit
sphere, where a direction is all that counts:

    gradient   rho P g
    Hessian    rho² P H P - <g, w> P                the Riemannian Hessian: second derivative along great circles

The second term is the acceleration of a great circle towards the centre. It vanishes where the loss does not depend on
the norm, as for scale-invariant weights, and at critical points.

The graph of a batch's gradient is built once and kept, so that a product is one backward pass through it, for as many
batches as fit into ``graph_memory``; for the others it is built in every product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from onsphere.curvature.functional import Functional
from onsphere.curvature.graphs import graph_bytes, refuse_missing
from onsphere.curvature.precision import coarse_products
from onsphere.functional.batches import Batches, Forward
from onsphere.functional.loss import LossFunction, Mode, gradients
from onsphere.functional.selection import Selection, check_finite

__all__ = ["HessianOperator", "Kind", "hessian_operator"]

Kind = Literal["hessian", "ggn", "finite-difference"]
_STEP = 1e-3  # of finite differences, relative
_SHORT_STEPS = (1 / 4, 1 / 16)  # that tell the error of the first
_MARGIN = 1.5  # as the differences that tell the error have one of their own

Product = Callable[[list[Tensor]], list[Tensor]]


class HessianOperator:
    """The matrix of second derivatives at fixed weights, as a product with vectors.

    Args:
        functional: The loss as a function of the selected parameters; on the sphere if it was made so.
        kind: ``hessian``, ``ggn`` or ``finite-difference``.
        values: Weights (and buffers) to be at, by name, where not those ``functional`` was made with.
        step: Step of finite differences: how far to move along a unit vector. Default: ||w|| times 1e-3, or times the
            cube root of the dtype's precision if that is larger (float32: 5e-3). Kinks (ReLU) make shorter steps noisy:
            few are crossed, and each counts for 1 / step.
        graph_memory: Bytes of graphs to keep between products when there are several batches.

    Attributes:
        size: P, the length of a vector.
        dimension: P, or P - 1 on the sphere, where the operator is zero along ``position``.
        position: The unit vector x = w / ||w|| (float64 ``[P]``), or None when not on the sphere.
        radius: ||w||, or None when not on the sphere.
        products: How many products were computed so far.

    Raises:
        ValueError: Unknown kind, weights that are not finite, or zero on the sphere.
        RuntimeError: Second derivatives are missing, from the first product on; the message says so.
    """

    def __init__(
        self,
        functional: Functional,
        *,
        kind: Kind = "hessian",
        values: Mapping[str, Tensor] | None = None,
        step: float | None = None,
        graph_memory: int = 2**30,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Kind))}")
        if step is not None and not (math.isfinite(step) and step > 0):
            raise ValueError(f"step is {step}; it must be positive and finite")
        self.functional, self.kind, self.products = functional, kind, 0
        self.values = values = None if values is None else functional.named(values)
        if values is not None:
            check_finite(values)
        self._weights = functional.selected(values)
        self._flat = functional.flatten(self._weights, torch.float64)
        self.size, self.dtype, self.device = functional.size, functional.dtype, functional.device
        self.names, self.slices = functional.names, functional.slices
        norm = float(self._flat.norm())
        self._step = step or max(torch.finfo(self.dtype).eps ** (1 / 3), _STEP) * (norm or 1.0)
        self.radius: float | None = None
        self.position: Tensor | None = None
        if functional.sphere:
            if norm == 0:
                raise ValueError("all selected parameters are zero: they have no direction, so there is no sphere")
            self.radius, self.position = norm, self._flat / norm
        self.dimension = self.size - int(functional.sphere)
        self._memory, self._kept = graph_memory, dict[int, Product]()
        self._found: tuple[float, Tensor] | None = None
        self._coarse: tuple[str | None] | None = None

    @property
    def coarse(self) -> str | None:
        """What products are computed in where that is too coarse for error bounds: see :mod:`.precision`."""
        if self._coarse is None:
            self._coarse = (coarse_products(self.functional),)
        return self._coarse[0]

    # -- first order ---------------------------------------------------------------------------------------

    @property
    def loss(self) -> float:
        """The loss: the mean over all examples."""
        return self._first_order()[0]

    def gradient(self) -> Tensor:
        """The gradient ``[P]`` in float64; on the sphere ``rho P g``, the gradient at the unit sphere."""
        return self._tangent(self._first_order()[1]) * (self.radius or 1.0)

    def _first_order(self) -> tuple[float, Tensor]:
        if self._found is None:
            self._found = self._loss_and_gradient(self._weights)
        return self._found

    def _loss_and_gradient(self, weights: list[Tensor]) -> tuple[float, Tensor]:
        loss, total = 0.0, torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for i, share in enumerate(self.functional.shares):
            with self.functional.guard():
                params = [w.clone().requires_grad_() for w in weights]
                value = self.functional.loss(params, i, self.values)
                found = gradients(value, params)
            loss += share * float(value.detach())
            total += share * self.functional.flatten(found, torch.float64)
        return loss, total

    # -- second order --------------------------------------------------------------------------------------

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector.

        Args:
            vector: A vector ``[P]`` of any floating-point dtype.

        Returns:
            ``[P]`` in the dtype of ``vector``. Derivatives are computed in the parameters' dtype, sums in float64.
        """
        return self._product(vector, self._step)

    __call__ = product

    def step_error(self, vector: Tensor) -> Tensor:
        """About how far a finite difference is off by its step: 4/3 of what half the step changes; else zeros.

        The error of a central difference falls with the square of its step, and rounding errors and kinks, which grow
        as it shrinks, show in the change as well. Two products.

        Args:
            vector: A vector ``[P]`` of any floating-point dtype, as for :meth:`product`.
        """
        if self.kind != "finite-difference":
            return torch.zeros_like(vector)
        return (self._product(vector, self._step) - self._product(vector, self._step / 2)) * (4 / 3)

    def _product(self, vector: Tensor, step: float) -> Tensor:
        if vector.shape != (self.size,):
            raise ValueError(f"the vector has shape {tuple(vector.shape)}; it must be ({self.size},)")
        self.products += 1
        v = self._tangent(vector.detach().to(self.device, torch.float64))

        def multiply(v: Tensor) -> Tensor:
            return self._difference(v, step) if self.kind == "finite-difference" else self._exact(v)

        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                image = multiply(v.clone())
        else:
            image = multiply(v)
        return self._on_sphere(image, v).to(vector.device, vector.dtype)

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self.product(vector)

    def dense(self) -> Tensor:
        """The whole matrix ``[P, P]`` in float64, made symmetric; P products, for small P."""
        unit = torch.eye(self.size, dtype=torch.float64, device=self.device)
        matrix = torch.stack([self.product(row) for row in unit])
        return (matrix + matrix.T) / 2

    def _tangent(self, vector: Tensor) -> Tensor:
        return vector if self.position is None else vector - torch.dot(self.position, vector) * self.position

    def deviation(self, vector: Tensor, value: float) -> float:
        """How far finite differences of other steps are from an eigenvector and its eigenvalue; 0 for exact kinds.

        A difference of step h is off by c h², by rounding / h and by the kinks (ReLU) it crosses, of which a search
        that uses h alone sees nothing, not even that the products are no symmetric matrix. D(h) - (D(2 h) - D(h)) / 3
        is free of c h², and short steps cross few kinks.

        Args:
            vector: The eigenvector ``[P]``, of any length but zero.
            value: The eigenvalue that was found with it.

        Returns:
            The largest ``|D v - value v|`` of a unit vector over these differences, and half as much again, as they are
            not exact either. Costs four products.
        """
        if self.kind != "finite-difference":
            return 0.0
        v = self._tangent(vector.detach().to(self.device, torch.float64))
        v = v / v.norm()
        here, beyond = (self._product(v, s * self._step) for s in (1.0, 2.0))
        images = [here - (beyond - here) / 3, *(self._product(v, s * self._step) for s in _SHORT_STEPS)]
        return _MARGIN * max(float((image - value * v).norm()) for image in images)

    def _on_sphere(self, image: Tensor, v: Tensor) -> Tensor:
        """The Riemannian product from the Euclidean one, on the sphere."""
        if self.radius is None:
            return image
        radial = torch.dot(self._first_order()[1], self._flat)
        return self.radius**2 * self._tangent(image) - radial * v

    def _difference(self, v: Tensor, step: float) -> Tensor:
        norm = float(v.norm())
        if norm == 0:
            return torch.zeros_like(v)
        h = step / norm
        ahead, behind = (self._loss_and_gradient(self.functional.unflatten(self._flat + s * v))[1] for s in (h, -h))
        return (ahead - behind) / (2 * h)

    def _exact(self, v: Tensor) -> Tensor:
        parts = self.functional.unflatten(v)
        total: Tensor | None = None
        for i, share in enumerate(self.functional.shares):
            try:
                pull = self._kept.get(i) or self._batch(i)
                image = self.functional.flatten(pull(parts), torch.float64)
            except (RuntimeError, NotImplementedError) as error:
                explained = _explained(error)
                if explained is None:
                    raise
                raise explained from error
            total = image.mul_(share) if total is None else total.add_(image, alpha=share)
        assert total is not None  # there is a batch
        return total

    def _batch(self, index: int) -> Product:
        """The product for one batch; kept if there is room for its graph."""
        with self.functional.guard():
            params = [w.clone().requires_grad_() for w in self._weights]
            pull, roots = (_hessian if self.kind == "hessian" else _ggn)(self.functional, params, index, self.values)
        if self.products == 1:
            refuse_missing(roots)
        if len(self.functional.shares) == 1:
            self._kept[index] = pull
        elif self._memory > 0:
            self._memory -= graph_bytes(roots)
            if self._memory >= 0:
                self._kept[index] = pull
        return pull

    def __repr__(self) -> str:
        where = f", on the sphere of radius {self.radius:.6g}" if self.radius is not None else ""
        return f"HessianOperator({self.kind}, {self.size} parameters, mode={self.functional.mode!r}{where})"


def hessian_operator(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    parameters: Selection = None,
    sphere: bool = False,
    mode: Mode = "train",
    *,
    kind: Kind = "hessian",
    values: Mapping[str, Tensor] | None = None,
    forward: Forward | None = None,
) -> HessianOperator:
    """The curvature of a model's loss at its present weights, as a product with vectors.

    Args:
        model: Any module; it stays as it is, and may be trained on while the operator stays at these weights.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: An iterable of ``(input, target)``, or one pair (:mod:`onsphere.functional.batches`).
        parameters: The parameters to differentiate by (:mod:`onsphere.functional.selection`). None: all that require a
            gradient; with ``sphere`` all that are scale-invariant.
        sphere: The Riemannian Hessian on the joint unit sphere of these parameters.
        mode: ``train`` (statistics of each batch) or ``eval`` (running statistics) in batch norms.
        kind: ``hessian``, ``ggn`` (Gauss-Newton) or ``finite-difference``.
        values: Weights to be at instead, by name.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Raises:
        ValueError: As :class:`~onsphere.functional.loss.Functional` and :class:`HessianOperator`.
        TypeError: As :class:`~onsphere.functional.loss.Functional`.
    """
    functional = Functional(model, loss_fn, batches, parameters, sphere=sphere, mode=mode, forward=forward)
    return HessianOperator(functional, kind=kind, values=values)


def _explained(error: Exception) -> RuntimeError | None:
    """What to do about it, if second derivatives are missing."""
    text = str(error)
    if not any(mark in text for mark in ("is not implemented", "differentiate twice", "once_differentiable")):
        return None
    return RuntimeError(
        f"second derivatives are missing in this model ({text.splitlines()[0].rstrip('.')}): use "
        "kind='finite-difference', which needs gradients alone"
    )


# -- one batch ---------------------------------------------------------------------------------------------


def _hessian(
    functional: Functional, params: list[Tensor], index: int, values: Mapping[str, Tensor] | None
) -> tuple[Product, list[Tensor]]:
    grads = gradients(functional.loss(params, index, values), params, create_graph=True)
    return _transposed(grads, params), grads


def _ggn(
    functional: Functional, params: list[Tensor], index: int, values: Mapping[str, Tensor] | None
) -> tuple[Product, list[Tensor]]:
    output = functional.output(params, index, values)
    if not isinstance(output, Tensor):
        raise TypeError(f"kind='ggn' needs a model whose output is a tensor, and it is a {type(output).__name__}")
    # J u is the derivative by z of J'z, which is linear in z: two backward passes instead of a forward-mode one.
    z = torch.zeros_like(output, requires_grad=True)
    jz = list(torch.autograd.grad(output, params, z, create_graph=True, allow_unused=True, materialize_grads=True))
    leaf = output.detach().requires_grad_()
    slope = gradients(functional.loss_of(leaf, index), [leaf], create_graph=True)
    push, bend, pull = _transposed(jz, [z]), _transposed(slope, [leaf]), _transposed([output], params)
    return lambda vector: pull(bend(push(vector))), [*jz, *slope, output]


def _transposed(outputs: list[Tensor], inputs: list[Tensor]) -> Product:
    """The vector-Jacobian product, for as often as wanted; zero where nothing depends."""
    live = [i for i, output in enumerate(outputs) if output.requires_grad]
    starts = [outputs[i] for i in live]

    def pull(vector: list[Tensor]) -> list[Tensor]:
        if not live:
            return [torch.zeros_like(x) for x in inputs]
        given = vector if len(live) == len(outputs) else [vector[i] for i in live]
        found = torch.autograd.grad(starts, inputs, given, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if f is None else f for f, x in zip(found, inputs, strict=True)]

    return pull
