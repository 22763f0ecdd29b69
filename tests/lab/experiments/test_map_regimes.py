"""The library call: own models, own arrays, what is refused, resuming."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from onsphere.lab import InputError, Interrupted, Run, map_regimes, resume_regimes
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.progress import Progress

pytestmark = pytest.mark.usefixtures("undrawn_module")

FIELDS = {"elrs": 3, "elr_min": 1e-3, "elr_max": 1.0, "seeds": 2, "steps": 40, "refine": 1, "batch_size": 16}


def net(input_shape, classes):
    return nn.Sequential(nn.Linear(*input_shape, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def arrays(examples=80, features=6, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    points = rng.normal(size=(examples, features)).astype("float32") + 2 * np.eye(classes, features, dtype="f4")[labels]
    half = examples // 2
    return points[:half], labels[:half], points[half:], labels[half:]


class News(Progress):
    def __init__(self):
        self.notes, self.findings, self.steps, self.planned = [], [], 0, 0

    def note(self, text):
        self.notes.append(text)

    def begin(self, title, copy_steps):
        self.planned += copy_steps

    def advance(self, copy_steps):
        self.steps += copy_steps

    def finding(self, text):
        self.findings.append(text)


def test_own_model_and_arrays(tmp_path):
    news = News()
    result = map_regimes(net, arrays(), out=tmp_path / "run", progress=news, **FIELDS)
    assert result.report.is_file() and len(result.cells) >= 6
    assert any("made scale-invariant" in note for note in news.notes)
    assert news.steps == news.planned == 40 * len(result.cells)
    assert news.findings
    assert "RegimesResult" in repr(result) and "divergence begins" in repr(result)
    assert sum(result.counts(rounds=1)[0][1].values()) == 2
    again = RegimesResult.load(Run.open(tmp_path / "run"))
    assert again.cells == result.cells and again.boundaries == result.boundaries
    assert torch.get_num_threads() == 1


def test_the_number_of_workers_changes_no_bit_when_the_shards_are_the_same(tmp_path):
    one = map_regimes(out=tmp_path / "one", widths=(8,), train=60, workers=1, chunk=2, **FIELDS)
    two = map_regimes(out=tmp_path / "two", widths=(8,), train=60, workers=2, chunk=2, **FIELDS)
    assert one.cells == two.cells


def test_stop_and_resume_with_own_arrays(tmp_path):
    data, calls = arrays(), 0

    def stop():
        nonlocal calls
        calls += 1
        return calls > 25

    with pytest.raises(Interrupted):
        map_regimes(net, data, out=tmp_path / "run", stop=stop, **FIELDS)
    run = Run.open(tmp_path / "run")
    assert run.status == "interrupted"
    with pytest.raises(InputError, match="own arrays"):
        resume_regimes(run)
    with pytest.raises(InputError, match="not those"):
        resume_regimes(run, model=net, data=arrays(seed=1))
    resumed = resume_regimes(run, model=net, data=data)
    whole = map_regimes(net, data, out=tmp_path / "whole", **FIELDS)
    assert resumed.cells == whole.cells


def test_a_map_in_which_nothing_converges_says_so(tmp_path):
    x, y, x_test, y_test = arrays()
    random_labels = np.random.default_rng(1).permutation(y)
    result = map_regimes(net, (x, random_labels, x_test, y_test), out=tmp_path / "run", **FIELDS)
    convergence = result.boundaries["convergence"]
    assert not convergence.resolved and convergence.low is None and "interpolates" in convergence.reason
    assert "not resolved" in repr(result)


@pytest.mark.parametrize(
    ("arguments", "fields", "said"),
    [
        ((nn.Linear(2, 2), arrays()), {}, "callable"),
        ((net, arrays()), {"bananas": 1}, "bananas"),
        ((net, arrays()), {"elr_min": 2.0, "elr_max": 1.0}, "elr"),
        ((net, arrays()), {"pool": 2}, "pool"),
        ((lambda: net((6,), 4), arrays()), {"workers": 2}, "workers"),
        ((net, arrays()), {"batch_size": 41}, "batch-size"),
        ((net, (*arrays()[:3], arrays()[3][:-1])), {}, "y_test"),
        ((lambda: nn.Sequential(nn.Linear(6, 4)), arrays()), {}, "norm"),
        ((lambda: nn.Sequential(nn.Linear(5, 4)), arrays()), {}, "fails"),
        ((lambda: nn.Sequential(nn.Linear(6, 3)), arrays()), {}, "logits"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_no_folder(arguments, fields, said, tmp_path):
    with pytest.raises(InputError) as caught:
        map_regimes(*arguments, out=tmp_path / "run", **(FIELDS | fields))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_results_are_frozen(tmp_path):
    result = map_regimes(net, arrays(), out=tmp_path / "run", **(FIELDS | {"refine": 0, "seeds": 1}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.seconds = 0.0
