"""The three regimes on real data, seeds 0 to 4, with margins wide of what was seen (docs/results.md)."""

import pytest
from populations import FASHION_MNIST, at, check_divergence, check_grid, relative_loss, train_cells

pytestmark = [pytest.mark.science, pytest.mark.slow]


@pytest.fixture(scope="module")
def noisy_digits(tmp_path_factory):
    """500 digits, 25 % label noise, MLP 64-64-64: the default of onsphere regimes."""
    elrs = (5e-4, 1e-3, 1.3e-3, 2.3e-2, 5.9e-2, 1.5e-1, 0.4, 1.0)
    return train_cells(
        tmp_path_factory.mktemp("noisy"),
        elrs,
        widths=(64, 64),
        train=500,
        label_noise=0.25,
        steps=2500,
        batch_size=64,
    )


def test_convergence_interpolates_noisy_labels(noisy_digits):
    for cell in at(noisy_digits, 1e-3):
        assert cell.regime == "convergence"
        assert cell.train_error < 0.01
        assert relative_loss(cell) < 0.02


def test_chaotic_equilibrium_levels_off(noisy_digits):
    for cell in at(noisy_digits, 2.3e-2):
        assert cell.regime == "chaotic_equilibrium"
        assert 0.93 <= cell.trend <= 1.07
        assert 0.1 <= relative_loss(cell) <= 0.45
        assert 0.1 <= cell.angular_update <= 0.6
        assert cell.train_error > 0.1


def test_divergence_is_random_guessing_in_orthogonal_steps(noisy_digits):
    for cell in at(noisy_digits, 0.4):
        assert cell.regime == "divergence"
        assert cell.angular_update > 1.4
        assert cell.train_error > 0.7
        assert relative_loss(cell) > 0.8


def test_the_grid_on_noisy_digits(noisy_digits):
    check_grid(noisy_digits)


def test_clean_digits(tmp_path):
    elrs = (1e-3, 1e-2, 0.1, 0.16, 1.0)
    cells = train_cells(tmp_path, elrs, widths=(32, 32), steps=3000, batch_size=128)
    for cell in at(cells, 1e-2):
        assert cell.train_error < 0.005
        assert relative_loss(cell) < 0.01
    check_divergence(cells)
    # regime 2 is half a decade wide here and metastable, so its label is not asserted
    for elr, regime in ((1e-3, "convergence"), (1e-2, "convergence"), (1.0, "divergence")):
        assert {c.regime for c in at(cells, elr)} == {regime}


@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_14(tmp_path):
    elrs = (4.3e-4, 9.4e-4, 2.1e-2, 4.5e-2, 9.8e-2, 2.1e-1, 1.0)
    cells = train_cells(
        tmp_path,
        elrs,
        widths=(64, 64),
        data_name="fashion-mnist",
        train=1000,
        pool=2,
        steps=2000,
        batch_size=128,
    )
    check_grid(cells)
    for elr, regime in ((4.3e-4, "convergence"), (2.1e-2, "chaotic_equilibrium"), (9.8e-2, "divergence")):
        assert {c.regime for c in at(cells, elr)} == {regime}


def test_quadratic_loss(tmp_path):
    elrs = (1e-2, 1e-1, 0.32, 3.2)
    cells = train_cells(
        tmp_path, elrs, widths=(64, 64), train=256, loss="mse", head_norm=3.0, steps=2500, batch_size=64
    )
    # how low the loss can get depends on the frozen head's draw: over 24 seeds it reached 0.008 to 0.067 of the loss
    # at init, seed 2 the highest and alone over 0.06 (docs/results.md)
    relative = sorted(cell.train_loss / cell.loss_at_init for cell in at(cells, 1e-2))
    assert relative[3] < 0.06 and relative[4] < 0.1
    for cell in at(cells, 1e-2):
        assert cell.train_error < 0.01
    for low, high in zip(at(cells, 1e-1), at(cells, 0.32), strict=True):
        assert low.loss < high.loss
    for cell in at(cells, 3.2):
        assert cell.angular_update > 1.4
        assert cell.regime == "divergence"
