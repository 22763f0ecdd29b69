"""Inside regime 1 on real data, seeds 0 to 4: sharpness at matched loss, barriers, distances (docs/results.md)."""

import pytest
from populations import FASHION_MNIST, SEEDS

from onsphere.lab.experiments.spectrum.run import map_spectrum

pytestmark = [
    pytest.mark.science,
    pytest.mark.slow,
    pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed"),
]

LOWEST, LOW, HIGH = 2.2e-4, 4.9e-4, 5.4e-3


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory):
    """2000 images of Fashion-MNIST at 7x7, MLP 49-48-48, compared where the train loss is 0.3."""
    return map_spectrum(
        data="fashion-mnist",
        pool=4,
        train=2000,
        widths=[48, 48],
        elr=[LOWEST, LOW, HIGH],
        seeds=len(SEEDS),
        steps=2500,
        target=0.3,
        evaluations=2,
        workers=1,
        mode="vmap",
        chunk=5,
        compiled="no",
        out=tmp_path_factory.mktemp("spectrum") / "run",
    )


def matched(spectrum, elr, seed):
    point = next(run.matched for run in spectrum.runs if (run.elr, run.seed) == (elr, seed))
    assert point is not None
    return point


def barrier(spectrum, low, high, seed):
    return next(p.loss_barrier for p in spectrum.pairs if (p.low, p.high, p.seed) == (low, high, seed))


def test_runs_are_compared_at_the_same_train_loss(spectrum):
    for run in spectrum.runs:
        assert run.matched.batch_loss == pytest.approx(0.3, rel=0.06)


def test_large_elrs_are_flatter_at_the_same_train_loss(spectrum):
    for seed in SEEDS:
        low, high = matched(spectrum, LOW, seed), matched(spectrum, HIGH, seed)
        assert high.gradient_norm / low.gradient_norm < 0.9
        assert high.sharpness / low.sharpness < 0.9
    assert spectrum.trend("matched", "gradient_norm").verdict == "falls"


def test_minima_of_near_elrs_share_a_basin_and_those_of_far_ones_do_not(spectrum):
    for seed in SEEDS:
        near, far = barrier(spectrum, LOWEST, LOW, seed), barrier(spectrum, LOW, HIGH, seed)
        assert far > near + 0.05


def test_larger_elrs_travel_farther_from_the_initial_weights(spectrum):
    ranks = spectrum.trend("end", "angle").spearman
    assert len(ranks) == len(SEEDS)
    assert min(ranks) > 0.9
