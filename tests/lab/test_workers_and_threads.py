"""Neither workers nor threads change a number, and nothing that was handed to a public function is moved or changed."""

import json

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from onsphere import lab
from onsphere.lab.data import load
from onsphere.lab.experiments.symmetries.run import EXPERIMENT

SHARED = {"widths": [32], "batch_size": 20, "steps": 40, "evaluations": 2, "seeds": 2}
SHARED |= {"mode": "vmap", "chunk": 3, "compiled": "no"}
ELRS = {"elr_min": 1e-3, "elr_max": 1.0, "elrs": 3}

# Every public function that trains, small enough for seconds and large enough for several threads to share a product.
EXPERIMENTS = {
    "map_regimes": SHARED | ELRS | {"refine": 0},
    "train_periods": SHARED | {"steps": 60, "burn_in": 10, "weight_decay": 1e-2, "sharpness": True},
    "map_spectrum": SHARED | {"elr": [2e-3, 8e-3, 3e-2], "window": 6, "gradients": 2, "points": 3},
    "drop_elr": SHARED | {"starts": [0.1], "ends": [1e-3], "drop_steps": 12, "averaged": 2, "points": 3},
    "map_zones": SHARED
    | {"path_elrs": [2e-3, 8e-3], "elrs": [2e-3, 0.2], "checkpoints": 2, "readings": 2, "continue_steps": 8}
    | {"seeds": 1},
    "stabilise": SHARED | {"elrs": [0.02, 0.06], "divergence_elrs": [0.5], "steps": 96, "change": 40, "points": 3},
    "compare_conventional": SHARED | {"elr": [1e-3, 3e-2], "lr": [0.03, 3.0], "weight_decay": 0.02},
    "compare_schedules": SHARED | {"constant": [0.5, 1.0], "peaks": [4.0], "lr": [1.0], "weight_decay": [1e-3]},
    "learn_features": SHARED | {"starts": [1e-2, 0.3], "end": 5e-3, "drop_steps": 20, "bands": [0, 2, 5]},
    "measure_thermo": SHARED
    | {"protocols": ["fixed_elr"], "elrs": [0.05, 0.1], "weight_decays": [0.1, 0.2], "samples": 16, "gradients": 3},
    "split_budget": SHARED | {"lr": 0.02, "budget": [4000], "members": [1, 2], "curves": True},
}
del EXPERIMENTS["map_zones"]["batch_size"], EXPERIMENTS["map_zones"]["evaluations"]
del EXPERIMENTS["split_budget"]["widths"], EXPERIMENTS["split_budget"]["evaluations"]
TENSORS = ("x_train", "y_train", "x_test", "y_test", "noisy")


@pytest.fixture(autouse=True)
def _unwritten(monkeypatch):
    """No pages, which take longer than all the rest."""
    monkeypatch.setattr("onsphere.lab.experiment.skeleton.write_page", lambda *arguments, **options: None)


@pytest.fixture
def threads():
    """threads(n) lets torch and the BLAS of numpy and scipy use n threads until the test has ended."""
    before = torch.get_num_threads()

    def use(number):
        torch.set_num_threads(number)
        threadpool_limits(number, user_api="blas")

    yield use
    use(before)


def rows(result):
    """Everything but times and places."""
    values = json.loads(json.dumps(result.to_dict()))
    return {k: v for k, v in values.items() if k not in ("seconds", "cpu_seconds", "run", "report", "engine", "spec")}


def assert_same(name, tmp_path, threads, workers):
    data = load("digits", train=160, test=300, label_noise=0.1)
    given = {field: getattr(data, field) for field in TENSORS}
    views = {field: tensor.numpy() for field, tensor in given.items()}
    copies = {field: view.copy() for field, view in views.items()}
    places = {field: tensor.data_ptr() for field, tensor in given.items()}
    start = getattr(lab, name)
    threads(1)
    one = start(data=data, out=tmp_path / "one", workers=1, **EXPERIMENTS[name])
    threads(4)
    other = start(data=data, out=tmp_path / "other", workers=workers, **EXPERIMENTS[name])
    assert torch.get_num_threads() == 4
    assert rows(one) == rows(other)
    for field, tensor in given.items():
        assert np.array_equal(views[field], copies[field]), field
        assert tensor.data_ptr() == places[field] and not tensor.is_shared(), field
    assert not list(other.run.glob(".problem*"))


def test_one_and_four_threads_give_a_split_the_same_rows(tmp_path, threads):
    assert_same("split_budget", tmp_path, threads, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_workers_and_threads_change_no_row_and_move_nothing(name, tmp_path, threads):
    assert_same(name, tmp_path, threads, workers=2)


def test_every_public_function_that_trains_is_among_them():
    trains = {name for name in lab.__all__ if name.startswith("resume_")}
    assert len(EXPERIMENTS) == len(trains)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("toy_regimes", {"elrs": [0.1, 0.2], "steps": 500, "seeds": 2}),
        ("toy_periods", {"steps": 1500}),
        ("toy_thermo", {"weight_decays": [0.02, 0.04], "elrs": [0.04], "copies": 64, "points": 512}),
    ],
)
def test_threads_change_no_row_of_a_toy(name, fields, tmp_path, threads, undrawn):
    threads(1)
    one = getattr(lab, name)(out=tmp_path / "one", **fields)
    threads(4)
    assert rows(one) == rows(getattr(lab, name)(out=tmp_path / "four", **fields))


def test_threads_change_no_row_of_the_symmetries(tmp_path, threads):
    found = []
    for number in (1, 4):
        threads(number)
        fields = {"model": "mlp", "input": "64x64", "widths": [128, 128]}
        found.append(rows(EXPERIMENT.start(**fields, out=tmp_path / str(number))))
    assert found[0] == found[1]
