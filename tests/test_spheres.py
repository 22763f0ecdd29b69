import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from onsphere.products import inner, row_inner, squared_norm
from onsphere.spheres import Sphere

SHAPES = [(4, 3), (5,), (2, 3, 2, 2), ()]


def tensors(seed=0, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def flat(xs):
    return torch.cat([x.reshape(-1).double() for x in xs])


def test_norm_and_inner_product_equal_those_of_the_concatenation():
    x, y = tensors(1), tensors(2)
    torch.testing.assert_close(squared_norm(x), flat(x) @ flat(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(inner(x, y), flat(x) @ flat(y), rtol=1e-13, atol=0)
    assert squared_norm(x[0]).item() == squared_norm([x[0]]).item()  # a tensor is one tensor, not its rows
    assert inner(x[0], y[0]).item() == inner([x[0]], [y[0]]).item()


def test_float32_sums_accumulate_in_float64():
    # In float32 the ones after 2^24 are lost.
    x = torch.ones(2**24 + 8).view(-1, 8)
    assert squared_norm(x).item() == 2**24 + 8
    assert squared_norm(x).dtype == inner(x, x).dtype == row_inner(x, x).dtype == torch.float64
    tiny = torch.full((10,), 1e-25)
    assert math.isclose(squared_norm(tiny).item(), 1e-49, rel_tol=1e-6)


def test_functions_run_under_vmap_and_make_fx():
    x, y = [torch.randn(3, 4, 2), torch.randn(3, 5)], [torch.randn(3, 4, 2), torch.randn(3, 5)]
    both = torch.func.vmap(lambda a, b: (squared_norm(a), inner(a, b)))
    squares, products = both(x, y)
    assert squares.shape == products.shape == (3,)
    for k in range(3):
        torch.testing.assert_close(products[k], inner([x[0][k], x[1][k]], [y[0][k], y[1][k]]))
        torch.testing.assert_close(squares[k], squared_norm([x[0][k], x[1][k]]))
    torch.testing.assert_close(make_fx(both)(x, y)(x, y), both(x, y))


def test_joint_radius_and_shares():
    sphere = Sphere([torch.tensor([3.0]), torch.tensor([[4.0]])])
    assert sphere.radius == 5.0
    torch.testing.assert_close(sphere.shares(), torch.tensor([0.36, 0.64], dtype=torch.float64))
    assert repr(sphere) == "Sphere(joint, 2 tensors, 2 numbers, radius=5)"


def test_rows_have_a_radius_each():
    x = tensors()
    radius = Sphere(x, rows=True).radius
    assert [r.shape for r in radius] == [(4,), (), (2,), ()]
    torch.testing.assert_close(radius[2], x[2].flatten(1).norm(dim=1))
    torch.testing.assert_close(radius[3], x[3].abs())
    assert Sphere(x, rows=True).shares().sum().item() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("rows", [False, True])
def test_projection_keeps_directions_and_reaches_the_radius(rows):
    x = tensors()
    sphere = Sphere([t.clone() for t in x], rows=rows)
    recorded = sphere.radius
    for t in sphere.tensors:
        t.mul_(1.7)
    assert sphere.project_() is sphere
    for t, old in zip(sphere.tensors, x, strict=True):
        torch.testing.assert_close(t, old, rtol=1e-14, atol=0)
    torch.testing.assert_close(sphere.radius, recorded)
    sphere.project_(2.5)
    angle = sphere.angle_to(x)
    if rows:
        assert all(bool((n - 2.5).abs().max() < 1e-14) for n in sphere.norm())
        assert [r.shape for r in sphere.radius] == [(4,), (), (2,), ()]
        assert all(a.max() < 1e-15 for a in angle)
    else:
        assert sphere.norm() == pytest.approx(2.5, rel=1e-14)
        assert sphere.radius == 2.5
        assert angle < 1e-15


def test_rows_can_be_given_different_radii():
    x = [torch.randn(3, 2), torch.randn(4)]
    Sphere(x, rows=True).project_([torch.tensor([1.0, 2.0, 3.0]), torch.tensor(4.0)])
    torch.testing.assert_close(x[0].norm(dim=1), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(x[1].norm(), torch.tensor(4.0))


@pytest.mark.parametrize("rows", [False, True])
def test_the_tangent_part_is_orthogonal_and_a_projection(rows):
    x, v = tensors(1), tensors(2)
    sphere = Sphere(x, rows=rows)
    t = sphere.tangent(v)
    again = sphere.tangent(t)
    products = [row_inner(a, b) for a, b in zip(x, t, strict=True)] if rows else [inner(x, t)]
    assert max(float(p.abs().max()) for p in products) < 1e-14
    for a, b, c in zip(t, again, v, strict=True):
        torch.testing.assert_close(a, b, atol=1e-14, rtol=0)
        assert a is not c
    changed = sphere.tangent_(v)
    assert changed[0] is v[0]
    for a, b in zip(t, v, strict=True):
        torch.testing.assert_close(a, b, atol=1e-15, rtol=0)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-3, 1.0, 3.0, math.pi - 1e-9])
def test_angles_are_exact_at_every_size(angle):
    e, n = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    e[0] = n[1] = 1.0
    turned = 3.0 * (math.cos(angle) * e + math.sin(angle) * n)
    assert Sphere([e]).angle_to([turned]) == pytest.approx(angle, rel=1e-12)
    [a] = Sphere([e[None]], rows=True).angle_to(Sphere([turned[None]], rows=True))
    assert a.shape == (1,)
    assert a.item() == pytest.approx(angle, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 23), seed=st.integers(0, 99))
def test_a_joint_sphere_does_not_see_how_the_numbers_are_split(cut, seed):
    [x], [y] = tensors(seed, shapes=[(24,)]), tensors(seed + 1000, shapes=[(24,)])
    whole, split = Sphere([x]), Sphere([x[:cut], x[cut:]])
    assert split.radius == pytest.approx(whole.radius, rel=1e-14)
    assert split.angle_to([y[:cut], y[cut:]]) == pytest.approx(whole.angle_to(y), rel=1e-13)
    torch.testing.assert_close(flat(split.tangent([y[:cut], y[cut:]])), flat(whole.tangent(y)), atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("given", "rows", "error", "message"),
    [
        ([], False, ValueError, "is empty"),
        ([torch.zeros(3)], False, ValueError, "no direction"),
        ([torch.tensor([1.0, math.inf])], False, ValueError, "infinities or NaNs"),
        ([torch.tensor([[math.nan]])], True, ValueError, "tensor 0 holds infinities"),
        ([torch.tensor([[1.0], [0.0]])], True, ValueError, r"rows that are zero .*\[1\]"),
        ([torch.arange(3)], False, TypeError, "int64"),
        ([torch.ones(2, dtype=torch.complex64)], False, TypeError, "complex64"),
        (["weights"], False, TypeError, "is a str"),
    ],
)
def test_what_has_no_direction_is_refused(given, rows, error, message):
    with pytest.raises(error, match=message):
        Sphere(given, rows=rows)


@pytest.mark.parametrize(
    ("radius", "rows", "message"),
    [
        (0.0, False, "radius is 0.0; it must be positive"),
        (math.nan, False, "positive and finite"),
        ("big", True, "it must be a positive number or a list"),
        ([torch.ones(2)], False, "it must be a positive number$"),
        ([torch.ones(2), torch.ones(2)], True, "2 entries for 1 tensors"),
        ([torch.ones(3)], True, "tensor 0 has 2 rows"),
        ([torch.tensor([1.0, -1.0])], True, "every radius must be positive"),
    ],
)
def test_a_wrong_radius_is_refused_and_nothing_moves(radius, rows, message):
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match=message):
        Sphere([x], rows=rows).project_(radius)
    assert torch.equal(x, torch.ones(2, 2))


def test_wrong_shapes_are_refused():
    sphere = Sphere([torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"tensor 0 has shape \(3, 2\); it must be \(2, 3\)"):
        sphere.tangent([torch.ones(3, 2)])
    with pytest.raises(ValueError, match="2 tensors were given for 1"):
        sphere.tangent_([torch.ones(2, 3)] * 2)
    with pytest.raises(ValueError, match="it must be"):
        sphere.angle_to([torch.ones(6)])
    with pytest.raises(ValueError, match="it must be"):
        inner(torch.ones(2), torch.ones(3))


def test_a_projection_of_collapsed_tensors_is_refused():
    x = torch.ones(3)
    sphere = Sphere([x])
    x.zero_()
    with pytest.raises(ValueError, match="no direction"):
        sphere.project_()
