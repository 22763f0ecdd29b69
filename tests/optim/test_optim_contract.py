"""What every optimiser of the package does; a new one joins by one line in OPTIMISERS."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere.optim import SphereSGD, keep_on_sphere
from onsphere.spheres import Sphere

SIZES = (5, 6, 4, 3)  # features, two scale-invariant layers, classes


@dataclass
class Case:
    """One optimiser under the contract.

    make: groups, options -> optimiser.    keep: what a copy of the optimiser needs after it was copied.
    joint: whether its spheres are joint.  invariant: whether the radius drops out of its trajectory.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer]
    joint: bool = True
    invariant: bool = True
    kept: bool = False

    def groups(self, model: nn.Module, **more: Any) -> list[dict[str, Any]]:
        names = ["0.weight", "2.weight"]
        weights = [model.get_parameter(name) for name in names]
        kind = "joint" if self.joint else "rows"
        others = [p for name, p in model.named_parameters() if name not in names]
        return [{"params": weights, "sphere": kind, "names": names, **more}, {"params": others, "lr": 0.05}]

    def new(self, model: nn.Module, lr: Any = 0.02, **options: Any) -> torch.optim.Optimizer:
        return self.make(self.groups(model), lr, **options)

    def rekeep(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        if self.kept:
            keep_on_sphere(optimizer, self.groups(model))


def sphere_sgd(name: str, **fixed: Any) -> Case:
    joint = fixed.pop("joint", True)
    return Case(name, lambda groups, lr, **options: SphereSGD(groups, lr, **fixed, **options), joint=joint)


def kept(name: str, base: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Case:
    def make(groups: Any, lr: Any, **options: Any) -> torch.optim.Optimizer:
        return keep_on_sphere(base([dict(group) for group in groups], lr=lr, **fixed, **options), groups)

    return Case(name, make, kept=True, invariant=False)


OPTIMISERS = [
    sphere_sgd("joint"),
    sphere_sgd("joint-pure", foreach=False),
    sphere_sgd("joint-momentum", momentum=0.9),
    sphere_sgd("joint-momentum-pure", momentum=0.9, foreach=False),
    sphere_sgd("geodesic", momentum=0.5, geodesic=True, foreach=True),
    sphere_sgd("rows", joint=False),
    sphere_sgd("rows-pure", joint=False, foreach=False, momentum=0.9),
    sphere_sgd("rows-geodesic", joint=False, geodesic=True, momentum=0.9),
    kept("kept-sgd", torch.optim.SGD, momentum=0.9),
    kept("kept-adamw", torch.optim.AdamW),
]


@pytest.fixture(params=OPTIMISERS, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


def network(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d = SIZES
    norms = [nn.BatchNorm1d(width, eps=1e-14, affine=False, track_running_stats=False) for width in (b, c)]
    layers = [nn.Linear(a, b, bias=False), norms[0], nn.Linear(b, c, bias=False), norms[1], nn.Tanh(), nn.Linear(c, d)]
    model = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        for i in (0, 2):
            model[i].weight.mul_(scale)
    return model


def batch(step: int, dtype: torch.dtype = torch.float64, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(size, SIZES[0], generator=generator, dtype=torch.float64).to(dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def backward(model: nn.Module, step: int) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    x, y = batch(step, dtype)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, scheduler: Any = None) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [model[0].weight.detach(), model[2].weight.detach()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def norms(case: Case, model: nn.Module) -> torch.Tensor:
    norm = Sphere(weights(model), rows=not case.joint).norm()
    return torch.tensor([norm]) if isinstance(norm, float) else torch.cat(norm)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_radius_is_kept(case, dtype, tolerance):
    model = network(dtype=dtype)
    before, start = norms(case, model), [w.clone() for w in weights(model)]
    train(model, case.new(model), range(100))
    torch.testing.assert_close(norms(case, model), before, rtol=tolerance, atol=0)
    assert Sphere(weights(model)).angle_to(start) > 0.01
    assert [p.dtype for p in model.parameters()] == [dtype] * 4


def test_the_loss_falls(case):
    model = network()
    first = backward(model, 0).item()
    train(model, case.new(model), range(200))
    assert backward(model, 0).item() < 0.7 * first


def test_a_closure_gives_the_same_step_and_returns_the_loss(case):
    one, two = network(), network()
    optimizer, other = case.new(one), case.new(two)

    def closure() -> torch.Tensor:
        other.zero_grad()
        assert torch.is_grad_enabled()
        return backward(two, 0)

    loss = backward(one, 0)
    assert optimizer.step() is None
    assert other.step(closure).item() == loss.item()
    assert same(one, two)


def test_a_checkpoint_continues_bit_for_bit(case):
    model = network()
    optimizer = case.new(model)
    train(model, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, range(5, 10))

    # The copy starts elsewhere, at another norm: weights and radii must come from the checkpoint.
    again = network(seed=1, scale=3.0)
    loaded = case.new(again)
    train(again, loaded, range(2))
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again.load_state_dict(state["model"])
    loaded.load_state_dict(state["optimizer"])
    train(again, loaded, range(5, 10))
    assert same(model, again)


def test_a_saved_state_does_not_change_under_way(case):
    model = network()
    optimizer = case.new(model)
    train(model, optimizer, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    frozen = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(2, 6))
    end = copy.deepcopy(model.state_dict())
    model.load_state_dict(frozen)
    optimizer.load_state_dict(state)
    train(model, optimizer, range(2, 6))
    assert all(torch.equal(end[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_continue_bit_for_bit(case, copier):
    model = network()
    optimizer = case.new(model)
    train(model, optimizer, range(3))
    twin, other = copier((model, optimizer))
    case.rekeep(other, twin)
    train(model, optimizer, range(3, 6))
    assert not same(model, twin)
    train(twin, other, range(3, 6))
    if case.kept:  # kept anew, with norms measured anew
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    else:
        assert same(model, twin)


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda t: 0.5 ** (t // 2)] * 2),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_schedulers_equal_setting_the_rate_by_hand(case, scheduler, as_tensor):
    wrap = (lambda v: torch.tensor(v, dtype=torch.float64)) if as_tensor else float
    one, two = network(), network()
    optimizer, other = case.new(one, wrap(0.02)), case.new(two, wrap(0.02))
    train(one, optimizer, range(6), SCHEDULERS[scheduler](optimizer))
    for step in range(6):
        for group, lr in zip(other.param_groups, (0.02, 0.05), strict=True):
            group["lr"] = wrap(lr * 0.5 ** (step // 2))
        train(two, other, range(step, step + 1))
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.02 / 8)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_one_cycle_moves_rate_and_momentum(case):
    model = network()
    optimizer = case.new(model)
    if "betas" not in optimizer.defaults and optimizer.defaults["momentum"] == 0:
        pytest.skip("without momentum there is none to cycle")
    before = norms(case, model)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=20)
    train(model, optimizer, range(20), scheduler)
    torch.testing.assert_close(norms(case, model), before, rtol=1e-12, atol=0)


def test_accumulated_gradients_equal_a_big_batch(case):
    one, two = network(), network()
    optimizer, other = case.new(one), case.new(two)
    for step in range(3):
        optimizer.zero_grad()
        other.zero_grad()
        for part in range(4):
            backward(one, 10 * step + part)
        sum(F.cross_entropy(two(x), y) for x, y in (batch(10 * step + part) for part in range(4))).backward()
        optimizer.step()
        other.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


def test_gradient_scaling(case):
    one, two = network(dtype=torch.float32), network(dtype=torch.float32)
    optimizer, other = case.new(one), case.new(two)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        train(two, other, range(step, step + 1))
        optimizer.zero_grad()
        x, y = batch(step, torch.float32)
        scaler.scale(F.cross_entropy(one(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    # An overflow is skipped: nothing moves.
    still = copy.deepcopy(one)
    one[0].weight.grad.fill_(torch.inf)
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    scaler.update()
    assert same(one, still)


def test_maximize_is_minimising_the_negative(case):
    up, negative = network(), network()
    optimizer, other = case.new(up, maximize=True), case.new(negative)
    train(up, optimizer, range(5))
    for step in range(5):
        other.zero_grad()
        backward(negative, step)
        for p in negative.parameters():
            p.grad.neg_()
        other.step()
    for p, q in zip(up.parameters(), negative.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    assert Sphere(weights(up)).angle_to(weights(network())) > 1e-3


def test_without_gradients_nothing_moves(case):
    model = network()
    optimizer = case.new(model)
    train(model, optimizer, range(2))
    before = copy.deepcopy(model)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    optimizer.step()
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-15, atol=0)


def test_a_tensor_without_gradient_keeps_its_direction_and_the_sphere_its_radius(case):
    model = network()
    model[0].weight.requires_grad_(False)
    start, before = weights(model)[0].clone(), norms(case, model)
    train(model, case.new(model), range(10))
    assert Sphere([start]).angle_to([weights(model)[0]]) < 1e-15
    torch.testing.assert_close(norms(case, model), before, rtol=1e-13, atol=0)


def test_zero_grad(case):
    model = network()
    optimizer = case.new(model)
    backward(model, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_group_added_later_trains(case):
    one, two = network(), network()
    optimizer = case.new(one)
    sphere, others = case.groups(two)
    late = {"params": others["params"][1:], "lr": 0.05}
    other = case.make([sphere, {"params": others["params"][:1], "lr": 0.05}], 0.02)
    other.add_param_group(late)
    assert len(other.param_groups) == 3
    train(one, optimizer, range(3))
    train(two, other, range(3))
    assert same(one, two)
    with pytest.raises(ValueError, match="more than one parameter group"):
        other.add_param_group({"params": others["params"][:1]})


def test_the_given_groups_can_be_used_again(case):
    one, two = network(), network()
    groups = case.groups(one)
    keys = [set(group) for group in groups]
    case.make(groups, 0.5)
    assert [set(group) for group in groups] == keys
    train(one, case.make(groups, 0.02), range(3))
    train(two, case.new(two), range(3))
    assert same(one, two)


def test_the_radius_drops_out(case):
    if not case.invariant:
        pytest.skip("this optimiser's step depends on the radius")
    small, large = network(), network(scale=10.0)
    train(small, case.new(small), range(100))
    train(large, case.new(large), range(100))
    angles = Sphere(weights(small), rows=not case.joint).angle_to(weights(large))
    assert max([angles] if isinstance(angles, float) else [float(a.max()) for a in angles]) < 1e-9
    torch.testing.assert_close(small[-1].weight, large[-1].weight, rtol=0, atol=1e-9)
    assert Sphere(weights(small)).angle_to(weights(network())) > 0.1


def test_the_step_reads_nothing_back(case, monkeypatch):
    if case.kept:
        pytest.skip("the step is that of another optimiser")
    model = network()
    optimizer = case.new(model)
    train(model, optimizer, range(2))
    backward(model, 3)

    def refuse(*_: object) -> None:
        raise AssertionError("the step would wait for the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
            patch.setattr(torch.Tensor, name, refuse)
        optimizer.step()
