"""Several spheres, a trained head and momentum against plain torch loops, written from the published procedure."""

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onsphere.lab.data import from_arrays
from onsphere.lab.models import ModelError
from onsphere.lab.models.trained_head import TrainedHead
from onsphere.lab.population import Copy, Engine, Plan, Problem, Readings, Shard, ShardFolder, Spheres, run_shard
from onsphere.lab.preparation import prepare_model, prepare_with_others

STEPS, HEAD_LR = 24, 0.05
ELRS = (1e-4, 1e-3)
OPTIONS = {"mlp": {"widths": (6, 5)}, "convnet": {"width": 2}, "resnet18": {"width": 2}}


@cache
def images(shape=(1, 8, 8), examples=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * examples, *shape)).astype("float32")
    y = np.arange(2 * examples) % 10
    return from_arrays(x[:examples], y[:examples], x[examples:], y[examples:])


def problem(kind, head="frozen", model="mlp", **changes):
    trained = head == "trained"
    given = Problem(
        data=images(),
        model=TrainedHead(model) if trained else model,
        model_options=OPTIONS.get(model, {}) | {"head_norm": 10.0, "eps": 1e-5},
        radius=None,
        steps=STEPS,
        batch_size=16,
        dtype=torch.float64,
        spheres=Spheres(kind, free_lr=HEAD_LR if trained else 0.0),
    )
    return (prepare_with_others if trained else prepare_model)(dataclasses.replace(given, **changes))[0]


def norm2(tensors):
    return sum(float(t.detach().square().sum()) for t in tensors)


def filters(weights):
    return [weight[i] for weight in weights for i in range(len(weight))]


