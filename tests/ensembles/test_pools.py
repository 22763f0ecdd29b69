"""All ensemble sizes from one pool: disjoint groups, means and errors, members that failed."""

import numpy as np
import pytest

from onsphere.ensembles import calibrated_nll, disjoint_groups, evaluate, failed_members, pool_metrics


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    logits = rng.normal(size=(7, 120, 4))
    logits[:, np.arange(120), labels] += 1.5
    return logits, labels


def test_groups_are_disjoint_and_as_many_as_fit():
    for size in range(1, 8):
        for seed in (None, 3):
            groups = disjoint_groups(7, size, seed=seed)
            assert len(groups) == 7 // size
            flat = [i for g in groups for i in g]
            assert len(set(flat)) == len(flat) == size * len(groups)
            assert set(flat) <= set(range(7))
    assert disjoint_groups(5, 2) == [(0, 1), (2, 3)]
    assert disjoint_groups(7, 2, seed=1) != disjoint_groups(7, 2)


def test_every_size_has_the_mean_and_standard_error_over_its_groups(pool):
    logits, labels = pool
    found = pool_metrics(logits, labels)
    assert [p.size for p in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [p.groups for p in found] == [7, 3, 2, 1, 1, 1, 1]
    assert found[1].left_over == (6,)
    for p in found[:3]:
        for name in ("accuracy", "nll", "brier", "ece"):
            each = [getattr(evaluate(logits[list(g)], labels), name) for g in p.members]
            assert p.mean[name] == pytest.approx(np.mean(each))
            assert p.standard_error[name] == pytest.approx(np.std(each, ddof=1) / np.sqrt(len(each)))
        each = [calibrated_nll(logits[list(g)], labels).value for g in p.members]
        assert p.mean["cnll"] == pytest.approx(np.mean(each))
    assert found[0].mean["disagreement"] is None
    assert found[6].standard_error["nll"] is None
    assert found[0].mean["nll"] > found[6].mean["nll"]
    assert "7 ensembles of 1: accuracy" in repr(found[0])
    assert found[1].to_dict()["members"] == [[0, 1], [2, 3], [4, 5]]


def test_failed_members_are_reported_and_only_left_out_when_asked(pool):
    logits, labels = pool
    broken = logits.copy()
    broken[2] = np.random.default_rng(1).normal(size=broken[2].shape)  # guesses
    broken[5, 3, 1] = np.nan
    failed = failed_members(broken, labels)
    assert [(f.member, f.reason) for f in failed] == [(2, "chance"), (5, "non-finite")]
    assert failed[1].accuracy is None
    with pytest.raises(
        ValueError, match="member 5 are not finite; exclude_failed=True leaves such members out and rep"
    ):
        pool_metrics(broken, labels)
    found = pool_metrics(broken, labels, [1, 2], exclude_failed=True)
    assert found[0].members == ((0,), (1,), (3,), (4,), (6,))
    assert found[0].failed == found[1].failed == failed
    assert found[0].excluded
    assert "2 members failed to train" in repr(found[0])
    kept = pool_metrics(np.delete(broken, 5, axis=0), labels, [1])[0]
    assert kept.groups == 6
    assert [f.member for f in kept.failed] == [2]
    assert not kept.excluded


def test_a_constant_prediction_has_failed_and_the_papers_threshold_can_be_set():
    labels = np.arange(400) % 10
    logits = np.zeros((2, 400, 10))
    logits[0, np.arange(400), labels] = 1.0
    logits[1, :, 3] = 1.0
    assert [f.member for f in failed_members(logits, labels)] == [1]
    logits[1, np.arange(30), labels[:30]] = 2.0  # about 17 % right
    assert failed_members(logits, labels, accuracy_at_most=0.15) == ()
    with pytest.raises(ValueError, match="accuracy_at_most is 1"):
        failed_members(logits, labels, accuracy_at_most=1)


def test_errors(pool):
    logits, labels = pool
    with pytest.raises(ValueError, match="a pool of 7 has no ensemble of more than 7 members"):
        pool_metrics(logits, labels, [8])
    with pytest.raises(ValueError, match=r"size is 1.5"):
        pool_metrics(logits, labels, [1.5])
    with pytest.raises(ValueError, match="all 7 members failed to train"):
        pool_metrics(logits * np.nan, labels, exclude_failed=True)
    with pytest.raises(ValueError, match=r"must be \[members, examples, classes\]"):
        failed_members(logits[0], labels)
