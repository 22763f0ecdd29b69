"""Predictions from four networks a width, on pools whose laws are known."""

import numpy as np
import pytest

from onsphere.ensembles import Split, nll
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.split.pools.decide import measured_subsets, points, predict
from onsphere.lab.experiments.split.pools.laws import fit
from onsphere.lab.experiments.split.pools.measure import Pool, curve, of_split, scores
from onsphere.lab.experiments.split.result import Failed

pytestmark = pytest.mark.usefixtures("undrawn_module")

EXAMPLES, CLASSES = 1500, 4


def never():
    return False


def planted(width, members, noise, blur, seed=0):
    """Networks that know the label up to ``blur`` and differ by ``noise``: thin ones are blurred, wide ones noisy."""
    generator = np.random.default_rng([seed, width])
    labels = np.arange(EXAMPLES) % CLASSES
    signal = (3 - blur) * np.eye(CLASSES)[labels] + np.random.default_rng(7).normal(size=(EXAMPLES, CLASSES))
    logits = signal + noise * generator.normal(size=(members, EXAMPLES, CLASSES))
    return Pool(width, logits.astype(np.float32), ()), labels


SPLITS = [Split(1, 80, 1600, 6400, 1600), Split(2, 50, 800, 3200, 1600), Split(4, 30, 400, 1600, 1600)]
SPLITS += [Split(8, 18, 200, 800, 1600), Split(16, 10, 100, 400, 1600)]
# noise falls little and blur rises with the number of networks, so that a middle split is best
KINDS = {80: (2.5, 0.0), 50: (2.5, 0.2), 30: (2.5, 0.4), 18: (2.5, 0.6), 10: (2.5, 1.8)}


@pytest.fixture(scope="module")
def world():
    pools, labels = {}, None
    for split in SPLITS:
        pools[split.width], labels = planted(split.width, 32, *KINDS[split.width])
    truth = {}
    for split in SPLITS:
        logits, n = pools[split.width].logits, split.members
        truth[n] = np.mean([nll(logits[i : i + n], labels) for i in range(0, len(logits), n)])
    return pools, labels, truth


def test_the_best_split_is_predicted_from_four_networks_a_width(world):
    pools, labels, truth = world
    few = {w: Pool(w, pool.logits[:4], ()) for w, pool in pools.items()}
    measured = measured_subsets(few, labels, never)
    found = predict("nll", SPLITS, measured, 0)
    best = min(truth, key=truth.get)
    assert best == 8 and found.best == 8
    assert found.chances[best] > 0.5 and sum(found.chances.values()) == pytest.approx(1)
    for n, estimate in found.estimates.items():
        assert abs(estimate.value - truth[n]) < 4 * estimate.standard_error
        assert 0 < estimate.standard_error < 0.1
        assert (estimate.basis == "measured") == (n <= 4)


def test_a_point_of_four_networks_is_the_mean_over_all_subsets(world):
    pools, labels, _ = world
    measured = measured_subsets({80: Pool(80, pools[80].logits[:4], ())}, labels, never)[80]
    assert len(measured) == 15
    by_size = {p.size: p for p in points(80, measured)}
    singles = [nll(pools[80].logits[[i]], labels) for i in range(4)]
    assert by_size[1].mean["nll"] == pytest.approx(np.mean(singles))
    # the jackknife of a mean is its ordinary standard error
    assert by_size[1].standard_error["nll"] == pytest.approx(np.std(singles, ddof=1) / 2)
    pairs = [nll(pools[80].logits[[i, j]], labels) for i in range(4) for j in range(i)]
    assert by_size[2].mean["nll"] == pytest.approx(np.mean(pairs))
    assert by_size[4].standard_error["nll"] is None


def test_a_failed_network_is_left_out_and_too_many_are_an_error(world):
    pools, labels, _ = world
    one = Pool(80, pools[80].logits[:4], (Failed(80, 2, "chance", 0.25),))
    assert len(measured_subsets({80: one}, labels, never)[80]) == 7
    two = Pool(80, pools[80].logits[:4], (Failed(80, 1, "non-finite", None), Failed(80, 2, "chance", 0.25)))
    with pytest.raises(RuntimeError, match="member 1 of width 80 became non-finite; member 2 of width 80 predicts"):
        measured_subsets({80: two}, labels, never)


def test_ensembles_of_a_split_share_no_network_and_leave_failed_ones_out(world):
    pools, labels, _ = world
    split = Split(4, 30, 400, 1600, 1600)
    values = of_split(pools[30], split, 2, labels, never)
    expected = [nll(pools[30].logits[4 * seed : 4 * seed + 4], labels) for seed in range(2)]
    assert values["nll"] == pytest.approx(expected)
    broken = pools[30].logits.copy()
    broken[[1, 4, 5, 6, 7]] = np.nan
    failed = tuple(Failed(30, i, "non-finite", None) for i in (1, 4, 5, 6, 7))
    values = of_split(Pool(30, broken, failed), split, 2, labels, never)
    assert values["nll"][0] == pytest.approx(nll(pools[30].logits[[0, 2, 3]], labels))
    assert values["nll"][1] is None


def test_curves_lie_on_a_falling_law(world):
    pools, labels, _ = world
    split = Split(16, 10, 100, 400, 1600)
    found = curve(pools[10], split, 2, labels, never)
    assert [p.size for p in found] == [1, 2, 4, 8]
    assert all(p.groups == 2 for p in found)
    values = [p.mean["nll"] for p in found]
    assert values == sorted(values, reverse=True)
    law = fit(10, "nll", found)
    assert law.law.exponent < 0
    assert law([1, 2, 4, 8]) == pytest.approx(values, abs=0.05)
    rows = [scores(pools[10], range(16 * seed, 16 * seed + 16), labels) for seed in range(2)]
    assert float(law(16)) == pytest.approx(np.mean([row["nll"] for row in rows]), abs=0.1)


def test_values_that_do_not_fall_have_no_law(world):
    pools, labels, _ = world
    same = Pool(5, np.repeat(pools[80].logits[:1], 16, axis=0), ())
    law = fit(5, "nll", curve(same, Split(16, 5, 100, 400, 1600), 1, labels, never))
    assert law.law is None and "constant" in law.note
    assert np.isnan(law([1, 2])).all()


def test_measuring_can_be_interrupted(world):
    pools, labels, _ = world
    with pytest.raises(Interrupted):
        of_split(pools[80], SPLITS[0], 2, labels, lambda: True)
