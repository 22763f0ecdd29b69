"""Averages on the sphere against the formula, the last K, and batch statistics that belong to them."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape_nets import BATCHES, X, network
from torch import nn

from onsphere.landscape import SphereAverage, angle, average
from onsphere.normalisation import reestimate_batch_statistics

SPHERE = ("linear1.weight", "linear2.weight")


def _flat(state, names=SPHERE):
    return np.concatenate([state[n].detach().double().numpy().ravel() for n in names])


def _states(count):
    return [network(seed).state_dict() for seed in range(count)]


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_the_average_is_the_normalised_mean_of_directions(shares):
    points = _states(len(shares))
    mean = average(points, shares, parameters=SPHERE)
    norms = [np.linalg.norm(_flat(p)) for p in points]
    weights = np.array(shares) / sum(shares)
    direction = sum(w * _flat(p) / n for w, p, n in zip(weights, points, norms, strict=True))
    radius = float(weights @ norms)
    np.testing.assert_allclose(_flat(mean), radius * direction / np.linalg.norm(direction), atol=1e-12)
    # The head is not on the sphere: a plain mean.
    heads = sum(w * p["head.weight"] for w, p in zip(weights, points, strict=True))
    torch.testing.assert_close(mean["head.weight"], heads)


def test_forms_come_back_and_norms_do_not_count():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])
    mean = average([a, b])
    torch.testing.assert_close(mean, torch.tensor([3.0, 3.0]) / math.sqrt(2))
    assert mean.dtype == torch.float32
    assert isinstance(average([[a, a], [b, b]]), list)
    assert set(average([network(0), network(1)])) == {n for n, _ in network(0).named_parameters()} | {
        f"bn{i}.{name}" for i in (1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    torch.testing.assert_close(average([a, b], [1, 0]), a)
    torch.testing.assert_close(average([a]), a)


def test_the_last_k_are_averaged_at_once_and_in_a_loop():
    points = _states(5)
    expected = average(points[-2:], [1.0, 3.0], parameters=SPHERE)
    torch.testing.assert_close(average(points, [9, 9, 9, 1, 3], last=2, parameters=SPHERE), expected)
    model, running, every = network(0), SphereAverage(SPHERE, last=2), SphereAverage(SPHERE)
    for point, share in zip(points, (9, 9, 9, 1, 3), strict=True):
        model.load_state_dict(point)
        running.update(model, share)
        every.update(model, share)
    assert (running.count, every.count) == (2, 5)
    torch.testing.assert_close(running.average(), expected)
    torch.testing.assert_close(every.average(), average(points, [9, 9, 9, 1, 3], parameters=SPHERE))
    assert "2 points (of the last 2), 2 tensors" in repr(running)


@pytest.mark.parametrize("last", [None, 2])
def test_a_stored_average_goes_on_where_it_was(last):
    points = _states(4)
    whole, first, second = SphereAverage(SPHERE, last), SphereAverage(SPHERE, last), SphereAverage()
    for point in points[:2]:
        first.update(point)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for point in points:
        whole.update(point)
    for point in points[2:]:
        second.update(point)
    assert second.count == whole.count
    for name, tensor in whole.average().items():
        assert torch.equal(second.average()[name], tensor)
    with pytest.raises(ValueError, match="lacks"):
        second.load_state_dict({})


def test_batch_statistics_are_re_estimated_at_the_average():
    models = [network(seed) for seed in range(3)]
    for model in models:
        model(X)
    mean = average(models, batches=BATCHES, parameters=SPHERE)
    here = copy.deepcopy(models[0])
    here.load_state_dict(average(models, parameters=SPHERE))
    stale = here.bn2.running_var.clone()
    torch.testing.assert_close(stale, sum(m.bn2.running_var for m in models) / 3)
    reestimate_batch_statistics(here, BATCHES)
    for name, tensor in here.state_dict().items():
        torch.testing.assert_close(mean[name], tensor)
    assert not torch.allclose(mean["bn2.running_var"], stale)
    # Inputs alone, and one pair, serve as well.
    torch.testing.assert_close(average(models, batches=[x for x, _ in BATCHES], parameters=SPHERE), mean)
    one = average(models, batches=BATCHES[0], parameters=SPHERE)
    torch.testing.assert_close(one, average(models, batches=[BATCHES[0][0]], parameters=SPHERE))


def test_an_average_is_written_into_a_model():
    models = [network(seed) for seed in range(2)]
    mean = SphereAverage(SPHERE)
    for model in models:
        mean.update(model)
    target = network(7)
    written = mean.apply(target, BATCHES)
    assert written is target
    assert target.training
    again = average(models, batches=BATCHES, parameters=SPHERE)
    torch.testing.assert_close({**target.state_dict()}, {**again})
    # Lists of trainable tensors leave a frozen head as it is.
    lists = [[p for p in model.parameters() if p.requires_grad] for model in models]
    state = average(lists, model=target, batches=BATCHES)
    torch.testing.assert_close(state["linear1.weight"], target.linear1.weight.detach())
    assert torch.equal(state["head.weight"], target.head.weight)


def test_an_average_of_two_is_in_their_middle():
    a, b = network(0), network(1)
    mean = average([a, b], parameters=SPHERE)
    whole = angle(a, b, SPHERE)
    assert angle(a.state_dict(), mean, SPHERE) == pytest.approx(whole / 2)
    assert angle(b.state_dict(), mean, SPHERE) == pytest.approx(whole / 2)


def test_half_precision_weights_are_averaged_in_double():
    points = [torch.full((3,), 1.0 + i / 128, dtype=torch.bfloat16) for i in range(100)]
    mean = average(points)
    assert mean.dtype == torch.bfloat16
    assert float(mean[0]) == pytest.approx(np.mean([float(p[0]) for p in points]), rel=2**-8)


ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([], {}, "no points"),
        ([ONE, -ONE], {}, "cancel"),
        ([ONE, torch.ones(3)], {}, r"\(3,\)"),
        ([ONE, ONE * math.nan], {}, "NaN"),
        ([ONE, 0 * ONE], {}, "norm 0"),
        ([ONE, ONE], {"coefficients": [1.0]}, "2 non-negative"),
        ([ONE, ONE], {"coefficients": [-1.0, 2.0]}, "non-negative"),
        ([ONE, ONE], {"coefficients": [0.0, 0.0]}, "not all zero"),
        ([ONE], {"last": 0}, "last is 0"),
        ([ONE], {"batches": BATCHES}, "give the model"),
        ([network(0)], {"batches": []}, "empty"),
    ],
)
def test_refusals(points, options, message):
    with pytest.raises(ValueError, match=message):
        average(points, **options)


def test_an_average_refuses_another_model_and_an_empty_one():
    mean = SphereAverage()
    with pytest.raises(ValueError, match="nothing to average"):
        mean.average()
    mean.update(network(0))
    other = nn.Linear(2, 2)
    before = other.weight.detach().clone()
    with pytest.raises(ValueError, match="unknown to the model"):
        mean.apply(other)
    with pytest.raises(TypeError, match="batch 0 is 3 things"):
        mean.apply(network(0), [(X, X, X)])
    assert torch.equal(other.weight, before)
    with pytest.raises(ValueError, match="coefficient is 0"):
        mean.update(network(0), 0)
    with pytest.raises(ValueError, match="positive number"):
        SphereAverage(last=0)
