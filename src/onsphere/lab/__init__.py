"""Whole experiments: data, models, many copies at once, runs on disk, reports, command line.

``map_regimes`` finds the three regimes of a network of yours, ``train_periods`` its periods under weight decay;
``map_spectrum``, ``drop_elr``, ``map_zones``, ``stabilise`` and ``compare_conventional`` look at the regimes from
inside; ``compare_schedules`` proposes a schedule and tries it; ``split_budget`` splits a memory budget;
``symmetries_page`` draws what may be rescaled, ``monitor_page`` what a monitor saw. The same experiments are commands
(``onsphere --help``). Needs the extra ``onsphere[lab]``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onsphere.lab.ensemble_files import load_ensemble as load_ensemble
    from onsphere.lab.ensemble_files import save_ensemble as save_ensemble
    from onsphere.lab.execution import Interrupted as Interrupted
    from onsphere.lab.experiments.conventional.run import compare_conventional as compare_conventional
    from onsphere.lab.experiments.conventional.run import resume_conventional as resume_conventional
    from onsphere.lab.experiments.drop.run import drop_elr as drop_elr
    from onsphere.lab.experiments.drop.run import resume_drop as resume_drop
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
    "compare_conventional": "onsphere.lab.experiments.conventional.run",
    "compare_schedules": "onsphere.lab.experiments.schedule.run",
    "drop_elr": "onsphere.lab.experiments.drop.run",
    "load_ensemble": "onsphere.lab.ensemble_files",
    "map_regimes": "onsphere.lab.experiments.regimes.run",
    "map_spectrum": "onsphere.lab.experiments.spectrum.run",
    "map_zones": "onsphere.lab.experiments.zones.run",
    "monitor_page": "onsphere.lab.monitored",
    "resume_conventional": "onsphere.lab.experiments.conventional.run",
    "resume_drop": "onsphere.lab.experiments.drop.run",
    "resume_periods": "onsphere.lab.experiments.periods.run",
    "resume_regimes": "onsphere.lab.experiments.regimes.run",
    "resume_schedules": "onsphere.lab.experiments.schedule.run",
    "resume_spectrum": "onsphere.lab.experiments.spectrum.run",
    "resume_split": "onsphere.lab.experiments.split.run",
    "resume_stabilise": "onsphere.lab.experiments.stabilise.run",
    "resume_zones": "onsphere.lab.experiments.zones.run",
    "save_ensemble": "onsphere.lab.ensemble_files",
    "split_budget": "onsphere.lab.experiments.split.run",
    "stabilise": "onsphere.lab.experiments.stabilise.run",
    "symmetries_page": "onsphere.lab.experiments.symmetries.page",
    "toy_periods": "onsphere.lab.experiments.toy_periods.run",
    "toy_regimes": "onsphere.lab.experiments.toy_regimes.run",
    "toy_thermo": "onsphere.lab.experiments.toy_thermo.run",
    "train_periods": "onsphere.lab.experiments.periods.run",
    "write_readings": "onsphere.lab.monitored",
}

__all__ = [
    "InputError",
    "Interrupted",
    "Run",
    "compare_conventional",
    "compare_schedules",
    "drop_elr",
    "load_ensemble",
    "map_regimes",
    "map_spectrum",
    "map_zones",
    "monitor_page",
    "resume_conventional",
    "resume_drop",
    "resume_periods",
    "resume_regimes",
    "resume_schedules",
    "resume_spectrum",
    "resume_split",
    "resume_stabilise",
    "resume_zones",
    "save_ensemble",
    "split_budget",
    "stabilise",
    "symmetries_page",
    "toy_periods",
    "toy_regimes",
    "toy_thermo",
    "train_periods",
    "write_readings",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'onsphere.lab' has no attribute {name!r}; it has {', '.join(__all__)}")
