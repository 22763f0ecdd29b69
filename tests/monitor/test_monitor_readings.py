"""What the monitor reads, against an independent computation and the exact laws of SGD."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onsphere import Monitor, SphereSGD, keep_on_sphere
from onsphere.monitor import workspace
from onsphere.monitor.readings import COLUMNS, Store, measure


def weights(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in [(4, 3), (5, 2)]]


def loss(params):
    """Scale-invariant in all of them together."""
    flat = torch.cat([p.double().flatten() for p in params])
    return (flat / flat.norm()).cumsum(0).square().sum()


def train(params, optimizer, steps=6, spy=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss(params).backward()
        before = [p.detach().double().clone() for p in params]
        gradients = [p.grad.double().clone() for p in params]
        optimizer.step()
        if spy is not None:
            spy.append((before, gradients, [p.detach().double().clone() for p in params]))


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors]).numpy()


def expected(w, g, after):
    """The definitions, on flat vectors, written out anew."""
    d = after - w
    rho = np.linalg.norm(w)
    radial = (w @ d) / rho
    tangent = np.linalg.norm(d - radial * w / rho)
    grad = np.linalg.norm(g)
    return {
        "norm": rho,
        "gradient_norm": grad,
        "effective_gradient": rho * grad,
        "elr": tangent / rho**2 / grad,
        "effective_step": tangent / rho,
        "angular_update": 2 * math.asin(np.linalg.norm(after / np.linalg.norm(after) - w / rho) / 2),
        "decay_pull": -radial / rho,
        "gradient_push": (tangent / rho) ** 2 / 2,
        "push": -math.log(abs(w @ after) / rho / np.linalg.norm(after)),
        "change": math.log(np.linalg.norm(after) / rho),
        "noether_residual": abs(w @ g) / rho / grad,
    }


def check(table, spy, every=1, atol=1e-12):
    wanted = [expected(*map(flat, step)) for step in spy[::every]]
    for name in set(COLUMNS) - {"decay", "alignment"}:
        np.testing.assert_allclose(table[name], [one[name] for one in wanted], rtol=1e-7, atol=atol, err_msg=name)
    forces = table["decay"] + table["alignment"] + table["push"]
    np.testing.assert_allclose(forces, [one["change"] for one in wanted], rtol=0, atol=1e-10)


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov-foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "AdamW-fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "Muon": lambda p: torch.optim.Muon(p, 0.1),
    "SphereSGD": lambda p: SphereSGD([{"params": p, "sphere": "joint"}], 0.1),
}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("every", [1, 3])
def test_readings_of_every_optimiser_are_the_definitions(make, every):
    params, spy = weights(), []
    monitor = Monitor(make(params), [{"params": params, "sphere": "joint"}], every=every, capacity=4)
    train(params, monitor._recorders[0].optimizer, steps=10, spy=spy)
    table = monitor.readings()
    assert list(table["step"]) == list(range(0, 10, every))
    assert set(table["group"]) == {"sphere"} and table["finite"].all()
    check(table, spy, every)
    for i in range(2):
        one = monitor.readings("tensor", f"param {i}")
        check(one, [tuple([t[i]] for t in step) for step in spy], every)


DECAYS = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.2), 0.02),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.5, weight_decay=0.2), 0.04),
    "dampened": (lambda p: torch.optim.SGD(p, 0.1, 0.5, 0.75, 0.2), 0.01),
    "AdamW": (lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2), 0.02),
    "Adam": (lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.2), 0.0),
    "Adam, decoupled": (lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.2, decoupled_weight_decay=True), 0.02),
    "NAdam": (lambda p: torch.optim.NAdam(p, 0.1, weight_decay=0.2), 0.0),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 0.1, weight_decay=0.2), 0.0),
    "Muon": (lambda p: torch.optim.Muon(p, 0.1, weight_decay=0.2), 0.02),
    "no decay": (lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0), 0.0),
    "SphereSGD": (lambda p: SphereSGD([{"params": p, "sphere": "joint"}], 0.1), 0.0),
}


@pytest.mark.parametrize("make, taken", DECAYS.values(), ids=DECAYS)
def test_decay_is_what_weight_decay_takes(make, taken):
    params = weights()
    optimizer = make(params)
    monitor = Monitor(optimizer, [{"params": params, "sphere": "joint"}], every=1)
    train(params, optimizer, 5)
    read = monitor.readings()
    np.testing.assert_allclose(read["decay"], math.log(1 - taken), rtol=1e-12, atol=0)
    change = np.diff(np.log(read["norm"]))
    np.testing.assert_allclose((read["decay"] + read["alignment"] + read["push"])[:-1], change, rtol=0, atol=1e-10)
    if make is DECAYS["SGD"][0]:  # its update has no part along scale-invariant weights
        np.testing.assert_allclose(read["alignment"], 0, atol=1e-14)


def test_decays_of_several_groups_count_by_their_weights():
    a, b = weights()
    optimizer = torch.optim.AdamW([{"params": [a], "weight_decay": 0.5}, {"params": [b], "weight_decay": 0.0}], 0.1)
    monitor = Monitor(optimizer, [{"params": [a, b], "sphere": "joint"}], every=1)
    share = float(a.detach().square().sum() / (a.detach().square().sum() + b.detach().square().sum()))
    train([a, b], optimizer, 1)
    assert monitor.readings()["decay"][0] == pytest.approx(math.log(1 - 0.05 * share), rel=1e-12)
    assert list(monitor.readings("tensor")["decay"]) == [pytest.approx(math.log(0.95), rel=1e-12), 0]


def test_what_does_not_move_is_not_shrunk():
    a, b = weights()
    optimizer = torch.optim.AdamW([a, b], 0.1, weight_decay=0.5)
    monitor = Monitor(optimizer, every=1)
    a.square().sum().backward()  # b has no gradient, and AdamW leaves it alone, decay and all
    optimizer.step()
    assert list(monitor.readings("tensor")["decay"]) == [pytest.approx(math.log(0.95), rel=1e-12), 0]
    assert list(monitor.readings("tensor", "param 1")["alignment"]) == [0]


def test_sgd_obeys_its_exact_laws():
    params, lr, decay = weights(), 0.05, 0.2
    optimizer = torch.optim.SGD(params, lr, weight_decay=decay)
    monitor = Monitor(optimizer, [{"params": params, "sphere": "joint"}], every=1)
    train(params, optimizer, 20)
    read = monitor.readings()
    np.testing.assert_allclose(read["elr"], lr / read["norm"] ** 2, rtol=1e-10)
    np.testing.assert_allclose(read["effective_step"], read["elr"] * read["effective_gradient"], rtol=1e-10)
    np.testing.assert_allclose(read["decay_pull"], lr * decay, rtol=1e-9)
    growth = (1 - lr * decay) ** 2 + read["effective_step"] ** 2
    np.testing.assert_allclose(read["norm"][1:] ** 2 / read["norm"][:-1] ** 2, growth[:-1], rtol=1e-10)
    np.testing.assert_allclose(np.tan(read["angular_update"]), read["effective_step"] / (1 - lr * decay), rtol=1e-9)
    assert (read["noether_residual"] < 1e-14).all()
    assert (read["lr"] == lr).all() and (read["weight_decay"] == decay).all()


def test_on_the_sphere_the_elr_is_the_learning_rate():
    params = weights()
    optimizer = SphereSGD([{"params": params, "sphere": "joint"}], 0.03)
    monitor = Monitor(optimizer, every=1)
    train(params, optimizer)
    read = monitor.readings()
    # Step and projection: the tangent part of the applied update is the step shortened by the projection.
    shorter = np.cos(read["angular_update"])
    np.testing.assert_allclose(read["elr"], 0.03 * shorter, rtol=1e-10)
    np.testing.assert_allclose(read["norm"], read["norm"][0], rtol=1e-12)


@pytest.mark.parametrize("first", ["monitor", "keep"])
def test_the_update_includes_the_projection_whichever_was_attached_first(first):
    params, spy = weights(), []
    optimizer = torch.optim.AdamW(params, 0.1)
    groups = [{"params": params, "sphere": "joint"}]
    if first == "keep":
        keep_on_sphere(optimizer, groups)
    monitor = Monitor(optimizer, groups, every=2)
    if first == "monitor":
        keep_on_sphere(optimizer, groups)
    train(params, optimizer, 6, spy)
    check(monitor.readings(), spy, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_weights_are_measured_exactly(dtype):
    params, spy = weights(dtype=dtype), []
    optimizer = torch.optim.SGD(params, 0.5)
    monitor = Monitor(optimizer, [{"params": params, "sphere": "joint"}], every=1)
    train(params, optimizer, 5, spy)
    check(monitor.readings(), spy)


def test_large_models_are_measured_piece_by_piece_alike(monkeypatch):
    spy = []
    monkeypatch.setattr(workspace, "_PIECE", {"default": 5})
    params = weights()
    missing = nn.Parameter(torch.ones(7, dtype=torch.float64))
    optimizer = torch.optim.SGD([*params, missing], 0.5)
    monitor = Monitor(optimizer, [{"params": params, "sphere": "joint"}, {"params": [missing]}], every=1, capacity=3)
    assert isinstance(monitor._recorders[0]._spaces[0], workspace.Pieces)
    train(params, optimizer, 8, spy)
    check(monitor.readings(select="sphere"), spy)
    rest = monitor.readings(select="rest")
    assert (rest["gradient_norm"] == 0).all() and rest["finite"].all() and np.isnan(rest["elr"]).all()


@pytest.mark.parametrize("pieces", [False, True])
def test_channels_last_and_transposed_weights(monkeypatch, pieces):
    monkeypatch.setattr(workspace, "_PIECE", {"default": 5 if pieces else 10**6})
    generator = torch.Generator().manual_seed(0)
    conv = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64).to(memory_format=torch.channels_last)
    params = [nn.Parameter(conv), nn.Parameter(torch.randn(3, 5, generator=generator, dtype=torch.float64).t())]
    spy = []
    optimizer = torch.optim.SGD(params, 0.1)
    monitor = Monitor(optimizer, [{"params": params, "sphere": "joint"}], every=1)
    train(params, optimizer, 5, spy)
    check(monitor.readings(), spy)


def test_groups_total_and_rest():
    a, b = weights()
    free = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b, free], "lr": 0.2}])
    groups = [
        {"params": [a], "names": ["a"], "sphere": "joint"},
        {"params": [b], "names": ["b"], "sphere": "rows"},
        {"params": [free], "names": ["free"]},
    ]
    monitor = Monitor(optimizer, groups, every=1)
    train([a, b], optimizer, 3)
    read = monitor.readings()
    assert list(read["group"][:4]) == ["sphere", "sphere 2", "rest", "total"]
    assert list(read["step"]) == [0] * 4 + [1] * 4 + [2] * 4
    of = {name: {key: v[read["group"] == name] for key, v in read.items()} for name in set(read["group"])}
    np.testing.assert_allclose(of["total"]["norm"] ** 2, of["sphere"]["norm"] ** 2 + of["sphere 2"]["norm"] ** 2)
    assert (of["sphere"]["lr"] == 0.1).all() and (of["sphere 2"]["lr"] == 0.2).all()
    assert set(monitor.readings("tensor")["group"]) == {"a", "b", "free"}
    assert set(monitor.readings(select="sphere*")["group"]) == {"sphere", "sphere 2"}
    assert len(monitor.readings(select="nothing")["step"]) == 0
    with pytest.raises(ValueError, match="level is 'layer'"):
        monitor.readings("layer")
    frame = monitor.to_frame()
    assert len(frame) == 12 and {"step", "group", *COLUMNS} <= set(frame.columns)


def test_select_reads_only_these_tensors():
    a, b = weights()
    optimizer = torch.optim.SGD([a, b], 0.1)
    groups = [{"params": [a, b], "names": ["conv.weight", "fc.weight"], "sphere": "joint"}]
    monitor = Monitor(optimizer, groups, every=1, select="conv*")
    spy = []
    train([a, b], optimizer, 3, spy)
    check(monitor.readings(), [tuple(t[:1] for t in step) for step in spy])
    monitor.detach()
    with pytest.raises(ValueError, match=r"matches none of the tensors' names; there are conv\.weight, fc\.weight"):
        Monitor(optimizer, groups, select="layer*")


def test_measure_survives_zeros_and_infinities():
    read = measure(np.array([[0.0] * 5, [4, 0, 0, 0, 0], [np.inf, 1, 1, 1, 1], [4, 0, 9, -1, 1]]))
    assert list(read["finite"]) == [True, True, False, True]
    assert np.isnan(read["elr"][:2]).all() and read["norm"][1] == 2


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 6), max_size=8),
    st.integers(1, 12),
)
def test_a_store_keeps_the_latest(blocks, keep):
    store, made = Store(keep, 2, 1), 0
    for size in blocks:
        steps = np.arange(made, made + size)
        store.append((steps, np.tile(steps[:, None, None], (1, 2, 5)) * 1.0, np.zeros((size, 1, 5))))
        made += size
        assert sum(len(block[0]) for block in store._blocks) <= keep
    steps, sums, settings_ = store.arrays()
    assert list(steps) == list(range(max(made - keep, 0), made)) and store.dropped == max(made - keep, 0)
    assert (sums[:, 1, 4] == steps).all() and len(settings_) == len(steps)
