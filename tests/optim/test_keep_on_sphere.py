"""Any torch optimiser kept on spheres."""

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn

from onsphere.optim import SphereSGD, keep_on_sphere, release
from onsphere.spheres import Sphere

OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "AdamW-foreach": lambda p: torch.optim.AdamW(p, 0.1, foreach=True),
    "AdamW-fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "Muon": lambda p: torch.optim.Muon(p, 0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1),
}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in [(4, 3), (5, 2)]]


def loss(params):
    """Scale-invariant in all of them together."""
    flat = torch.cat([p.flatten() for p in params])
    return (flat / flat.norm()).cumsum(0).square().sum()


def train(params, optimizer, steps=10):
    def closure():
        optimizer.zero_grad()
        value = loss(params)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_every_optimiser_stays_and_moves_and_is_released(make, kind):
    params, free = weights(), nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = make([*params, free])
    sphere = Sphere(params, rows=kind == "rows")
    start = [p.detach().clone() for p in params]
    groups = [{"params": params, "sphere": kind}, {"params": [free]}]
    assert keep_on_sphere(optimizer, groups) is optimizer
    train([*params, free], optimizer)
    torch.testing.assert_close(sphere.norm(), sphere.radius, rtol=1e-13, atol=0)
    assert Sphere(params).angle_to(start) > 0.01
    release(optimizer)
    train([*params, free], optimizer)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(sphere.norm(), sphere.radius, rtol=1e-9, atol=0)
    assert "spheres" not in optimizer.state_dict()


def test_each_step_is_the_optimisers_own_and_then_a_rescaling():
    one, two = weights(), weights()
    kept = keep_on_sphere(torch.optim.SGD(one, 0.3), [{"params": one, "sphere": "joint"}])
    radius = Sphere(two).radius
    plain = torch.optim.SGD(two, 0.3)
    for _ in range(3):
        train(one, kept, 1)
        train(two, plain, 1)
        Sphere(two).project_(radius)
        torch.testing.assert_close(one, two, rtol=1e-14, atol=1e-15)


def test_sgd_kept_at_lr_elr_radius_squared_is_sphere_sgd():
    one, two = weights(), weights()
    radius = Sphere(one).radius
    train(one, keep_on_sphere(torch.optim.SGD(one, 0.01 * radius**2), [{"params": one, "sphere": "joint"}]))
    train(two, SphereSGD([{"params": two, "sphere": "joint"}], 0.01))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_the_published_momentum_step_is_kept_sgd_and_not_sphere_sgd(momentum, radius):
    """Published: v <- m v + g, x <- x - lr v, x <- rho x / |x|, the buffer as it is."""
    kept, sphere, hand = (weights() for _ in range(3))
    elr = 0.02
    for params in (kept, sphere, hand):
        Sphere(params).project_(radius)
    group = {"params": kept, "sphere": "joint"}
    train(kept, keep_on_sphere(torch.optim.SGD(kept, elr * radius**2, momentum=momentum), [group]), 20)
    train(sphere, SphereSGD([{"params": sphere, "sphere": "joint"}], elr, momentum=momentum), 20)
    buffers = [torch.zeros_like(p) for p in hand]
    for _ in range(20):
        grads = torch.autograd.grad(loss(hand), hand)
        with torch.no_grad():
            for p, v, g in zip(hand, buffers, grads, strict=True):
                p.sub_(elr * radius**2 * v.mul_(momentum).add_(g))
            norm = torch.cat([p.flatten() for p in hand]).norm()
            for p in hand:
                p.mul_(radius / norm)
    assert Sphere(kept).angle_to(hand) < 1e-13
    assert Sphere(sphere).angle_to(hand) > 1e-4


def test_the_groups_of_the_optimiser_can_be_the_sphere_groups():
    params = weights()
    groups = [{"params": params[:1], "sphere": "joint"}, {"params": params[1:]}]
    optimizer = keep_on_sphere(torch.optim.AdamW(groups, 0.1), groups)
    radius = Sphere(params[:1]).radius
    train(params, optimizer)
    assert Sphere(params[:1]).radius == pytest.approx(radius, rel=1e-13)


