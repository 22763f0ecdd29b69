"""float16 and bfloat16 weights stay on their sphere: computed in float32, rounded once."""

import pytest
import torch
from torch import nn

from onsphere.optim import SphereSGD, keep_on_sphere, sphere_sgd
from onsphere.rounding import round_evenly
from onsphere.spheres import Sphere

#: Relative distance of neighbouring numbers at most.
GAPS = {torch.bfloat16: 2**-7, torch.float16: 2**-10}
SHAPES = [(32, 64), (48, 40)]


def parameters(dtype, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((scale * torch.randn(s, generator=generator)).to(dtype)) for s in SHAPES]


def worst(params, optimizer, rows=False, steps=40):
    """The largest relative distance from the sphere over some steps with tangent gradients of unit effective size."""
    sphere = Sphere(params, rows=rows)
    start = [p.detach().clone() for p in params]
    radii = torch.tensor([sphere.radius]) if not rows else torch.cat(sphere.radius)
    generator, found = torch.Generator().manual_seed(1), 0.0
    for _ in range(steps):
        here = Sphere([p.detach().double() for p in params])
        noise = here.tangent([torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in params])
        size = Sphere(noise).radius * here.radius
        for p, g in zip(params, noise, strict=True):
            p.grad = (g / size).to(p.dtype)
        optimizer.step()
        norms = torch.tensor([sphere.norm()]) if not rows else torch.cat(sphere.norm())
        found = max(found, float((norms / radii - 1).abs().max()))
    assert Sphere(params).angle_to(start) > 1e-3
    return found


@pytest.mark.parametrize("dtype", GAPS)
@pytest.mark.parametrize("elr", [0.3, 1e-2, 1e-3])
@pytest.mark.parametrize(
    "options", [{}, {"foreach": False}, {"momentum": 0.9}, {"momentum": 0.9, "foreach": False}, {"geodesic": True}]
)
def test_a_joint_sphere_is_kept(dtype, elr, options):
    params = parameters(dtype)
    optimizer = SphereSGD([{"params": params, "sphere": "joint"}], elr, **options)
    assert worst(params, optimizer) < GAPS[dtype] / 30
    assert [p.dtype for p in params] == [dtype] * 2


@pytest.mark.parametrize("dtype", GAPS)
@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"momentum": 0.9}, {"geodesic": True}])
def test_every_row_is_kept(dtype, options):
    params = parameters(dtype)
    optimizer = SphereSGD([{"params": params, "sphere": "rows"}], 1.0, **options)
    # 64 and 40 numbers a row: rounding averages out less
    assert worst(params, optimizer, rows=True) < GAPS[dtype] / 2.5


@pytest.mark.parametrize("dtype", GAPS)
@pytest.mark.parametrize("lr", [3.0, 0.3, 0.03])
@pytest.mark.parametrize(
    "make",
    [
        lambda p, lr: torch.optim.SGD(p, 40 * lr, momentum=0.9, weight_decay=1e-4),
        lambda p, lr: torch.optim.SGD(p, 400 * lr, foreach=True),
        lambda p, lr: torch.optim.AdamW(p, 0.1 * lr, eps=1e-4),
        lambda p, lr: torch.optim.Muon(p, 0.1 * lr),
    ],
    ids=["momentum", "SGD", "AdamW", "Muon"],
)
def test_a_kept_optimiser_is_kept(make, lr, dtype):
    params = parameters(dtype)
    optimizer = keep_on_sphere(make(params, lr), [{"params": params, "sphere": "joint"}])
    assert worst(params, optimizer) < GAPS[dtype] / 20


@pytest.mark.parametrize("dtype", GAPS)
def test_rows_of_a_kept_optimiser(dtype):
    params = parameters(dtype)
    optimizer = keep_on_sphere(torch.optim.SGD(params, 400.0), [{"params": params, "sphere": "rows"}])
    assert worst(params, optimizer, rows=True) < GAPS[dtype] / 2.5


