"""A gradient with one entry that is not finite damages that entry, as it does with torch's optimisers, and no other."""

import copy
import math

import pytest
import torch
from torch import nn

from onsphere.optim import SphereSGD, keep_on_sphere, sphere_sgd
from onsphere.spheres import Sphere

POISONS = [math.inf, -math.inf, math.nan]


def parameters(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in [(4, 3), (5, 2), (6,)]]
    return [nn.Parameter(p.to(dtype)) for p in made]


def give_gradients(params, poison=None):
    for i, gradient in enumerate(parameters(9)):
        params[i].grad = gradient.detach().to(params[i].dtype)
    if poison is not None:
        params[0].grad[1, 2] = poison


def damaged(params):
    """Places that are not finite: (tensor, flat index)."""
    return [(i, int(j)) for i, p in enumerate(params) for j in (~p.isfinite()).flatten().nonzero()]


SPHERE_SGD = {
    f"{kind}-{'pure' if foreach is False else 'in place'}{'-momentum' * (momentum > 0)}{'-geodesic' * geodesic}": (
        kind,
        {"foreach": foreach, "momentum": momentum, "geodesic": geodesic},
    )
    for kind in ("joint", "rows")
    for foreach in (None, False)
    for momentum in (0.0, 0.9)
    for geodesic in (False, True)
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "options"), SPHERE_SGD.values(), ids=SPHERE_SGD)
def test_sphere_sgd_damages_what_is_poisoned_alone(kind, options, dtype, poison):
    params = parameters(dtype=dtype)
    optimizer = SphereSGD([{"params": params, "sphere": kind}], 2e-3, **options)
    give_gradients(params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    give_gradients(params, poison)
    optimizer.step()
    assert damaged(params) == [(0, 5)]
    for now, old in zip(params, before, strict=True):
        sound = now.isfinite()
        assert (now[sound] != 0).all()
        # as far as one step goes, and no rescaling by a norm that is not a number
        assert (now[sound] - old[sound]).abs().max() < 0.8
    # the buffer is damaged where the weight is; a sound gradient then moves the others on
    give_gradients(params)
    optimizer.step()
    assert damaged(params) == [(0, 5)]


@pytest.mark.parametrize("poison", POISONS)
def test_other_rows_stay_on_their_spheres(poison):
    params = parameters()
    optimizer = SphereSGD([{"params": params, "sphere": "rows"}], 1e-2, momentum=0.5)
    give_gradients(params, poison)
    optimizer.step()
    radii = optimizer.param_groups[0]["radius"]
    torch.testing.assert_close(params[0].detach().norm(dim=1)[[0, 2, 3]], radii[0][[0, 2, 3]])
    torch.testing.assert_close(params[1].detach().norm(dim=1), radii[1])


@pytest.mark.parametrize("poison", POISONS)
def test_the_step_is_that_of_torch_sgd_where_the_norm_is_not_finite(poison):
    params = parameters()
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    radius = Sphere(params).radius
    mine, theirs = SphereSGD([{"params": params, "sphere": "joint"}], 0.01), torch.optim.SGD(plain, 0.01 * radius**2)
    for p in (params, plain):
        give_gradients(p, poison)
    mine.step()
    theirs.step()
    for a, b in zip(params, plain, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01),
    "momentum-foreach": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["joint", "rows"])
