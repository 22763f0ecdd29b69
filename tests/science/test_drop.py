"""The drop of the ELR on real data, seeds 0 to 4, with margins wide of what was seen (docs/results.md).

Seen on 2000 images of Fashion-MNIST, 7x7 pixels: 18.4 % test error from ELR 2.6e-2 down to 4.9e-4 against 19.1 % at
4.9e-4 throughout, half its gradient norm; the best starts lie two to four times above the convergence threshold.
"""

import pytest
from populations import FASHION_MNIST

from onsphere.lab.experiments.drop.run import drop_elr

pytestmark = [
    pytest.mark.science,
    pytest.mark.slow,
    pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed"),
]

LOW, HIGH = 4.9e-4, 2.6e-2


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """Starts from far below the convergence threshold to far above ten times that."""
    return drop_elr(
        data="fashion-mnist",
        pool=4,
        train=2000,
        label_noise=0.0,
        widths=(48, 48),
        steps=2500,
        drop_steps=3000,
        batch_size=128,
        starts=(2.4e-3, 5.4e-3, 1.2e-2, HIGH, 5.9e-2),
        ends=LOW,
        averaged=0,
        barriers=False,
        workers=1,
        mode="vmap",
        chunk=30,
        compiled="no",
        out=tmp_path_factory.mktemp("drop") / "run",
    )


def test_a_start_in_the_chaotic_equilibrium_beats_no_drop(dropped):
    high, none = dropped.analysis.at(HIGH, LOW), dropped.analysis.at(LOW, LOW)
    assert high.seeds == none.seeds == 5
    assert high.test_error < none.test_error - 0.005
    assert high.gradient_norm < 0.7 * none.gradient_norm


def test_the_best_start_is_just_above_the_convergence_threshold(dropped):
    (best,) = dropped.analysis.best
    threshold = dropped.analysis.threshold
    assert threshold.low is not None and threshold.high is not None
    assert threshold.value <= best.start <= 10 * threshold.value
    assert best.gain is not None and best.gain.clear and best.gain.mean < -0.005
    assert best.held_out < 0
