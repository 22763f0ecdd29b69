"""Findings on damaged numbers, lost steps, half-frozen groups and frozen norms: said where they are, and only there."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere import Monitor, SphereSGD, keep_on_sphere
from onsphere.monitor.findings import diagnose


def network(norm, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 3))


def layer_norm():
    return nn.LayerNorm(8, elementwise_affine=False)


def sphere(model, kind="joint"):
    return [{"params": list(model[0].parameters()), "sphere": kind, "names": ["0.weight", "0.bias"]}]


def train(model, optimizer, steps=30, poison=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        x, y = torch.randn(16, 6, generator=generator).to(dtype), torch.randint(3, (16,), generator=generator)
        F.cross_entropy(model(x), y).backward()
        if poison is not None and step == steps - 1:
            model[0].weight.grad[2, 3] = poison
        optimizer.step()


def said(monitor, kind):
    return [finding for finding in monitor.diagnose() if finding.kind == kind]


# -- poisoned gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: SphereSGD(sphere(m), 0.01),
        lambda m: SphereSGD(sphere(m, "rows"), 0.01, momentum=0.9),
        lambda m: keep_on_sphere(torch.optim.AdamW(m.parameters(), 0.01), sphere(m)),
        lambda m: torch.optim.SGD(m.parameters(), 0.01),
    ],
    ids=["SphereSGD", "rows", "kept", "SGD"],
)
def test_a_poisoned_gradient_is_a_finding_that_names_step_and_tensor(make, poison):
    model = network(layer_norm())
    optimizer = make(model)
    monitor = Monitor(optimizer, sphere(model), every=1)
    train(model, optimizer, 8, poison)
    (found,) = said(monitor, "non-finite")
    assert found.severity == "alarm" and found.evidence["first_step"] == 7
    assert found.evidence["tensors"] == ["0.weight"] and found.evidence["readings"] == 1
    assert "the gradient of 0.weight is not" in found.message
    assert list(monitor.readings()["finite"]) == [True] * 7 + [False]


def test_weights_that_are_zero_or_have_no_gradient_are_finite():
    model = network(layer_norm())
    with torch.no_grad():
        model[0].bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    groups = [{"params": [p], "names": [name]} for name, p in model.named_parameters()]
    monitor = Monitor(optimizer, groups, every=1)
    train(model, optimizer, 6)
    for p in model.parameters():
        p.grad = None
    for _ in range(3):
        optimizer.step()
    assert monitor.readings()["finite"].all() and monitor.readings("tensor")["finite"].all()
    assert not said(monitor, "non-finite")


# -- steps that rounding swallows --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make",
    [
        lambda m, lr: SphereSGD(sphere(m), lr),
        lambda m, lr: torch.optim.SGD(m.parameters(), 10 * lr),
        lambda m, lr: keep_on_sphere(torch.optim.SGD(m.parameters(), 10 * lr), sphere(m)),
    ],
    ids=["SphereSGD", "SGD", "kept"],
)
def test_an_elr_that_rounding_swallows_is_a_finding(make, dtype):
    for lr, swallowed in ((0.3, False), (1e-6, True)):
        model = network(layer_norm()).to(dtype)
        optimizer = make(model, lr)
        monitor = Monitor(optimizer, sphere(model), every=1)
        train(model, optimizer, 30, dtype=dtype)
        found = said(monitor, "precision")
        assert bool(found) == swallowed
        for one in found:
            assert "rounding swallows" in one.message and "float32" in one.message and one.evidence["arrives"] < 0.8


@pytest.mark.parametrize("optimizer", ["AdamW", "momentum"])
def test_of_any_optimiser_it_is_said_where_nothing_moves(optimizer):
    model = network(layer_norm()).to(torch.bfloat16)
    made = (
        torch.optim.AdamW(model.parameters(), 1e-9, weight_decay=0)
        if optimizer == "AdamW"
        else torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9)
    )
    monitor = Monitor(made, sphere(model), every=1)
    train(model, made, 30, dtype=torch.bfloat16)
    (found,) = said(monitor, "precision")
    assert found.severity == "alarm" and "nothing moves" in found.message


@pytest.mark.parametrize("lr", [1.0, 1e-3, 1e-5])
def test_float32_loses_nothing_at_ordinary_rates(lr):
    model = network(layer_norm())
    optimizer = SphereSGD(sphere(model), lr)
    monitor = Monitor(optimizer, sphere(model), every=1)
    train(model, optimizer, 30)
    assert not said(monitor, "precision")


# -- invariance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("by", ["requires_grad", "no gradient"])
def test_a_half_frozen_group_is_not_blurred(frozen, by):
    model = network(layer_norm())
    parameter = getattr(model[0], frozen)
    if by == "requires_grad":
        parameter.requires_grad_(False)
    else:
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    monitor = Monitor(optimizer, sphere(model), every=1)
    train(model, optimizer)
    found = said(monitor, "invariance")
    assert all(one.severity == "info" and "has no gradient" in one.message for one in found)
    assert [one.evidence["frozen"] for one in found] in ([], [[f"0.{frozen}"]])
    assert (np.nanmedian(monitor.readings()["noether_residual"]) > 1e-4) == bool(found)


def test_the_advice_with_frozen_batch_norm_is_about_what_is_trained():
    model = network(nn.BatchNorm1d(8, affine=False))
    model[1].running_var.fill_(2.0)
    model[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    monitor = Monitor(optimizer, sphere(model), every=1, model=model)
    train(model, optimizer, 40)
    (found,) = said(monitor, "invariance")
    assert found.severity == "alarm" and "1 is in eval mode" in found.message
    assert "leave the weights before it out of the groups" in found.message
    kinds = {one.kind for one in monitor.diagnose()}
    assert not kinds & {"equilibrium", "schedule"}  # laws of scale-invariant weights say nothing here
    nameless = diagnose(monitor._record.histories())
    assert any("a norm layer in eval mode undoes no rescaling" in one.message for one in nameless)


def test_no_frozen_norm_is_named_where_none_is():
    for prepare in (lambda m: m, lambda m: m.eval()):
        model = prepare(network(nn.Identity()))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        monitor = Monitor(optimizer, sphere(model), every=1, model=model)
        train(model, optimizer)
        (found,) = said(monitor, "invariance")
        assert found.evidence["frozen_norms"] == [] and "sphere_groups(model, batch)" in found.message