@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_kept_optimisers_are_left_as_they_stepped(make, kind, dtype, poison):
    params, plain = parameters(dtype=dtype), parameters(dtype=dtype)
    kept, free = keep_on_sphere(make(params), [{"params": params, "sphere": kind}]), make(plain)
    for p in (params, plain):
        give_gradients(p, poison)
    kept.step()
    free.step()
    assert damaged(params) == damaged(plain) == [(0, 5)]
    if kind == "joint":
        for a, b in zip(params, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert torch.equal(params[0][1].nan_to_num(), plain[0][1].nan_to_num())
        radii = Sphere(parameters(dtype=dtype), rows=True).radius
        torch.testing.assert_close(
            params[1].detach().double().norm(dim=1), radii[1], rtol=1e-6 if dtype is torch.float32 else 4e-3, atol=0
        )


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("geodesic", [False, True])
def test_the_pure_step_under_vmap(poison, momentum, geodesic):
    params = [torch.stack([p.detach()] * 3) for p in parameters()]
    grads = [torch.stack([p.detach()] * 3) for p in parameters(9)]
    grads[0][1, 1, 2] = poison
    buffers = [torch.zeros_like(p) for p in params] if momentum else []

    def one(x, g, v):
        return sphere_sgd(x, g, v, lr=0.01, radius=2.0, momentum=momentum, geodesic=geodesic)

    new, _ = torch.func.vmap(one)(params, grads, buffers)
    assert damaged([t[0] for t in new]) == damaged([t[2] for t in new]) == []
    assert damaged([t[1] for t in new]) == [(0, 5)]
    assert Sphere([t[0] for t in new]).radius == pytest.approx(2.0, rel=1e-13)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("poison", POISONS)
def test_the_tangent_part_of_such_a_vector_is_the_vector(rows, poison):
    params = [p.detach() for p in parameters()]
    give_gradients(vectors := parameters(), poison)
    grads = [p.grad for p in vectors]
    sphere = Sphere(params, rows=rows)
    assert damaged(sphere.tangent(grads)) == [(0, 5)]
    assert damaged(sphere.tangent_([g.clone() for g in grads])) == [(0, 5)]


# -- radii that no weights can have ------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1e300, 1e-300, math.nan, -3.0, math.inf, 0.0])
def test_radii_out_of_range_are_refused_and_change_nothing(radius):
    params = parameters(dtype=torch.float32)
    before = [p.detach().clone() for p in params]
    group = {"params": params, "sphere": "joint"}
    for make in (
        lambda: SphereSGD([group], 0.1, radius=radius),
        lambda: SphereSGD([group | {"radius": radius}], 0.1),
        lambda: keep_on_sphere(torch.optim.AdamW(params), [group | {"radius": radius}]),
        lambda: Sphere(params).project_(radius),
        lambda: SphereSGD([group | {"sphere": "rows", "radius": radius}], 0.1),
        lambda: Sphere(params, rows=True).project_([torch.full((n,), radius, dtype=torch.float64) for n in (4, 5, 1)]),
    ):
        with pytest.raises(ValueError, match="radius"):
            make()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [
        (torch.float32, (1e-18, 1e19), (1e-20, 1e20)),
        (torch.bfloat16, (1e-18, 1e19), (1e-20, 1e20)),
        (torch.float16, (1e-4, 6e4), (1e-5, 7e4)),
        (torch.float64, (1e-153, 1e154), (1e-155, 1e155)),
    ],
)
def test_the_range_of_radii_follows_from_the_dtype(dtype, inside, outside):
    for radius in inside:
        made = SphereSGD([{"params": parameters(dtype=dtype), "sphere": "joint", "radius": radius}], 0.1)
        assert made.param_groups[0]["radius"] == radius
    for radius in outside:
        with pytest.raises(ValueError, match=r"a radius is .*; with weights of \w+ it must be from .* to"):
            SphereSGD([{"params": parameters(dtype=dtype), "sphere": "joint", "radius": radius}], 0.1)


def test_weights_whose_own_norm_is_out_of_range_are_refused():
    params = parameters(dtype=torch.float32)
    with torch.no_grad():
        params[0].fill_(1e25)
    with pytest.raises(ValueError, match="rescale the weights first"):
        SphereSGD([{"params": params, "sphere": "joint"}], 0.1)
    with pytest.raises(ValueError, match="rescale the weights first"):
        keep_on_sphere(torch.optim.AdamW(params), [{"params": params, "sphere": "rows"}])


@pytest.mark.parametrize("kind", ["joint", "rows"])
@pytest.mark.parametrize("radius", [math.nan, -3.0, 0.0, 1e300, "two"])
def test_a_state_with_an_impossible_radius_is_refused_and_changes_nothing(kind, radius):
    params = parameters(dtype=torch.float32)
    group = {"params": params, "sphere": kind}
    optimizer = SphereSGD([group], 0.1)
    good = copy.deepcopy(optimizer.state_dict())
    bad = copy.deepcopy(good)
    if kind == "rows" and not isinstance(radius, str):
        bad["param_groups"][0]["radius"][1][2] = radius
    else:
        bad["param_groups"][0]["radius"] = radius
    with pytest.raises(ValueError, match=r"group 0 of the loaded state: .*radius"):
        optimizer.load_state_dict(bad)
    assert str(optimizer.state_dict()) == str(good)
    optimizer.load_state_dict(good)
