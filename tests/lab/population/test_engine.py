"""The population against plain PyTorch: same seeds, same batches, same numbers."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import onsphere
from onsphere.lab.data import from_arrays
from onsphere.lab.population import Copy, Engine, Plan, Problem
from onsphere.lab.population.step import loss_function
from onsphere.lab.preparation import prepare_model

# Larger ELRs follow too, but in divergence rounding grows exponentially, in any implementation.
COPIES = (Copy(0, 1e-3), Copy(1, 3e-3), Copy(0, 1e-2))


def images(examples=96, shape=(1, 8, 8), classes=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * examples, *shape)).astype("float32")
    y = np.arange(2 * examples) % classes
    return from_arrays(x[:examples], y[:examples], x[examples:], y[examples:])


def problem(**changes):
    base = Problem(
        data=images(),
        model="mlp",
        model_options={"widths": (12, 12), "head_norm": 10.0, "eps": 1e-12},
        steps=50,
        batch_size=16,
        dtype=torch.float64,
    )
    return prepare_model(dataclasses.replace(base, **changes))[0]


def ring(engine, steps):
    return torch.empty((steps, len(engine.copies), engine.columns), dtype=engine.problem.dtype)


def run(this, copies, plan, steps):
    engine = Engine(this, copies, plan)
    readings = ring(engine, steps)
    return engine.advance(engine.initial_state(), steps, readings), readings


def plain_loop(this, copy, steps):
    """What a user would write with the core alone."""
    model = this.build(copy.seed).to(this.dtype)
    x, y = this.data.x_train.to(this.dtype), this.data.y_train
    groups = onsphere.sphere_groups(model, x[:16])
    optimizer = onsphere.SphereSGD(groups, lr=copy.lr, radius=this.radius)
    losses = []
    for rows in this.batches(copy.seed, 0, steps):
        optimizer.zero_grad()
        loss = loss_function(this.loss)(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return dict(model.named_parameters()), losses


PLANS = {
    "vmap": Plan("vmap", 3),
    "vmap untraced": Plan("vmap", 3, traced=False),
    "loop": Plan("loop", 1),
    "loop untraced": Plan("loop", 1, traced=False),
    "vmap compiled": Plan("vmap", 3, compiled=True),
    "loop compiled": Plan("loop", 1, compiled=True),
}


@pytest.mark.parametrize(
    ("plan", "loss"),
    [
        pytest.param(plan, loss, id=f"{name}, {loss}")
        for name, plan in PLANS.items()
        for loss in ("cross-entropy", "mse")
        if not (plan.compiled and loss == "mse")  # one loss is enough for the compiler
    ],
)
def test_every_copy_equals_a_plain_loop_with_sphere_sgd(plan, loss):
    this = problem(loss=loss)
    state, readings = run(this, COPIES, plan, 50)
    for k, copy in enumerate(COPIES):
        expected, losses = plain_loop(this, copy, 50)
        torch.testing.assert_close(readings[:, k, 0], torch.tensor(losses, dtype=torch.float64), rtol=0, atol=1e-9)
        for name, value in zip(this.trained, state.params, strict=True):
            torch.testing.assert_close(value[k], expected[name].detach(), rtol=0, atol=1e-9)


class Parts(nn.Module):
    """Two norms; the second half may be recomputed, the first norm frozen."""

    def __init__(self, recomputed, frozen):
        super().__init__()
        self.recomputed = recomputed
        norm = nn.BatchNorm1d(12, eps=1e-12, affine=not frozen)  # a frozen norm keeps its gains, which are on no sphere
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), norm, nn.ReLU())
        self.second = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12, eps=1e-12, affine=False), nn.ReLU())
        self.head = nn.Linear(12, 10)
        if frozen:
            self.first[2].eval().running_var.fill_(0.5)

    def forward(self, x):
        x = self.first(x)
        return self.head(checkpoint(self.second, x, use_reentrant=False) if self.recomputed else self.second(x))


def recomputed():
    return Parts(True, False)


def frozen():
    return Parts(False, True)


@pytest.mark.parametrize("model", [recomputed, frozen], ids=["recomputed", "frozen"])
@pytest.mark.parametrize("plan", [Plan("vmap", 3), Plan("loop", 1), Plan("loop", 1, traced=False)], ids=str)
def test_recomputed_and_frozen_parts_train_as_in_a_plain_loop(model, plan):
    this = problem(model=model, model_options={"head_norm": 10.0, "eps": 1e-12})
    state, _ = run(this, COPIES, plan, 20)
    for k, copy in enumerate(COPIES):
        expected, _ = plain_loop(this, copy, 20)
        for name, value in zip(this.trained, state.params, strict=True):
            torch.testing.assert_close(value[k], expected[name].detach(), rtol=0, atol=1e-9)


@cache
def convolutional(model, width):
    """A problem, copies of it, and what a plain loop makes of each."""
    options = {"width": width, "head_norm": 10.0, "eps": 1e-12}
    this = problem(model=model, model_options=options, data=images(24, (3, 16, 16)), batch_size=8, steps=4)
    copies = (Copy(0, 1e-3), Copy(1, 1e-2))
    return this, copies, [plain_loop(this, copy, 4)[0] for copy in copies]


@pytest.mark.parametrize("model", ["convnet", "resnet18"])
@pytest.mark.parametrize("plan", [Plan("loop", 1, channels_last=True), Plan("loop", 1), Plan("vmap", 2)], ids=str)
def test_convolutional_copies_equal_a_plain_loop(model, plan):
    # resnet18 is put in channels-last order from 8 channels on
    this, copies, each = convolutional(model, 8 if plan.channels_last else 4)
    state, _ = run(this, copies, plan, 4)
    for k, expected in enumerate(each):
        for name, value in zip(this.trained, state.params, strict=True):
            torch.testing.assert_close(value[k], expected[name].detach(), rtol=0, atol=1e-9)


def test_the_paper_preset_equals_the_published_step():
    """Kodryan et al. 2022: keep the initial norm, lr = ELR norm², rescale all scale-invariant tensors by one factor."""
    options = {"widths": (12, 12), "head_norm": 10.0, "eps": 1e-5}
    this = problem(radius=None, model_options=options)
    copy = Copy(0, 3e-3)
    state, _ = run(this, (copy,), Plan("vmap", 1), 50)

    model = this.build(0).double()
    weights = [p for p in model.parameters() if p.requires_grad]
    norm = torch.sqrt(sum(w.detach().square().sum() for w in weights))
    optimizer = torch.optim.SGD(weights, lr=copy.lr * norm.item() ** 2)
    x, y = this.data.x_train.double(), this.data.y_train
    for rows in this.batches(0, 0, 50):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            factor = norm / torch.sqrt(sum(w.square().sum() for w in weights))
            for w in weights:
                w.mul_(factor)
    for value, weight in zip(state.params, weights, strict=True):
        torch.testing.assert_close(value[0], weight.detach(), rtol=0, atol=1e-6)


def test_the_whole_space_equals_torch_sgd():
    this = dataclasses.replace(problem(), geometry="space")
    copies = (Copy(0, 0.1, 1e-3, 0.9), Copy(1, 0.05, 0.0, 0.0))
    state, _ = run(this, copies, Plan("vmap", 2), 30)
    for k, copy in enumerate(copies):
        model = this.build(copy.seed).double()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, copy.lr, momentum=copy.momentum, weight_decay=copy.weight_decay)
        x, y = this.data.x_train.double(), this.data.y_train
        for rows in this.batches(copy.seed, 0, 30):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        for value, weight in zip(state.params, weights, strict=True):
            torch.testing.assert_close(value[k], weight.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_copy_that_becomes_non_finite_is_marked_and_touches_no_other(mode):
    this = dataclasses.replace(problem(), geometry="space", dtype=torch.float32)
    healthy, broken = (Copy(0, 0.1), Copy(1, 0.1)), (Copy(0, 0.1), Copy(1, 1e38))
    expected, _ = run(this, healthy, Plan(mode, 2), 30)
    state, readings = run(this, broken, Plan(mode, 2), 30)
    assert state.alive.tolist() == [True, False]
    for value, other in zip(state.params, expected.params, strict=True):
        assert torch.equal(value[0], other[0])
        assert torch.isfinite(value[1]).all()
    assert torch.isfinite(readings[:, 0]).all()


@pytest.mark.parametrize("elr", [2e37, 1e38, 3e38])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_copy_on_the_sphere_whose_step_overflows_keeps_its_last_finite_weights(mode, momentum, elr):
    this = dataclasses.replace(problem(), dtype=torch.float32, radius=3.0)
    healthy, broken = ((Copy(0, 1e-3, momentum=momentum), Copy(1, lr, momentum=momentum)) for lr in (1e-3, elr))
    expected, _ = run(this, healthy, Plan(mode, 2), 20)
    state, _ = run(this, broken, Plan(mode, 2), 20)
    assert state.alive.tolist() == [True, False]
    for value, other in zip(state.params, expected.params, strict=True):
        assert torch.equal(value[0], other[0])
        assert torch.isfinite(value[1]).all()
    assert float(sum((p[1].double() ** 2).sum() for p in state.params).sqrt()) == pytest.approx(3.0, rel=1e-6)


def test_the_radius_stays_and_the_readings_say_what_happened():
    this = problem()
    state, values = run(this, COPIES, Plan("vmap", 3), 50)
    from onsphere.lab.population import Readings

    readings = Readings(this.trained, 0, values.numpy())
    np.testing.assert_allclose(readings.radius, 1.0, rtol=1e-12)
    elrs = np.array([c.lr for c in COPIES])
    np.testing.assert_allclose(readings.moment("inner").sum(-1), 0, atol=1e-8 * readings.effective_gradient_norm.max())
    # on the unit sphere tan(angle) = ELR |g| for a tangent gradient
    np.testing.assert_allclose(
        np.tan(readings.angular_update(elrs)), elrs * readings.effective_gradient_norm, rtol=1e-6
    )
    assert state.step == 50


def test_dropout_is_drawn_from_the_seed_alone_and_leaves_the_global_state(tmp_path):
    def factory(input_shape, classes):
        wide = torch.nn.Linear(64, 16, bias=False)
        layers = [
            torch.nn.Flatten(),
            wide,
            torch.nn.BatchNorm1d(16, affine=False, eps=1e-12),
            torch.nn.ReLU(),
        ]
        head = torch.nn.Linear(16, classes, bias=False).requires_grad_(False)
        return torch.nn.Sequential(*layers, torch.nn.Dropout(0.2), head)

    this = problem(model=factory, model_options={"head_norm": 10.0, "eps": 1e-12})
    for plan in (Plan("vmap", 3), Plan("loop", 1)):
        torch.manual_seed(5)
        first, _ = run(this, COPIES, plan, 10)
        after = torch.random.get_rng_state()
        torch.manual_seed(5)
        assert torch.equal(after, torch.random.get_rng_state())
        torch.manual_seed(6)
        second, _ = run(this, COPIES, plan, 10)
        assert all(torch.equal(a, b) for a, b in zip(first.params, second.params, strict=True))
