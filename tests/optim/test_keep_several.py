"""Several optimisers on shared spheres, wrapped optimisers, radii in every kind of checkpoint, steps inside steps."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

import onsphere
from onsphere.optim import SphereSGD, keep_on_sphere, release
from onsphere.spheres import Sphere


def network(seed=0, scale=1.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norms = [nn.LayerNorm(8, elementwise_affine=False) for _ in range(2)]
        model = nn.Sequential(
            nn.Linear(6, 8), norms[0], nn.ReLU(), nn.Linear(8, 8, bias=False), norms[1], nn.Linear(8, 3)
        )
    with torch.no_grad():
        for p in (*model[0].parameters(), *model[3].parameters()):
            p.mul_(scale)
    return model


def groups_of(model, kind="joint"):
    on_sphere = [*model[0].parameters(), *model[3].parameters()]
    return [{"params": on_sphere, "sphere": kind}, {"params": list(model[5].parameters())}]


def train(model, optimizers, steps=4):
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        model.zero_grad()
        x, y = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()


def norms(model, kind="joint"):
    return Sphere(groups_of(model, kind)[0]["params"], rows=kind == "rows").norm()


# -- several optimisers ------------------------------------------------------------------------------------


def muon_and_adamw(model):
    matrices = [model[0].weight, model[3].weight]
    return [torch.optim.Muon(matrices, 0.02), torch.optim.AdamW([model[0].bias, *model[5].parameters()], 0.01)]


@pytest.mark.parametrize("kind", ["joint", "rows"])
@pytest.mark.parametrize("container", [list, tuple])
def test_muon_and_adamw_share_a_sphere(kind, container):
    model = network()
    optimizers, before, start = container(muon_and_adamw(model)), norms(model, kind), copy.deepcopy(model)
    assert keep_on_sphere(optimizers, groups_of(model, kind)) is optimizers
    for _ in range(3):
        for optimizer in optimizers:
            train(model, [optimizer], 1)
            torch.testing.assert_close(norms(model, kind), before, rtol=1e-6, atol=0)
    for i in (0, 3):
        assert Sphere([model[i].weight]).angle_to([start[i].weight]) > 1e-2
    release(optimizers)
    train(model, optimizers)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(norms(model, kind), before, rtol=1e-4, atol=0)
    assert all("sphere_radii" not in group for one in optimizers for group in one.param_groups)


def test_those_kept_together_are_released_together():
    model = network()
    muon, adamw = keep_on_sphere(muon_and_adamw(model), groups_of(model))
    with pytest.raises(ValueError, match="kept on spheres already"):
        keep_on_sphere(adamw, groups_of(model))
    release(muon)
    with pytest.raises(ValueError, match="is not kept"):
        release(adamw)
    release([keep_on_sphere(torch.optim.SGD(model.parameters(), 0.1), groups_of(model))])


def test_three_optimisers_of_which_one_has_nothing_on_a_sphere():
    model = network()
    optimizers = [
        torch.optim.SGD(model[0].parameters(), 0.1, momentum=0.9),
        torch.optim.AdamW(model[3].parameters(), 0.01),
        torch.optim.SGD(model[5].parameters(), 0.1),
    ]
    before = norms(model)
    keep_on_sphere(optimizers, groups_of(model))
    train(model, optimizers)
    assert norms(model) == pytest.approx(before, rel=1e-6)
    assert optimizers[2].state_dict()["spheres"] == [] and optimizers[2].param_groups[0]["sphere_radii"] == [[], []]
    assert optimizers[0].state_dict()["spheres"] == optimizers[1].state_dict()["spheres"] == [before]


def test_mistakes_with_several():
    model = network()
    optimizers, groups = muon_and_adamw(model), groups_of(model)
    for wrong, error, message in (
        ([], TypeError, "was given no optimizer"),
        ([optimizers[0], None], TypeError, "a list with a NoneType"),
        (optimizers[:1] * 2, ValueError, "given twice"),
        (optimizers[:1], ValueError, "the optimizer does not have parameter 1"),
        ([optimizers[0], SphereSGD([groups[0]], 0.1)], ValueError, "by itself"),
    ):
        with pytest.raises(error, match=message):
            keep_on_sphere(wrong, groups)
    assert not any(one._optimizer_step_post_hooks for one in optimizers)


# -- wrapped optimisers ------------------------------------------------------------------------------------


def accelerated(model, optimizer):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare_optimizer(optimizer)


def lightning(model, optimizer):
    return pytest.importorskip("lightning.pytorch.core.optimizer").LightningOptimizer(optimizer)


class Wrapper:
    def __init__(self, model, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


@pytest.mark.parametrize("wrap", [accelerated, lightning, Wrapper])
def test_wrapped_optimisers_are_kept(wrap):
    model = network()
    inner, before = torch.optim.AdamW(model.parameters(), 0.05), norms(model)
    wrapped = wrap(model, inner)
    assert keep_on_sphere(wrapped, groups_of(model)) is wrapped
    with pytest.raises(ValueError, match="kept on spheres already"):
        keep_on_sphere(inner, groups_of(model))
    train(model, [inner if wrap is lightning else wrapped])
    assert norms(model) == pytest.approx(before, rel=1e-6)
    release(wrapped)
    assert "spheres" not in inner.state_dict()


# -- checkpoints -------------------------------------------------------------------------------------------

OPTIMISERS = {
    "AdamW": lambda model, groups: [torch.optim.AdamW(model.parameters(), 0.01)],
    "AdamW of the groups": lambda model, groups: [torch.optim.AdamW(groups, 0.01)],
    "momentum": lambda model, groups: [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)],
    "Muon and AdamW": lambda model, groups: muon_and_adamw(model),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["joint", "rows"])
@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_radii_survive_the_distributed_state_dict(make, kind, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, other = network(), network(5, scale=3.0)
    one, two = (make(m, groups_of(m, kind)) for m in (model, other))
    for m, optimizers in ((model, one), (other, two)):
        keep_on_sphere(optimizers, groups_of(m, kind))
    expected = norms(model, kind)
    train(model, one)
    saved = copy.deepcopy(get_optimizer_state_dict(model, one, options=options))
    set_optimizer_state_dict(other, two, saved, options=options)
    other.load_state_dict(model.state_dict())
    train(model, one)
    train(other, two)
    torch.testing.assert_close(norms(other, kind), expected, rtol=1e-6, atol=0)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_radii_survive_what_keeps_only_param_groups_and_state(kind):
    model, other = network(), network(5, scale=3.0)
    optimizers = [keep_on_sphere(torch.optim.AdamW(m.parameters()), groups_of(m, kind)) for m in (model, other)]
    expected = norms(model, kind)
    state = optimizers[0].state_dict()
    optimizers[1].load_state_dict(copy.deepcopy({name: state[name] for name in ("state", "param_groups")}))
    train(other, optimizers[1:], 1)
    torch.testing.assert_close(norms(other, kind), expected, rtol=1e-6, atol=0)
    assert optimizers[1].state_dict()["param_groups"][0]["sphere_radii"] == state["param_groups"][0]["sphere_radii"]


@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_sphere_sgd_survives_the_distributed_state_dict(kind):
    model, other = network(), network(5, scale=3.0)
    one, two = (SphereSGD(groups_of(m, kind), 0.01) for m in (model, other))
    expected = norms(model, kind)
    set_optimizer_state_dict(other, two, get_optimizer_state_dict(model, one))
    train(other, [two], 1)
    torch.testing.assert_close(norms(other, kind), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [[math.nan], [-3.0], [1e300], [1.0, 2.0], [0.0]])
def test_impossible_radii_in_param_groups_are_refused_and_change_nothing(bad):
    model = network()
    optimizer = keep_on_sphere(torch.optim.SGD(model.parameters(), 0.1), groups_of(model))
    good = copy.deepcopy(optimizer.state_dict())
    state = {name: copy.deepcopy(good[name]) for name in ("state", "param_groups")}
    state["param_groups"][0]["sphere_radii"][:3] = [bad] * 3
    with pytest.raises(ValueError, match="radi"):
        optimizer.load_state_dict(state)
    state["param_groups"][0]["sphere_radii"] = [[1.0], [2.0], [1.0], [], []]
    with pytest.raises(ValueError, match="for the tensors of one sphere"):
        optimizer.load_state_dict(state)
    state["param_groups"][0]["sphere_radii"] = [[1.0]]
    with pytest.raises(ValueError, match="for 5 parameters"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict() == good


# -- steps inside steps ------------------------------------------------------------------------------------


class Nested(torch.optim.SGD):
    """Half of the work is done by the base class, the rest after it."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.01)
        return loss


