"""Lanczos on matrices whose eigenvalues are known: values, honest bounds, equal eigenvalues, warm starts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.curvature import Krylov, lanczos


def matrix_with(eigenvalues, seed=0):
    size = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size))).Q
    return torch.from_numpy(basis * np.asarray(eigenvalues, dtype=float) @ basis.T)


def wanted(values, k, which):
    key = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    return values[np.argsort(key, kind="stable")][:k]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 25),
    k=st.integers(1, 5),
    which=st.sampled_from(["largest", "smallest", "magnitude"]),
    repeats=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_wanted_end_of_any_spectrum_with_equal_eigenvalues(size, k, which, repeats, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, size=size).astype(float) if repeats else rng.normal(size=size)
    matrix = matrix_with(values, seed)
    found = lanczos(lambda v: matrix @ v, size, k, which=which, tolerance=1e-9, seed=seed)
    expected = wanted(values, k, which)
    if which == "magnitude":
        np.testing.assert_allclose(np.abs(found.values), np.abs(expected), atol=1e-7)
    else:
        np.testing.assert_allclose(found.values, expected, atol=1e-7)
    assert all(found.converged)
    assert found.products <= size
    assert found.vectors.shape == (min(k, size), size)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(min(k, size), dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(20, 60), products=st.integers(3, 12), seed=st.integers(0, 999))
def test_residuals_are_what_they_say_and_an_eigenvalue_lies_within(size, products, seed):
    values = np.random.default_rng(seed).normal(size=size)
    matrix = matrix_with(values, seed)
    found = lanczos(lambda v: matrix @ v, size, 3, max_products=products, tolerance=1e-12, seed=seed)
    images = found.vectors @ matrix
    measured = (images - torch.from_numpy(found.values)[:, None] * found.vectors).norm(dim=1)
    np.testing.assert_allclose(found.residuals, measured.numpy(), atol=1e-10)
    nearest = np.abs(values[:, None] - found.values).min(0)
    assert (nearest <= found.residuals + 1e-12).all()
    assert (found.errors <= found.residuals).all()
    assert found.products == products


def test_the_error_of_a_lone_value_is_bounded_by_the_residual():
    values = np.concatenate([[10.0], np.linspace(-1, 5, 400)])
    matrix = matrix_with(values)
    for seed in range(20):
        found = lanczos(lambda v: matrix @ v, len(values), tolerance=1e-3, seed=seed)
        (value,), (residual,), (error,) = found.values, found.residuals, found.errors
        assert found.converged == (True,)
        assert abs(value - 10) <= error == residual <= 1e-2
    # The bound is not the same number for every spectrum: too few products, and it says so.
    early = lanczos(lambda v: matrix @ v, len(values), tolerance=1e-3, max_products=3)
    assert early.converged == (False,)
    assert abs(early.values[0] - 10) > 1e-3 * 10


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("together", [2, 3])
def test_bounds_hold_where_the_first_eigenvalues_lie_close_together(apart, together):
    """A bound that takes the eigenvalue for alone would be too small by orders of magnitude."""
    values = np.concatenate([10 * (1 - apart * np.arange(together)), np.linspace(-1, 5, 80)])
    matrix = matrix_with(values)
    for seed in range(12):
        found = lanczos(lambda v: matrix @ v, len(values), seed=seed)
        assert found.converged == (True,)
        assert abs(found.values[0] - 10) <= max(found.errors[0], 1e-2 * (apart <= 1e-3))
        assert found.errors[0] <= 1e-3 * found.values[0]
        assert abs(found.values[0] - 10) <= 1e-2


def nearly_without_the_first(size, part, seed):
    start = np.random.default_rng(seed).normal(size=size)
    start[-1] = part
    return torch.from_numpy(start)


@pytest.mark.parametrize(("gap", "part"), [(0.01, 0.1), (0.05, 0.03), (0.3, 0.01)])
def test_a_random_vector_with_little_of_the_first_eigenvector_still_finds_it(gap, part, monkeypatch):
    """Of a hundred random vectors one has a hundredth of the usual part."""
    values = np.sort(np.concatenate([[1.0, 1.0 - gap], np.linspace(-0.2, 0.5, 60)]))
    matrix = torch.diag(torch.from_numpy(values))
    missed = 0
    for seed in range(8):
        start = nearly_without_the_first(len(values), part, seed)
        monkeypatch.setattr(torch, "randn", lambda *_, start=start, **__: start.clone())
        found = lanczos(lambda v: matrix @ v, len(values), tolerance=1e-3, seed=seed)
        assert found.converged == (True,)
        missed += abs(found.values[0] - 1) > 1.001e-3
    assert missed == 0


def test_a_vector_orthogonal_to_the_first_eigenvector():
    values = np.concatenate([np.linspace(-0.2, 0.5, 60), [0.9, 1.0]])
    matrix = torch.diag(torch.from_numpy(values))
    start = nearly_without_the_first(len(values), 0.0, 0)
    # What was given is what is searched: the bound says that an eigenvalue is there, not that it is the first.
    found = lanczos(lambda v: matrix @ v, len(values), start=start)
    assert found.values[0] == pytest.approx(0.9, rel=1e-3)
    assert np.abs(values - found.values[0]).min() <= found.errors[0]
    # A random one does find it.
    drawn = lanczos(lambda v: matrix @ v, len(values))
    assert drawn.values[0] == pytest.approx(1.0, rel=1e-3)


def test_noise_of_the_products_is_in_the_bounds():
    values = np.concatenate([[10.0], np.linspace(-1, 5, 80)])
    matrix = matrix_with(values)
    noise = torch.randn(81, 81, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02
    found = lanczos(lambda v: (matrix + noise) @ v, 81, max_products=40)
    assert abs(found.values[0] - 10) <= found.errors[0]
    assert found.converged == (found.errors[0] <= 1e-3 * found.values[0],) == (False,)


def test_not_converged_is_said():
    matrix = matrix_with(np.linspace(0, 1, 300))
    found = lanczos(lambda v: matrix @ v, 300, 2, tolerance=1e-8, max_products=20)
    assert found.converged == (False, False)
    assert found.products == 20
    assert abs(found.values[0] - 1) > 1e-8


def test_a_start_near_the_eigenvector_saves_products():
    values = np.concatenate([[10.0, 9.0], np.linspace(-1, 5, 400)])
    matrix = matrix_with(values)
    cold = lanczos(lambda v: matrix @ v, len(values), tolerance=1e-4)
    noise = torch.randn(len(values), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    warm = lanczos(
        *(lambda v: matrix @ v, len(values)),
        tolerance=1e-4,
        start=cold.vectors[0] + 0.02 * noise / noise.norm(),
    )
    assert warm.products <= cold.products // 2
    assert warm.values[0] == pytest.approx(10, rel=1e-4)


def test_a_start_inside_an_invariant_space_does_not_end_the_search_there():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 7.0], dtype=torch.float64))
    first = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    found = lanczos(lambda v: matrix @ v, 4, tolerance=1e-10, start=first)
    assert found.values[0] == pytest.approx(7)


def test_a_direction_can_be_left_out():
    matrix = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    fixed = torch.zeros(6, dtype=torch.float64)
    fixed[5] = -3
    found = lanczos(lambda v: matrix @ v, 6, 9, orthogonal_to=fixed, tolerance=1e-10)
    np.testing.assert_allclose(found.values, [5, 4, 3, 2, 1], atol=1e-9)
    assert found.vectors[:, 5].abs().max() < 1e-12


def test_zero_and_single_matrices():
    zero = lanczos(torch.zeros_like, 5, 2)
    np.testing.assert_array_equal(zero.values, [0, 0])
    assert zero.converged == (True, True)
    assert lanczos(lambda v: -3 * v, 1).values[0] == -3


def test_storage_in_float32_keeps_the_values_of_a_float32_product():
    values = np.concatenate([[8.0, 6.0, 5.0], np.linspace(0, 3, 200)])
    matrix = matrix_with(values).float()
    found = lanczos(lambda v: (matrix @ v.float()).double(), 203, 3, tolerance=1e-5, dtype=torch.float32)
    np.testing.assert_allclose(found.values, [8, 6, 5], rtol=1e-5)
    assert all(found.converged)


def test_the_basis_stays_orthonormal_over_many_steps_where_plain_lanczos_would_lose_it():
    values = np.concatenate([[1e4, 1e3], np.linspace(0, 1, 198)])
    matrix = matrix_with(values)
    krylov = Krylov(lambda v: matrix @ v, 200)
    while krylov.advance():
        pass
    basis = krylov.basis()
    assert basis.shape == (200, 200)
    torch.testing.assert_close(basis @ basis.T, torch.eye(200, dtype=torch.float64), atol=1e-12, rtol=0)
    np.testing.assert_allclose(np.linalg.eigvalsh(krylov.matrix()), np.sort(values), atol=1e-8)
    assert not krylov.advance()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 0}, "k is 0"),
        ({"which": "best"}, "which is 'best'; it must be one of largest, smallest, magnitude"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"k": 3, "max_products": 2}, "max_products is 2; it must be at least k = 3"),
        ({"start": torch.zeros(4, dtype=torch.float64)}, "start has the norm 0.0"),
        ({"start": torch.ones(3, dtype=torch.float64)}, r"start has shape \(3,\); it must be \(4,\)"),
    ],
)
def test_arguments_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        lanczos(lambda v: v, 4, **options)


def test_products_that_are_not_finite_and_spaces_without_directions():
    with pytest.raises(ValueError, match="product 1 is not finite"):
        lanczos(lambda v: v * float("inf"), 4)
    with pytest.raises(ValueError, match="size is 0"):
        lanczos(lambda v: v, 0)
    with pytest.raises(ValueError, match="no direction left"):
        lanczos(lambda v: v, 1, orthogonal_to=torch.ones(1, dtype=torch.float64))
