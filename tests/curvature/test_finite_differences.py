"""Errors of finite differences hold what a difference leaves out, and ``converged`` goes by them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import curvature

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
NORMS = {"layer": lambda: nn.LayerNorm(12), "batch": lambda: nn.BatchNorm1d(12), "none": nn.Identity}


def setting(activation, norm, dtype, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 12), NORMS[norm](), ACTIVATIONS[activation](), nn.Linear(12, 3)).to(dtype)
        return model, torch.randn(48, 6, dtype=dtype), torch.randint(3, (48,))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_lie_within_their_errors(activation, norm, dtype):
    model, x, y = setting(activation, norm, dtype, 3)
    exact = curvature.hessian_operator(copy.deepcopy(model).double(), F.cross_entropy, (x.double(), y)).dense()
    spectrum = torch.linalg.eigvalsh(exact)
    found = curvature.top_eigenvalues(model, F.cross_entropy, (x, y), 2, kind="finite-difference")
    for i, (value, error, done) in enumerate(zip(found.values, found.errors, found.converged, strict=True)):
        # Kinks make products of no symmetric matrix, and eigenvalues that are none: then any may be the near one.
        assert float((spectrum - value).abs().min()) <= error
        if done:
            assert abs(float(spectrum[-1 - i]) - value) <= error <= found.tolerance * abs(value)


def test_a_long_step_shows_in_the_error():
    model, x, y = setting("tanh", "layer", torch.float64, 0)
    functional = curvature.Functional(model, F.cross_entropy, (x, y))
    exact = curvature.top_eigenvalues(model, F.cross_entropy, (x, y), tolerance=1e-8).values[0]
    errors = []
    for step in (1e-3, 1.0):
        operator = curvature.HessianOperator(functional, kind="finite-difference", step=step)
        found = curvature.operator_eigenvalues(operator)
        errors.append(found.errors[0])
        assert abs(found.values[0] - exact) <= found.errors[0]
    assert not found.converged[0]
    assert errors[1] > 100 * errors[0]


def test_on_the_sphere_too():
    model, x, y = setting("tanh", "batch", torch.float64, 1)
    exact = curvature.top_eigenvalues(model, F.cross_entropy, (x, y), sphere=True, tolerance=1e-8).values[0]
    found = curvature.top_eigenvalues(model, F.cross_entropy, (x, y), sphere=True, kind="finite-difference")
    assert abs(found.values[0] - exact) <= found.errors[0]
    assert found.converged[0]


def test_exact_kinds_have_no_deviation():
    model, x, y = setting("relu", "none", torch.float32, 0)
    operator = curvature.hessian_operator(model, F.cross_entropy, (x, y))
    before = operator.products
    assert operator.deviation(torch.ones(operator.size), 1.0) == 0.0
    assert operator.products == before
