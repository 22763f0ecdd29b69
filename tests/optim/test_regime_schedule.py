"""The course of a RegimeSchedule, what it does to groups, with other schedulers and checkpoints, and maps it reads."""

import copy
import json
import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from onsphere.optim import RegimeSchedule, SphereSGD, keep_on_sphere, propose_elrs

START, END, STEPS = 1e-2, 1e-4, 40


def weights(n=1):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(3, 4, generator=generator)) for _ in range(n)]


def sphere_sgd(**options):
    sphere, other = weights(2)
    groups = [{"params": [sphere], "sphere": "joint"}, {"params": [other], "lr": 0.5}]
    return SphereSGD(groups, lr=1.0, **options)


def descend(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 0.1)
    optimizer.step()


def rates_over(optimizer, scheduler, steps=STEPS + 5, group=0):
    """The learning rate that each step is taken with."""
    seen = []
    for _ in range(steps):
        seen.append(float(optimizer.param_groups[group]["lr"]))
        descend(optimizer)
        scheduler.step()
    return seen


def expected(step, start=START, end=END, steps=STEPS, hold=0.25, tail=0.25, shape="linear"):
    """Straight from the definition, by interpolation between the two corners."""
    u = min(max((step / steps - hold) / (1 - tail - hold), 0), 1)
    if shape == "geometric":
        return start ** (1 - u) * end**u
    weight = 1 - u if shape == "linear" else math.cos(math.pi * u / 2) ** 2
    return end + (start - end) * weight


@pytest.mark.parametrize("shape", ["geometric", "cosine", "linear"])
def test_the_learning_rate_follows_the_course(shape):
    optimizer = sphere_sgd()
    schedule = RegimeSchedule(optimizer, START, END, STEPS, hold=0.25, tail=0.25, shape=shape)
    seen = rates_over(optimizer, schedule)
    wanted = [expected(step, shape=shape) for step in range(len(seen))]
    assert seen == pytest.approx(wanted, rel=1e-12)
    assert seen[:11] == pytest.approx([START] * 11, rel=1e-12) and seen[11] < START
    assert seen[30:] == pytest.approx([END] * 15, rel=1e-12) and seen[29] > END
    assert [schedule.elr_at(step) for step in range(len(seen))] == pytest.approx(wanted, rel=1e-12)


def test_groups_off_the_sphere_follow_in_proportion_to_their_own_rate():
    optimizer = sphere_sgd()
    schedule = RegimeSchedule(optimizer, START, END, STEPS)
    seen = rates_over(optimizer, schedule, group=1)
    assert seen[0] == pytest.approx(0.5) and seen[-1] == pytest.approx(0.5 * END / START)


def test_one_number_for_each_group():
    optimizer = sphere_sgd()
    schedule = RegimeSchedule(optimizer, [START, 0.3], [END, 0.1], STEPS, hold=0.5)
    assert rates_over(optimizer, schedule, group=1)[::40] == pytest.approx([0.3, 0.1])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(END)
    assert schedule.elr_at(0, group=1) == 0.3
    assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


def test_an_optimiser_without_spheres_takes_the_numbers_in_all_groups():
    first, second = weights(2)
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 3.0}], lr=7.0)
    RegimeSchedule(optimizer, START, END, STEPS)
    assert [group["lr"] for group in optimizer.param_groups] == [START, START]


@pytest.mark.parametrize("warm_up_first", [True, False])
def test_it_chains_with_a_warm_up(warm_up_first):
    optimizer = sphere_sgd()

    def regime():
        return RegimeSchedule(optimizer, START, END, STEPS, hold=0.25, tail=0.25)

    def warm_up():
        return LinearLR(optimizer, start_factor=0.1, total_iters=5)

    both = [warm_up(), regime()] if warm_up_first else [regime(), warm_up()]
    for step in range(STEPS):
        factor = 0.1 + 0.9 * min(step, 5) / 5
        assert optimizer.param_groups[0]["lr"] == pytest.approx(factor * expected(step), rel=1e-9)
        descend(optimizer)
        for scheduler in both:
            scheduler.step()


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's SequentialLR calls step(0) itself
def test_it_stands_in_a_sequence():
    optimizer = sphere_sgd()
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=5)
    regime = RegimeSchedule(optimizer, START, END, STEPS, hold=0.25, tail=0.25)
    seen = rates_over(optimizer, SequentialLR(optimizer, [warm_up, regime], milestones=[5]))
    assert seen[:5] == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82])  # of the optimiser's own rate, 1
    assert seen[5:] == pytest.approx([expected(step) for step in range(len(seen) - 5)], rel=1e-9)


def test_a_checkpoint_continues_it_to_the_same_rates():
    optimizer = sphere_sgd()
    schedule = RegimeSchedule(optimizer, START, END, STEPS)
    rates_over(optimizer, schedule, steps=27)
    saved = copy.deepcopy((optimizer.state_dict(), json.loads(json.dumps(schedule.state_dict()))))
    rest = rates_over(optimizer, schedule, steps=10)

    again = sphere_sgd()
    continued = RegimeSchedule(again, 0.5, 0.4, 3)  # everything comes from the checkpoint
    again.load_state_dict(saved[0])
    continued.load_state_dict(saved[1])
    assert rates_over(again, continued, steps=10) == rest


