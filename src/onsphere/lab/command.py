"""What every command shares: the options that are not fields, the experiments by name, one run with a live display."""

from __future__ import annotations

import json as json_format
import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import Parameter

from onsphere import __version__
from onsphere.lab.options import InputError

# Where each experiment's side of the terminal lives: run, resume, rewrite its report, show its result.
EXPERIMENTS = {
    "regimes": "onsphere.lab.regimes.terminal",
    "periods": "onsphere.lab.periods.terminal",
    "landscape spectrum": "onsphere.lab.landscape.spectrum.terminal",
    "landscape drop": "onsphere.lab.landscape.drop.terminal",
    "landscape zones": "onsphere.lab.landscape.zones.terminal",
    "landscape stabilise": "onsphere.lab.landscape.stabilise.terminal",
    "landscape conventional": "onsphere.lab.landscape.conventional.terminal",
    "schedule": "onsphere.lab.schedule.terminal",
    "split": "onsphere.lab.split.terminal",
    "symmetries": "onsphere.lab.symmetries.terminal",
    "toy regimes": "onsphere.lab.toy.regimes.terminal",
    "toy periods": "onsphere.lab.toy.periods.terminal",
    "toy thermo": "onsphere.lab.toy.thermo.terminal",
}

Out = Annotated[Path | None, Parameter(help="Folder of the run; new or empty (default: runs/COMMAND-DATE-TIME).")]
Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="Print the result as one JSON object, the last line of output."),
]
Config = Annotated[Path | None, Parameter(help="TOML file with the same fields; options given here win.")]


class Stopped(Exception):  # noqa: N818
    """Carries the sentence that says how to go on."""


def experiment(command: str) -> Any:
    """The module of an experiment's side of the terminal."""
    if command not in EXPERIMENTS:
        raise InputError(f"this version of onsphere ({__version__}) does not know the experiment {command!r}")
    return import_module(EXPERIMENTS[command])


def work(command: str, as_json: bool, call: Callable[[Any, Any, Callable[[], bool]], Any]) -> None:
    """Run an experiment with a live display and orderly Ctrl-C, then print its result."""
    from onsphere.lab.display import Display
    from onsphere.lab.execution import Interrupted, WorkerDied, abandon

    room = experiment(command)
    stopping = threading.Event()
    with Display() as display:

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if stopping.is_set():
                display.console.show_cursor(True)
                abandon()
                os._exit(130)
            stopping.set()
            display.note("stopping at a checkpoint; Ctrl-C again kills")

        before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            result = call(room, display, stopping.is_set)
        except Interrupted as stopped:
            if display.run is None:
                raise Stopped("interrupted before anything was written") from stopped
            raise Stopped(f"interrupted; continue with: onsphere resume {display.run}") from stopped
        except WorkerDied as error:
            raise WorkerDied(f"{error}; continue with: onsphere resume {display.run}") from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if as_json:
        from onsphere.lab.store.files import plain

        print(json_format.dumps(plain(result.to_dict())), flush=True)
    else:
        room.show(result)
