"""Whole experiments: data, models, many copies at once, runs on disk, reports, command line.

``map_regimes`` finds the three regimes of a network of yours, ``train_periods`` its periods under weight decay;
``map_spectrum``, ``drop_elr``, ``map_zones``, ``stabilise``, ``compare_conventional`` and ``learn_features`` look at
the regimes from inside; ``compare_schedules`` proposes a schedule and tries it; ``split_budget`` splits a memory
budget; ``measure_thermo`` reads temperature, pressure and entropy of a stationary state; ``onsphere.lab.claims``
decides the papers' claims; ``plan`` says beforehand what a run will take; ``symmetries_page`` draws what may be
rescaled, ``monitor_page`` what a monitor saw. The same experiments are commands (``onsphere --help``). Needs the extra
``onsphere[lab]``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onsphere.lab.registry import ENTRIES

if TYPE_CHECKING:
    from onsphere.lab.ensemble_files import load_ensemble as load_ensemble
    from onsphere.lab.ensemble_files import save_ensemble as save_ensemble
    from onsphere.lab.execution import Interrupted as Interrupted
    from onsphere.lab.experiment import TrainingPlan as TrainingPlan
    from onsphere.lab.experiment import plan as plan
    from onsphere.lab.experiments.conventional.run import compare_conventional as compare_conventional
    from onsphere.lab.experiments.conventional.run import resume_conventional as resume_conventional
    from onsphere.lab.experiments.drop.run import drop_elr as drop_elr
    from onsphere.lab.experiments.drop.run import resume_drop as resume_drop
    from onsphere.lab.experiments.features.run import learn_features as learn_features
    from onsphere.lab.experiments.features.run import resume_features as resume_features
    from onsphere.lab.experiments.periods.run import resume_periods as resume_periods
    from onsphere.lab.experiments.periods.run import train_periods as train_periods
    from onsphere.lab.experiments.regimes.run import map_regimes as map_regimes
    from onsphere.lab.experiments.regimes.run import resume_regimes as resume_regimes
    from onsphere.lab.experiments.schedule.run import compare_schedules as compare_schedules
    from onsphere.lab.experiments.schedule.run import resume_schedules as resume_schedules
    from onsphere.lab.experiments.spectrum.run import map_spectrum as map_spectrum
    from onsphere.lab.experiments.spectrum.run import resume_spectrum as resume_spectrum
    from onsphere.lab.experiments.split.run import resume_split as resume_split
    from onsphere.lab.experiments.split.run import split_budget as split_budget
    from onsphere.lab.experiments.stabilise.run import resume_stabilise as resume_stabilise
    from onsphere.lab.experiments.stabilise.run import stabilise as stabilise
    from onsphere.lab.experiments.symmetries.page import symmetries_page as symmetries_page
    from onsphere.lab.experiments.thermo.run import measure_thermo as measure_thermo
    from onsphere.lab.experiments.thermo.run import resume_thermo as resume_thermo
    from onsphere.lab.experiments.toy_free_energy.run import toy_free_energy as toy_free_energy
    from onsphere.lab.experiments.toy_periods.run import toy_periods as toy_periods
    from onsphere.lab.experiments.toy_regimes.run import toy_regimes as toy_regimes
    from onsphere.lab.experiments.toy_thermo.run import toy_thermo as toy_thermo
    from onsphere.lab.experiments.zones.run import map_zones as map_zones
    from onsphere.lab.experiments.zones.run import resume_zones as resume_zones
    from onsphere.lab.monitored import monitor_page as monitor_page
    from onsphere.lab.monitored import write_readings as write_readings
    from onsphere.lab.options import InputError as InputError
    from onsphere.lab.store import Run as Run

_HOME = {
    "InputError": "onsphere.lab.options",
    "Interrupted": "onsphere.lab.execution",
    "Run": "onsphere.lab.store",
    "TrainingPlan": "onsphere.lab.experiment",
    "load_ensemble": "onsphere.lab.ensemble_files",
    "monitor_page": "onsphere.lab.monitored",
    "plan": "onsphere.lab.experiment",
    "save_ensemble": "onsphere.lab.ensemble_files",
    "symmetries_page": "onsphere.lab.experiments.symmetries.page",
    "write_readings": "onsphere.lab.monitored",
} | {name: f"{entry.home}.run" for entry in ENTRIES for name in entry.functions}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'onsphere.lab' has no attribute {name!r}; it has {', '.join(__all__)}")