def test_a_learning_rate_in_a_tensor_stays_one():
    sphere = weights()[0]
    optimizer = SphereSGD([{"params": [sphere], "sphere": "joint"}], lr=torch.tensor(1.0))
    held = optimizer.param_groups[0]["lr"]
    schedule = RegimeSchedule(optimizer, START, END, STEPS, hold=0.25, tail=0.25)
    seen = rates_over(optimizer, schedule)
    assert optimizer.param_groups[0]["lr"] is held
    assert seen == pytest.approx([expected(step) for step in range(len(seen))], rel=1e-5)


def test_keep_elr_follows_the_norm():
    sphere, other = weights(2)
    groups = [{"params": [sphere], "sphere": "joint"}, {"params": [other]}]
    optimizer = torch.optim.SGD(groups, lr=0.5, weight_decay=0.3)
    schedule = RegimeSchedule(optimizer, START, END, STEPS, hold=0.25, tail=0.25, keep_elr=True)
    norms = set()
    for step in range(STEPS):
        squared = float(sphere.detach().double().square().sum())
        norms.add(squared)
        assert optimizer.param_groups[0]["lr"] / squared == pytest.approx(expected(step), rel=1e-9)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5 * expected(step) / START, rel=1e-9)
        descend(optimizer)
        schedule.step()
    assert len(norms) == STEPS  # it had something to follow


def test_keep_elr_trains_as_sphere_sgd_does():
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(3, (64,))

    def trained(make):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, affine=False, eps=1e-12), nn.ReLU(), nn.Linear(8, 3)
        ).double()
        net[3].requires_grad_(False)
        optimizer = make([{"params": [net[0].weight], "sphere": "joint"}])
        options = {} if isinstance(optimizer, SphereSGD) else {"keep_elr": True}
        schedule = RegimeSchedule(optimizer, 0.05, 0.01, 30, **options)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x.double()), y).backward()
            optimizer.step()
            schedule.step()
        return net[0].weight.detach() / net[0].weight.detach().norm()

    on_sphere = trained(lambda groups: SphereSGD(groups, lr=1.0))
    kept = trained(lambda groups: keep_on_sphere(torch.optim.SGD(groups, lr=1.0), groups))
    free = trained(lambda groups: torch.optim.SGD(groups, lr=1.0))
    assert torch.allclose(on_sphere, kept, atol=1e-12)
    # without a projection the norm grows, the ELR stays: the same direction
    assert torch.allclose(on_sphere, free, atol=1e-12)


@given(
    hold=st.floats(0, 1),
    share=st.floats(0, 1),
    steps=st.integers(1, 30),
    shape=st.sampled_from(["geometric", "cosine", "linear"]),
)
def test_the_course_never_rises_and_stays_between_its_ends(hold, share, steps, shape):
    schedule = RegimeSchedule(sphere_sgd(), START, END, steps, hold=hold, tail=(1 - hold) * share, shape=shape)
    course = [schedule.elr_at(step) for step in range(steps + 2)]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(course))
    assert all(END * (1 - 1e-12) <= value <= START * (1 + 1e-12) for value in course)
    assert course[0] == (END if schedule.tail == 1 else START)
    if hold < 1:
        assert course[-1] == END


# ------------------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class Bracket:
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    boundaries: dict[str, Bracket]


JSON_MAP = {
    "command": "regimes",
    "boundaries": {
        "convergence": {"low": 4e-3, "high": 9e-3, "resolved": True, "reason": "", "per_seed": []},
        "divergence": {"low": 6e-2, "high": 8e-2, "resolved": True, "reason": "", "per_seed": []},
    },
}


@pytest.mark.parametrize(
    "regimes",
    [
        JSON_MAP,
        JSON_MAP["boundaries"],
        Result({"convergence": Bracket(4e-3, 9e-3), "divergence": Bracket(6e-2, 8e-2)}),
        {"convergence": (4e-3, 9e-3), "divergence": 7e-2},
        {"low": 4e-3, "high": 9e-3},
        (4e-3, 9e-3),
        6e-3,
    ],
    ids=["json", "boundaries", "result", "mapping", "bracket", "pair", "number"],
)
def test_maps_in_every_form_give_the_same_proposal(regimes):
    proposed = propose_elrs(regimes, start_factor=2, end_factor=0.05)
    assert proposed.threshold == pytest.approx(6e-3)
    assert proposed.start == pytest.approx(1.2e-2) and proposed.end == pytest.approx(3e-4)
    assert not proposed.limited
    optimizer = sphere_sgd()
    schedule = RegimeSchedule.from_map(optimizer, regimes, STEPS, start_factor=2, end_factor=0.05, hold=0.3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.2e-2)
    assert (schedule.total_steps, schedule.hold) == (STEPS, 0.3)


