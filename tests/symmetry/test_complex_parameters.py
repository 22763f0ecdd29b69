"""Complex parameters under real factors: found like others, at double precision."""

import pytest
import torch
from torch import nn

import onsphere


class Spectral(nn.Module):
    """|x W| with its scale divided out; the cast is a narrow one."""

    def __init__(self, cast=torch.cfloat):
        super().__init__()
        self.w, self.h = nn.Parameter(torch.randn(8, 6, dtype=torch.cfloat)), nn.Linear(6, 3)
        self.cast = cast

    def forward(self, x):
        r = (x.to(self.cast) @ self.w.to(self.cast)).abs()
        return self.h(r / r.norm(dim=-1, keepdim=True))


class Fourier(nn.Module):
    """Two mixings of frequencies, one of them complex, that share a scale."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, dtype=torch.cfloat)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.a * self.b, n=8)


class Phase(nn.Module):
    """One complex number ahead of a norm, and a start at a constant."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(1.7 + 0.4j))
        self.same = nn.Parameter(torch.full((8,), 1j))
        self.n, self.h = nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)

    def forward(self, x):
        z = x * self.c * self.same
        return self.h(self.n(z.real + z.imag))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("cast", [torch.cfloat, torch.cdouble])
def test_a_complex_tensor_alone(cast):
    model, x = Spectral(cast), torch.randn(16, 8)
    found = onsphere.find_symmetries(model, x, rows=True)
    assert found.groups == [("w",)]
    assert found.dimension == 1
    assert found.gap > 1e8
    assert dict(zip(found.names, found.shapes, strict=True))["w"] == (8, 6)
    assert model.w.dtype == torch.cfloat


def test_a_complex_tensor_against_a_real_one():
    found = onsphere.find_symmetries(Fourier(), torch.randn(16, 8))
    assert (found.groups, found.rescalings) == ([], [{"a": 1, "b": -1}])


def test_complex_numbers_and_constants():
    found = onsphere.find_symmetries(Phase(), torch.randn(16, 8))
    assert sorted(found.groups) == [("c",), ("same",)]


def test_a_complex_tensor_that_depends():
    deviations = onsphere.symmetry.scale_deviations(Fourier(), torch.randn(16, 8))
    assert deviations == pytest.approx({"a": 1.0, "b": 1.0})


def test_spheres_of_complex_numbers_are_refused_by_name():
    model = Spectral()
    groups = onsphere.sphere_groups(model, torch.randn(16, 8))
    assert groups[0]["names"] == ["w"]
    with pytest.raises(TypeError, match=r"'w' has dtype torch.complex64; a sphere holds real"):
        onsphere.SphereSGD(groups, lr=1e-3)
    with pytest.raises(TypeError, match=r"'w' has dtype torch.complex64"):
        onsphere.curvature.top_eigenvalues(
            model, nn.functional.cross_entropy, (torch.randn(16, 8), torch.randint(3, (16,))), sphere=True
        )
