"""Sharded training as it is: checkpoints, faults of one rank, compiled steps, narrow weights."""

import os

import pytest
import torch
import torch.distributed.checkpoint as dcp
from networks import grouped, named_groups, network, optimizer_of, spread, trained, whole
from processes import outcomes, run_on
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import onsphere

pytestmark = pytest.mark.slow

STEPS = 20
KEPT = {
    "SphereSGD": ("both", onsphere.SphereSGD, {"lr": 0.01, "momentum": 0.9}),
    "AdamW, kept": ("both", torch.optim.AdamW, {"lr": 0.01}),
    "AdamW at an angle": ("both", torch.optim.AdamW, {"lr": 0.01, "kept": {"angle": True}}),
}


def _made(recipe, named, *, times=1.0):
    _, maker, options = KEPT[recipe]
    model = network("transformer", torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(times)
    model, share = spread(model, "fsdp")
    return model, share, optimizer_of(grouped(model, named), maker, options)


def saved(folder, named):
    """Save in the middle of a run, and go on."""
    ends = {}
    for recipe in KEPT:
        model, share, optimizer = _made(recipe, named)
        trained(model, optimizer, share, torch.float64, STEPS, of=slice(0, STEPS // 2))
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/{recipe}")
        trained(model, optimizer, share, torch.float64, STEPS, of=slice(STEPS // 2, STEPS))
        ends[recipe] = whole(model)
    return ends


def resumed(folder, named):
    """Go on from there, with an optimiser that was made at other norms."""
    ends = {}
    for recipe in KEPT:
        model, share, optimizer = _made(recipe, named, times=1.3)
        weights, state = get_state_dict(model, optimizer)
        found = {"model": weights, "optimizer": state}
        dcp.load(found, checkpoint_id=f"{folder}/{recipe}")
        set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        trained(model, optimizer, share, torch.float64, STEPS, of=slice(STEPS // 2, STEPS))
        ends[recipe] = whole(model)
    return ends


@pytest.mark.filterwarnings("ignore")
def test_saved_on_two_ranks_it_goes_on_on_one_and_on_four(tmp_path):
    named = named_groups("transformer", "both")
    expected = run_on(2, saved, str(tmp_path), named)[0]
    for world in (1, 4):
        found = run_on(world, resumed, str(tmp_path), named)[0]
        for recipe, weights in expected.items():
            for name, weight in weights.items():
                torch.testing.assert_close(found[recipe][name], weight, rtol=0, atol=1e-10)


# -- one rank is not like the others ---------------------------------------------------------------------------------


def _sharded(mesh, *sizes):
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(distribute_tensor(torch.randn(size, generator=random), mesh, [Shard(0)])) for size in sizes]


def without_gradients(who, momentum):
    """Three steps in which some ranks have no gradient; weights after each, and what zeros there would give."""
    mesh, rank, seen = init_device_mesh("cpu", (2,)), torch.distributed.get_rank(), []
    for zeros in (False, True):
        x, y = _sharded(mesh, (4, 3), (6, 2))
        optimizer = onsphere.SphereSGD([{"params": [x, y], "sphere": "joint"}], 0.1, momentum=momentum)
        for step in range(3):
            for p in (x, y):
                p.grad = torch.ones_like(p)
                if step == 1 and rank in who:
                    p.grad = torch.zeros_like(p) if zeros else None
            optimizer.step()
            seen.append((x.full_tensor().detach(), y.full_tensor().detach()))
    return seen[:3], seen[3:]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rank_without_gradients_has_zeros_and_where_nobody_has_any_nothing_moves(momentum):
    for found, expected in run_on(2, without_gradients, [1], momentum):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for found, _ in run_on(2, without_gradients, [0, 1], momentum):
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        assert not torch.equal(found[2][0], found[1][0])


def one_dies():
    mesh = init_device_mesh("cpu", (2,))
    (x,) = _sharded(mesh, (4, 3))
    optimizer = onsphere.SphereSGD([{"params": [x], "sphere": "joint"}], 0.1)
    for step in range(3):
        if step == 1 and torch.distributed.get_rank() == 1:
            os._exit(3)
        x.grad = torch.ones_like(x)
        optimizer.step()


def test_when_a_rank_dies_the_others_end_with_an_error():
    (_, error), (_, dead) = outcomes(2, one_dies, patience=60.0)
    assert dead == "ended with 3"
    assert error.startswith("RuntimeError")


# -- compiled and narrow ---------------------------------------------------------------------------------------------


def compiled():
    """Steps as they are and compiled as one graph; how many graphs there were, and how many all-reduces a step."""
    from torch._dynamo.testing import CompileCounter

    mesh, ends, counter = init_device_mesh("cpu", (2,)), [], CompileCounter()
    for compile_it in (False, True):
        x, y = _sharded(mesh, (4, 3), (6, 2))
        groups = [{"params": [x], "sphere": "joint"}, {"params": [y], "sphere": "rows"}]
        optimizer = onsphere.SphereSGD(groups, torch.tensor(0.1), momentum=0.9)
        step = torch.compile(lambda of=optimizer: of.step(), backend=counter) if compile_it else optimizer.step
        for _ in range(4):
            for p in (x, y):
                p.grad = torch.ones_like(p)
            step()
        ends.append((x.full_tensor().detach(), y.full_tensor().detach()))
    return ends, counter.frame_count


def test_a_compiled_step_is_the_step():
    for (found, expected), graphs in run_on(2, compiled):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        assert 1 <= graphs <= 2  # one for the first step, which makes the buffers


def narrow():
    """Largest relative distance from the radius over 50 small steps of bfloat16 weights."""
    mesh, far = init_device_mesh("cpu", (2,)), 0.0
    for rows in (False, True):
        (x,) = _sharded(mesh, (64, 128))
        x = nn.Parameter(x.detach().to(torch.bfloat16))
        groups = [{"params": [x], "sphere": "rows" if rows else "joint"}]
        optimizer = onsphere.keep_on_sphere(torch.optim.SGD([x], lr=1e-2), groups)
        first = x.full_tensor().double().norm(dim=1) if rows else x.full_tensor().double().norm()
        for _ in range(50):
            x.grad = x.detach() * -0.1
            optimizer.step()
            now = x.full_tensor().double().norm(dim=1) if rows else x.full_tensor().double().norm()
            far = max(far, float((now / first - 1).abs().max()))
    return far


def test_bfloat16_weights_stay_on_their_spheres():
    far = run_on(2, narrow)
    assert far[0] == far[1]
    assert far[0] < 4e-3 / 128**0.5 * 3  # a row's rounding, three times; a nearest rounding is 4e-3 off