def plain_loop(this, kind, elr, momentum):
    """SGD at lr = ELR ρ², then back to the norms; every filter at one norm; the head at an lr of its own."""
    model = this.build(0).double()
    weights = [p for name, p in model.named_parameters() if not name.startswith("head")]
    head = [p for name, p in model.named_parameters() if name.startswith("head") and p.requires_grad]
    total = norm2(weights)
    pieces = {"joint": [weights], "groups": [[w] for w in weights], "rows": [[f] for f in filters(weights)]}[kind]
    wanted = [total / len(pieces) if kind == "rows" else norm2(piece) for piece in pieces]

    def back():
        with torch.no_grad():
            for piece, square in zip(pieces, wanted, strict=True):
                factor = math.sqrt(square / norm2(piece))
                for tensor in piece:
                    tensor.mul_(factor)

    back()
    if kind == "groups":
        groups = [{"params": [w], "lr": elr * norm2([w])} for w in weights]
    else:
        groups = [{"params": weights, "lr": elr * total}]
    groups += [{"params": head, "lr": HEAD_LR}] if head else []
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum)
    x, y, angles = this.data.x_train.double(), this.data.y_train, []
    for rows in this.batches(0, 0, STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        before = torch.cat([w.detach().flatten().clone() for w in weights])
        optimizer.step()
        back()
        after = torch.cat([w.detach().flatten() for w in weights])
        angles.append(math.acos(min(1.0, float(before @ after) / total)))
    return dict(model.named_parameters()), angles


def run(this, momentum, plan):
    engine = Engine(this, tuple(Copy(0, elr, momentum=momentum) for elr in ELRS), plan)
    ring = torch.empty((STEPS, len(ELRS), engine.columns), dtype=torch.float64)
    return engine.advance(engine.initial_state(), STEPS, ring), ring, engine


@pytest.mark.parametrize(
    ("kind", "head", "momentum", "model", "plan"),
    [
        ("rows", "frozen", 0.0, "convnet", Plan("loop", 1)),
        ("groups", "frozen", 0.0, "mlp", Plan("vmap", 2)),
        ("joint", "trained", 0.0, "mlp", Plan("vmap", 2)),
        ("joint", "frozen", 0.9, "mlp", Plan("loop", 1)),
        ("rows", "trained", 0.9, "mlp", Plan("vmap", 2)),
        ("groups", "trained", 0.9, "convnet", Plan("loop", 1, traced=False)),
    ],
)
def test_copies_equal_a_plain_loop(kind, head, momentum, model, plan):
    this = problem(kind, head, model)
    state, ring, engine = run(this, momentum, plan)
    readings = Readings(this.invariant, 0, ring.numpy(), engine.extra)
    angles = readings.angular_update(np.array(ELRS))
    for k, elr in enumerate(ELRS):
        expected, turned = plain_loop(this, kind, elr, momentum)
        assert set(this.trained) == {name for name, p in expected.items() if p.requires_grad}
        for name, value in zip(this.trained, state.params, strict=True):
            torch.testing.assert_close(value[k], expected[name].detach(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(angles[:, k], turned, rtol=0, atol=1e-6)  # acos sees no less than 1e-8
    np.testing.assert_allclose(readings.radius, readings.radius[0, 0], rtol=1e-12)


def test_in_the_numerics_of_the_sphere_the_norms_are_given():
    options = OPTIONS["mlp"] | {"head_norm": 10.0, "eps": 1e-12}
    for kind, total, each in (("groups", math.sqrt(2), 1.0), ("rows", 1.0, None)):
        this = problem(kind, radius=1.0, model_options=options)
        state, ring, engine = run(this, 0.0, Plan("vmap", 2))
        radius = Readings(this.invariant, 0, ring.numpy(), engine.extra).radius
        np.testing.assert_allclose(radius, total, rtol=1e-12)
        norms = [float(p[0].norm()) for p in state.params]
        if each is None:
            counts = [p.shape[1] for p in state.params]
            np.testing.assert_allclose(norms, [math.sqrt(n / sum(counts)) for n in counts], rtol=1e-12)
            rows = torch.cat([p[0].flatten(1).norm(dim=1) for p in state.params])
            np.testing.assert_allclose(rows, 1 / math.sqrt(sum(counts)), rtol=1e-12)
        else:
            np.testing.assert_allclose(norms, each, rtol=1e-12)


def test_a_shard_is_read_again_with_the_angles_that_were_measured(tmp_path):
    this, copies = problem("rows", "trained"), (Copy(0, 1e-3, momentum=0.5),)
    assert run_shard(Shard("one", copies), this, Plan("loop", 1), tmp_path / "one")
    engine = Engine(this, copies, Plan("loop", 1))
    ring = torch.empty((STEPS, 1, engine.columns), dtype=torch.float64)
    engine.advance(engine.initial_state(), STEPS, ring)
    readings = ShardFolder(tmp_path / "one").readings()
    assert readings.names == this.invariant and readings.extra == ("angle",)
    np.testing.assert_array_equal(readings.values, ring.numpy())


def test_groups_of_a_residual_network_are_its_streams():
    given = {"model": "resnet18"}
    groups = problem("groups", **given).spheres.groups
    assert ("stem.weight", "stages.0.0.conv2.weight", "stages.0.1.conv2.weight") in groups
    assert ("stages.0.0.conv1.weight",) in groups
    with pytest.raises(ModelError, match=r"single filters of 12 of the 20 tensors .* residual stream"):
        problem("rows", **given)


def test_a_network_without_a_head_to_train_is_refused():
    def closed(input_shape, classes):
        layers = [torch.nn.Flatten(), torch.nn.Linear(64, 8, bias=False), torch.nn.BatchNorm1d(8, affine=False)]
        return torch.nn.Sequential(*layers, torch.nn.Linear(8, classes).requires_grad_(False))

    with pytest.raises(ModelError, match="no head is trained"):
        problem("joint", "trained", closed, model_options={"head_norm": 10.0, "eps": 1e-12})


def test_gains_and_biases_are_trained_beside_the_weights():
    def affine(input_shape, classes):
        hidden = [torch.nn.Linear(64, 8, bias=False), torch.nn.BatchNorm1d(8), torch.nn.ReLU()]
        more = [torch.nn.Linear(8, 8, bias=False), torch.nn.BatchNorm1d(8), torch.nn.ReLU()]
        return torch.nn.Sequential(torch.nn.Flatten(), *hidden, *more, torch.nn.Linear(8, classes))

    this = problem("joint", "trained", affine, model_options={"head_norm": 10.0, "eps": 1e-12})
    assert this.invariant == ("1.weight", "4.weight")
    assert set(this.spheres.free) == {"2.weight", "2.bias", "5.weight", "5.bias", "7.weight", "7.bias"}