@pytest.mark.parametrize("dtype", GAPS)
def test_a_mixture_with_float32_is_kept(dtype):
    params = [*parameters(dtype)[:1], *parameters(torch.float32)[1:]]
    assert worst(params, SphereSGD([{"params": params, "sphere": "joint"}], 0.01)) < GAPS[dtype] / 60
    optimizer = keep_on_sphere(torch.optim.SGD(params, 40.0), [{"params": params, "sphere": "joint"}])
    assert worst(params, optimizer) < GAPS[dtype] / 60


@pytest.mark.parametrize("dtype", GAPS)
def test_at_rest_nothing_wanders(dtype):
    params = parameters(dtype)
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), [{"params": params, "sphere": "joint", "radius": 50.0}])
    for _ in range(20):
        optimizer.step()
    before = [p.detach().clone() for p in params]
    for _ in range(20):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert Sphere(params).radius == pytest.approx(50.0, rel=GAPS[dtype] / 60)


@pytest.mark.parametrize("dtype", GAPS)
@pytest.mark.parametrize("factor", [0.999, 1.0005, 0.9, 3.0])
@pytest.mark.parametrize("rows", [False, True])
def test_a_sphere_is_projected_to_any_radius(dtype, factor, rows):
    params = parameters(dtype)
    sphere = Sphere(params, rows=rows)
    start = [p.detach().clone() for p in params]
    wanted = [factor * r for r in sphere.radius] if rows else factor * sphere.radius
    sphere.project_(wanted)
    tolerance = GAPS[dtype] / (3 if rows else 60)
    torch.testing.assert_close(sphere.norm(), wanted, rtol=tolerance, atol=0)
    assert Sphere(params).angle_to(start) < GAPS[dtype] / 2


def test_tangent_parts_are_tangent_as_far_as_one_rounding_allows():
    params, vectors = (parameters(torch.bfloat16, seed) for seed in (0, 1))
    with torch.no_grad():
        for v, p in zip(vectors, params, strict=True):
            v.add_(p)  # a large radial part
    sphere = Sphere([p.detach() for p in params])
    for tangent in (sphere.tangent([v.detach() for v in vectors]), sphere.tangent_([v.detach() for v in vectors])):
        assert [t.dtype for t in tangent] == [torch.bfloat16] * 2
        overlap = sum((a.double() * b.detach().double()).sum() for a, b in zip(tangent, params, strict=True))
        assert abs(float(overlap)) < 2e-4 * sphere.radius * Sphere(tangent).radius


def test_the_pure_step_equals_the_float32_step_rounded_once():
    x, g, v = ([p.detach() for p in parameters(torch.bfloat16, seed)] for seed in range(3))
    options = {"lr": 1e-4, "radius": Sphere(x).radius, "momentum": 0.9, "geodesic": True}
    new, buffers = sphere_sgd(x, g, v, **options)
    exact, exact_buffers = sphere_sgd(*([t.float() for t in ts] for ts in (x, g, v)), **options)
    for a, b in zip([*new, *buffers], [*exact, *exact_buffers], strict=True):
        assert torch.equal(a, b.bfloat16())


@pytest.mark.parametrize("dtype", GAPS)
def test_even_rounding_goes_to_a_neighbour_and_keeps_sums(dtype):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(10_000, generator=generator).to(dtype).float()
    for factor in (1.0, 1.0003, 0.9991, 1.1):
        exact = grid * factor
        rounded = round_evenly(exact, dtype, torch.tensor(0.3, dtype=torch.float64)).float()
        assert ((rounded - exact).abs() <= GAPS[dtype] * exact.abs() + 1e-7).all()
        assert float(rounded.double().norm() / exact.double().norm()) == pytest.approx(1, rel=GAPS[dtype] / 60)
    assert torch.equal(round_evenly(grid, dtype, torch.tensor(0.3, dtype=torch.float64)).float(), grid)
    odd = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")])
    assert round_evenly(odd, dtype, torch.tensor(0.1, dtype=torch.float64)).float().nan_to_num(7.0).tolist() == (
        odd.to(dtype).float().nan_to_num(7.0).tolist()
    )
