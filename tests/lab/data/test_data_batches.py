import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onsphere.lab.data import batch_indices

sizes = st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))
seeds = st.integers(0, 2**70) | st.lists(st.integers(0, 2**40), min_size=1, max_size=4).map(tuple)


@given(sizes, seeds)
@settings(deadline=None)
def test_every_epoch_is_a_permutation(size, seed):
    examples, batch = size
    steps = -(-3 * examples // batch)
    flat = batch_indices(examples, batch, seed, 0, steps).reshape(-1)
    for epoch in range(3):
        part = flat[epoch * examples : (epoch + 1) * examples]
        assert sorted(part.tolist()) == list(range(examples))


@given(sizes, seeds, st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None)
def test_starting_anywhere_reads_the_same_stream(size, seed, start, steps):
    examples, batch = size
    whole = batch_indices(examples, batch, seed, 0, start + steps)
    part = batch_indices(examples, batch, seed, start, start + steps)
    assert part.shape == (steps, batch) and part.dtype == torch.int64
    assert torch.equal(part, whole[start:])


def test_far_steps_touch_only_their_own_epochs():
    indices = batch_indices(10, 4, 3, 10**15, 10**15 + 5)  # 4·10^15 is a border of epochs
    assert sorted(indices.reshape(-1)[:10].tolist()) == list(range(10))


def test_full_batch_is_the_set_in_its_own_order():
    indices = batch_indices(7, 7, 5, 100, 103)
    assert torch.equal(indices, torch.arange(7).repeat(3, 1))
    assert indices.dtype == torch.int64


def test_full_batch_of_many_steps_takes_no_memory():
    assert batch_indices(50_000, 50_000, 0, 0, 10**6).untyped_storage().nbytes() == 50_000 * 8


def test_epochs_differ_and_seeds_differ():
    keys = [0, 1, (0, 0), (0, 1), (1, 0), (0, 1, 2), 2**32]
    rows = {
        tuple(batch_indices(30, 15, key, start, start + 2).reshape(-1).tolist()) for key in keys for start in (0, 2, 4)
    }
    assert len(rows) == 3 * len(keys)


def test_one_seed_is_the_tuple_of_it():
    assert torch.equal(batch_indices(30, 7, 4, 0, 9), batch_indices(30, 7, (4,), 0, 9))
    assert torch.equal(batch_indices(30, 7, (4, 5), 0, 9), batch_indices(30, 7, np.array([4, 5]), 0, 9))


def test_first_batches_are_shuffled_uniformly():
    first = np.array([batch_indices(5, 1, seed, 0, 1).item() for seed in range(2000)])
    counts = np.bincount(first, minlength=5)
    assert (np.abs(counts - 400) < 100).all()  # five standard deviations are 89


def test_result_may_be_written_to():
    indices = batch_indices(9, 2, 0, 0, 3)
    indices[0, 0] = 0
    assert indices[0, 0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 11, 0, 0, 1), "batch_size=11 is larger than the training set; allowed: 1 to 10"),
        ((0, 1, 0, 0, 1), "examples=0 is not allowed"),
        ((10, 0, 0, 0, 1), "batch_size=0 is not allowed"),
        ((10, 2.0, 0, 0, 1), "batch_size=2.0 is not allowed"),
        ((10, True, 0, 0, 1), "batch_size=True is not allowed"),
        ((10, 2, 0, -1, 1), "start=-1 is not allowed"),
        ((10, 2, 0, 5, 4), "stop=4 is not allowed; give an integer of at least 5"),
        ((10, 2, -1, 0, 1), "seed: -1 is not allowed"),
        ((10, 2, (), 0, 1), "seed: \\(\\) is not allowed"),
        ((10, 2, (1, -2), 0, 1), "seed: \\(1, -2\\) is not allowed"),
        ((10, 2, "12", 0, 1), "seed: '12' is not allowed"),
        ((10, 2, None, 0, 1), "seed: None is not allowed"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(*arguments)
