"""The periodic behaviour on real data, seeds 0 to 4, with margins wide of what was seen (docs/results.md)."""

import numpy as np
import pytest
from populations import FASHION_MNIST, SEEDS

from onsphere.lab import train_periods
from onsphere.lab.experiments.periods.result import summaries

pytestmark = [pytest.mark.science, pytest.mark.slow]

FULL = {"batch_size": "full", "train": 512}


@pytest.fixture(scope="module")
def minibatch(tmp_path_factory):
    """All digits, MLP 64-32-32, batch 128: lr 1 with weight decay 3e-3 and 1e-3."""
    return train(tmp_path_factory, steps=4000)


@pytest.fixture(scope="module")
def full_batch(tmp_path_factory):
    """512 digits, full batch, the same rates."""
    return train(tmp_path_factory, steps=3000, **FULL)


def train(factory, **fields):
    out = factory.mktemp("periods") / "run"
    result = train_periods(lr=1.0, weight_decay=[3e-3, 1e-3], seeds=len(SEEDS), out=out, **fields)
    fast, slow = summaries(result.runs)
    assert len(fast.runs) == len(slow.runs) == len(SEEDS)
    assert all(run.finite for run in result.runs)
    return fast, slow


def test_minibatch_training_is_periodic_on_the_time_scale_of_the_decay(minibatch):
    for run in minibatch[0].runs:
        assert run.behaviour == "periodic"
        assert 15 <= len(run.jumps) <= 30
        assert 0.7 <= run.period_tau <= 1.4
        # gradient noise grows the norm on the way, so that decay alone is a lower bound
        assert 1.1 < run.recovery_ratio < 1.6


def test_full_batch_training_is_periodic_too(full_batch):
    for run in full_batch[0].runs:
        assert run.behaviour == "periodic"
        assert 6 <= len(run.jumps) <= 13
        assert run.recovery_ratio == pytest.approx(1, abs=0.05)
        assert run.first_jump == pytest.approx(run.predicted_first_jump, rel=0.05)
        # every jump of the zigzag is a δ-jump and the other way round
        assert run.delta_jumps == pytest.approx(len(run.jumps), abs=1)


@pytest.mark.parametrize("kind", ["minibatch", "full_batch"])
def test_the_period_goes_as_one_over_lr_times_weight_decay(kind, request):
    fast, slow = request.getfixturevalue(kind)
    means = [np.mean([run.period for run in s.runs if run.period is not None]) for s in (slow, fast)]
    assert 2 <= means[0] / means[1] <= 4


def test_the_period_depends_on_the_product_alone(minibatch, tmp_path):
    other = train_periods(lr=0.3, weight_decay=1e-2, seeds=len(SEEDS), out=tmp_path / "run")
    means = [np.mean([run.period for run in runs]) for runs in (minibatch[0].runs, other.runs)]
    assert means[1] / means[0] == pytest.approx(1, abs=0.25)


def test_the_sphere_has_no_periods(tmp_path):
    """Full batch at the mean ELR of the periodic run: no step is large after the burn-in."""
    result = train_periods(**FULL, steps=3000, seeds=len(SEEDS), compare_sphere=True, out=tmp_path / "run")
    (row,) = result.comparison
    assert row.delta_jumps >= 6
    assert row.sphere_delta_jumps <= 0.5


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_equilibrium_mirrors_the_sphere(tmp_path):
    """Fashion-MNIST 7x7, which the MLP cannot interpolate: no periods, and the loss of the sphere at that ELR."""
    result = train_periods(
        data="fashion-mnist",
        pool=4,
        train=2000,
        widths=[48, 48],
        lr=[1.0, 0.3],
        weight_decay=3e-3,
        seeds=len(SEEDS),
        steps=3500,
        compare_sphere=True,
        out=tmp_path / "run",
    )
    for run in result.runs:
        assert run.behaviour == "equilibrium"
        assert run.rms_angular_update == pytest.approx(np.sqrt(2 * run.lr * run.weight_decay), rel=0.05)
        assert run.mean_elr == pytest.approx(run.predicted_elr, rel=0.05)
        assert run.elr_spread < 0.1
    for row in result.comparison:
        assert row.ratio == pytest.approx(1, abs=0.1)
        # Larger steps in none, one or two of the five runs, by the machine's rounding; a periodic run has 15 and more.
        assert row.sphere_delta_jumps < 1
