import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.lab.data.orders import TRAIN_ORDER, balanced_order, shuffled, stream
from onsphere.lab.data.transforms import pool_sums, replace_labels, standardise_floats, to_float


@given(st.integers(0, 300), st.integers(0, 10**6))
@settings(deadline=None)
def test_shuffled_is_a_permutation(size, seed):
    assert sorted(shuffled(stream(1, (seed,)), size).tolist()) == list(range(size))


def test_shuffled_reaches_every_permutation_equally_often():
    seen = [tuple(shuffled(stream(1, (seed,)), 3).tolist()) for seed in range(6000)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert (np.abs(counts - 1000) < 150).all()  # five standard deviations are 144


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
@settings(deadline=None)
def test_every_prefix_of_the_order_is_balanced(labels):
    labels = np.array(labels)
    order = balanced_order(labels, TRAIN_ORDER)
    assert sorted(order.tolist()) == list(range(len(labels)))
    present = np.unique(labels)
    for length in range(1, len(labels) + 1):
        for label in present:
            total = (labels == label).sum()
            share = length * total / len(labels)
            # Up to a position t there are n_c·t of each class, within one; so k = N·t within the number of classes.
            assert abs((labels[order[:length]] == label).sum() - share) <= 1 + len(present) * total / len(labels)


def test_equal_classes_come_in_whole_blocks():
    labels = np.repeat(np.arange(7), 9)
    blocks = labels[balanced_order(labels, TRAIN_ORDER)].reshape(9, 7)
    assert (np.sort(blocks, axis=1) == np.arange(7)).all()
    assert len({tuple(block) for block in blocks.tolist()}) > 5  # and shuffled inside


def test_order_is_fixed():
    assert balanced_order(np.arange(12) % 3, TRAIN_ORDER).tolist() == [9, 8, 10, 2, 6, 7, 3, 5, 4, 0, 11, 1]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pooling_is_torchs_average_pooling(factor):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 12), dtype=np.uint8)
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(images).double(), factor)
    assert np.allclose(pool_sums(images, factor) / factor**2, expected.numpy(), rtol=0, atol=1e-12)


def test_standardising_integers_is_the_textbook_formula():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    test = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    std = train.std(axis=(0, 2, 3), keepdims=True)
    x_train, x_test = to_float(train, test, 255, True)
    assert np.allclose(x_train, (train - mean) / std, rtol=0, atol=1e-6)
    assert np.allclose(x_test, (test - mean) / std, rtol=0, atol=1e-6)
    assert x_train.dtype == x_test.dtype == np.float32


def test_scaling_maps_black_and_white_to_0_and_1():
    images = np.array([0, 16], dtype=np.uint8).reshape(2, 1, 1, 1)
    assert to_float(images, images, 16, False)[0].ravel().tolist() == [0.0, 1.0]


def test_constant_channel_is_only_centred():
    images = np.full((4, 1, 2, 2), 7, dtype=np.uint8)
    assert (to_float(images, images + 1, 255, True)[0] == 0).all()
    assert (to_float(images, images + 1, 255, True)[1] == 1).all()


@pytest.mark.parametrize("shape", [(200, 5), (200, 3, 6), (200, 3, 4, 4), (9000, 2)])
def test_standardising_floats(shape):
    train = (np.random.default_rng(0).normal(100, 3, shape)).astype(np.float32)
    axes = (0, *range(2, len(shape)))
    x_train, x_test = standardise_floats(train, train[:7])
    assert np.allclose(x_train.mean(axis=axes, dtype=np.float64), 0, atol=1e-5)
    assert np.allclose(x_train.std(axis=axes, dtype=np.float64), 1, atol=1e-5)
    assert (x_test == x_train[:7]).all()


def test_constant_float_feature_is_only_centred():
    train = np.full((6, 2), 0.1, dtype=np.float32)
    train[:, 1] = np.arange(6)
    x_train, _ = standardise_floats(train, train)
    assert (x_train[:, 0] == 0).all()
    assert np.allclose(x_train[:, 1].std(), 1)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(2, 12), st.integers(0, 2**40))
@settings(deadline=None)
def test_noise_replaces_exactly_so_many_labels_by_others(examples, share, classes, seed):
    labels = np.arange(examples) % classes
    replaced, noisy = replace_labels(labels, share, classes, (seed,))
    assert noisy.sum() == round(share * examples)
    assert ((replaced != labels) == noisy).all()
    assert replaced.min() >= 0 and replaced.max() < classes


def test_noise_is_uniform_over_the_other_classes():
    replaced, _ = replace_labels(np.zeros(9000, dtype=np.int64), 1.0, 10, (0,))
    counts = np.bincount(replaced, minlength=10)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 1000) < 150).all()  # five standard deviations are 149


def test_noise_depends_on_the_seed():
    labels = np.zeros(100, dtype=np.int64)
    noisy = [replace_labels(labels, 0.5, 3, seed)[1] for seed in ((0,), (1,), (0, 0))]
    assert not (noisy[0] == noisy[1]).all() and not (noisy[0] == noisy[2]).all()
    assert (noisy[0] == replace_labels(labels, 0.5, 3, (0,))[1]).all()


def test_noise_among_all_classes_leaves_some_labels_right():
    labels = np.arange(20_000) % 10
    _, noisy = replace_labels(labels, 0.5, 10, (3,))
    redrawn, wrong = replace_labels(labels, 0.5, 10, (3,), "any")
    assert noisy.sum() == 10_000 and (wrong == (redrawn != labels)).all()
    assert (redrawn[~noisy] == labels[~noisy]).all()  # the same examples are drawn anew
    # binomial(10000, 0.9) lies within five standard deviations of 9000; each class likewise of 1000
    assert abs(int(wrong.sum()) - 9000) < 5 * 30
    counts = np.bincount((redrawn[noisy] - labels[noisy]) % 10, minlength=10)
    assert (abs(counts - 1000) < 5 * 30).all()
