"""Complex weights move, are measured and averaged as the pairs of real numbers they are."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import curvature
from onsphere.landscape import (
    SphereAverage,
    align,
    angle,
    average,
    barrier,
    chord,
    geodesic,
    slice_along,
    slice_through,
    train_curve,
)

X = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Complex(nn.Module):
    """A complex matrix between two real ones; scale-invariant by the norm behind it."""

    def __init__(self, seed=0, dtype=torch.cdouble):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(6, 8, dtype=dtype, generator=generator))
        self.head = nn.Parameter(torch.randn(8, 3, dtype=dtype.to_real(), generator=generator))

    def forward(self, x):
        h = (x.to(self.w.dtype) @ self.w).abs()
        return (h / h.square().mean(1, keepdim=True).sqrt()).to(self.head.dtype) @ self.head


class Real(nn.Module):
    """The same function, the complex matrix given as its real and imaginary parts."""

    def __init__(self, model):
        super().__init__()
        self.w = nn.Parameter(torch.view_as_real(model.w.detach()).clone())
        self.head = nn.Parameter(model.head.detach().clone())

    def forward(self, x):
        h = (x.to(torch.cdouble) @ torch.view_as_complex(self.w)).abs()
        return h / h.square().mean(1, keepdim=True).sqrt() @ self.head


A, B, C = (Complex(seed) for seed in range(3))
RA, RB, RC = (Real(model) for model in (A, B, C))


def as_real(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@pytest.mark.parametrize("names", ["w", ["w", "head"], None])
def test_directions(names):
    assert angle(A, B, names) == pytest.approx(angle(RA, RB, names), rel=1e-12)
    for way in (geodesic, chord):
        found, expected = way(A, B, 0.3, names), way(RA, RB, 0.3, names)
        assert found["w"].dtype is torch.cdouble
        for name in ("w", "head"):
            torch.testing.assert_close(as_real(found[name]), expected[name])
    found, expected = (chord(a, b, 0.3, names, renormalise=True) for a, b in ((A, B), (RA, RB)))
    torch.testing.assert_close(as_real(found["w"]), expected["w"])


@pytest.mark.parametrize("path", ["geodesic", "chord"])
@pytest.mark.parametrize("names", ["w", ["w", "head"]])
def test_barriers(path, names):
    found, expected = (
        barrier(a, a, b, F.cross_entropy, (X, Y), 5, path, parameters=names) for a, b in ((A, B), (RA, RB))
    )
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-12)
    assert (found.on_sphere, found.linear) == (expected.on_sphere, expected.linear)
    assert found.losses[-1] == pytest.approx(float(F.cross_entropy(B(X), Y).detach()))


def test_slices():
    for call in (
        lambda a, b, c: slice_through(a, [a, b, c], F.cross_entropy, (X, Y), 3, parameters="w"),
        lambda a, b, c: slice_along(a, a, F.cross_entropy, (X, Y), 3, parameters=["w", "head"], seed=4),
        lambda a, b, c: slice_along(a, a, F.cross_entropy, (X, Y), 3, directions=[b, c], sphere=False),
    ):
        found, expected = call(A, B, C), call(RA, RB, RC)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)
        assert found.radius == pytest.approx(expected.radius)


def test_averages():
    for names in ("w", None):
        found, expected = average([A, B, C], parameters=names), average([RA, RB, RC], parameters=names)
        torch.testing.assert_close(as_real(found["w"]), expected["w"])
    running = SphereAverage("w").update(A)
    again = SphereAverage()
    again.load_state_dict(copy.deepcopy(running.state_dict()))
    model = again.update(B).apply(Complex(5))
    torch.testing.assert_close(as_real(model.w.detach()), average([RA, RB], parameters="w")["w"])


def test_curves():
    found, expected = (
        train_curve(a, a, b, F.cross_entropy, (X, Y), 20, lr=0.01, parameters="w") for a, b in ((A, B), (RA, RB))
    )
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-9)
    assert found.length == pytest.approx(expected.length)
    torch.testing.assert_close(as_real(found.point(0.4)["w"]), expected.point(0.4)["w"])


class Chain(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(6, 8, dtype=torch.cdouble), nn.Linear(8, 3, dtype=torch.cdouble)

    def forward(self, x):
        return self.last(self.first(x))


def test_a_permuted_complex_copy_is_found():
    model, order = Chain(), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.first.weight.copy_(model.first.weight[order])
        other.first.bias.copy_(model.first.bias[order])
        other.last.weight.copy_(model.last.weight[:, order])
    found = align(model, model, other, groups={"hidden": [("first.weight", 0), ("first.bias", 0), ("last.weight", 1)]})
    assert found.angle == pytest.approx(0.0, abs=1e-7)
    torch.testing.assert_close(found.state["first.weight"], model.first.weight.detach())


def test_a_phase_is_not_lost():
    """Weights that differ in phase alone are apart."""
    turned = copy.deepcopy(A)
    with torch.no_grad():
        turned.w.mul_(1j)
    assert angle(A, turned, "w") == pytest.approx(math.pi / 2)
    middle = geodesic(A, turned, 0.5, "w")["w"]
    torch.testing.assert_close(middle, A.w.detach() * (1 + 1j) / math.sqrt(2))


def test_curvature_refuses_them_by_name():
    for call in (curvature.top_eigenvalues, curvature.hessian_operator):
        with pytest.raises(TypeError, match=r"parameter 'w' has dtype torch.complex128; only real floating point"):
            call(A, F.cross_entropy, (X, Y))
    found = curvature.top_eigenvalues(A, F.cross_entropy, (X, Y), parameters="head").values
    assert found == pytest.approx(curvature.top_eigenvalues(RA, F.cross_entropy, (X, Y), parameters="head").values)


def test_kinds_of_numbers_do_not_mix():
    real_state = {"w": A.w.detach().real.clone(), "head": A.head.detach()}
    with pytest.raises(TypeError, match="'w' is torch"):
        geodesic(A, real_state, 0.5)
    model = Complex()
    model.w = nn.Parameter(model.w.detach().real.clone())
    with pytest.raises(TypeError, match=r"'w' is complex in b and torch\.float64 in the model"):
        barrier(model, model, A, F.cross_entropy, (X, Y), 3, "chord")
    with pytest.raises(ValueError, match="NaN"):
        angle(A, {"w": A.w.detach() * complex(math.nan, 0), "head": A.head.detach()})
