"""Entropies of directions in many dimensions: what neighbours and covariances say of laws whose entropy is known."""

import numpy as np
import pytest

from onsphere.dynamics import entropy_bound, graph_entropy, sphere_entropy, vmf_entropy, vmf_sample

D, N = 1000, 300


def cloud(variances, seed):
    """Directions of a Gaussian in the tangent plane, and their entropy.

    A plane touches the sphere and is projected from the centre, where areas shrink by (1 + y²)^(-d/2).
    """
    rng, d = np.random.default_rng(seed), len(variances) + 1
    flat = rng.standard_normal((N, d - 1)) * np.sqrt(variances)
    squares = rng.standard_normal((1000, d - 1)) ** 2 @ variances
    entropy = np.log(2 * np.pi * np.e * variances).sum() / 2 - d / 2 * np.log1p(squares).mean()
    return np.column_stack([np.ones(N), flat]), entropy


def spectrum(kind, total):
    ranks = np.arange(1, D)
    shape = {"round": ranks**0.0, "steps": np.where(ranks <= 30, 1.0, 1e-3), "power": 1.0 / ranks}[kind]
    return total * shape / shape.sum()


@pytest.mark.parametrize("temperature", [1e-4, 1e-3])
def test_the_bound_is_the_entropy_of_von_mises_fisher_laws(temperature):
    points = vmf_sample(np.eye(D)[0], temperature, N, np.random.default_rng(0))
    found = entropy_bound(points)
    assert abs(found.value - vmf_entropy(D, temperature)) < 4 * found.error < 10
    assert found.effective_dimension == pytest.approx(D - 1, rel=0.05)
    assert found.spherical == pytest.approx(found.value, abs=4 * found.error)


@pytest.mark.parametrize("kind", ["steps", "power"])
def test_of_flat_clouds_neighbours_say_far_too_much_and_the_bound_stays_above(kind):
    points, entropy = cloud(spectrum(kind, 0.2), 1)
    found, near = entropy_bound(points), sphere_entropy(points)
    assert near.value - entropy > 50 * near.error
    assert entropy - 4 * found.error < found.value < near.value - 50 * near.error
    assert found.value < found.spherical
    wide = spectrum(kind, 0.2)
    assert found.effective_dimension == pytest.approx(wide.sum() ** 2 / (wide**2).sum(), rel=0.2)


@pytest.mark.parametrize("kind", ["round", "steps", "power"])
def test_differences_between_clouds_of_one_shape_are_right(kind):
    (narrow, low), (wide, high) = cloud(spectrum(kind, 0.1), 2), cloud(spectrum(kind, 0.2), 2)
    difference, bounds = high - low, [entropy_bound(one) for one in (narrow, wide)]
    assert bounds[1].value - bounds[0].value == pytest.approx(difference, abs=2 * bounds[0].error)
    near = [graph_entropy(one, neighbours=N // 4) for one in (narrow, wide)]
    assert near[1] - near[0] == pytest.approx(difference, rel=0.02)


def test_differences_between_shapes_are_not():
    (flat, low), (round_, high) = cloud(spectrum("steps", 0.1), 3), cloud(spectrum("round", 0.1), 3)
    near = graph_entropy(round_, neighbours=N // 4) - graph_entropy(flat, neighbours=N // 4)
    assert high - low > 1000 and near < 0.3 * (high - low)


def test_only_directions_count_and_few_dimensions_do():
    points, entropy = cloud(np.full(3, 1e-2), 4)
    found = entropy_bound(points)
    assert found.value == pytest.approx(entropy, abs=4 * found.error)
    assert entropy_bound(points * 7).value == pytest.approx(found.value, abs=1e-9)
    assert found.to_dict()["dimension"] == 3 and found.points == N


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (np.ones((5, 4)), "samples"),
        (np.random.default_rng(0).standard_normal((40, 5)), "one half of the sphere"),
        (np.tile([1.0, 2.0, 3.0], (16, 1)), "distinct"),
    ],
)
def test_what_has_no_bound_is_refused(points, said):
    with pytest.raises(ValueError, match=said):
        entropy_bound(points)
