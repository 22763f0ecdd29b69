"""Critical sharpness against quadratic losses, where it is known, and what it leaves untouched."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from onsphere.curvature import critical_sharpness, top_eigenvalues


class Point(nn.Module):
    """A model whose output is its weights."""

    def __init__(self, size=6):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return self.weight


def quadratic(seed=1, size=6):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def step(model, optimizer, loss):
    """One step; the update by names."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("lr", [1e-3, 1e-1, 3.0])
def test_on_a_quadratic_loss_it_is_twice_slope_over_curvature(make, lr):
    model, matrix = Point(), quadratic()
    gradient = matrix @ model.weight.detach()
    update = step(model, make(model.parameters(), lr), lambda: 0.5 * model.weight @ matrix @ model.weight)
    direction = -update["weight"] / lr
    exact = 2 * float(gradient @ direction) / float(direction @ matrix @ direction)
    found = critical_sharpness(
        model, lambda w, _: 0.5 * w @ matrix @ w, (torch.zeros(1), None), update=update, lr=lr, precision=1.001
    )
    assert found.critical_lr == pytest.approx(exact, rel=1e-3)
    assert found.sharpness == pytest.approx(2 / exact, rel=1e-3)
    assert found.bracket[0] * lr <= exact <= found.bracket[1] * lr
    assert found.factor == pytest.approx(exact / lr, rel=1e-3)


def test_along_the_top_eigenvector_it_is_the_top_eigenvalue():
    model, matrix = Point(), quadratic()
    values, vectors = torch.linalg.eigh(matrix)
    with torch.no_grad():
        model.weight.copy_(vectors[:, -1])
    update = step(model, torch.optim.SGD(model.parameters(), 0.1), lambda: 0.5 * model.weight @ matrix @ model.weight)
    call = (model, lambda w, _: 0.5 * w @ matrix @ w, (torch.zeros(1), None))
    found = critical_sharpness(*call, update=update, lr=0.1)
    assert found.sharpness == pytest.approx(float(values[-1]), rel=0.05)
    again = critical_sharpness(*call, update=update, lr=0.1, guess=found.factor)
    assert again.forward_passes <= 6


def test_on_a_network_it_is_below_the_top_eigenvalue_and_saves_passes_with_a_guess():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    optimizer, passes, factor = torch.optim.SGD(model.parameters(), 0.5), [], 2.0
    for _ in range(12):
        update = step(model, optimizer, lambda: functional.cross_entropy(model(x), y))
        found = critical_sharpness(model, functional.cross_entropy, (x, y), update=update, lr=0.5, guess=factor)
        factor = found.factor
        passes.append(found.forward_passes)
        top = top_eigenvalues(model, functional.cross_entropy, (x, y), k=1).values[0]
        assert 0 < found.sharpness < 1.5 * top  # the loss is no quadratic far out; along it the curvature is a mean
    assert sum(passes[1:]) / 11 <= 7


def network():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))


def test_nothing_is_left_behind():
    torch.manual_seed(0)
    model, x, y = network(), torch.randn(32, 6), torch.randint(3, (32,))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    update = step(model, optimizer, lambda: functional.cross_entropy(model(x), y))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [p.grad.clone() for p in model.parameters()]
    one, two = (critical_sharpness(model, functional.cross_entropy, (x, y), update=update, lr=0.01) for _ in range(2))
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_an_error_half_way_leaves_the_weights():
    model, matrix, calls = Point(), quadratic(), []
    update = step(model, torch.optim.SGD(model.parameters(), 0.1), lambda: 0.5 * model.weight @ matrix @ model.weight)
    before = model.weight.detach().clone()

    def fails(output, target):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no memory")
        return 0.5 * output @ matrix @ output

    with pytest.raises(RuntimeError, match="no memory"):
        critical_sharpness(model, fails, (torch.zeros(1), None), update=update, lr=0.1)
    assert torch.equal(model.weight, before)


def test_a_step_uphill_and_a_loss_that_never_rises():
    model = Point()
    before = model.weight.detach().clone()
    update = {"weight": 0.1 * before}
    with torch.no_grad():
        model.weight.add_(update["weight"])
    uphill = critical_sharpness(model, lambda w, _: w.square().sum(), (torch.zeros(1), None), update=update, lr=0.1)
    assert (uphill.factor, uphill.sharpness) == (0.0, math.inf)
    flat = critical_sharpness(model, lambda w, _: -w.square().sum(), (torch.zeros(1), None), update=update, lr=0.1)
    assert (flat.factor, flat.sharpness) == (math.inf, 0.0)
    assert flat.bracket[0] >= 2.0**19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"precision": 1.0}, "precision is 1.0"),
        ({"guess": math.inf}, "guess is inf"),
        ({"update": {"bias": torch.ones(6)}}, "no parameter bias"),
        ({"update": {"weight": torch.ones(5)}}, r"shape \(5,\), not \(6,\)"),
        ({"update": {"weight": torch.zeros(6)}}, "zeros only"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    options = {"update": {"weight": torch.ones(6)}, "lr": 0.1} | change
    with pytest.raises(ValueError, match=message):
        critical_sharpness(Point(), lambda w, _: w.square().sum(), (torch.zeros(1), None), **options)


def test_a_loss_that_is_none_is_refused():
    call = {"update": {"weight": torch.ones(6, dtype=torch.float64)}, "lr": 0.1}
    with pytest.raises(TypeError, match="0-d tensor"):
        critical_sharpness(Point(), lambda w, _: w, (torch.zeros(1), None), **call)
    with pytest.raises(ValueError, match="before the update is nan"):
        critical_sharpness(Point(), lambda w, _: w.sum() * math.nan, (torch.zeros(1), None), **call)
