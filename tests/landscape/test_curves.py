"""Trained curves lie below the great circle, stay on the sphere and repeat."""

import math

import numpy as np
import pytest
import torch
from landscape_nets import BATCHES, CROSS_ENTROPY, Direction, digits, network, trained

from onsphere.landscape import angle, barrier, train_curve

HILL = torch.tensor([0.05, 0.15, 1.0], dtype=torch.float64)
HILL /= HILL.norm()
EXAMPLES = (torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))


def _hill(output, target):
    """A hill of height 1 around one direction, flat elsewhere."""
    return torch.exp(-(output - HILL).square().sum(1) / 0.1).mean()


def _either_side(norm_a=1.0, norm_b=1.0, theta=0.9):
    sides = ([s * math.sin(theta), 0.0, math.cos(theta)] for s in (-1, 1))
    return [Direction([n * v for v in side]) for n, side in zip((norm_a, norm_b), sides, strict=True)]


def test_a_trained_curve_goes_round_the_hill():
    a, b = _either_side()
    over = barrier(a, a, b, _hill, EXAMPLES)
    curve = train_curve(a, a, b, _hill, EXAMPLES, 200, lr=0.03)
    around = curve.barrier(_hill, EXAMPLES)
    assert over.loss_barrier > 0.7
    assert around.loss_barrier < 0.2 * over.loss_barrier
    assert around.path == "curve"
    assert around.losses[0] == over.losses[0]
    assert around.losses[-1] == over.losses[-1]
    assert curve.losses.shape == (200,)
    assert curve.losses[-50:].mean() < curve.losses[:50].mean()


def test_a_curve_stays_on_the_sphere_and_is_longer_than_the_great_circle():
    a, b = _either_side(1.0, 3.0)
    curve = train_curve(a, a, b, _hill, EXAMPLES, 60, lr=0.1)
    for t in np.linspace(0, 1, 11):
        assert float(curve.point(float(t))["w"].norm()) == pytest.approx(1 + 2 * t, rel=1e-12)
    assert torch.equal(curve.point(0)["w"], a.w)
    assert torch.equal(curve.point(1)["w"], b.w)
    assert curve.angle == angle(a, b)
    assert curve.length > 1.05 * curve.angle
    assert float(sum(t.square().sum() for t in curve.control.values())) == pytest.approx(1, rel=1e-12)


def test_an_untrained_curve_is_the_great_circle():
    a, b = _either_side()
    curve = train_curve(a, a, b, _hill, EXAMPLES, 1, lr=1e-12)
    assert curve.length == pytest.approx(curve.angle, rel=1e-9)


def test_training_repeats_and_its_seed_matters():
    a, b = network(0), network(1)
    first, again, other = (train_curve(a, a, b, CROSS_ENTROPY, BATCHES, 5, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(t, again.control[n]) for n, t in first.control.items())
    assert not np.array_equal(first.losses, other.losses)
    # Only the scale-invariant weights bend; the frozen head, which differs, goes straight.
    assert first.ends.linear == ("head.weight",)
    torch.testing.assert_close(first.point(0.25)["head.weight"], 0.75 * a.head.weight + 0.25 * b.head.weight)
    assert set(first.to_dict()) == {"angle", "length", "losses", "on_sphere", "linear"}
    assert "5 steps" in repr(first)


def test_between_networks_trained_from_two_seeds_a_curve_is_lower():
    x, y = digits()
    a, b = trained(0), trained(1)
    train = [(x[i : i + 130], y[i : i + 130]) for i in range(0, 1300, 130)]
    whole = (x[:1300], y[:1300])
    names = ["linear*"]
    over = barrier(a, a, b, CROSS_ENTROPY, whole, points=11, parameters=names)
    curve = train_curve(a, a, b, CROSS_ENTROPY, train, 150, parameters=names)
    around = curve.barrier(CROSS_ENTROPY, whole, points=11)
    assert over.loss_barrier > 0.1
    assert around.loss_barrier < 0.5 * over.loss_barrier


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"momentum": 1.0}, "momentum in"),
        ({"batches": []}, "empty"),
        ({"loss_fn": lambda output, target: _hill(output, target) * len(output)}, "not a mean"),
        ({"loss_fn": lambda output, target: (output * math.nan).mean()}, "became nan at step 0"),
        ({"loss_fn": lambda output, target: output[:, 0]}, "one number"),
    ],
)
def test_refusals(change, message):
    a, b = _either_side()
    given = {"loss_fn": _hill, "batches": EXAMPLES, "steps": 3, **change}
    with pytest.raises(ValueError, match=message):
        train_curve(a, a, b, **given)


def test_antipodal_ends_and_places_off_the_curve_are_refused():
    a, b = _either_side()
    opposite = Direction((-a.w).tolist())
    with pytest.raises(ValueError, match="antipodal"):
        train_curve(a, a, opposite, _hill, EXAMPLES, 3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        train_curve(a, a, b, _hill, EXAMPLES, 1).point(1.5)
