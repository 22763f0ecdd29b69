"""Directions times gains: the same function at the start and after fusing, and norms that stay while it trains."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import onsphere
from onsphere.surgery import Gains, decouple, fuse


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def perceptron():
    return nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 3)
    )


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


NETS = {"perceptron": (perceptron, (32, 6)), "convnet": (convnet, (16, 3, 6, 6))}


def case(kind, dtype=torch.float64):
    make, shape = NETS[kind]
    generator = torch.Generator().manual_seed(1)
    model, x = seeded(make).to(dtype), torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return model, x, onsphere.norm_groups(model, x)


def target(x):
    return (x.flatten(1)[:, 0] > 0).long() + (x.flatten(1)[:, 1] > 0).long()


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("gains", ["rows", "columns", "both"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_function_is_the_same_before_and_after(kind, gains, dtype):
    model, x, groups = case(kind, dtype)
    keys, before = list(model.state_dict()), model(x)
    decoupled = decouple(model, groups, gains)
    assert torch.equal(model(x), before)
    assert {p.dtype for p in decoupled[-1]["params"]} == {dtype}
    with torch.no_grad():
        for gain in decoupled[-1]["params"]:
            gain.mul_(1.5).add_(0.1 * torch.rand(gain.shape, generator=torch.Generator().manual_seed(2)).to(dtype))
    changed = model(x)
    if kind == "perceptron":  # gains of rows ahead of a batch norm change nothing
        assert not torch.allclose(changed, before, rtol=1e-2)
    assert fuse(model) is model and list(model.state_dict()) == keys
    assert not any(map(parametrize.is_parametrized, model.modules()))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(model(x), changed, rtol=tolerance, atol=tolerance)


def test_groups_hold_the_tensors_of_now_by_their_names():
    model, _, groups = case("perceptron")
    decoupled = decouple(model, groups, "both")
    assert [id(p) for group in decoupled[:-1] for p in group["params"]] == [id(p) for g in groups for p in g["params"]]
    named = dict(model.named_parameters())
    held = {name: p for group in decoupled for name, p in zip(group["names"], group["params"], strict=True)}
    assert held.keys() == named.keys() and all(held[name] is p for name, p in named.items())
    assert decoupled[-1]["weight_decay"] == 0 and decoupled[-1]["sphere"] is None
    # rows and columns of the two hidden matrices, and of the head if norm_groups has it on a sphere
    on_spheres = sum(p.dim() == 2 for group in groups if group["sphere"] for p in group["params"])
    assert len(decoupled[-1]["params"]) == 2 * on_spheres >= 4


def radii(groups):
    """The norms that spheres keep: one of a joint sphere's tensors together, one of every row otherwise."""
    found = []
    for group in groups:
        if group["sphere"] == "joint":
            found.append(torch.cat([p.detach().flatten() for p in group["params"]]).norm().item())
        elif group["sphere"] == "rows":
            found += [n for p in group["params"] for n in p.detach().flatten(1).norm(dim=1).tolist()]
    return found


OPTIMISERS = {
    "AdamW, kept": lambda g: onsphere.keep_on_sphere(torch.optim.AdamW(g, lr=3e-3), g),
    "AdamH": lambda g: onsphere.keep_on_sphere(torch.optim.AdamW(g, lr=1e-2), g, angle=True),
    "SphereSGD": lambda g: onsphere.SphereSGD(g, lr=1e-2, other_lr=0.1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("matrices", ["tensor", "rows"])
def test_it_trains_and_the_directions_keep_their_norms(kind, make, matrices):
    model, x, _ = case(kind)
    groups = onsphere.norm_groups(model, x, matrices=matrices)
    groups = decouple(model, groups, "both")
    optimizer, norms = make(groups), radii(groups)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(x), target(x)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < (0.7 if kind == "perceptron" else 0.95) * losses[0]
    assert len(norms) > 0 and radii(groups) == pytest.approx(norms, rel=1e-9)
    assert all((gain != 1).any() for gain in groups[-1]["params"])
    trained = model.eval()(x)
    torch.testing.assert_close(fuse(copy.deepcopy(model))(x), trained, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(x), trained, rtol=0, atol=0)  # the copy was fused, not the model


def test_a_state_dict_and_a_copy_carry_the_gains():
    model, x, groups = case("perceptron")
    decouple(model, groups)
    with torch.no_grad():
        model[0].parametrizations.weight[0].rows.mul_(2)
    other, _, others = case("perceptron")
    decouple(other, others)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x)) and torch.equal(copy.deepcopy(model)(x), model(x))


def test_it_compiles():
    model, x, groups = case("perceptron", torch.float32)
    decouple(model, groups, "both")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))


def test_the_search_sees_the_gains():
    model, x, groups = case("perceptron")
    decouple(model, groups)
    found = onsphere.find_symmetries(model, x)
    bound = [set(one) for one in found.rescalings] + [set(group) for group in found.groups]
    assert any(
        {"0.parametrizations.weight.original", "0.parametrizations.weight.0.rows"} <= one for one in bound
    ) or any("0.parametrizations.weight.original" in group for group in found.groups)


def test_what_cannot_be_is_refused_and_changes_nothing():
    model, _, groups = case("perceptron")
    with pytest.raises(ValueError, match="gains is 'all'; it must be one of rows, columns, both"):
        decouple(model, groups, "all")
    with pytest.raises(ValueError, match="nothing to decouple"):
        decouple(model, [{"params": list(model.parameters())}])
    with pytest.raises(ValueError, match="is no parameter of the model"):
        decouple(model, [{"params": [nn.Parameter(torch.ones(2, 2))], "sphere": "joint"}])
    with pytest.raises(ValueError, match="nothing in this model is decoupled"):
        fuse(model)
    tied = seeded(lambda: nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}))
    tied["b"].weight = tied["a"].weight
    with pytest.raises(ValueError, match=r"a.weight and b.weight are one tensor \(tied weights\)"):
        decouple(tied, [{"params": [tied["a"].weight], "sphere": "joint"}])
    decouple(model, groups)
    with pytest.raises(ValueError, match="is parametrised already"):
        decouple(model, groups)
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    with pytest.raises(ValueError, match="other parametrisations"):
        fuse(model)
    assert isinstance(model[3].parametrizations.weight[0], Gains)
