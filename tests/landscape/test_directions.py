"""Angles, great circles and chords."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onsphere.landscape import angle, chord, geodesic

SEEDS = st.integers(0, 2**31)


def _points(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)] for _ in range(count)]


@given(SEEDS)
@settings(max_examples=30)
def test_angles_are_a_distance(seed):
    a, b, c = _points(seed)
    assert angle(a, b) == pytest.approx(angle(b, a), abs=1e-15)
    assert angle(a, c) <= angle(a, b) + angle(b, c) + 1e-12
    assert angle(a, [3 * t for t in a]) < 1e-6


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=30)
def test_the_geodesic_has_constant_speed_and_linear_norms(seed, t):
    a, b, _ = ([t.double() for t in p] for p in _points(seed))
    b = [2 * part for part in b]
    p = geodesic(a, b, t)
    assert angle(a, p) == pytest.approx(t * angle(a, b), abs=1e-12)
    norms = [math.sqrt(sum(float(part.square().sum()) for part in point)) for point in (a, b, p)]
    assert norms[2] == pytest.approx((1 - t) * norms[0] + t * norms[1])
    assert angle(p, chord(a, b, t)) < math.pi
    on_line = chord(a, b, t, renormalise=True)
    assert angle(on_line, chord(a, b, t)) < 1e-12


def test_small_angles_are_seen():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert angle(a, torch.tensor([1.0, 1e-12], dtype=torch.float64)) == pytest.approx(1e-12, rel=1e-9)
    assert angle(a, -a) == pytest.approx(math.pi)


def test_a_part_is_selected_by_name_pattern_tensor_and_group():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = angle(a.weight, b.weight)
    for chosen in ("weight", ["w*"], [a.weight], {"names": ["weight"], "params": [a.weight]}):
        assert angle(a, b, chosen) == expected
    assert angle(a.state_dict(), b.state_dict(), "weight") == expected
    middle = geodesic(a, b, 0.5, "weight")
    torch.testing.assert_close(middle["bias"], (a.bias + b.bias).detach() / 2)


def test_batch_statistics_are_no_weights():
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    b.running_mean.fill_(7.0)
    assert angle(a.state_dict(), b.state_dict()) == 0


def test_ends_are_exact():
    a, b, _ = _points(1)
    for path in (geodesic, chord):
        assert all(torch.equal(p, q) for p, q in zip(path(a, b, 0), a, strict=True))
        assert all(torch.equal(p, q) for p, q in zip(path(a, b, 1), b, strict=True))


def test_refusals():
    a = torch.ones(3)
    with pytest.raises(ValueError, match="antipodal"):
        geodesic(a, -a, 0.5)
    with pytest.raises(ValueError, match="antipodal"):
        chord(a, -a, 0.5, renormalise=True)
    with pytest.raises(ValueError, match="NaN"):
        angle(a, torch.tensor([1.0, math.nan, 0.0]))
    with pytest.raises(ValueError, match="norm 0"):
        angle(a, torch.zeros(3))
    with pytest.raises(ValueError, match="missing"):
        angle({"w": a}, {"v": a})
    with pytest.raises(ValueError, match=r"\(3,\)"):
        angle(a, torch.ones(4))
    with pytest.raises(ValueError, match="called or matches"):
        angle({"w": a}, {"w": a}, "x*")
    with pytest.raises(TypeError, match="a point is"):
        angle(3, a)
