import subprocess
import sys

import numpy as np
import pytest
import torch

from onsphere.lab import data
from onsphere.lab.data import NAMES, DataError, Dataset, load


def test_public_names():
    functions = {"batch_indices", "drawn_indices", "from_arrays", "load", "redundant_features"}
    assert set(data.__all__) == {"NAMES", "DataError", "Dataset"} | functions
    assert NAMES == ("digits", "fashion-mnist", "cifar10", "cifar100")
    assert issubclass(DataError, ValueError)


def test_import_loads_neither_sklearn_nor_pooch():
    code = "import sys, onsphere.lab.data; print([m for m in ('sklearn', 'pooch', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits():
    digits = load("digits")
    assert digits.x_train.shape == (1437, 1, 8, 8) and digits.x_test.shape == (360, 1, 8, 8)
    assert digits.x_train.dtype == torch.float32 and digits.y_train.dtype == torch.int64
    assert digits.input_shape == (1, 8, 8) and digits.classes == 10
    assert not digits.noisy.any()
    assert abs(digits.x_train.mean()) < 1e-5 and abs(digits.x_train.std() - 1) < 1e-4
    assert (torch.bincount(digits.y_test) - 36).abs().max() <= 2


def test_digits_are_scikit_learns_without_loss():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = load("digits", standardise=False)
    images = torch.cat([digits.x_train, digits.x_test]).reshape(-1, 64) * 16
    labels = torch.cat([digits.y_train, digits.y_test])
    ours = sorted((*row, label) for row, label in zip(images.tolist(), labels.tolist(), strict=True))
    theirs = sorted((*row, label) for row, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True))
    assert ours == theirs


PLAIN = "98a24775d58f12811e79ff454c492e57394fd02dcc97f94be655f1a3a377d939"
CHANGED = "8ae47b807be4d17cdc150a3d9fa4613c31f1787e5bddf412edc819917a94801a"


def test_fingerprint_is_the_same_everywhere():
    assert load("digits").fingerprint() == PLAIN
    assert load("digits", train=500, test=100, pool=2, label_noise=0.2, seed=3).fingerprint() == CHANGED


def test_fingerprint_sees_every_array():
    digits = load("digits", train=50, test=20)
    prints = {digits.fingerprint()}
    for field in ("x_train", "y_train", "x_test", "y_test", "noisy"):
        changed = getattr(digits, field).clone()
        changed.view(-1)[0] = changed.view(-1)[0] == 0
        fields = {f: getattr(digits, f) for f in Dataset.__dataclass_fields__}
        prints.add(Dataset(**(fields | {field: changed})).fingerprint())
    assert len(prints) == 6
    assert digits.to(dtype=torch.bfloat16).fingerprint() not in prints


@pytest.mark.parametrize("options", [{}, {"label_noise": 0.3}, {"pool": 2}])
def test_subsets_are_the_front_of_the_fixed_order(options):
    whole = load("digits", standardise=False, **(options | {"label_noise": 0}))
    part = load("digits", standardise=False, train=500, test=100, seed=7, **options)
    assert torch.equal(part.x_train, whole.x_train[:500]) and torch.equal(part.x_test, whole.x_test[:100])
    assert torch.equal(part.y_train[~part.noisy], whole.y_train[:500][~part.noisy])
    assert (torch.bincount(whole.y_train[:500]) - 50).abs().max() <= 2


def test_label_noise():
    clean = load("digits", train=400)
    noisy = load("digits", train=400, label_noise=0.25, seed=1)
    assert noisy.noisy.sum() == 100
    assert torch.equal(noisy.y_train != clean.y_train, noisy.noisy)
    assert torch.equal(noisy.y_test, clean.y_test) and torch.equal(noisy.x_train, clean.x_train)
    assert not torch.equal(noisy.noisy, load("digits", train=400, label_noise=0.25, seed=2).noisy)
    assert noisy.fingerprint() == load("digits", train=400, label_noise=0.25, seed=1).fingerprint()


def test_pooling_and_scaling():
    whole = load("digits", standardise=False)
    pooled = load("digits", standardise=False, pool=4)
    assert pooled.input_shape == (1, 2, 2)
    assert whole.x_train.min() == 0 and whole.x_train.max() == 1
    assert torch.allclose(pooled.x_test, torch.nn.functional.avg_pool2d(whole.x_test, 4), atol=1e-6)
    standard = load("digits", pool=4)
    assert abs(standard.x_train.mean()) < 1e-5 and abs(standard.x_train.std() - 1) < 1e-3


def test_standardising_uses_the_selected_training_images():
    part = load("digits", train=100)
    assert abs(part.x_train.double().mean()) < 1e-6
    assert abs(part.x_train.double().std(correction=0) - 1) < 1e-6


def test_global_random_state_is_untouched():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    load("digits", label_noise=0.5, seed=4)
    data.batch_indices(100, 7, 0, 0, 50)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and np.random.get_state()[2] == before[2]


def test_to():
    digits = load("digits", train=20, test=10, label_noise=0.5)
    double = digits.to(dtype=torch.float64)
    assert double.x_train.dtype == double.x_test.dtype == torch.float64
    assert double.y_train.dtype == torch.int64 and double.noisy.dtype == torch.bool
    assert digits.x_train.dtype == torch.float32
    assert digits.to("meta").y_test.device.type == "meta"
    with pytest.raises(DataError, match=r"dtype: torch.int32 is not allowed"):
        digits.to(dtype=torch.int32)


def test_repr_names_what_matters():
    text = repr(load("digits", train=100, test=30, label_noise=0.1))
    assert text.startswith("Dataset(digits: 100 train + 30 test, inputs 1x8x8 float32 on cpu, 10 classes, 10 training")
    assert "scikit-learn" in text and "\n" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnist"}, "name: 'mnist' is no data set; allowed: digits, fashion-mnist, cifar10, cifar100"),
        ({"name": ["digits"]}, "is no data set"),
        ({"train": 2000}, "train=2000: there are 1437 training images of digits; allowed: 1 to 1437"),
        ({"test": 361}, "test=361: there are 360 test images of digits"),
        ({"train": 0}, "train: 0 is not allowed; give an integer of at least 1"),
        ({"train": 10.5}, "train: 10.5 is not allowed"),
        ({"test": True}, "test: True is not allowed"),
        ({"pool": 3}, "pool: pool 3 does not divide 8; allowed: 1, 2, 4, 8$"),
        ({"pool": 0}, "pool: 0 is not allowed"),
        ({"pool": None}, "pool: None is not allowed"),
        ({"label_noise": 1.5}, "label_noise: 1.5 is not allowed; give a number from 0 to 1"),
        ({"label_noise": float("nan")}, "label_noise: nan is not allowed"),
        ({"label_noise": "0.1"}, "label_noise: '0.1' is not allowed"),
        ({"seed": -1}, "seed: -1 is not allowed"),
        ({"seed": 0.5}, "seed: 0.5 is not allowed"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(DataError, match=message) as caught:
        load(**({"name": "digits"} | options))
    assert "\n" not in str(caught.value)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"scikit-learn, which is not installed; install the extra"):
        load("digits")