def test_the_start_stays_clear_of_divergence():
    near = {"convergence": (4e-3, 9e-3), "divergence": (2e-2, 3e-2)}
    proposed = propose_elrs(near, start_factor=5)
    assert proposed.limited and proposed.start == pytest.approx(1e-2)
    nearer = {"convergence": (4e-3, 9e-3), "divergence": (1e-2, 3e-2)}
    assert propose_elrs(nearer, start_factor=5).start == pytest.approx(5e-3)
    unresolved = {"convergence": (4e-3, 9e-3), "divergence": {"low": None, "high": None}}
    assert propose_elrs(unresolved, start_factor=5).start == pytest.approx(3e-2)


def test_a_map_that_resolves_nothing_falls_back_on_labels_then_on_divergence():
    unresolved = {"low": None, "high": None, "reason": "no run interpolates"}
    boundaries = {"convergence": unresolved, "divergence": {"low": 6e-2, "high": 8e-2}}
    labels = [(1e-3, "convergence"), (2e-3, "convergence"), (4e-3, "chaotic_equilibrium"), (5e-3, "convergence")]
    labels += [(9e-3, "chaotic_equilibrium"), (1e-1, "divergence")]
    cells = [{"elr": elr, "regime": regime, "seed": 0} for elr, regime in labels]
    proposed = propose_elrs({"boundaries": boundaries, "cells": cells}, start_factor=2)
    assert (proposed.basis, proposed.bracket) == ("labels", (2e-3, 9e-3))
    assert proposed.start == pytest.approx(2 * math.sqrt(2e-3 * 9e-3))
    above = [cell | {"regime": "chaotic_equilibrium"} for cell in cells]
    for regimes in ({"boundaries": boundaries, "cells": above}, boundaries):
        proposed = propose_elrs(regimes, start_factor=2)
        assert (proposed.basis, proposed.threshold) == ("divergence", pytest.approx(6e-3))
    assert propose_elrs(JSON_MAP).basis == "boundary"


def test_momentum_lowers_the_learning_rate_to_the_same_elr():
    optimizer = sphere_sgd(momentum=0.9)
    schedule = RegimeSchedule.from_map(optimizer, 6e-3, STEPS, start_factor=2, end_factor=0.1)
    assert schedule.elr_at(0) == pytest.approx(1.2e-3) and schedule.elr_at(STEPS) == pytest.approx(6e-5)


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 0.0}, "start is 0.0; it must be a positive"),
        ({"end": float("nan")}, "end is nan"),
        ({"start": [1e-2]}, "start has 1 numbers, the optimizer 2 param groups"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"total_steps": 10.0}, "total_steps is 10.0"),
        ({"hold": 1.5}, "hold is 1.5"),
        ({"hold": 0.7, "tail": 0.4}, "their sum is at most 1"),
        ({"shape": "stairs"}, "must be one of linear, cosine, geometric"),
        ({"keep_elr": True}, "keep_elr is not for SphereSGD"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"start": START, "end": END, "total_steps": STEPS} | change
    with pytest.raises(ValueError, match=message):
        RegimeSchedule(sphere_sgd(), **arguments)


def test_wrong_optimisers():
    with pytest.raises(TypeError, match=r"was given a Linear; give it a torch\.optim\.Optimizer"):
        RegimeSchedule(nn.Linear(2, 2), START, END, STEPS)
    with pytest.raises(ValueError, match='keep_elr needs param groups with "sphere": "joint"'):
        RegimeSchedule(torch.optim.SGD(weights(), lr=1.0), START, END, STEPS, keep_elr=True)
    rows = torch.optim.SGD([{"params": weights(), "sphere": "rows"}], lr=1.0)
    with pytest.raises(ValueError, match='none with "rows"'):
        RegimeSchedule(rows, START, END, STEPS, keep_elr=True)


@pytest.mark.parametrize(
    ("regimes", "message"),
    [
        ({"convergence": {"low": None, "high": None, "reason": "no run interpolates"}}, r"\(no run interpolates\)"),
        ({"convergence": (None, 1e-2)}, "does not say where convergence ends"),
        ({"cells": []}, "a dict is no regime map"),
        (json.dumps(JSON_MAP), "json.loads"),
        ((1e-3, 2e-3, 3e-3), "a boundary has 3 numbers"),
        (-1.0, "a boundary is at -1.0"),
    ],
)
def test_wrong_maps(regimes, message):
    with pytest.raises(ValueError, match=message):
        propose_elrs(regimes)


def test_wrong_factors():
    with pytest.raises(ValueError, match=r"start_factor is 0\.5"):
        propose_elrs(1e-3, start_factor=0.5)
    with pytest.raises(ValueError, match="end_factor is 1"):
        propose_elrs(1e-3, end_factor=1)
    first, second = weights(2)
    groups = [{"params": [p], "sphere": "joint", "momentum": m} for p, m in ((first, 0.0), (second, 0.9))]
    with pytest.raises(ValueError, match="give start and end for each group"):
        RegimeSchedule.from_map(SphereSGD(groups, lr=1.0), 1e-3, STEPS)
