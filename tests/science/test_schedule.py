"""The proposed schedule against tuned rivals on Fashion-MNIST, seeds 0 to 4; docs/results.md has all of them."""

import pytest
from populations import FASHION_MNIST, SEEDS

from onsphere.lab.experiments.schedule.run import compare_schedules

pytestmark = [pytest.mark.science, pytest.mark.slow]


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_proposed_schedule_is_not_worse_than_the_best_of_the_others(tmp_path):
    """The rivals are those that win their family in the whole comparison; the threshold is what its map finds."""
    result = compare_schedules(
        data="fashion-mnist",
        pool=4,
        train=2000,
        batch_size=128,
        widths=(48, 48),
        convergence=(3e-3, 5.4e-3),
        constant=(0.125, 0.25),
        peaks=(4.0,),
        lr=(3.0,),
        weight_decay=(3e-3,),
        seeds=len(SEEDS),
        evaluations=1,
        workers=1,
        mode="vmap",
        chunk=25,
        compiled="no",
        out=tmp_path / "run",
    )
    verdict = result.verdict
    assert result.tuned_on == "validation"
    assert verdict.not_worse, verdict
    # annealing from chaotic equilibrium against the best constant ELR, which converges or does not
    against = verdict.differences
    assert against["constant"].high < 0, against
    assert against["space-constant"].high < 0, against
