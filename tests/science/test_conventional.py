"""Ordinary training beside the sphere on real data (docs/results.md): the same outcomes, and the sphere's losses."""

import pytest
from populations import FASHION_MNIST, SEEDS

from onsphere.lab.experiments.conventional.run import compare_conventional

pytestmark = [pytest.mark.science, pytest.mark.slow]

ENGINE = {"workers": 1, "mode": "vmap", "chunk": 30, "compiled": "no"}


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_equilibrium_of_weight_decay_has_the_loss_of_the_sphere(tmp_path):
    """2000 images of Fashion-MNIST at 7x7, which the MLP cannot interpolate: loss and label at the measured ELR."""
    result = compare_conventional(
        data="fashion-mnist",
        pool=4,
        train=2000,
        label_noise=0.0,
        widths=[48, 48],
        batch_size=128,
        setups=["sphere", "invariant"],
        elr=[5.4e-3, 1.2e-2, 2.6e-2],
        lr=[1.0, 3.0],
        weight_decay=3e-3,
        steps=2500,
        seeds=3,
        out=tmp_path / "run",
        **ENGINE,
    )
    for run in result.of("invariant"):
        assert run.regime == run.sphere_regime == "chaotic_equilibrium"
        assert run.ratio == pytest.approx(1, abs=0.1)
    (distance,) = result.distances
    assert distance.close == distance.runs == 6


def test_ordinary_training_has_the_three_outcomes_by_learning_rate(tmp_path):
    """500 digits with label noise, every parameter trained with momentum and weight decay."""
    result = compare_conventional(
        setups=["all"], lr=[0.01, 0.1, 10.0], seeds=len(SEEDS), out=tmp_path / "run", **ENGINE
    )
    for lr, regime in ((0.01, "convergence"), (0.1, "chaotic_equilibrium"), (10.0, "divergence")):
        assert [run.regime for run in result.of("all", lr)] == [regime] * len(SEEDS)
    # weight decay raises the ELR of the lowest learning rate, and gradients lower that of the largest
    for run in result.of("all", 0.01):
        assert run.elr > 2 * run.lowest_elr
    for run in result.of("all", 0.1):
        assert 0.5 < run.elr / 0.0141 < 2
