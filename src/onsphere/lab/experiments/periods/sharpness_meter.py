"""The sharpness of a copy in training: :mod:`onsphere.curvature` on a fixed batch with its own batch statistics.

The batch is all training examples with full batches, :data:`EXAMPLES` of them otherwise. The sharpness is the top
eigenvalue of the Hessian on the unit sphere of the scale-invariant tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from onsphere.curvature import Eigenvalues, Functional, HessianOperator, operator_eigenvalues
from onsphere.lab.population import Problem
from onsphere.lab.population.step import loss_function

EXAMPLES = 512  # of the fixed batch, where steps see minibatches; at least those of a step
COLD, WARM = (1e-3, 100), (1e-2, 20)  # relative tolerance and most products of a search


class SharpnessMeter:
    """Measures the Hessian of the training-mode loss on a fixed batch.

    Args:
        problem: What is trained.
        invariant: Names of the tensors to differentiate by.
    """

    def __init__(self, problem: Problem, invariant: Sequence[str]) -> None:
        rows = torch.arange(len(problem.data.x_train))
        if problem.batch_size < len(rows):
            drawn = np.random.default_rng(problem.seed).permutation(len(rows))
            rows = torch.from_numpy(np.sort(drawn[: max(EXAMPLES, problem.batch_size)]))
        x = problem.data.x_train[rows].to(problem.device, problem.dtype)
        y = problem.data.y_train[rows].to(problem.device)
        network = problem.build(0).to(problem.device, problem.dtype)
        self.functional = Functional(network, loss_function(problem.loss), (x, y), tuple(invariant), sphere=True)

    def __call__(self, values: Mapping[str, Tensor], start: Eigenvalues | None = None) -> Eigenvalues | None:
        """The top eigenvalue on the unit sphere.

        Args:
            values: All parameters and buffers, by name.
            start: What was found nearby: saves most of the work.

        Returns:
            The eigenvalue with its vector and error, or None where values are not finite.
        """
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            return None
        tolerance, products = COLD if start is None else WARM
        operator = HessianOperator(self.functional, values=values)
        if not math.isfinite(operator.loss):
            return None
        return operator_eigenvalues(operator, tolerance=tolerance, max_products=products, start=start)
