"""Slices have the values of the networks they go through, and the geometry they promise."""

import copy
import math

import numpy as np
import pytest
import torch
from landscape_nets import BATCHES, CROSS_ENTROPY, Direction, X, Y, network

from onsphere.landscape import angle, slice_along, slice_through
from onsphere.normalisation import reestimate_batch_statistics

SPHERE = ("linear1.weight", "linear2.weight")


def _direct(model):
    here = reestimate_batch_statistics(copy.deepcopy(model), BATCHES).eval()
    output = here(X).detach()
    return float(CROSS_ENTROPY(output, Y)), float((output.argmax(1) != Y).double().mean())


def _orthogonal(norms=(1.0, 2.0, 3.0)):
    """Three networks, orthogonal on the sphere, so that the third lies above the middle of the others."""
    models = [network(seed) for seed in range(3)]
    flat = [torch.cat([dict(m.named_parameters())[n].detach().reshape(-1) for n in SPHERE]) for m in models]
    basis = torch.linalg.qr(torch.stack(flat, 1)).Q.T
    for model, direction, norm in zip(models, basis, norms, strict=True):
        parts = torch.split(norm * direction, [dict(model.named_parameters())[n].numel() for n in SPHERE])
        with torch.no_grad():
            for name, part in zip(SPHERE, parts, strict=True):
                parameter = model.get_parameter(name)
                parameter.copy_(part.reshape(parameter.shape))
    return models


@pytest.mark.parametrize("sphere", [True, False])
def test_values_at_the_three_points_are_those_of_the_networks(sphere):
    models = _orthogonal() if sphere else _orthogonal((2.0, 2.0, 2.0))
    found = slice_through(models[0], models, CROSS_ENTROPY, BATCHES, 3, margin=0, sphere=sphere, parameters=SPHERE)
    # The first two are the lower corners, the third is the middle of the upper side.
    for model, row, column in zip(models, (0, 0, 2), (0, 2, 1), strict=True):
        loss, error = _direct(model)
        assert found.losses[row, column] == pytest.approx(loss, abs=1e-9)
        assert found.errors[row, column] == pytest.approx(error, abs=1e-12)
    places = [(found.x[column], found.y[row]) for row, column in ((0, 0), (0, 2), (2, 1))]
    np.testing.assert_allclose(found.coordinates, places, atol=1e-12)
    assert found.losses.shape == (3, 3)
    assert found.sphere is sphere
    if sphere:  # the distance from the middle is the angle: equal, and that of an octant's corner from its centre
        np.testing.assert_allclose(np.hypot(*found.coordinates.T), math.acos(1 / math.sqrt(3)))
    else:
        np.testing.assert_allclose(np.hypot(*(found.coordinates[1] - found.coordinates[0])), 2 * math.sqrt(2))


def test_running_statistics_follow_the_points_in_evaluation_mode():
    models = _orthogonal()
    for model in models:
        model(X)
    found = slice_through(models[0], models, CROSS_ENTROPY, (X, Y), 3, margin=0, mode="eval")
    for model, row, column in zip(models, (0, 0, 2), (0, 2, 1), strict=True):
        expected = float(CROSS_ENTROPY(model.eval()(X).detach(), Y))
        assert found.losses[row, column] == pytest.approx(expected, abs=1e-9)
    assert found.statistics == "running statistics of the points"


def test_along_a_direction_the_distance_is_the_angle():
    a, b, c = (network(seed) for seed in range(3))
    for other in (b, c):
        with torch.no_grad():
            other.head.weight.copy_(a.head.weight)
    towards = [{n: m.get_parameter(n).detach() - a.get_parameter(n).detach() for n in SPHERE} for m in (b, c)]
    theta = angle(a, b, SPHERE)
    found = slice_along(a, a, CROSS_ENTROPY, BATCHES, 3, directions=towards, extent=theta)
    assert found.losses[1, 1] == pytest.approx(_direct(a)[0], rel=1e-14)  # two batches against one
    assert found.losses[1, 2] == pytest.approx(_direct(b)[0], abs=1e-9)
    np.testing.assert_allclose(found.x, [-theta, 0, theta])
    assert found.coordinates.tolist() == [[0, 0]]


def test_a_known_function_on_the_sphere_and_in_the_plane():
    model = Direction([0.0, 0.0, 2.0])
    examples = (torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    axes = [{"w": torch.eye(3, dtype=torch.float64)[i]} for i in (0, 1)]

    def height(output, target):
        return output[:, 2].mean()

    found = slice_along(model, model, height, examples, 5, directions=axes)
    p, q = np.meshgrid(found.x, found.y)
    np.testing.assert_allclose(found.losses, np.cos(np.hypot(p, q)), atol=1e-12)
    assert found.errors is None
    assert found.radius == 2
    flat = slice_along(model, model, height, examples, 5, directions=axes, sphere=False, extent=3)
    p, q = np.meshgrid(flat.x, flat.y)
    np.testing.assert_allclose(flat.losses, 2 / np.sqrt(4 + p**2 + q**2), atol=1e-12)


def test_random_directions_repeat_and_tables_fit():
    a = network(0)
    first, again, other = (slice_along(a, a, CROSS_ENTROPY, BATCHES, 2, extent=0.1, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses, other.losses)
    frame = first.to_frame()
    assert list(frame.columns) == ["x", "y", "loss", "error"]
    row = frame.iloc[1]
    assert (row.x, row.y, row.loss) == (first.x[1], first.y[0], first.losses[0, 1])
    assert first.to_dict()["losses"] == first.losses.tolist()
    assert "2 x 2 points" in repr(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": [network(0)] * 2}, "three points"),
        ({"points": [network(0), network(1), network(0)]}, "parallel"),
        ({"points": [network(0), network(1), network(2, (8, 9))]}, "in the model"),
        ({"grid": 1}, "grid is 1"),
        ({"margin": -1}, "margin is -1"),
        ({"margin": math.nan}, "margin is nan"),
        ({"points": _orthogonal((1.0, 1.0, 100.0)), "margin": 1.0}, "smaller margin"),
        ({"batches": []}, "empty"),
    ],
)
def test_slices_through_points_refuse(change, message):
    given = {"points": [network(seed) for seed in range(3)], "batches": BATCHES, "grid": 3, **change}
    points, batches = given.pop("points"), given.pop("batches")
    with pytest.raises(ValueError, match=message):
        slice_through(network(0), points, CROSS_ENTROPY, batches, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extent": 4.0}, "below pi"),
        ({"extent": 0}, "positive"),
        ({"directions": [network(1)]}, "two directions"),
        ({"directions": [network(1), network(1)]}, "parallel"),
        ({"directions": [network(0), network(1)]}, "parallel"),  # the first is radial
        ({"directions": [{"other": X}, network(1)]}, "unknown"),
        ({"centre": {n: 0 * t for n, t in network(0).state_dict().items()}}, "norm zero"),
    ],
)
def test_slices_along_directions_refuse(change, message):
    model = network(0)
    given = {"centre": model, "grid": 2, **change}
    with pytest.raises(ValueError, match=message):
        slice_along(model, given.pop("centre"), CROSS_ENTROPY, BATCHES, **given)
