"""Phases of the learning rate, snapshots, continued runs, Adam: against plain PyTorch and uninterrupted runs."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_engine import images, problem, run
from test_shard import train

from onsphere.lab.population import Copy, Engine, Phase, Plan, stack_starts
from onsphere.lab.population.phases import phase_lrs

PLANS = (Plan("vmap", 3), Plan("vmap", 3, traced=False), Plan("loop", 1), Plan("loop", 1, traced=False))
FALL = (Phase(0, 1e-2), Phase(10, 1e-2, 1e-3, "geometric"), Phase(30, 1e-3, 0.0, "cosine"))


def space(**changes):
    return dataclasses.replace(problem(), geometry="space", **changes)


def test_each_shape_of_a_phase():
    rates = phase_lrs(FALL, 40, 0, 40)
    np.testing.assert_array_equal(rates[:11], 1e-2)
    np.testing.assert_allclose(rates[10:30], 1e-2 * 0.1 ** (np.arange(20) / 20), rtol=1e-12)
    np.testing.assert_allclose(rates[30:], 5e-4 * (1 + np.cos(np.pi * np.arange(10) / 10)), rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate([phase_lrs(FALL, 40, 0, 13), phase_lrs(FALL, 40, 13, 40)]), rates)
    np.testing.assert_allclose(phase_lrs((Phase(0, 1.0, 0.5, "linear"),), 4, 0, 4), [1, 0.875, 0.75, 0.625])


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((Phase(3, 0.1),), "must start at 0"),
        ((Phase(0, 0.1), Phase(0, 0.2)), "later than the one before"),
        ((Phase(0, 0.0),), "must be positive"),
        ((Phase(0, 0.1, 0.0, "geometric"),), "ends at the learning rate 0"),
        ((Phase(0, 0.1, None, "cosine"),), "need one"),
        ((Phase(0, 0.1, 0.2),), "need one"),
    ],
)
def test_wrong_phases(phases, message):
    with pytest.raises(ValueError, match=message):
        Copy(0, 0.1, phases=phases)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_copies_with_phases_equal_runs_at_those_rates_one_after_another(plan):
    this = problem(steps=40)
    copies = (Copy(0, 1.0, phases=FALL), Copy(1, 5e-3), Copy(0, 2e-3))
    state, _ = run(this, copies, plan, 40)
    for k, copy in enumerate(copies):
        engine = Engine(this, (copy,), Plan("loop", 1))
        alone, ring = engine.initial_state(), torch.empty((1, 1, engine.columns), dtype=torch.float64)
        for t, lr in enumerate(this.lrs(copy, 0, 40)):
            engine = Engine(this, (Copy(copy.seed, float(lr)),), Plan("loop", 1, traced=False))
            alone = engine.advance(alone, t + 1, ring)
        for a, b in zip(state.params, alone.params, strict=True):
            torch.testing.assert_close(a[k], b[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_adam_equals_pytorch_s(plan, name):
    this = space(steps=40, optimizer=name, schedule="cosine")
    copies = (Copy(0, 3e-3, 1e-2), Copy(1, 1e-3), Copy(0, 1e-2))
    state, _ = run(this, copies, plan, 40)
    assert len(state.buffers) == 2 * len(state.params)
    for k, copy in enumerate(copies):
        model = this.build(copy.seed).double()
        weights = [p for p in model.parameters() if p.requires_grad]
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        optimizer = kind(weights, copy.lr, weight_decay=copy.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
        x, y = this.data.x_train.double(), this.data.y_train
        for rows in this.batches(copy.seed, 0, 40):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            scheduler.step()
        for value, weight in zip(state.params, weights, strict=True):
            torch.testing.assert_close(value[k], weight.detach(), rtol=0, atol=1e-8)


def test_adam_is_refused_on_the_sphere():
    with pytest.raises(ValueError, match=r"'adam'.*sphere"):
        Engine(problem(optimizer="adam"), (Copy(0, 1e-3),), Plan("loop", 1))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_interrupted_shard_with_snapshots_gives_the_same_bits(tmp_path, name):
    this = space(steps=40, optimizer=name, snapshots=(0, 13, 40))
    copies = (Copy(0, 1e-2, 1e-3, 0.9, phases=FALL), Copy(1, 1e-2, 0.0, 0.9))
    whole = train(tmp_path / "whole", this, Plan("vmap", 2), copies)[0]
    pieces = train(tmp_path / "pieces", this, Plan("vmap", 2), copies, stops=(7, 20))[0]
    assert pieces.copies() == list(copies)
    assert sorted(path.stem for path in (pieces.folder / "snapshots").iterdir()) == ["00000000", "00000013", "00000040"]
    for step in (0, 13, 40):
        for n, value in whole.snapshot(step).items():
            assert value.shape[0] == 2 and torch.equal(value, pieces.snapshot(step)[n])
    for n, value in whole.weights().items():
        assert torch.equal(value, pieces.weights()[n])
        assert n not in this.trained or torch.equal(value, whole.snapshot(40)[n])


@pytest.mark.parametrize("plan", [Plan("vmap", 2), Plan("loop", 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_continued_run_is_the_uninterrupted_one_to_the_bit(tmp_path, plan, dtype):
    data = images(shape=(1, 10, 10))
    this = problem(data=data, steps=40, dtype=dtype, snapshots=(15,), augment=True)
    copies = (Copy(0, 1e-2), Copy(1, 3e-3))
    whole = train(tmp_path / "whole", this, plan, copies)[0]
    rest = dataclasses.replace(this, steps=25, starts=whole.snapshot_path(15), offset=15, snapshots=())
    turned = (Copy(0, 1e-2, start=0), Copy(1, 3e-3, start=1))
    after = train(tmp_path / "rest", rest, plan, turned)[0]
    for n, value in whole.weights().items():
        assert torch.equal(value, after.weights()[n])
    fresh = train(tmp_path / "fresh", dataclasses.replace(rest, offset=0), plan, turned)[0]
    assert not torch.equal(fresh.weights()[this.trained[0]], after.weights()[this.trained[0]])


def test_starts_of_any_norm_come_to_the_sphere(tmp_path):
    this = problem(steps=10)
    rows = [{n: torch.randn(p.shape, dtype=torch.float64) for n, p in this.build(0).named_parameters()} for _ in "ab"]
    stack_starts(tmp_path / "folder" / "starts.safetensors", [{n: row[n] for n in this.trained} for row in rows])
    started = dataclasses.replace(this, starts=tmp_path / "folder" / "starts.safetensors")
    state = Engine(started, (Copy(0, 1e-3, start=1), Copy(0, 1e-3, start=0)), Plan("vmap", 2)).initial_state()
    for k, row in enumerate(reversed(rows)):
        norm = torch.cat([row[n].flatten() for n in this.trained]).norm()
        for n, value in zip(this.trained, state.params, strict=True):
            torch.testing.assert_close(value[k], row[n] / norm)
