"""The spectral density against dense eigenvalues: mass, moments, counts, the smoothed curve."""

import math

import numpy as np
import pytest
import torch
from curvature_nets import batches_for, fingerprint, net
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.curvature.density import SpectralDensity, estimate_density, spectral_density
from onsphere.curvature.operators import hessian_operator

CE = torch.nn.functional.cross_entropy
CASES = [
    *(("batch_norm", "train", False), ("batch_norm", "train", True), ("batch_norm", "eval", False)),
    *(("layer_norm", "train", False), ("residual", "train", False)),
]


def matrix_with(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2)).Q
    return torch.from_numpy(basis * np.asarray(eigenvalues) @ basis.T)


def curvature(name, mode, sphere, **options):
    arguments = (net(name), CE, batches_for(name, 2), ["0.weight"] if sphere else None, sphere, mode)
    operator = hessian_operator(*arguments)
    values = np.linalg.eigvalsh(operator.dense().numpy())
    if sphere:  # without the direction of the position, which is no direction of the sphere
        values = np.delete(values, np.abs(values).argmin())
    return values, spectral_density(*arguments, **options)


@pytest.mark.parametrize(("name", "mode", "sphere"), CASES)
def test_mass_moments_and_edges_against_dense_eigenvalues(name, mode, sphere):
    values, found = curvature(name, mode, sphere, probes=30, steps=20)
    assert found.dimension == len(values)
    np.testing.assert_allclose(found.weights.sum(1), len(values), rtol=1e-9)
    assert found.moment(0).value == pytest.approx(len(values))
    for order in (1, 2, 3):
        moment = found.moment(order)
        assert abs(moment.value - (values**order).sum()) < 4 * moment.standard_error, order
        assert moment.standard_error < 0.5 * (np.abs(values) ** order).sum()
    assert found.nodes.max() == pytest.approx(values.max(), rel=1e-3)
    assert found.nodes.max() <= values.max() * (1 + 1e-9)
    assert found.nodes.min() >= values.min() - 1e-9


@given(size=st.integers(5, 20), steps=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_the_quadrature_of_a_probe_is_exact_to_degree_two_m_minus_one(size, steps, seed):
    matrix = matrix_with(np.random.default_rng(seed).normal(size=size), seed)
    found = estimate_density(lambda v: matrix @ v, size, probes=1, steps=steps, seed=seed)
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start /= start.norm()
    power = start
    for order in range(2 * min(steps, size)):
        assert found.moment(order).value == pytest.approx(size * float(start @ power), rel=1e-7, abs=1e-7)
        power = matrix @ power
    assert found.products == min(steps, size)


def test_moments_lie_within_three_standard_errors_in_95_of_100_trials():
    values = np.concatenate([np.random.default_rng(0).normal(size=30) * 0.1, [3.0, 8.0]])
    matrix = matrix_with(values)
    found = [estimate_density(lambda v: matrix @ v, 32, probes=20, steps=8, seed=s) for s in range(100)]
    for order in (1, 2):
        estimates = [f.moment(order) for f in found]
        assert sum(abs(e.value - (values**order).sum()) <= 3 * e.standard_error for e in estimates) >= 95


def test_counts_of_separate_clusters():
    values = np.concatenate([np.full(30, -1.0), np.full(60, 0.0), np.full(10, 5.0)])
    matrix = matrix_with(values)
    found = estimate_density(lambda v: matrix @ v, 100, probes=80, steps=6)
    for low, high, truth in [(-2, -0.5, 30), (-0.5, 0.5, 60), (1, math.inf, 10), (-math.inf, math.inf, 100)]:
        count = found.count(low, high)
        assert abs(count.value - truth) <= 4 * count.standard_error + 1e-6
        assert count.standard_error < 2
    assert found.count(high=-0.5).value + found.count(low=-0.5).value == pytest.approx(100)


def test_the_smoothed_density_integrates_to_the_mass_and_is_the_dense_one():
    values, found = curvature("batch_norm", "train", False, probes=80, steps=20)
    width = np.ptp(values) / 30
    grid = found.grid(2000, width)
    assert np.trapezoid(found.density(grid, width), grid) == pytest.approx(found.mass, rel=1e-4)
    truth = SpectralDensity(values[None], np.ones((1, len(values))), len(values), 0).density(grid, width)
    assert np.abs(found.density(grid, width) - truth).max() < 0.1 * truth.max()
    assert found.density(0.0).shape == ()
    assert found.density(np.zeros((2, 3))).shape == (2, 3)
    default = found.grid()
    assert np.trapezoid(found.density(default), default) == pytest.approx(found.mass, rel=1e-2)


def test_a_zero_matrix_has_all_its_eigenvalues_at_zero():
    found = estimate_density(torch.zeros_like, 6, probes=3, steps=4)
    assert found.count(-1e-9, 1e-9).value == pytest.approx(6)
    assert np.isfinite(found.density(found.grid())).all()


def test_steps_stop_at_the_number_of_eigenvalues():
    values, found = curvature("batch_norm", "train", True, probes=2, steps=500)
    assert found.nodes.shape == (2, len(values))
    np.testing.assert_allclose(found.nodes[0], values, atol=1e-7 * np.abs(values).max())


def test_seeds_decide_and_nothing_else_changes():
    model, batches = net("batch_norm"), batches_for("batch_norm", 2)
    before = fingerprint(model)
    first, again, other = (spectral_density(model, CE, batches, probes=2, steps=3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.nodes, again.nodes)
    assert not np.array_equal(first.nodes, other.nodes)
    assert fingerprint(model) == before


def test_errors_say_what_is_allowed():
    found = estimate_density(lambda v: v, 4, probes=1, steps=2)
    assert math.isnan(found.moment(1).standard_error)
    for call, message in [
        (lambda: spectral_density(net("batch_norm"), CE, batches_for("batch_norm", 1), probes=0), "probes is 0"),
        (lambda: spectral_density(net("batch_norm"), CE, batches_for("batch_norm", 1), steps=1.5), "steps is 1.5"),
        (lambda: spectral_density(net("batch_norm"), CE, []), "empty"),
        (lambda: estimate_density(lambda v: v / 0, 3), "finite"),
        (lambda: found.density([0.0], width=0.0), "width is 0.0; it must be positive"),
        (lambda: found.grid(1), "points is 1"),
        (lambda: found.moment(4), "2 steps give the moments 0 to 3"),
        (lambda: found.count(1, 1), "low must be below high"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_density_as_text_dictionary_and_table():
    found = estimate_density(lambda v: v * torch.arange(5.0, dtype=torch.float64), 5, probes=2, steps=3)
    assert repr(found).startswith("SpectralDensity(5 eigenvalues, nodes from ")
    assert np.array(found.to_dict()["nodes"]).shape == (2, 3)
    assert list(found.to_frame().columns) == ["probe", "node", "weight"]
    assert found.to_frame().weight.sum() == pytest.approx(10)
