"""The protocol of a drop against a plain torch loop, in float64: on the sphere, and in ordinary training.

Written from Sadrtdinov, Kodryan et al., NeurIPS 2024: train at a fixed rate, go on at a smaller one, average the last K
checkpoints with batch statistics recomputed; the barrier is the largest excess of the error over the line between the
ends, on 20 intervals of the straight line, the positive part.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onsphere.lab.experiments.drop.run import drop_elr, prepare
from onsphere.lab.progress import Progress
from pictures import undrawn

FIELDS = {
    **{"train": 48, "test": 60, "label_noise": 0.0, "widths": [6], "steps": 20, "drop_steps": 12, "batch_size": 12},
    **{"evaluations": 1, "seeds": 2, "averaged": [3, 2], "points": 21, "test_barriers": True, "workers": 1},
    **{"mode": "loop", "chunk": 2, "compiled": "no", "dtype": "float64"},
}
SPHERE = FIELDS | {"starts": [0.3], "ends": [1e-2], "chords": True, "stages": ["0.3:6+0.02"]}
SPACE = FIELDS | {"starts": [0.5], "ends": [0.02], "training": "space", "momentum": 0.8, "weight_decay": 1e-2}
ADAM = FIELDS | {"starts": [0.1], "ends": [0.01], "training": "space", "optimizer": "adam", "averaged": [2, 3]}
CLOSE = {"rel": 1e-6, "abs": 1e-9}


class Published:
    """The published protocol for one seed of a problem whose networks and batches are given."""

    def __init__(self, spec, seed):
        self.spec, problem = spec, prepare(spec, "mlp", "digits", Progress()).problem
        self.network = problem.build(seed).double().train()
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.sphere = spec.training == "sphere"
        data = problem.data
        self.x, self.test_x = data.x_train.double(), data.x_test.double()
        self.y, self.test_y = data.y_train, data.y_test
        self.order = problem.batches(seed, 0, spec.steps + spec.drop_steps)
        if self.sphere:
            self._project()

    def _project(self):
        with torch.no_grad():
            norm = sum(float((p**2).sum()) for p in self.trained) ** 0.5
            for p in self.trained:
                p /= norm

    def train(self, rates, first):
        """One step a rate, with a new optimiser; the weights after each step."""
        spec, after = self.spec, []
        if spec.optimizer == "adam":
            optimizer = torch.optim.Adam(self.trained, rates[0], weight_decay=1e-4)
        else:
            plain = {"momentum": 0.8, "weight_decay": 1e-2} if not self.sphere else {}
            optimizer = torch.optim.SGD(self.trained, rates[0], **plain)
        for step, rate in enumerate(rates, first):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            rows = self.order[step]
            F.cross_entropy(self.network(self.x[rows]), self.y[rows]).backward()
            optimizer.step()
            if self.sphere:
                self._project()
            after.append([p.detach().clone() for p in self.trained])
        return after

    @torch.no_grad()
    def evaluate(self, weights):
        """Train loss and error, test loss and error, with the batch statistics of the training images."""
        model = copy.deepcopy(self.network)
        for p, value in zip([p for p in model.parameters() if p.requires_grad], weights, strict=True):
            p.copy_(value)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
            norm.reset_running_stats()
            norm.momentum = None
        model.train()(self.x)
        model.eval()
        found = []
        for x, y in ((self.x, self.y), (self.test_x, self.test_y)):
            out = model(x)
            found += [float(F.cross_entropy(out, y)), float((out.argmax(1) != y).double().mean())]
        return np.array(found)

    def barriers(self, a, b):
        """Of train loss and error, test loss and error, on the straight line."""
        t = np.linspace(0, 1, 21)
        along = np.array([self.evaluate([(1 - s) * u + s * v for u, v in zip(a, b, strict=True)]) for s in t])
        line = (1 - t)[:, None] * along[0] + t[:, None] * along[-1]
        return np.maximum((along - line).max(0), 0)


def mean(points):
    return [torch.stack(tensors).mean(0) for tensors in zip(*points, strict=True)]


def averages_of(after, number):
    """The mean of the weights after the last so many epochs of 4 steps."""
    return mean(after[::-4][:number])


def values(row):
    return [row.train_loss, row.train_error, row.test_loss, row.test_error]


@pytest.fixture(scope="module", params=[SPHERE, SPACE, ADAM], ids=["sphere", "space", "adam"])
def both(request, tmp_path_factory):
    """A run of ours, and for seed 1 the weights after each step before the drop and after it of the plain loop."""
    with undrawn():
        ours = drop_elr(**request.param, out=tmp_path_factory.mktemp("drop") / "run")
    spec, (start,), (end,) = ours.spec, ours.spec.starts, ours.spec.ends
    plain = Published(spec, 1)
    before = plain.train([start] * spec.steps, 0)
    after = plain.train([end] * spec.drop_steps, spec.steps)
    return ours, plain, before, after


def only(rows, **wanted):
    (found,) = (row for row in rows if all(getattr(row, name) == value for name, value in wanted.items()))
    return found


def test_the_continuation_is_that_of_the_plain_loop(both):
    ours, plain, _, after = both
    row = only(ours.continuations, start=ours.spec.starts[0], seed=1)
    assert values(row) == pytest.approx(plain.evaluate(after[-1]), **CLOSE)


def test_every_average_is_the_published_one(both):
    ours, plain, before, _ = both
    assert ours.numbers == [2, 3]
    for number in ours.numbers:
        row = only(ours.averages, start=ours.spec.starts[0], seed=1, snapshots=number)
        assert values(row) == pytest.approx(plain.evaluate(averages_of(before, number)), **CLOSE)


def test_the_barriers_are_the_published_ones(both):
    """On the straight line, of training and of test images, from the first of the averages to the minimum."""
    ours, plain, before, after = both
    row = only(ours.paths, start=ours.spec.starts[0], seed=1, pair="average-low", path="chord")
    first = ours.spec.averages[0]
    found = [row.loss_barrier, row.error_barrier, row.test_loss_barrier, row.test_error_barrier]
    average = averages_of(before, first)
    if plain.sphere:  # where the average lies tells how the straight line is run through: back on the sphere, at t = 0
        average = [w / torch.cat([v.flatten() for v in average]).norm() for w in average]
    expected = plain.barriers(average, after[-1])
    assert found == pytest.approx(expected, **CLOSE)
    assert max(expected) > 1e-3  # there is something to be found


def test_angles_are_those_of_the_scale_invariant_weights(both):
    ours, plain, before, after = both
    names = [name for name, p in plain.network.named_parameters() if p.requires_grad]
    kept = names if ours.invariant is None else ours.invariant
    a, b = (
        torch.cat([w.flatten() for w, name in zip(ws, names, strict=True) if name in kept])
        for ws in (before[-1], after[-1])
    )
    assert 0 < len(kept) <= len(names) and (ours.invariant is None) == (ours.spec.training == "sphere")
    cosine = float(a @ b / a.norm() / b.norm())
    row = only(ours.continuations, start=ours.spec.starts[0], seed=1)
    assert row.angle == pytest.approx(np.arccos(cosine), rel=1e-6)


def test_a_start_in_stages_is_trained_at_their_rates(both):
    """The plain loop changes its rate after the first stage; both averages and continuation follow."""
    ours, _, _, _ = both
    assert len(ours.staged) == len(ours.spec.stages)
    if not ours.spec.stages:
        return
    (staged,), spec = ours.staged, ours.spec
    plain = Published(spec, 1)
    before = plain.train([0.3] * 6 + [0.02] * 14, 0)
    after = plain.train([1e-2] * spec.drop_steps, spec.steps)
    assert values(only(staged.continuations, seed=1)) == pytest.approx(plain.evaluate(after[-1]), **CLOSE)
    average = only(staged.averages, seed=1, snapshots=3)
    assert values(average) == pytest.approx(plain.evaluate(averages_of(before, 3)), **CLOSE)
    alone = only(ours.continuations, start=0.02, seed=1)
    assert staged.name == "0.3:6+0.02" and abs(alone.test_loss - staged.continuations[1].test_loss) > 1e-3
    (beside,) = (one for one in staged.differences if one.rate == 0.02)
    errors = [only(ours.continuations, start=0.02, seed=s).test_error for s in (0, 1)]
    own = [row.test_error for row in staged.continuations]
    assert beside.difference.mean == pytest.approx(np.mean(own) - np.mean(errors))
