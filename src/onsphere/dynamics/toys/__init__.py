"""Toy models on which every regime of scale-invariant training can be computed: pairs on a sphere, periods, noise.

``pairs`` shows the regimes at a fixed effective learning rate, ``periods`` the cycles that weight decay causes. Each is
simulated for many hyper-parameters at once, beside its closed form. ``noise`` and ``objects`` are stationary states.
"""

from onsphere.dynamics.toys.noise import NoiseRun, simulate_noise
from onsphere.dynamics.toys.objects import ObjectsRun, simulate_objects
from onsphere.dynamics.toys.pairs import PairsRun, TwoCycle, pair_loss, pair_threshold, simulate_pairs, two_cycle
from onsphere.dynamics.toys.periodic import period_law, simulate_periods
from onsphere.dynamics.toys.periods_run import PeriodsRun

__all__ = [
    "NoiseRun",
    "ObjectsRun",
    "PairsRun",
    "PeriodsRun",
    "TwoCycle",
    "pair_loss",
    "pair_threshold",
    "period_law",
    "simulate_noise",
    "simulate_objects",
    "simulate_pairs",
    "simulate_periods",
    "two_cycle",
]
