"""What is particular to SphereSGD: agreement with the pure functions and with torch, its radii, its messages."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onsphere.optim import SphereSGD, inplace, sphere_sgd, sums
from onsphere.optim.inplace import sphere_sgd_
from onsphere.optim.sums import inner_sum, square_sum
from onsphere.products import inner, row_inner, squared_norm
from onsphere.spheres import Sphere

SHAPES = [(4, 3, 3, 3), (7, 5), (6,), (9, 1030), (2, 4096), (3, 512), ()]


def parameters(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def joint(params, **more):
    return {"params": params, "sphere": "joint", **more}


# -- in place equals pure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sphere", ["joint", "rows"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("geodesic", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "lr", [1e-4, torch.tensor(1e-4, dtype=torch.float64), torch.tensor([1e-4], dtype=torch.float64)]
)
def test_in_place_equals_pure(sphere, momentum, geodesic, maximize, lr):
    many = [parameters() for _ in range(3)]
    options = {"momentum": momentum, "geodesic": geodesic, "maximize": maximize}
    optimizers = [
        SphereSGD([{"params": params, "sphere": sphere}], lr, foreach=foreach, **options)
        for params, foreach in zip(many, (True, False, None), strict=True)
    ]
    for step in range(5):
        for params, optimizer in zip(many, optimizers, strict=True):
            give_gradients(params, step)
            params[1].grad = None if step == 3 else params[1].grad
            optimizer.step()
    for a, b, c in zip(*many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        assert torch.equal(a, c)
    assert Sphere(many[0]).angle_to(parameters()) > 0.01


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("geodesic", [False, True])
@pytest.mark.parametrize("lr", [1e-4, torch.tensor(1e-4, dtype=torch.float64)])
def test_the_calls_made_on_accelerators_give_the_same(momentum, geodesic, lr, monkeypatch):
    one, two = parameters(), parameters()
    for params, on_cpu in ((one, True), (two, False)):
        for module in (inplace, sums):
            monkeypatch.setattr(module, "one_by_one", lambda _device, on_cpu=on_cpu: on_cpu)
        optimizer = SphereSGD([joint(params)], lr, momentum=momentum, geodesic=geodesic)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_step_needs_no_values(rows, lr, dtype):
    # Meta tensors have none: reading one back raises.
    x, g, v = ([torch.empty(s, device="meta", dtype=dtype) for s in SHAPES] for _ in range(3))
    lr = lr.to("meta") if isinstance(lr, torch.Tensor) else lr
    sphere_sgd_(x, g, v, lr=lr, radius=1.0, rows=rows, momentum=0.9, geodesic=True)
    sphere_sgd_(x, g, [], lr=lr, radius=1.0, rows=rows)
    new, _ = sphere_sgd(x, g, v, lr=lr, radius=1.0, momentum=0.9, geodesic=True)
    assert [t.dtype for t in new] == [dtype] * len(x)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 40), max_size=3).map(tuple), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 10**6),
)
def test_fast_sums_equal_exact_ones(shapes, dtype, seed):
    x, y = ([p.detach() for p in parameters(shapes, dtype, seed + i)] for i in (0, 1))
    tolerance = 1e-13 if dtype is torch.float64 else 1e-7
    torch.testing.assert_close(square_sum(x, rows=False), squared_norm(x), rtol=tolerance, atol=0)
    scale = math.sqrt(squared_norm(x) * squared_norm(y))
    torch.testing.assert_close(inner_sum(x, y), inner(x, y), rtol=0, atol=tolerance * scale)
    for t in x:
        torch.testing.assert_close(square_sum([t], rows=True), row_inner(t, t), rtol=2 * tolerance, atol=0)


@pytest.mark.parametrize("size", [1000, 2**18, 2**18 + 1, 3 * 2**17 + 128])
def test_fast_sums_of_large_float32_tensors(size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) + 0.5
    torch.testing.assert_close(square_sum([x], rows=False), squared_norm(x), rtol=5e-8, atol=0)
    rows = x[: size // 8 * 8].view(8, -1)
    torch.testing.assert_close(square_sum([rows], rows=True), row_inner(rows, rows), rtol=5e-8, atol=0)
    # one long float32 sum is not that good, or the test would show nothing
    if size > 2**17:
        assert abs(torch.linalg.vector_norm(x).double() ** 2 / squared_norm(x) - 1) > 5e-8


def test_channels_last_and_strided_parameters():
    params, plain = (parameters([(4, 3, 3, 3), (6, 10)]) for _ in range(2))
    with torch.no_grad():
        params[0].data = params[0].data.to(memory_format=torch.channels_last)
        params[1].data = torch.zeros(10, 12, dtype=torch.float64)[:, ::2].T.copy_(params[1])
    assert not params[0].is_contiguous()
    assert not params[1].is_contiguous()
    for sphere in ("joint", "rows"):
        for group in (params, plain):
            optimizer = SphereSGD([{"params": group, "sphere": sphere}], 0.01, momentum=0.9)
            for step in range(3):
                give_gradients(group, step)
                optimizer.step()
        for a, b in zip(params, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sphere", ["joint", "rows"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("foreach", [True, False])
def test_half_precision_and_mixtures(sphere, dtype, tolerance, foreach):
    params = [*parameters([(20, 30)], dtype), *parameters([(20, 30)], torch.float32, seed=1)]
    reference = [nn.Parameter(p.detach().double()) for p in params]
    for group in (params, reference):
        optimizer = SphereSGD([{"params": group, "sphere": sphere}], 1e-4, momentum=0.5, foreach=foreach)
        for step in range(3):
            give_gradients(group, step)
            optimizer.step()
    assert [p.dtype for p in params] == [dtype, torch.float32]
    for p, r in zip(params, reference, strict=True):
        torch.testing.assert_close(p.double(), r, rtol=tolerance, atol=tolerance)


# -- groups without a sphere -------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_other_groups_equal_torch_sgd_bit_for_bit(foreach, momentum, weight_decay, maximize):
    for dtype in (torch.float32, torch.float64):
        one, two, on_sphere = (parameters(dtype=dtype, seed=s) for s in (0, 0, 1))
        mine = SphereSGD(
            [joint(on_sphere), {"params": one, "lr": 0.1, "weight_decay": weight_decay}],
            lr=0.01,
            momentum=momentum,
            maximize=maximize,
            foreach=foreach,
        )
        theirs = torch.optim.SGD(two, 0.1, momentum, weight_decay=weight_decay, maximize=maximize)
        for step in range(5):
            for params, optimizer in ((one, mine), (two, theirs)):
                give_gradients(params, step)
                if step == 3:
                    params[0].grad = None
                optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_learning_rates_of_the_groups():
    a, b, c, d = ([p] for p in parameters([(3,)] * 4))
    groups = [joint(a), joint(b, lr=0.3), {"params": c}, {"params": d, "lr": 0.4}]
    assert [g["lr"] for g in SphereSGD(groups, 0.1).param_groups] == [0.1, 0.3, 0.1, 0.4]
    optimizer = SphereSGD(groups, 0.1, other_lr=0.2)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.3, 0.2, 0.4]
    optimizer = copy.deepcopy(optimizer)
    optimizer.add_param_group({"params": parameters([(2,)])})
    assert optimizer.param_groups[-1]["lr"] == 0.2
    assert all("other_lr" not in g for g in optimizer.param_groups)
    assert ["radius" in g for g in optimizer.param_groups] == [True, True, False, False, False]


def test_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    with pytest.raises(RuntimeError, match=r"parameter 'table' has a sparse gradient.*sparse=False"):
        optimizer = SphereSGD([joint([table.weight], names=["table"])], 0.1)
        table(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
    before = table.weight.detach().clone()
    SphereSGD([joint(parameters()), {"params": [table.weight]}], 0.1).step()
    torch.testing.assert_close(table.weight[[1, 2]], before[[1, 2]] - 0.1)
    assert torch.equal(table.weight[[0, 3, 4]], before[[0, 3, 4]])


# -- radii -------------------------------------------------------------------------------------------------


def test_the_radius_is_measured_or_given():
    assert SphereSGD([joint([nn.Parameter(torch.tensor([3.0, 4.0]))])], 0.1).param_groups[0]["radius"] == 5.0
    params, second = parameters(seed=1), parameters(seed=2)
    optimizer = SphereSGD([joint(params), joint(second, radius=3.0)], 0.1, radius=2.0)
    assert [g["radius"] for g in optimizer.param_groups] == [2.0, 3.0]
    assert [Sphere(g).radius for g in (params, second)] == pytest.approx([2.0, 3.0], rel=1e-14)
    assert Sphere(params).angle_to(parameters(seed=1)) < 1e-15
    optimizer.add_param_group(joint(third := parameters(seed=3)))
    assert Sphere(third).radius == pytest.approx(2.0, rel=1e-14)


def test_loaded_weights_come_back_to_the_radius():
    params = parameters()
    optimizer = SphereSGD([joint(params)], 1e-3)
    with torch.no_grad():
        for p in params:
            p.mul_(3)
    give_gradients(params, 0)
    optimizer.step()
    assert Sphere(params).radius == pytest.approx(optimizer.param_groups[0]["radius"], rel=1e-13)


@pytest.mark.parametrize("radius", [None, 2.0, [torch.arange(1.0, 5.0), torch.tensor(3.0)]])
def test_row_radii_survive_a_checkpoint(radius):
    params = parameters([(4, 3), (5,)])
    group = {"params": params, "sphere": "rows"} | ({} if radius is None else {"radius": radius})
    optimizer = SphereSGD([group], 0.01)
    expected = Sphere(params, rows=True).norm()
    if isinstance(radius, list):
        torch.testing.assert_close(expected[0], radius[0].double(), rtol=1e-14, atol=0)
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    other = parameters([(4, 3), (5,)], seed=5)
    loaded = SphereSGD([{"params": other, "sphere": "rows"}], 0.01)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    give_gradients(other, 0)
    loaded.step()
    torch.testing.assert_close(Sphere(other, rows=True).norm(), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("sphere", ["joint", "rows"])
def test_a_row_without_gradient_is_left_alone_a_joint_tensor_is_rescaled(sphere, foreach):
    params = parameters([(4, 3), (5, 2)])
    optimizer = SphereSGD([{"params": params, "sphere": sphere}], 0.01, momentum=0.9, foreach=foreach)
    give_gradients(params, 0)
    optimizer.step()
    left = params[1].detach().clone(), optimizer.state[params[1]]["momentum_buffer"].clone()
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], left[0]) == (sphere == "rows")
    assert torch.equal(optimizer.state[params[1]]["momentum_buffer"], left[1]) == (sphere == "rows")


@pytest.mark.parametrize("foreach", [True, False])
def test_the_origin_has_no_direction_and_is_left_by_the_next_gradient(foreach):
    x = nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer = SphereSGD([joint([x])], 1.0, foreach=foreach)
    x.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    assert x.tolist() == [0.0, 0.0]
    x.grad = torch.tensor([0.0, -3.0])
    optimizer.step()
    assert x.tolist() == [0.0, 1.0]


def test_momentum_stays_tangent_and_gives_lr_over_one_minus_momentum():
    # A constant effective gradient along a great circle: the steady angle a step is lr / (1 - momentum).
    x = nn.Parameter(torch.tensor([3.0, 0.0], dtype=torch.float64))
    lr, momentum = 1e-4, 0.9
    optimizer = SphereSGD([joint([x])], lr, momentum=momentum)
    for _ in range(300):
        before = x.detach().clone()
        x.grad = torch.stack([x[1], -x[0]]).detach() / 9.0  # of norm 1 / radius: one on the unit sphere
        optimizer.step()
        assert abs(before @ optimizer.state[x]["momentum_buffer"]) < 1e-15
    assert Sphere([before]).angle_to([x]) == pytest.approx(lr / (1 - momentum), rel=1e-4)


# -- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr is -0.1; it must be a finite number, zero or more"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": torch.ones(2)}, r"lr is a tensor of shape \(2,\)"),
        ({"lr": torch.tensor(-1.0)}, "lr is tensor"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"other_lr": -1.0}, "other_lr is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be at least 0 and less than 1"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": 5e-4}, r'The projection undoes.*"params": others, "weight_decay": 0.0005}'),
        ({"radius": 0.0}, "radius is 0.0; it must be positive"),
        ({"radius": [1.0]}, "it must be a positive number"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SphereSGD([joint(parameters()), {"params": parameters(seed=1)}], **({"lr": 0.1} | options))


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"sphere": "ball"}, ValueError, '"sphere": \'ball\'; it must be "joint"'),
        ({"sphere": 1}, ValueError, '"sphere": 1'),
        ({"sphere": "joint", "weight_decay": 0.1}, ValueError, "weight_decay is 0.1 for a sphere group"),
        ({"sphere": "joint", "lr": -1.0}, ValueError, "lr"),
        ({"sphere": "joint", "momentum": 2.0}, ValueError, "momentum is 2.0"),
        ({"sphere": "joint", "radius": -1.0}, ValueError, "radius is -1.0"),
        ({"sphere": "rows", "radius": [torch.ones(1)]}, ValueError, "1 entries for 2 tensors"),
        ({"radius": 1.0}, ValueError, 'a "radius" but no "sphere"'),
        ({"sphere": "joint", "params": []}, ValueError, "no parameters"),
        ({"sphere": "joint", "params": [torch.zeros(3)]}, ValueError, "no direction"),
        ({"sphere": "rows", "params": [torch.eye(3)[:2] * 0], "names": ["w"]}, ValueError, "parameter 'w' has rows"),
        ({"sphere": "joint", "params": [torch.ones(2, dtype=torch.complex64)]}, TypeError, "complex64"),
    ],
)
def test_wrong_groups_are_refused_and_leave_no_trace(group, error, message):
    optimizer = SphereSGD([joint(parameters())], 0.1)
    group = {"params": parameters([(2, 3), (4,)], seed=1)} | group
    with pytest.raises(error, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_weight_decay_of_the_others_with_a_default():
    groups = [joint(parameters(), weight_decay=0), {"params": parameters(seed=1)}]
    assert [g["weight_decay"] for g in SphereSGD(groups, 0.1, weight_decay=0.1).param_groups] == [0, 0.1]


@pytest.mark.parametrize("params", [parameters(), [{"params": parameters()}], [("w", parameters()[0])]])
def test_without_a_sphere_the_message_says_what_to_pass(params):
    with pytest.raises(ValueError, match=r"onsphere.sphere_groups\(model, batch\)"):
        SphereSGD(params, 0.1)


def test_what_torch_refuses_is_refused():
    weight = parameters([(3,)])
    with pytest.raises(TypeError, match="iterable of Tensors or dicts"):
        SphereSGD(weight[0], 0.1)
    with pytest.raises(TypeError, match="must be a dict, not a list"):
        SphereSGD([joint(weight)], 0.1).add_param_group([weight])
    with pytest.raises(ValueError, match="more than one parameter group"):
        SphereSGD([joint(weight), {"params": weight}], 0.1)


def test_a_state_of_other_groups_is_refused_and_changes_nothing():
    one, two = parameters([(3,)]), parameters([(3,)], seed=1)
    optimizer = SphereSGD([joint(one), {"params": two}], 0.1)
    before = copy.deepcopy(optimizer.state_dict())
    for other in (
        torch.optim.SGD([{"params": one}, {"params": two}], 0.2),
        SphereSGD([{"params": two}, joint(one)], 0.2),
    ):
        with pytest.raises(ValueError, match="made with the same groups"):
            optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict() == before


def test_states_of_older_versions_are_filled_in():
    params = parameters()
    optimizer = SphereSGD([joint(params)], 0.1)
    state = optimizer.state_dict()
    for name in ("radius", "geodesic", "maximize", "foreach", "momentum", "weight_decay"):
        del state["param_groups"][0][name]
    fresh = SphereSGD([joint(params)], 0.1)
    fresh.load_state_dict(state)
    assert fresh.state_dict() == optimizer.state_dict()
    give_gradients(params, 0)
    fresh.step()
