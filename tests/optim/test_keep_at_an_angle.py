"""keep_on_sphere with angle, tangent and policies: what becomes of an optimiser's update."""

import copy
import math

import pytest
import torch
from torch import nn

from onsphere.optim import Brake, Floor, SphereSGD, keep_on_sphere
from onsphere.spheres import Sphere

OPTIMISERS = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.1),
    "SGD with momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr),
    "AdamW fused": lambda p, lr: torch.optim.AdamW(p, lr, fused=True),
    "Adam with a tensor lr": lambda p, lr: torch.optim.Adam(p, torch.tensor(lr, dtype=torch.float64), foreach=False),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr),
    "NAdam": lambda p, lr: torch.optim.NAdam(p, lr),
    "Muon": lambda p, lr: torch.optim.Muon(p, lr),
}


SHAPES = [(24, 16), (5, 40)]


def weights(dtype=torch.float64, seed=0, scale=1.0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype)) for s in shapes]


def set_gradients(params, step, scale=1.0):
    """Gradients with a radial part: the function need not be scale-invariant."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (scale * (noise + 0.3 * p.detach())).to(p.dtype)


def groups(params, kind):
    return [{"params": params, "sphere": kind}]


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def angles(before, after, kind):
    xs, ys = ([t.detach().double() for t in ts] for ts in (before, after))
    found = Sphere(ys, rows=kind == "rows").angle_to(xs)
    return torch.tensor([found]) if isinstance(found, float) else torch.cat(found)


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_every_step_turns_by_lr_in_float64(make, kind):
    params = weights()
    radius = Sphere(params, rows=kind == "rows").radius
    optimizer = keep_on_sphere(make(params, 1e-3), groups(params, kind), angle=True)
    for step in range(6):
        lr = 1e-3 * 1.5**step
        given = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = given.fill_(lr) if isinstance(given, torch.Tensor) else lr
        before = copy.deepcopy(params)
        set_gradients(params, step)
        optimizer.step()
        assert float(optimizer.param_groups[0]["lr"]) == lr
        turned = angles(before, params, kind)
        torch.testing.assert_close(turned, torch.full_like(turned, lr), rtol=0, atol=1e-9)
        torch.testing.assert_close(Sphere(params, rows=kind == "rows").norm(), radius, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("lr", [1e-5, 1e-2])
def test_every_step_turns_by_lr_in_float32_and_in_the_right_direction(make, lr):
    """Also where the optimiser's own update at that lr would be lost to rounding.

    Rounding of n weights moves them by 3e-8 of their norm, of which 3e-8 / sqrt(n) lies along the turn.
    """
    params = weights(torch.float32, scale=3.0, shapes=[(128, 64), (40, 160)])
    exact = [nn.Parameter(p.detach().double()) for p in params]
    radius = Sphere(params).radius
    one, two = (keep_on_sphere(make(ps, lr), groups(ps, "joint"), angle=True) for ps in (params, exact))
    for step in range(4):
        before, there = copy.deepcopy(params), copy.deepcopy(exact)
        set_gradients(params, step, scale=0.01)
        for p, q in zip(params, exact, strict=True):
            q.grad = p.grad.double()
        one.step()
        two.step()
        (turned,) = angles(before, params, "joint")
        assert abs(turned / lr - 1) < 1e-4
        assert abs(Sphere(params).norm() / radius - 1) < 1e-6
        if step == 0:
            moves = [
                torch.cat(
                    [(a.detach().double() - b.detach().double()).flatten() for a, b in zip(new, old, strict=True)]
                )
                for new, old in ((params, before), (exact, there))
            ]
            assert torch.cosine_similarity(*moves, dim=0) > 1 - 1e-3  # the weights' own rounding is 3e-3 of 1e-5


def turn_by_hand(p, update, angle, radius):
    """The published updates of fixed norm (AdamH, MuonH), with the angle exact."""
    x = p.detach() / p.detach().norm()
    tangent = update - x * (x * update).sum()
    return radius * (x * math.cos(angle) - tangent / tangent.norm() * math.sin(angle))


def test_adam_at_an_angle_is_adamh_written_by_hand():
    params, hand = weights()[:1], weights()[0].detach()
    optimizer = keep_on_sphere(torch.optim.AdamW(params, 0.02), groups(params, "joint"), angle=True)
    first = second = torch.zeros_like(hand)
    radius = hand.norm()
    for step in range(1, 11):
        set_gradients(params, step)
        grad = params[0].grad
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        hand = turn_by_hand(hand, update, 0.02, radius)
        optimizer.step()
        torch.testing.assert_close(params[0].detach(), hand, rtol=1e-10, atol=1e-12)


def test_muon_at_an_angle_is_muonh_written_by_hand():
    params, hand = weights()[:1], weights()[0].detach()
    optimizer = keep_on_sphere(torch.optim.Muon(params, 0.02), groups(params, "joint"), angle=True)
    buffer, radius = torch.zeros_like(hand), hand.norm()
    for step in range(10):
        set_gradients(params, step)
        grad = params[0].grad
        buffer = 0.95 * buffer + 0.05 * grad
        x = (0.05 * grad + 0.95 * buffer).bfloat16()
        x = x.T / x.norm().clamp(min=1e-7)
        for _ in range(5):
            square = x @ x.T
            x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.775, alpha=2.0315), x, beta=3.4445)
        hand = turn_by_hand(hand, x.T.double(), 0.02, radius)
        optimizer.step()
        torch.testing.assert_close(params[0].detach(), hand, rtol=1e-9, atol=1e-10)


def test_free_tensors_are_stepped_as_ever():
    params, free = weights(), nn.Parameter(torch.ones(3))
    both = [{"params": params, "lr": 0.1}, {"params": [free], "lr": 0.5}]
    optimizer = keep_on_sphere(torch.optim.SGD(both), groups(params, "joint"), angle=True)
    set_gradients(params, 0)
    free.grad = torch.ones(3)
    optimizer.step()
    assert free.tolist() == [0.5] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_direction_nothing_turns(dtype):
    """Decay alone moves the weights towards the origin, up to rounding, which is no direction."""
    params = weights(dtype)
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1, weight_decay=0.3), groups(params, "joint"), angle=True)
    before = copy.deepcopy(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert angles(before, params, "joint")[0] < 4 * torch.finfo(dtype).eps
    for p in params:
        p.grad = None
    optimizer.step()
    assert angles(before, params, "joint")[0] < 4 * torch.finfo(dtype).eps


def test_a_row_that_is_not_finite_does_not_touch_the_others():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), groups(params, "rows"), angle=True)
    before = copy.deepcopy(params)
    set_gradients(params, 0)
    params[0].grad[2, 3] = math.nan
    optimizer.step()
    turned = angles([before[1]], [params[1]], "rows")
    torch.testing.assert_close(turned, torch.full_like(turned, 0.1))
    assert params[0].isfinite().all(dim=1).tolist() == [i != 2 for i in range(24)]


def test_a_step_that_raises_leaves_the_learning_rate():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), groups(params, "joint"), angle=True)
    set_gradients(params, 0)

    def fails():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        optimizer.step(fails)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    before = copy.deepcopy(params)
    optimizer.step()
    assert angles(before, params, "joint")[0] == pytest.approx(0.1)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_scheduler_schedules_the_angle():
    params = weights()
    optimizer = keep_on_sphere(torch.optim.AdamW(params, 0.1), groups(params, "joint"), angle=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    for step in range(5):
        before = copy.deepcopy(params)
        set_gradients(params, step)
        optimizer.step()
        scheduler.step()
        assert angles(before, params, "joint")[0] == pytest.approx(0.1 * (1 - step / 4), abs=1e-9)


@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_tangent_gradients_are_what_the_optimiser_sees(kind):
    params, hand = weights(), weights()
    optimizer = torch.optim.SGD(params, 0.1, momentum=0.9)
    keep_on_sphere(optimizer, groups(params, kind), tangent=True)
    sphere, buffers = Sphere(hand, rows=kind == "rows"), [torch.zeros_like(p) for p in hand]
    for step in range(5):
        set_gradients(params, step)
        given = [p.grad.clone() for p in params]
        optimizer.step()
        with torch.no_grad():
            for v, g in zip(buffers, sphere.tangent(given), strict=True):
                v.mul_(0.9).add_(g)
            for p, v in zip(hand, buffers, strict=True):
                p.sub_(0.1 * v)
            sphere.project_()
        torch.testing.assert_close(params, hand, rtol=1e-11, atol=1e-12)


def test_tangent_gradients_of_a_closure():
    params, closure_params = weights(), weights()
    plain = keep_on_sphere(torch.optim.SGD(params, 0.1), groups(params, "joint"), tangent=True)
    given = keep_on_sphere(torch.optim.SGD(closure_params, 0.1), groups(closure_params, "joint"), tangent=True)
    for step in range(3):
        set_gradients(params, step)
        plain.step()
        given.step(lambda step=step: set_gradients(closure_params, step))
    torch.testing.assert_close(params, closure_params, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["joint", "rows"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_brake_scales_what_leads_outward(kind, sign):
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), groups(params, kind), policy=Brake(outward=0.25))
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype) - sign * p.detach()
    updates = [-0.1 * p.grad for p in params]
    optimizer.step()
    radial = [u - t for u, t in zip(updates, Sphere(before, rows=kind == "rows").tangent(updates), strict=True)]
    # every sphere's radial part leads outward for one sign and inward for the other, or this test says nothing
    factor = 0.75 if sign > 0 else 0.0
    expected = [x + u - factor * r for x, u, r in zip(before, updates, radial, strict=True)]
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_the_floor_lengthens_small_updates(kind):
    params = weights()
    optimizer = keep_on_sphere(torch.optim.SGD(params, 0.1), groups(params, kind), policy=Floor(ratio=1e-2))
    for scale, long in ((1e-5, False), (10.0, True)):
        before = [p.detach().clone() for p in params]
        set_gradients(params, 0, scale)
        updates = [-0.1 * p.grad for p in params]
        optimizer.step()
        moved = [p.detach() - x for p, x in zip(params, before, strict=True)]
        if long:
            torch.testing.assert_close(moved, updates, rtol=1e-9, atol=1e-12)
            continue
        norms = [Sphere(ts, rows=kind == "rows").norm() for ts in (moved, before)]
        flat = [torch.tensor([n]) if isinstance(n, float) else torch.cat(n) for n in norms]
        torch.testing.assert_close(flat[0], 1e-2 * flat[1], rtol=1e-9, atol=0)
        assert torch.cosine_similarity(moved[0].flatten(), updates[0].flatten(), dim=0) > (
            0.9 if kind == "rows" else 1 - 1e-9
        )


@pytest.mark.parametrize("policy", [Brake(outward=0.5), Floor(ratio=0.05)])
def test_policies_round_bfloat16_once(policy):
    narrow, full = weights(torch.bfloat16), weights(torch.bfloat16)
    full = [nn.Parameter(p.detach().float()) for p in full]
    for params in (narrow, full):
        optimizer = keep_on_sphere(torch.optim.SGD(params, 0.5), groups(params, "joint"), policy=policy)
        set_gradients(params, 0)
        for p in params:
            p.grad = p.grad.bfloat16().to(p.dtype)
        optimizer.step()
    torch.testing.assert_close([p.float() for p in narrow], full, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(
    "options", [{"angle": True}, {"angle": True, "tangent": True}, {"tangent": True}, {"policy": Brake(0.5)}]
)
def test_a_checkpoint_goes_on_and_another_way_is_refused(options):
    whole, first = weights(), weights()
    run, half = (keep_on_sphere(torch.optim.AdamW(ps, 0.1), groups(ps, "joint"), **options) for ps in (whole, first))
    for step in range(3):
        for params, optimizer in ((whole, run), (first, half)):
            set_gradients(params, step)
            optimizer.step()
    saved = copy.deepcopy(half.state_dict())
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = keep_on_sphere(torch.optim.AdamW(second, 0.7), groups(second, "joint"), **options)
    resumed.load_state_dict(saved)
    for step in range(3, 6):
        for params, optimizer in ((whole, run), (second, resumed)):
            set_gradients(params, step)
            optimizer.step()
    torch.testing.assert_close(second, whole, rtol=0, atol=0)
    other = weights()
    plain = keep_on_sphere(torch.optim.AdamW(other, 0.1), groups(other, "joint"))
    with pytest.raises(ValueError, match="lr means another thing"):
        plain.load_state_dict(saved)
    with pytest.raises(ValueError, match="kept by projection and this one is kept with"):
        resumed.load_state_dict(plain.state_dict())


def test_two_optimisers_at_angles_of_their_own():
    matrix, vector = weights()
    muon, adamw = torch.optim.Muon([matrix], 0.02), torch.optim.AdamW([vector], 0.01)
    keep_on_sphere(
        [muon, adamw], [{"params": [matrix], "sphere": "joint"}, {"params": [vector], "sphere": "rows"}], angle=True
    )
    before = copy.deepcopy([matrix, vector])
    set_gradients([matrix, vector], 0)
    muon.step()
    adamw.step()
    assert angles(before[:1], [matrix], "joint")[0] == pytest.approx(0.02)
    torch.testing.assert_close(angles(before[1:], [vector], "rows"), torch.full((5,), 0.01, dtype=torch.float64))


def test_what_cannot_be_is_refused():
    params, free = weights(), nn.Parameter(torch.ones(2))
    joint = groups(params, "joint")
    with pytest.raises(ValueError, match="leaves Brake"):
        keep_on_sphere(torch.optim.SGD(params, 0.1), joint, angle=True, policy=Brake(0.5))
    with pytest.raises(ValueError, match="direction of LBFGS"):
        keep_on_sphere(torch.optim.LBFGS(params), joint, angle=True)
    with pytest.raises(ValueError, match="own"):
        keep_on_sphere(torch.optim.SGD([*params, free], 0.1), joint, angle=True)
    with pytest.raises(ValueError, match="two optimizers step one sphere"):
        keep_on_sphere([torch.optim.SGD([p], 0.1) for p in params], joint, angle=True)
    with pytest.raises(TypeError, match="bfloat16"):
        narrow = weights(torch.bfloat16)
        keep_on_sphere(torch.optim.SGD(narrow, 0.1), groups(narrow, "joint"), angle=True)
    with pytest.raises(TypeError, match="policy is 'brake'"):
        keep_on_sphere(torch.optim.SGD(params, 0.1), joint, policy="brake")
    with pytest.raises(ValueError, match="outward is 2"):
        Brake(outward=2)
    with pytest.raises(ValueError, match="ratio is 0"):
        Floor(ratio=0)
    pair = [{"params": [p], "lr": lr} for p, lr in zip(params, (0.1, 0.2), strict=True)]
    optimizer = keep_on_sphere(torch.optim.SGD(pair), joint, angle=True)
    set_gradients(params, 0)
    with pytest.raises(ValueError, match=r"\[0.1, 0.2\]; a sphere turns by one angle"):
        optimizer.step()


def test_sphere_sgd_on_the_great_circle_is_sgd_turned_by_its_own_angle():
    """For a tangent gradient the two differ in what lr means alone."""
    one, two = weights(), weights()
    geodesic = SphereSGD([{"params": one, "sphere": "joint"}], lr=0.01, geodesic=True)
    turned = keep_on_sphere(torch.optim.SGD(two, 1.0), groups(two, "joint"), angle=True)
    sphere = Sphere(two)
    for step in range(5):
        set_gradients(one, step)
        for p, g in zip(one, Sphere(one).tangent([p.grad for p in one]), strict=True):
            p.grad = g
        for p, q in zip(one, two, strict=True):
            q.grad = p.grad.clone()
        norm = float(flat([p.grad for p in one]).norm())
        turned.param_groups[0]["lr"] = 0.01 * sphere.radius * norm
        geodesic.step()
        turned.step()
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)
