"""Temperatures of the free-energy toy, also as they are read back from disk."""

import math

from onsphere.lab import toy_free_energy
from onsphere.lab.experiments.toy_free_energy.page import _interval
from onsphere.lab.experiments.toy_free_energy.result import ToyFreeEnergyResult
from onsphere.lab.store import Run


def test_the_hottest_state_has_a_temperature_without_an_upper_end(tmp_path):
    found = toy_free_energy(models=["under"], elrs=[0.05, 0.1, 1.2], copies=64, points=512, out=tmp_path / "run")
    for result in (found, ToyFreeEnergyResult.load(Run.open(tmp_path / "run"))):
        cold, _, hot = result.rows
        assert cold.exists and _interval(cold).text.startswith("0 to ")
        assert hot.exists and not math.isfinite(hot.high) and _interval(hot).text.endswith("to ∞")
