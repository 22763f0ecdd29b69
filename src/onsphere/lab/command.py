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
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from onsphere import __version__
from onsphere.lab.options import InputError

if TYPE_CHECKING:
    from onsphere.lab.store import Run

# Where each experiment's side of the terminal lives: run, resume, rewrite its report, show its result.
EXPERIMENTS = {
    "regimes": "onsphere.lab.experiments.regimes.terminal",
    "periods": "onsphere.lab.experiments.periods.terminal",
    "landscape spectrum": "onsphere.lab.experiments.spectrum.terminal",
    "landscape drop": "onsphere.lab.experiments.drop.terminal",
    "landscape zones": "onsphere.lab.experiments.zones.terminal",
    "landscape stabilise": "onsphere.lab.experiments.stabilise.terminal",
    "landscape conventional": "onsphere.lab.experiments.conventional.terminal",
    "schedule": "onsphere.lab.experiments.schedule.terminal",
    "split": "onsphere.lab.experiments.split.terminal",
    "symmetries": "onsphere.lab.experiments.symmetries.terminal",
    "toy regimes": "onsphere.lab.experiments.toy_regimes.terminal",
    "toy periods": "onsphere.lab.experiments.toy_periods.terminal",
    "toy thermo": "onsphere.lab.experiments.toy_thermo.terminal",
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
            raise Stopped(f"interrupted{_how_to_go_on(display.run)}") from stopped
        except WorkerDied as error:
            raise WorkerDied(f"{error}{_how_to_go_on(display.run)}") from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if as_json:
        from onsphere.lab.store.seal import plain

        print(json_format.dumps(plain(result.to_dict())), flush=True)
    else:
        room.show(result)


def go_on(run: Run, as_json: bool) -> None:
    """Resume a run, or print the result of one that has ended; its page is made again if it is missing."""
    from onsphere.lab.store.trust import code_of, source_of

    def call(room: Any, display: Any, stop: Callable[[], bool]) -> Any:
        code = code_of(run.manifest["spec"])
        if not run.done:
            if code is not None and run.trust:
                display.note(f"importing {code} from {source_of(code)}")
            return room.resume(run, display, stop)
        result = room.resume(run, display, stop)
        if not (run.folder / "report.html").exists():
            rewrite(run)
        return result

    room_of(run)
    if run.done:
        with run.reading():
            work(run.manifest["command"], as_json, call)
    else:
        work(run.manifest["command"], as_json, call)


def rewrite(run: Run) -> Path:
    """Write the page of an ended run again.

    Raises:
        InputError: The run has no result, or something that its page is drawn from is damaged.
    """
    room = room_of(run)
    run.result()  # whether there is one
    run.check_shards()
    with run.lock(), run.reading():
        path: Path = room.rewrite_report(run)
    return path


def room_of(run: Run) -> Any:
    """The module of a run's experiment.

    Raises:
        InputError: ``run.json`` is damaged, or names an experiment that there is not.
    """
    run.check()
    command = run.manifest["command"]
    if command not in EXPERIMENTS:
        raise InputError(
            f"{run.manifest_path} names the experiment {command!r}, which onsphere {__version__} does not know; "
            "update onsphere, or put the file back as it was"
        )
    return experiment(command)


def listed(run: Run) -> dict[str, str]:
    """A run as a row of the list; one that cannot be read is listed as damaged, with the reason."""
    row = {"run": str(run.folder), "command": "", "status": "damaged", "created": "", "summary": ""}
    try:
        run.check()
        manifest = run.manifest
        row |= {"command": manifest["command"], "created": manifest["created"]}
        if manifest["command"] not in EXPERIMENTS:
            return row | {"status": "unknown", "summary": f"onsphere {__version__} does not know this experiment"}
        with run.reading():
            summary = experiment(manifest["command"]).one_line(run) if run.done else ""
        return row | {"status": run.status, "summary": summary}
    except InputError as error:
        return row | {"summary": str(error)}
    except Exception as error:  # the list goes on, whatever is wrong with one run
        return row | {"summary": f"{run.folder} cannot be shown ({type(error).__name__}: {error})"}


def _how_to_go_on(folder: Path | None) -> str:
    from onsphere.lab.store import resume_command

    return " before there was a run" if folder is None else f"; continue with: {resume_command(folder)}"
