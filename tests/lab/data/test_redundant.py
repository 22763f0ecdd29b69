"""Redundant features: their moments, what each of them says of the label, seeds, and what is refused."""

import numpy as np
import pytest
import torch

from onsphere.lab.data import DataError, redundant_features
from onsphere.lab.data.redundant import best_accuracies


def sign_accuracies(data):
    """The accuracy of the sign of each feature's product on the test examples."""
    points = data.x_test.double().reshape(len(data.x_test), -1, 2)
    return ((points.prod(-1) > 0) == (data.y_test == 1)[:, None]).double().mean(0).numpy()


@pytest.fixture(scope="module")
def data():
    return redundant_features(features=4, train=512, test=40_000, noise=(0.2, 1.1), seed=7)


def test_shapes_and_balance(data):
    assert data.x_train.shape == (512, 8) and data.x_train.dtype == torch.float32 and data.input_shape == (8,)
    assert data.classes == 2 and int(data.y_train.sum()) == 256 and int(data.y_test.sum()) == 20_000


def test_each_feature_predicts_the_label_as_well_as_its_formula_says(data):
    expected = best_accuracies(4, (0.2, 1.1))
    assert expected[0] > 0.99999 and 0.65 < expected[-1] < 0.75
    deviation = np.sqrt(expected * (1 - expected) / 40_000)
    assert (np.abs(sign_accuracies(data) - expected) <= 4 * deviation + 1e-9).all()


def test_no_line_predicts_it_and_no_coordinate_is_larger_than_another(data):
    x, y = data.x_test.double(), data.y_test
    error = 1 / np.sqrt(20_000)
    assert float((x[y == 1].mean(0) - x[y == 0].mean(0)).abs().max()) < 6 * error
    torch.testing.assert_close(x.var(0), torch.ones(8, dtype=torch.float64), rtol=0, atol=8 * error)


def test_features_are_independent_given_the_label(data):
    products = data.x_test.double().reshape(-1, 4, 2).prod(-1) * (2 * data.y_test - 1)[:, None]
    correlations = torch.corrcoef(products.T) - torch.eye(4, dtype=torch.float64)
    assert float(correlations.abs().max()) < 5 / np.sqrt(40_000)


def test_the_seed_decides_everything_and_test_examples_are_drawn_anew():
    one, same, other = (redundant_features(features=2, train=64, test=64, seed=s) for s in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert not torch.equal(one.x_train, one.x_test)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "features: 0 is not allowed"),
        ({"train": 1}, "train: 1 is not allowed"),
        ({"noise": (0.0, 0.5)}, "noise: "),
        ({"noise": (0.5, 0.2)}, "the most not less"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        redundant_features(**fields)
