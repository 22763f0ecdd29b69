"""Whole experiments: data, models, many copies at once, runs on disk, reports, command line.

``onsphere.lab.map_regimes`` finds the three regimes of a network of yours, ``train_periods`` its periods under weight
decay, ``symmetries_page`` draws what may be rescaled in it, ``monitor_page`` what a monitor saw; the same experiments
are commands (``onsphere --help``). Needs the extra ``onsphere[lab]``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onsphere.lab.execution import Interrupted as Interrupted
    from onsphere.lab.monitored import monitor_page as monitor_page
    from onsphere.lab.monitored import write_readings as write_readings
    from onsphere.lab.options import InputError as InputError
    from onsphere.lab.periods.run import resume_periods as resume_periods
    from onsphere.lab.periods.run import train_periods as train_periods
    from onsphere.lab.regimes.run import map_regimes as map_regimes
    from onsphere.lab.regimes.run import resume_regimes as resume_regimes
    from onsphere.lab.store import Run as Run
    from onsphere.lab.symmetries.page import symmetries_page as symmetries_page
    from onsphere.lab.toy.periods.run import toy_periods as toy_periods
    from onsphere.lab.toy.regimes.run import toy_regimes as toy_regimes
    from onsphere.lab.toy.thermo.run import toy_thermo as toy_thermo

_HOME = {
    "InputError": "onsphere.lab.options",
    "Interrupted": "onsphere.lab.execution",
    "Run": "onsphere.lab.store",
    "map_regimes": "onsphere.lab.regimes.run",
    "monitor_page": "onsphere.lab.monitored",
    "write_readings": "onsphere.lab.monitored",
    "resume_periods": "onsphere.lab.periods.run",
    "resume_regimes": "onsphere.lab.regimes.run",
    "symmetries_page": "onsphere.lab.symmetries.page",
    "toy_periods": "onsphere.lab.toy.periods.run",
    "toy_regimes": "onsphere.lab.toy.regimes.run",
    "toy_thermo": "onsphere.lab.toy.thermo.run",
    "train_periods": "onsphere.lab.periods.run",
}

__all__ = [
    "InputError",
    "Interrupted",
    "Run",
    "map_regimes",
    "monitor_page",
    "resume_periods",
    "resume_regimes",
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
