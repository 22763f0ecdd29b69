"""The pure updates against the formulas of the theory and against torch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from onsphere.optim import sgd, sphere_sgd
from onsphere.products import inner, squared_norm
from onsphere.spheres import Sphere

shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4).filter(
    lambda many: sum(math.prod(shape) for shape in many) > 1
)
rates = st.floats(1e-6, 3.0)
radii = st.floats(1e-2, 1e2)


def draw(shape_list, seed, radius):
    generator = torch.Generator().manual_seed(seed)
    x, g, v = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shape_list] for _ in range(3))
    sphere = Sphere(x).project_(radius)
    return x, sphere.tangent(g), v


def norm(xs):
    return math.sqrt(squared_norm(xs).item())


@settings(max_examples=60, deadline=None)
@given(shapes=shapes, lr=rates, radius=radii, seed=st.integers(0, 10**6))
def test_the_tangent_of_the_angle_is_the_effective_step(shapes, lr, radius, seed):
    x, g, _ = draw(shapes, seed, radius)
    new, _ = sphere_sgd(x, g, [], lr=lr, radius=radius)
    assert norm(new) == pytest.approx(radius, rel=1e-13)
    assert math.tan(Sphere(x).angle_to(new)) == pytest.approx(lr * radius * norm(g), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(shapes=shapes, lr=rates, radius=radii, seed=st.integers(0, 10**6))
def test_the_geodesic_turns_by_the_effective_step_in_the_same_plane(shapes, lr, radius, seed):
    x, g, _ = draw(shapes, seed, radius)
    phi = lr * radius * norm(g)
    new, _ = sphere_sgd(x, g, [], lr=lr, radius=radius, geodesic=True)
    assert norm(new) == pytest.approx(radius, rel=1e-13)
    # the angle itself where phi < pi, and its sine and cosine in the plane of x and g for any phi
    assert inner(x, new).item() / radius**2 == pytest.approx(math.cos(phi), abs=1e-9)
    assert -inner(g, new).item() / (norm(g) * radius) == pytest.approx(math.sin(phi), abs=1e-9)
    if phi < math.pi:
        assert Sphere(x).angle_to(new) == pytest.approx(phi, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    cut=st.integers(1, 19),
    lr=rates,
    momentum=st.sampled_from([0.0, 0.9]),
    geodesic=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_the_update_does_not_see_how_the_numbers_are_split(cut, lr, momentum, geodesic, seed):
    x, g, v = draw([(20,)], seed, 3.0)
    halves = [[t[0][:cut], t[0][cut:]] for t in (x, g, v)]
    options = {"lr": lr, "radius": 3.0, "momentum": momentum, "geodesic": geodesic}
    whole, whole_v = sphere_sgd(x, g, v if momentum else [], **options)
    split, split_v = sphere_sgd(halves[0], halves[1], halves[2] if momentum else [], **options)
    torch.testing.assert_close(torch.cat(split), whole[0], rtol=0, atol=1e-12)
    if momentum:
        torch.testing.assert_close(torch.cat(split_v), whole_v[0], rtol=0, atol=1e-12)


def test_a_radial_part_of_the_gradient_does_not_turn_a_geodesic():
    x, g, _ = draw([(3, 4)], 0, 2.0)
    a, _ = sphere_sgd(x, g, [], lr=0.1, radius=2.0, geodesic=True)
    b, _ = sphere_sgd(x, [g[0] + 5 * x[0]], [], lr=0.1, radius=2.0, geodesic=True)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_momentum_acts_on_the_tangent_part_of_the_buffer():
    x, g, v = draw([(3, 4), (5,)], 1, 2.0)
    radial = [b + 7 * t for b, t in zip(v, x, strict=True)]
    one, one_v = sphere_sgd(x, g, v, lr=0.1, radius=2.0, momentum=0.9)
    two, two_v = sphere_sgd(x, g, radial, lr=0.1, radius=2.0, momentum=0.9)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-13)
    torch.testing.assert_close(one_v, two_v, rtol=0, atol=1e-13)
    assert abs(inner(x, one_v).item()) < 1e-13
    by_hand = [0.9 * t + h for t, h in zip(Sphere(x).tangent(v), g, strict=True)]
    torch.testing.assert_close(one_v, by_hand, rtol=0, atol=1e-13)


@pytest.mark.parametrize("geodesic", [False, True])
def test_a_zero_gradient_moves_nothing_and_divides_nothing(geodesic):
    x, _, _ = draw([(3,)], 2, 2.0)
    new, _ = sphere_sgd(x, [torch.zeros_like(x[0])], [], lr=0.1, radius=2.0, geodesic=geodesic)
    torch.testing.assert_close(new, x, rtol=1e-15, atol=0)


def test_the_origin_stays_and_what_is_not_finite_damages_itself_alone():
    x = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    new, _ = sphere_sgd(x, x, [], lr=1.0, radius=1.0)  # x - g = 0 exactly
    assert torch.equal(new[0], torch.zeros(2, dtype=torch.float64))
    new, _ = sphere_sgd(x, [torch.tensor([0.0, math.nan], dtype=torch.float64)], [], lr=1.0, radius=1.0)
    assert new[0].isnan().tolist() == [False, True] and new[0][0] == 1.0


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("geodesic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmapped_and_traced_copies_equal_single_ones(momentum, geodesic, dtype):
    K = 3
    generator = torch.Generator().manual_seed(0)
    x, g, v = ([torch.randn(K, *s, generator=generator, dtype=dtype) for s in [(4, 3), (5,), ()]] for _ in range(3))
    v = v if momentum else []
    lr, radius, beta = (torch.rand(K, generator=generator, dtype=dtype) + c for c in (0.0, 1.0, 0.0))

    def one(x, g, v, lr, radius, beta):
        return sphere_sgd(x, g, v, lr=lr, radius=radius, momentum=beta, geodesic=geodesic)

    many = torch.func.vmap(one)
    new, buffers = many(x, g, v, lr, radius, beta)
    assert [t.dtype for t in new] == [dtype] * 3
    traced = make_fx(many)(x, g, v, lr, radius, beta)
    torch.testing.assert_close(traced(x, g, v, lr, radius, beta), (new, buffers), rtol=0, atol=0)
    for k in range(K):
        pick = [[t[k] for t in many_tensors] for many_tensors in (x, g, v)]
        tolerance = {"rtol": 0, "atol": 1e-13 if dtype is torch.float64 else 1e-6}
        single, single_v = one(*pick, lr[k], radius[k], beta[k])
        floats, _ = one(*pick, lr[k].item(), radius[k].item(), beta[k].item())
        torch.testing.assert_close([t[k] for t in new], single, **tolerance)
        torch.testing.assert_close([t[k] for t in buffers], single_v, **tolerance)
        torch.testing.assert_close(floats, single, **tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sgd_is_that_of_torch(momentum, weight_decay, dtype):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator, dtype=dtype) for s in [(4, 3), (5,)]]
    reference = [torch.nn.Parameter(p.clone()) for p in params]
    optimizer = torch.optim.SGD(reference, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    buffers = [torch.zeros_like(p) for p in params] if momentum else []
    as_tensors = [p.clone() for p in params], [b.clone() for b in buffers]
    hyper = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    for _ in range(10):
        grads = [torch.randn(p.shape, generator=generator, dtype=dtype) for p in params]
        for p, g in zip(reference, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        params, buffers = sgd(params, grads, buffers, **hyper)
        tensors = {name: torch.tensor(value, dtype=dtype) for name, value in hyper.items()}
        as_tensors = sgd(as_tensors[0], grads, as_tensors[1], **tensors)
    for p, t, r in zip(params, as_tensors[0], reference, strict=True):
        assert torch.equal(p, r)
        torch.testing.assert_close(t, r.detach())


def test_the_step_is_differentiable_in_the_learning_rate():
    x, g, _ = draw([(3, 2)], 3, 2.0)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lr: sphere_sgd(x, g, [], lr=lr, radius=2.0, geodesic=True)[0][0], (lr,))
