"""Temperatures of the free-energy toy, also as they are read back from disk."""

import math

import pytest

from onsphere.lab import InputError, toy_free_energy
from onsphere.lab.experiments.toy_free_energy.page import _interval
from onsphere.lab.experiments.toy_free_energy.result import ToyFreeEnergyResult
from onsphere.lab.store import Run


def test_what_takes_too_long_is_refused_before_there_is_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"--elrs: 0.01 is not allowed: 4096 points of 2 copies need .* steps there"):
        toy_free_energy(copies=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_hottest_state_has_a_temperature_without_an_upper_end(tmp_path):
    found = toy_free_energy(models=["under"], elrs=[0.05, 0.1, 1.2], copies=64, points=512, out=tmp_path / "run")
    for result in (found, ToyFreeEnergyResult.load(Run.open(tmp_path / "run"))):
        cold, _, hot = result.rows
        assert cold.exists and _interval(cold).text.startswith("0 to ")
        assert hot.exists and not math.isfinite(hot.high) and _interval(hot).text.endswith("to ∞")
