"""What an evaluation measures besides: right and wrong labels apart, test examples by running batch statistics."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere.lab.data import load
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, run_shard
from onsphere.lab.population.running import momenta
from onsphere.lab.preparation import prepare_model
from onsphere.normalisation import reestimate_batch_statistics

STEPS = 24
COPIES = (Copy(0, 1e-3), Copy(1, 1e-2))


def net(input_shape, classes):
    """Two norms of different momentum."""
    norms = [nn.BatchNorm2d(3, eps=1e-12, affine=False), nn.BatchNorm1d(6, 1e-12, momentum=0.3, affine=False)]
    first = [nn.Conv2d(input_shape[0], 3, 3, bias=False), norms[0], nn.ReLU(), nn.Flatten()]
    second = [nn.Linear(3 * 36, 6, bias=False), norms[1], nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Linear(6, classes, bias=False).requires_grad_(False))


def flat(input_shape, classes):
    """The same without a convolution."""
    norms = [nn.BatchNorm1d(5, eps=1e-12, affine=False), nn.BatchNorm1d(6, 1e-12, momentum=0.3, affine=False)]
    first = [nn.Flatten(), nn.Linear(64, 5, bias=False), norms[0], nn.ReLU()]
    second = [nn.Linear(5, 6, bias=False), norms[1], nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Linear(6, classes, bias=False).requires_grad_(False))


def problem(**changes):
    given = Problem(
        data=load("digits", train=40, test=30, label_noise=0.25),
        model=flat,
        model_options={"head_norm": 10.0, "eps": 1e-12},
        steps=STEPS,
        batch_size=10,
        evaluations=2,
        dtype=torch.float64,
        subsets=True,
        running=True,
    )
    return prepare_model(dataclasses.replace(given, **changes))[0]


def plain_loop(this, copy):
    """Torch's own batch norms in training mode keep the running statistics."""
    model = this.build(copy.seed).double().train()
    weights = [p for p in model.parameters() if p.requires_grad]
    x, y = this.data.x_train.double(), this.data.y_train

    def back():
        norm = torch.sqrt(sum(w.detach().square().sum() for w in weights))
        for w in weights:
            w.data.div_(norm)

    back()
    optimizer = torch.optim.SGD(weights, lr=copy.lr)
    for rows in this.batches(copy.seed, 0, this.steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        back()
    return model.eval()


@torch.no_grad()
def measured(model, x, y):
    outputs = model(x.double())
    return [float(F.cross_entropy(outputs, y)), float((outputs.argmax(1) != y).double().mean())]


@pytest.mark.parametrize(("model", "plan"), [(flat, Plan("vmap", 2)), (net, Plan("loop", 2))], ids=["vmap", "loop"])
def test_evaluations_equal_those_of_a_plain_loop(model, plan, tmp_path):
    this = problem(model=model)
    assert run_shard(Shard("one", COPIES), this, plan, tmp_path / "one")
    steps, found = ShardFolder(tmp_path / "one").evaluated()
    assert steps.tolist() == [0, 12, 24]
    data = this.data
    for k, copy in enumerate(COPIES):
        model = plain_loop(this, copy)
        both = measured(model, data.x_test, data.y_test)
        expected = dict(zip(("running_test_loss", "running_test_error"), both, strict=True))
        reestimate_batch_statistics(model, [data.x_train.double()])
        for part, rows in (("clean", ~data.noisy), ("corrupted", data.noisy)):
            both = measured(model, data.x_train[rows], data.y_train[rows])
            expected |= dict(zip((f"{part}_loss", f"{part}_error"), both, strict=True))
        expected["test_loss"] = measured(model, data.x_test, data.y_test)[0]
        assert found["running_test_loss"][-1, k] != pytest.approx(expected["test_loss"], rel=0, abs=1e-6)
        for name, value in expected.items():
            assert found[name][-1, k] == pytest.approx(value, rel=0, abs=1e-8), name
    share = float(data.noisy.double().mean())
    whole = (1 - share) * found["clean_error"] + share * found["corrupted_error"]
    np.testing.assert_allclose(whole, found["train_error"], rtol=1e-12)


def test_interrupted_it_goes_on_with_the_same_statistics(tmp_path):
    this, plan = problem(), Plan("loop", 2)
    assert run_shard(Shard("whole", COPIES), this, plan, tmp_path / "whole")
    calls = iter(range(1000))
    assert not run_shard(Shard("cut", COPIES), this, plan, tmp_path / "cut", stop=lambda: next(calls) > 15)
    assert run_shard(Shard("cut", COPIES), this, plan, tmp_path / "cut")
    whole, cut = (ShardFolder(tmp_path / name).evaluated()[1] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all((whole[name] == cut[name]).all() for name in whole)


def test_a_shard_begun_when_less_was_measured_goes_on_with_that(tmp_path):
    plan, calls = Plan("loop", 2), iter(range(1000))
    before = problem(subsets=False, running=False)
    assert not run_shard(Shard("one", COPIES), before, plan, tmp_path / "one", stop=lambda: next(calls) > 15)
    assert run_shard(Shard("one", COPIES), problem(running=False), plan, tmp_path / "one")
    shard = ShardFolder(tmp_path / "one")
    assert list(shard.evaluated()[1]) == ["train_loss", "train_error", "test_loss", "test_error"]
    assert shard.evaluations()[1].shape == (3, 2, 4)


def test_without_wrong_labels_there_is_nothing_apart(tmp_path):
    this = problem(data=load("digits", train=40, test=30), running=False)
    assert run_shard(Shard("one", COPIES[:1]), this, Plan("loop", 2), tmp_path / "one")
    assert "clean_loss" not in ShardFolder(tmp_path / "one").evaluated()[1]


def test_norms_whose_statistics_cannot_be_followed_are_named():
    with pytest.raises(ValueError, match="'0' averages over all steps"):
        momenta(nn.Sequential(nn.BatchNorm1d(3, momentum=None)))
    with pytest.raises(ValueError, match="no batch norm that keeps"):
        momenta(nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)))
    assert momenta(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.9))) == {"0": 0.1, "1": 0.9}
