"""The threshold of the jumps: ELR times sharpness passes about 2 before each, and is far below it between them."""

import pytest

from onsphere.lab import train_periods

pytestmark = [pytest.mark.science, pytest.mark.slow]


@pytest.mark.parametrize("seed", [0, 1])
def test_elr_times_sharpness_reaches_2_before_full_batch_jumps_only(seed, tmp_path):
    """512 digits, full batch, lr 1, weight decay 3e-3; seen 2.4 to 3.2 before and at most 1.1 between with seed 0."""
    fields = {"batch_size": "full", "train": 512, "lr": 1.0, "weight_decay": 3e-3}
    result = train_periods(**fields, seeds=1, steps=1600, seed=seed, sharpness=True, out=tmp_path / "run")
    assert len(result.sharpness) >= 3
    for row in result.sharpness:
        assert row.highest > 1.8
        assert max(row.control) < 1.8
