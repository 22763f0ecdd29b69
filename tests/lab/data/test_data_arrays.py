import numpy as np
import pytest
import torch

from onsphere.lab.data import DataError, from_arrays


def arrays(examples=30, shape=(2, 3), classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (examples, *shape)).astype(np.float32)
    y = np.arange(examples) % classes
    return x[: examples // 2], y[: examples // 2], x[examples // 2 :], y[examples // 2 :]


def test_numpy_and_torch_give_the_same():
    given = arrays()
    from_numpy = from_arrays(*given)
    from_torch = from_arrays(*(torch.from_numpy(a) for a in given))
    assert from_numpy.fingerprint() == from_torch.fingerprint()
    assert from_numpy.name == "arrays" and from_numpy.classes == 3 and from_numpy.input_shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_any_width_become_float32(dtype):
    x_train, y_train, x_test, y_test = (torch.from_numpy(a) for a in arrays())
    made = from_arrays(x_train.to(dtype), y_train.int(), x_test.to(dtype), y_test.to(torch.uint8), standardise=False)
    assert made.x_train.dtype == torch.float32 and made.y_train.dtype == made.y_test.dtype == torch.int64
    assert torch.equal(made.x_train, x_train.to(dtype).float()) and torch.equal(made.y_test, y_test)


def test_bytes_are_divided_by_255():
    x = np.array([[0, 51], [255, 102]], dtype=np.uint8)
    made = from_arrays(x, np.array([0, 1]), x, np.array([0, 1]), standardise=False)
    assert torch.allclose(made.x_train, torch.tensor([[0, 0.2], [1, 0.4]]))


def test_nothing_is_shared_with_the_caller():
    given = arrays()
    made = from_arrays(*given, standardise=False)
    before = made.fingerprint()
    for array in given:
        array[:] = 0
    assert made.fingerprint() == before


def test_read_only_and_differentiable_inputs_are_fine():
    x_train, y_train, x_test, y_test = arrays()
    for array in (x_train, y_train):
        array.setflags(write=False)
    made = from_arrays(x_train, y_train, torch.from_numpy(x_test).requires_grad_(), y_test)
    assert not made.x_test.requires_grad


def test_options():
    given = arrays(60)
    made = from_arrays(*given, train=20, test=10, label_noise=0.25, seed=3, name="mine", source="a test", classes=5)
    assert len(made.x_train) == 20 and len(made.x_test) == 10
    assert made.noisy.sum() == 5 and torch.equal(made.y_train != torch.from_numpy(given[1][:20]), made.noisy)
    assert torch.equal(made.y_test, torch.from_numpy(given[3][:10]))
    assert made.classes == 5 and "mine" in repr(made) and "a test" in repr(made)
    assert torch.allclose(made.x_train.mean(dim=(0, 2)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(made.x_train.std(dim=(0, 2), correction=0), torch.ones(2), atol=1e-5)


def test_subset_is_taken_before_standardising():
    x_train, y_train, x_test, y_test = arrays()
    part = from_arrays(x_train, y_train, x_test, y_test, train=5)
    alone = from_arrays(x_train[:5], y_train[:5], x_test, y_test)
    assert torch.equal(part.x_test, alone.x_test)


NAN = np.where(np.arange(90).reshape(15, 2, 3) == 20, np.nan, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": NAN}, "x_train: 1 values are NaN, infinite or beyond float32, first in example 3"),
        ({"x_test": np.full((15, 2, 3), 1e300)}, "x_test: 90 values are NaN, infinite or beyond float32"),
        ({"x_train": np.ones((15, 2, 3), int)}, "x_train: dtype int64 is not allowed; give floats"),
        ({"x_train": np.full((15, 2, 3), "a")}, "x_train: dtype <U1 is not allowed"),
        ({"x_train": [[1.0], [1.0, 2.0]]}, "x_train: is no array"),
        ({"x_train": np.ones(15)}, "x_train: shape \\(15,\\) is not allowed"),
        ({"x_train": np.ones((0, 3))}, "x_train: shape \\(0, 3\\) is not allowed"),
        ({"x_test": np.ones((15, 3, 2))}, "x_test: examples of shape \\(3, 2\\), those of x_train have \\(2, 3\\)"),
        ({"y_train": np.zeros(14, int)}, "y_train: shape \\(14,\\) for 15 examples"),
        ({"y_train": np.zeros((15, 1), int)}, "y_train: shape \\(15, 1\\) for 15 examples"),
        ({"y_train": np.zeros(15)}, "y_train: dtype float64 is not allowed; give integer class labels"),
        ({"y_train": np.zeros(15, bool)}, "y_train: dtype bool is not allowed"),
        ({"y_test": np.arange(15) - 1}, "y_test: label -1 of example 0 is not allowed"),
        ({"y_test": np.full(15, 2**64 - 1, np.uint64)}, "y_test: label 18446744073709551615 of example 0"),
        ({"classes": 2}, "y_train: label 2 with classes=2; allowed: 0 to 1; give classes=3"),
        ({"classes": 3, "y_test": np.arange(15)}, "y_test: label 14 with classes=3"),
        ({"classes": 1}, "classes: 1 is not allowed; give an integer of at least 2"),
        ({"y_train": np.zeros(15, int), "y_test": np.zeros(15, int)}, "y_train: every label is 0"),
        ({"train": 16}, "train=16: there are 15 training examples; allowed: 1 to 15"),
        ({"test": 99}, "test=99: there are 15 test examples"),
        ({"label_noise": -0.1}, "label_noise: -0.1 is not allowed"),
    ],
)
def test_wrong_arrays(changes, message):
    given = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays(), strict=True))
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(**(given | changes))
    assert "\n" not in str(caught.value)


def test_standardising_that_overflows_is_refused():
    x = np.array([[0.0], [1e-30]], dtype=np.float32)
    far = np.array([[3e38], [0.0]], dtype=np.float32)
    with pytest.raises(DataError, match="x_test: leaves float32 when standardised"):
        from_arrays(x, np.array([0, 1]), far, np.array([0, 1]))