class NestedTwice(Nested):
    def step(self, closure=None):
        super().step(closure)
        return super().step(None)


class Failing(torch.optim.SGD):
    """The inner step fails now and then, and is caught."""

    fails = False

    def step(self, closure=None):
        try:
            super().step(self.fail if self.fails else None)
        except KeyError:
            return None

    def fail(self):
        raise KeyError("data")


@pytest.mark.parametrize("kind", [Nested, NestedTwice, Failing])
def test_a_nested_step_is_projected_once_at_its_end(kind, monkeypatch):
    torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)  # from now on torch wraps the step of SGD itself
    model = network()
    optimizer = kind(model.parameters(), 0.1)
    before, calls = norms(model), []
    project = onsphere.optim.keep.project_
    monkeypatch.setattr(onsphere.optim.keep, "project_", lambda *a, **k: (calls.append(1), project(*a, **k)))
    keep_on_sphere(optimizer, groups_of(model))
    for step in range(1, 7):
        optimizer.fails = step in (2, 3)
        train(model, [optimizer], 1)
        assert len(calls) == step
        assert norms(model) == pytest.approx(before, rel=1e-6)


def test_a_step_that_fails_as_a_whole_is_followed_by_whole_steps():
    torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    model = network()
    optimizer, before = Nested(model.parameters(), 0.1), norms(model)
    keep_on_sphere(optimizer, groups_of(model))

    def fails():
        raise KeyError("data")

    for _ in range(2):
        with pytest.raises(KeyError):
            optimizer.step(fails)
        train(model, [optimizer], 1)
        assert norms(model) == pytest.approx(before, rel=1e-6)


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", None, r'group\["lr"\] is None; it must be a finite number'),
        ("lr", (0.1, 0.2), r"is \(0.1, 0.2\)"),
        ("lr", math.nan, "is nan"),
        ("lr", 1e300, "lr is 1e.300: the factor of a step .* overflows in float32; give a smaller one"),
        ("lr", 1e38, "the factor of a step .* overflows"),
        ("momentum", (0.9, 0.99), r"momentum is \(0.9, 0.99\)"),
        ("momentum", None, "momentum is None"),
        ("weight_decay", "much", "weight_decay is 'much'"),
    ],
)
def test_settings_written_later_are_refused_before_anything_moves(name, value, message):
    model = network(scale=3.0)
    optimizer = SphereSGD(groups_of(model)[::-1], 0.1)
    train(model, [optimizer], 1)
    before = copy.deepcopy(model)
    optimizer.param_groups[1][name] = value
    with pytest.raises(ValueError, match=message):
        train(model, [optimizer], 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("lr", [1e300, 1e38, torch.tensor(1e300, dtype=torch.float64)])
@pytest.mark.parametrize("kind", ["joint", "rows"])
def test_steps_that_overflow_are_refused_at_the_border(lr, kind):
    model = network(scale=9.0)
    with pytest.raises(ValueError, match="overflows in float32"):
        SphereSGD(groups_of(model, kind)[:1], lr)
    with pytest.raises(ValueError, match="overflows in float32"):
        SphereSGD([groups_of(model, kind)[0], {"params": model[5].parameters(), "lr": 1e39}], 0.1)
    optimizer = SphereSGD(groups_of(model.double(), kind)[:1], float(lr) if float(lr) < 1e300 else 1e200)
    assert optimizer.param_groups[0]["lr"] >= 1e38
