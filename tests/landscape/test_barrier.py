"""Barriers: what they are, and that every point has its own batch statistics."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import onsphere
from onsphere.lab.models.mlp import mlp
from onsphere.landscape import barrier, geodesic
from onsphere.normalisation import reestimate_batch_statistics

CROSS_ENTROPY = nn.functional.cross_entropy


def _network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp((6,), 3, widths=(8, 8)).double()


X = torch.randn(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
Y = (X @ torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))).argmax(1)
BATCHES = [(X[:40], Y[:40]), (X[40:], Y[40:])]


def test_every_point_is_evaluated_with_its_own_statistics():
    a, b = _network(0), _network(1)
    found = barrier(a, a, b, CROSS_ENTROPY, BATCHES, points=5)
    names = ("linear1.weight", "linear2.weight")
    assert found.on_sphere == names
    assert found.linear == ("head.weight",)
    for t, loss, error in zip(found.t, found.losses, found.errors, strict=True):
        here = copy.deepcopy(a)
        here.load_state_dict(
            {**a.state_dict(), **geodesic(dict(a.named_parameters()), dict(b.named_parameters()), t, names)}
        )
        reestimate_batch_statistics(here, BATCHES).eval()
        output = here(X).detach()
        assert float(CROSS_ENTROPY(output, Y)) == pytest.approx(loss, abs=1e-12)
        assert float((output.argmax(1) != Y).double().mean()) == pytest.approx(error)
    line = (1 - found.t) * found.losses[0] + found.t * found.losses[-1]
    assert found.loss_barrier == pytest.approx(max(0.0, (found.losses - line).max()))
    assert "re-estimated" in repr(found)
    assert found.angle == onsphere.landscape.angle(a, b, names)


def test_stale_statistics_show_a_barrier_that_is_not_there():
    a = _network(0)
    reestimate_batch_statistics(a, BATCHES)
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.linear1.weight.mul_(-1)  # relu(batch norm) of the opposite weights: another function, statistics negated
    stale = {**b.state_dict(), "bn2.running_var": b.bn2.running_var * 1e3}
    chord = {"points": 5, "path": "chord"}
    again = barrier(a, stale, stale, CROSS_ENTROPY, BATCHES, **chord)
    as_is = barrier(a, stale, stale, CROSS_ENTROPY, BATCHES, mode="eval", **chord)
    assert again.losses[0] == pytest.approx(barrier(a, b, b, CROSS_ENTROPY, BATCHES, **chord).losses[0])
    assert abs(as_is.losses[0] - again.losses[0]) > 0.01


def test_training_mode_uses_the_statistics_of_each_batch():
    a, b = _network(0), _network(1)
    found = barrier(a, a, b, CROSS_ENTROPY, BATCHES, points=3, mode="train")
    with torch.no_grad():
        expected = sum(float(CROSS_ENTROPY(copy.deepcopy(a).train()(x), y)) * len(x) for x, y in BATCHES) / 60
    assert found.losses[0] == pytest.approx(expected, abs=1e-12)


def test_statistics_may_come_from_other_batches():
    a, b = _network(0), _network(1)
    found = barrier(a, a, b, CROSS_ENTROPY, (X[40:], Y[40:]), points=3, statistics=(X[:40], Y[:40]))
    here = reestimate_batch_statistics(copy.deepcopy(b), [X[:40]]).eval()
    assert found.losses[-1] == pytest.approx(float(CROSS_ENTROPY(here(X[40:]), Y[40:]).detach()), abs=1e-12)


def test_nothing_rises_between_a_network_and_itself_at_another_norm():
    a = _network(0)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for layer in (b.linear1, b.linear2):
            layer.weight.mul_(3)
    for path in ("geodesic", "chord"):
        found = barrier(a, a, b, CROSS_ENTROPY, BATCHES, path=path)
        assert found.loss_barrier < 1e-9
        assert found.error_barrier == 0


def test_two_minima_of_a_known_function():
    model = nn.Linear(1, 1, bias=False)
    angles = {"a": 0.3, "b": 1.9}
    model = nn.Linear(2, 1, bias=False).double()
    a, b = (torch.tensor([[math.cos(s), math.sin(s)]], dtype=torch.float64) for s in angles.values())

    def loss(output, target):
        return output.sum(1).mean() + 0 * target.mean()

    x, y = torch.tensor([[1.0, 2.0]] * 2, dtype=torch.float64), torch.zeros(2)
    found = barrier(model, [a], [b], loss, (x, y), points=101, parameters="weight")
    s = np.linspace(*angles.values(), 101)
    np.testing.assert_allclose(found.losses, np.cos(s) + 2 * np.sin(s), atol=1e-12)
    assert found.errors is None
    assert found.angle == pytest.approx(1.6)
    assert found.loss_barrier > 0.5
    assert found.position == pytest.approx(0.5, abs=0.1)
    frame = found.to_frame()
    assert list(frame.columns) == ["t", "loss"]
    assert found.to_dict()["loss_barrier"] == found.loss_barrier


def test_a_one_shot_generator_and_a_list_of_trainable_tensors():
    a, b = _network(0), _network(1)
    trained = [p for p in b.parameters() if p.requires_grad]
    found = barrier(a, a, trained, CROSS_ENTROPY, iter(BATCHES), points=3)
    assert found.linear == ()  # the frozen head is the model's
    assert found.examples == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 2}, "at least 3"),
        ({"batches": []}, "empty"),
        ({"path": "bow"}, "geodesic, chord"),
        ({"mode": "test"}, "reestimate, train, eval"),
        ({"b": {}}, "lacks"),
        ({"b": {"x": X}}, "unknown"),
        ({"b": [X]}, "1 tensors"),
        ({"b": "nan"}, "NaN"),
        ({"b": "antipodal"}, "antipodal"),
        ({"b": "shape"}, "in the model"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="sum")}, "not a mean"),
        ({"parameters": "nothing"}, "called or matches"),
        ({"mode": "train", "statistics": BATCHES}, "statistics are for"),
    ],
)
def test_refusals(change, message):
    a = _network(0)
    state = a.state_dict()
    special = {
        "nan": {**state, "head.weight": state["head.weight"] * math.nan},
        "antipodal": {n: -t if n.startswith("linear") else t for n, t in state.items()},
        "shape": {**state, "head.weight": state["head.weight"][:2]},
    }
    given = {"b": state, "loss_fn": CROSS_ENTROPY, "batches": BATCHES, **change}
    if isinstance(given["b"], str):
        given["b"] = special[given["b"]]
    with pytest.raises(ValueError, match=message):
        barrier(a, a, **given)


def test_without_scale_invariant_weights_a_geodesic_asks_which():
    model = nn.Linear(6, 3).double()
    with pytest.raises(ValueError, match="parameters="):
        barrier(model, model, model, CROSS_ENTROPY, BATCHES)
