"""Nothing of the user's changes: model, buffers, gradients, flags, hooks, random states; not after an error either."""

import copy
import random

import numpy as np
import pytest
import torch
from landscape_nets import CROSS_ENTROPY, X, Y
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from onsphere.landscape import (
    SphereAverage,
    align,
    angle,
    average,
    barrier,
    chord,
    geodesic,
    permutation_groups,
    slice_along,
    slice_through,
    train_curve,
)


class World:
    """A model in the middle of training, others like it, and loaders that shuffle."""

    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.models = [self._model() for _ in range(3)]
        self.model = self.models[0]
        self.calls = []
        self.generators = [torch.Generator().manual_seed(i) for i in range(3)]
        data = TensorDataset(X.float(), Y)
        self.batches = DataLoader(data, batch_size=20, shuffle=True, generator=self.generators[0])
        sampler = RandomSampler(data, generator=self.generators[1])
        self.statistics = DataLoader(data, batch_size=20, sampler=sampler, generator=self.generators[2])
        CROSS_ENTROPY(self.model(X.float()), Y).backward()
        self.model[1].eval()
        for module in self.model:
            module.register_forward_hook(lambda *_: self.calls.append("forward"))
        self.model.register_full_backward_hook(lambda *_: self.calls.append("backward"))

    @staticmethod
    def _model():
        return nn.Sequential(
            *(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU()),
            nn.Linear(8, 3).requires_grad_(False),
        )

    def snapshot(self):
        tensors = {
            f"{i}.{name}": (id(tensor), tensor.detach().clone(), tensor.requires_grad, tensor._version)
            for i, model in enumerate(self.models)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        gradients = {n: None if p.grad is None else (id(p.grad), p.grad.clone()) for n, p in self._parameters()}
        flags = [(m.training, len(m._forward_hooks)) for model in self.models for m in model.modules()]
        states = [torch.get_rng_state(), *(g.get_state() for g in self.generators)]
        return tensors, gradients, flags, states, random.getstate(), np.random.get_state(), list(self.calls)

    def _parameters(self):
        return self.model.named_parameters()


def _assert_same(before, after):
    if isinstance(before, torch.Tensor | np.ndarray):
        assert bool((before == after).all())
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            _assert_same(before[key], after[key])
    elif isinstance(before, tuple | list):
        assert len(before) == len(after)
        for x, y in zip(before, after, strict=True):
            _assert_same(x, y)
    else:
        assert before == after


def _loud(loss_fn=CROSS_ENTROPY):
    """A loss that draws random numbers, as losses and collate functions may."""

    def loss(output, target):
        torch.rand(1), np.random.rand(), random.random()
        return loss_fn(output, target)

    return loss


CALLS = {
    "angle": lambda w, f: angle(w.model, w.models[1]),
    "geodesic": lambda w, f: geodesic(w.model, w.models[1], 0.5),
    "chord": lambda w, f: chord(w.model, w.models[1], 0.5, renormalise=True),
    "groups": lambda w, f: permutation_groups(w.model),
    "align": lambda w, f: align(w.model, w.model, w.models[1], starts=2),
    "average": lambda w, f: average(w.models, batches=w.batches),
    "update": lambda w, f: SphereAverage(last=2).update(w.model),
    "barrier": lambda w, f: barrier(w.model, w.model, w.models[1], f, w.batches, 3, statistics=w.statistics),
    "train": lambda w, f: barrier(w.model, w.model, w.models[1], f, w.batches, 3, "chord", mode="train"),
    "eval": lambda w, f: barrier(w.model, w.model, w.models[1], f, w.batches, 3, mode="eval"),
    "curve": lambda w, f: train_curve(w.model, w.model, w.models[1], f, w.batches, 4).barrier(f, w.batches, 3),
    "through": lambda w, f: slice_through(w.model, w.models, f, w.batches, 2, statistics=w.statistics),
    "along": lambda w, f: slice_along(w.model, w.model, f, w.batches, 2, statistics=w.statistics),
}


@pytest.mark.parametrize("call", CALLS)
def test_nothing_changes(call):
    world = World()
    before = world.snapshot()
    CALLS[call](world, _loud())
    _assert_same(before, world.snapshot())


@pytest.mark.parametrize("call", ["barrier", "train", "eval", "curve", "through", "along"])
def test_nothing_changes_when_the_loss_fails_halfway(call):
    world = World()
    before = world.snapshot()
    count = []

    def fails(output, target):
        count.append(1)
        torch.rand(1)
        if len(count) > 5:
            raise RuntimeError("out of coffee")
        return CROSS_ENTROPY(output, target)

    with pytest.raises(RuntimeError, match="coffee"):
        CALLS[call](world, fails)
    _assert_same(before, world.snapshot())


def test_a_failing_forward_pass_leaves_everything_too():
    world = World()
    bad = [(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))]
    before = world.snapshot()
    for call in (
        lambda: barrier(world.model, world.model, world.models[1], CROSS_ENTROPY, bad, parameters=["0.weight"]),
        lambda: average(world.models, batches=bad),
    ):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            call()
        _assert_same(before, world.snapshot())


def test_writing_an_average_changes_weights_and_statistics_alone():
    world = World()
    mean = SphereAverage().update(world.models[1])
    before = copy.deepcopy(world.snapshot())
    mean.apply(world.model, world.batches)
    after = world.snapshot()
    _assert_same(before[1:6], after[1:6])  # gradients, flags, random states
    assert torch.equal(world.model[0].weight, world.models[1][0].weight)
    assert float((world.model[5].running_var - before[0]["0.5.running_var"][1]).abs().max()) > 0.01


def test_results_do_not_depend_on_the_global_random_state():
    world = World()
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(barrier(world.model, world.model, world.models[1], CROSS_ENTROPY, world.batches, 3).losses)
    assert np.array_equal(*values)


def test_noise_in_the_forward_pass_is_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return nn.functional.dropout(self.layer(x), 0.5, training=True)

    model = Noisy().double()
    with pytest.raises(ValueError, match="not deterministic"):
        barrier(model, model, model, CROSS_ENTROPY, (X, Y), parameters="layer.weight")


def test_it_works_inside_inference_and_no_grad_modes():
    world, batch = World(), (X.float(), Y)
    with torch.inference_mode():
        inside = train_curve(world.model, world.model, world.models[1], CROSS_ENTROPY, batch, 3).losses
    with torch.no_grad():
        without = train_curve(world.model, world.model, world.models[1], CROSS_ENTROPY, batch, 3).losses
    assert np.array_equal(inside, without)
