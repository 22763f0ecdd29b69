"""The top eigenvalue of the Hessian of the training-mode loss, by power iteration with Hessian-vector products.

The loss is that of a fixed batch with its own batch statistics: all training examples with full batches,
:data:`EXAMPLES` of them otherwise. Dropout is switched off. Nothing here changes the network or its statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from onsphere.lab.population import Problem
from onsphere.lab.population.step import loss_function
from onsphere.normalisation import without_running_statistics
from onsphere.products import inner, squared_norm

EXAMPLES = 512  # of the fixed batch, where steps see minibatches; at least those of a step

Product = Callable[[list[Tensor]], list[Tensor]]


def top_eigenvalue(
    product: Product, start: list[Tensor], *, tolerance: float = 1e-2, iterations: int = 20
) -> tuple[float, list[Tensor]]:
    """The largest eigenvalue of a symmetric matrix by power iteration.

    Args:
        product: Matrix times vector, a vector being a list of tensors.
        start: Any vector but zero; that of a matrix nearby saves most of the work.
        tolerance: Ends when the Rayleigh quotient moves by less, relatively.
        iterations: Most products (twice as many where a negative eigenvalue is the largest in magnitude).

    Returns:
        The eigenvalue and its unit vector.
    """
    value, vector = _power(product, start, tolerance, iterations)
    if not value < 0:
        return value, vector

    def shifted(v: list[Tensor]) -> list[Tensor]:
        return [p - value * x for p, x in zip(product(v), v, strict=True)]

    # the most negative eigenvalue becomes 0, so the largest one dominates; `vector` has none of it left
    above, vector = _power(shifted, start, tolerance, iterations)
    return above + value, vector


def _power(product: Product, start: list[Tensor], tolerance: float, iterations: int) -> tuple[float, list[Tensor]]:
    vector, value = _unit(start), np.nan
    for _ in range(iterations):
        image = product(vector)
        before, value = value, float(inner(vector, image))
        if not np.isfinite(value) or float(squared_norm(image)) == 0:
            break
        vector = _unit(image)
        if abs(value - before) < tolerance * abs(value):
            break
    return value, vector


def _unit(vector: list[Tensor]) -> list[Tensor]:
    norm = float(squared_norm(vector)) ** 0.5
    return [v / norm for v in vector]


class Curvature:
    """Hessian-vector products of the training-mode loss on a fixed batch.

    Args:
        problem: What is trained.
        invariant: Names of the tensors to differentiate by.
    """

    def __init__(self, problem: Problem, invariant: Sequence[str]) -> None:
        network = without_running_statistics(problem.build(0).to(problem.device, problem.dtype).train())
        for module in network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        self.network, self.names, self.loss = network, tuple(invariant), loss_function(problem.loss)
        rows = torch.arange(len(problem.data.x_train))
        if problem.batch_size < len(rows):
            drawn = np.random.default_rng(problem.seed).permutation(len(rows))
            rows = torch.from_numpy(np.sort(drawn[: max(EXAMPLES, problem.batch_size)]))
        self.x = problem.data.x_train[rows].to(problem.device, problem.dtype)
        self.y = problem.data.y_train[rows].to(problem.device)

    def product(self, values: dict[str, Tensor]) -> Product:
        """The Hessian at these values of all parameters and buffers, by name, as a product with a vector."""
        fixed = {name: value for name, value in values.items() if name not in self.names}

        def objective(params: list[Tensor]) -> Tensor:
            named = fixed | dict(zip(self.names, params, strict=True))
            return self.loss(functional_call(self.network, named, (self.x,)), self.y)

        # the Hessian is symmetric, so the vector-Jacobian product of the gradient is its product with a vector
        pull: Any = vjp(grad(objective), [values[name] for name in self.names])[1]
        return lambda vector: list(pull(vector)[0])

    def start(self) -> list[Tensor]:
        """A random vector, the same in every call."""
        generator = torch.Generator().manual_seed(0)
        own = dict(self.network.named_parameters())
        return [torch.randn(own[n].shape, generator=generator, dtype=torch.float64).to(self.x) for n in self.names]