@pytest.mark.parametrize("radius", [2.0, [torch.arange(1.0, 5.0), torch.ones(5)]])
def test_a_given_radius_is_taken_at_once(radius):
    params = weights()
    kind = "rows" if isinstance(radius, list) else "joint"
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), [{"params": params, "sphere": kind, "radius": radius}])
    for _ in range(2):
        norm = Sphere(params, rows=kind == "rows").norm()
        assert torch.equal(optimizer.state_dict()["spheres"][0][0], radius[0].double()) if kind == "rows" else True
        expected = radius if kind == "joint" else [r.double() for r in radius]
        torch.testing.assert_close(norm, expected, rtol=1e-13, atol=0)
        train(params, optimizer)


@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_radii_are_part_of_a_checkpoint(kind):
    params = weights()
    optimizer = keep_on_sphere(torch.optim.AdamW(params, 0.1), [{"params": params, "sphere": kind}])
    norm = Sphere(params, rows=kind == "rows").norm()
    train(params, optimizer)
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = weights(1)
    loaded = keep_on_sphere(torch.optim.AdamW(other, 0.1), [{"params": other, "sphere": kind}])
    loaded.load_state_dict(state)
    train(other, loaded)
    torch.testing.assert_close(Sphere(other, rows=kind == "rows").norm(), norm, rtol=1e-13, atol=0)
    assert "spheres" in state  # loading does not eat the caller's dictionary
    # and both ways between kept and free optimisers
    torch.optim.AdamW(other, 0.1).load_state_dict(state)
    loaded.load_state_dict(torch.optim.AdamW(weights(2), 0.1).state_dict())
    train(other, loaded)
    torch.testing.assert_close(Sphere(other, rows=kind == "rows").norm(), norm, rtol=1e-13, atol=0)


def test_a_state_that_does_not_fit_changes_nothing():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), [{"params": params, "sphere": "joint"}])
    good = copy.deepcopy(optimizer.state_dict())
    for radii, message in (([1.0, 2.0], "2 spheres, this optimizer is kept on 1"), ([-1.0], "radius is -1.0")):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(good | {"spheres": radii})
    with pytest.raises(ValueError, match="number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": [], "spheres": [7.0]})
    assert optimizer.state_dict() == good
    optimizer.load_state_dict({name: value for name, value in good.items() if name != "spheres"})
    assert optimizer.state_dict() == good


def test_the_optimiser_is_not_kept_alive():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), [{"params": params, "sphere": "joint"}])
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None


def test_copies_are_free_until_they_are_kept():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), [{"params": params, "sphere": "joint"}])
    new_params, twin = copy.deepcopy((params, optimizer))
    with pytest.raises(ValueError, match="is not kept"):
        release(twin)
    keep_on_sphere(twin, [{"params": new_params, "sphere": "joint"}])
    release(twin)
    release(optimizer)


def test_mistakes():
    params, stranger = weights(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD(params, 0.1)
    group = {"params": params, "sphere": "joint"}
    for groups, message in (
        ([], "no group has a sphere"),
        ([{"params": params}], "no group has a sphere"),
        ([{"params": params, "sphere": "cube"}], "\"sphere\": 'cube'"),
        ([group, {"params": [stranger], "sphere": "joint", "names": ["head.weight"]}], "parameter 'head.weight'"),
        ([{"params": stranger, "sphere": "joint"}], r"parameter 0 of its group \(shape \(3,\)\)"),
        ([group, {"params": params[:1], "sphere": "rows", "names": ["w"]}], "parameter 'w' is given more than once"),
        ([{"params": params[:1] * 2, "sphere": "joint"}], "given more than once"),
        ([group | {"radius": 0.0}], "radius is 0.0"),
        ([{"params": [], "sphere": "joint"}], "no parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            keep_on_sphere(optimizer, groups)
    with pytest.raises(ValueError, match="is not kept"):
        release(optimizer)
    keep_on_sphere(optimizer, [group])
    with pytest.raises(ValueError, match="kept on spheres already"):
        keep_on_sphere(optimizer, [group])
    release(optimizer)
    with pytest.raises(ValueError, match="is not kept"):
        release(optimizer)
    with pytest.raises(TypeError, match="was given a list"):
        keep_on_sphere(params, [group])
    with pytest.raises(ValueError, match="by itself"):
        keep_on_sphere(SphereSGD([group], 0.1), [group])
