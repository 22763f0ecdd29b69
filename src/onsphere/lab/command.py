"""What every command shares: the options that are not fields, and one run with a live display."""

from __future__ import annotations

import json as json_format
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from onsphere import __version__
from onsphere.lab.options import InputError
from onsphere.lab.registry import entry_of

if TYPE_CHECKING:
    from onsphere.lab.display import Display
    from onsphere.lab.experiment import Experiment, TrainingPlan
    from onsphere.lab.result import ExperimentResult
    from onsphere.lab.store import Run

    Own = Experiment[Any, Any, Any]

T = TypeVar("T")

Out = Annotated[Path | None, Parameter(help="Folder of the run; new or empty (default: runs/COMMAND-DATE-TIME).")]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print the result as one JSON object, the last line of output.")
]
Plan = Annotated[
    bool,
    Parameter(
        negative="", help="Say what it will take, by a few steps: copies, time, memory, disk; then stop, without a run."
    ),
]
Config = Annotated[Path | None, Parameter(help="TOML file with the same fields; options given here win.")]


class Stopped(Exception):  # noqa: N818
    """Carries the sentence that says how to go on."""


def work(own: Own, as_json: bool, call: Callable[[Own, Display, Callable[[], bool]], ExperimentResult]) -> None:
    """Run an experiment with a live display and orderly Ctrl-C, then print its result."""
    result = displayed(lambda display, stop: call(own, display, stop), _how_to_go_on)
    if as_json:
        from onsphere.lab.store.seal import plain

        print(json_format.dumps(plain(result.to_dict())), flush=True)
    else:
        from onsphere.lab.terminal import show

        show(own, result)


def show_plan(plan: TrainingPlan, as_json: bool) -> None:
    """Print what a run is going to be."""
    if as_json:
        print(json_format.dumps(plan.to_dict()), flush=True)
        return
    from onsphere.lab.terminal import show_tables

    show_tables([plan.table(), "", *plan.lines()])


def displayed(call: Callable[[Display, Callable[[], bool]], T], how_to_go_on: Callable[[Path | None], str]) -> T:
    """Call something with a live display and orderly Ctrl-C.

    Args:
        call: Takes the display and what it is to ask often: whether to stop.
        how_to_go_on: From the folder of the run that was begun last, if any, to the end of the sentence that says how
            to go on after an interruption.

    Raises:
        Stopped: It was interrupted.
    """
    from onsphere.lab.display import Display
    from onsphere.lab.execution import Interrupted, WorkerDied, abandon

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
            return call(display, stopping.is_set)
        except Interrupted as stopped:
            raise Stopped(f"interrupted{how_to_go_on(display.run)}") from stopped
        except WorkerDied as error:
            raise WorkerDied(f"{error}{how_to_go_on(display.run)}") from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def go_on(run: Run, as_json: bool) -> None:
    """Resume a run, or print the result of one that has ended; its page is made again if it is missing."""
    from onsphere.lab.store.trust import code_of, source_of

    def call(own: Own, display: Display, stop: Callable[[], bool]) -> ExperimentResult:
        code = code_of(run.manifest["spec"])
        if code is not None and run.trust and not run.done:
            display.note(f"importing {code} from {source_of(code)}")
        result: ExperimentResult = own.resume(run, progress=display, stop=stop)
        if run.done and not (run.folder / "report.html").exists():
            rewrite(run)
        return result

    own = experiment_of(run)
    if run.done:
        with run.reading():
            work(own, as_json, call)
    else:
        work(own, as_json, call)


def rewrite(run: Run) -> Path:
    """Write the page of an ended run again.

    Raises:
        InputError: The run has no result, or something that its page is drawn from is damaged.
    """
    own = experiment_of(run)
    run.result()  # whether there is one
    run.check_shards()
    with run.lock(), run.reading():
        return own.rewrite(run)


def experiment_of(run: Run) -> Own:
    """The experiment that a run is one of.

    Raises:
        InputError: ``run.json`` is damaged, or names an experiment that there is not.
    """
    run.check()
    command = run.manifest["command"]
    entry = entry_of(command)
    if entry is None:
        raise InputError(
            f"{run.manifest_path} names the experiment {command!r}, which onsphere {__version__} does not know; "
            "update onsphere, or put the file back as it was"
        )
    return entry.experiment


def listed(run: Run) -> dict[str, Any]:
    """A run as a row of the list; one that cannot be read is listed as damaged, with the reason."""
    row: dict[str, Any] = {
        "run": str(run.folder),
        "command": "",
        "status": "damaged",
        "created": "",
        "summary": "",
        "seconds": None,
    }
    try:
        run.check()
        manifest = run.manifest
        row |= {"command": manifest["command"], "created": manifest["created"]}
        entry = entry_of(manifest["command"])
        if entry is None:
            return row | {"status": "unknown", "summary": f"onsphere {__version__} does not know this experiment"}
        if not run.done:
            return row | {"status": run.status}
        own = entry.experiment
        with run.reading():
            result = own.result.load(run)
            return row | {"status": "done", "summary": own.describe(result), "seconds": result.seconds}
    except InputError as error:
        return row | {"summary": str(error)}
    except Exception as error:  # the list goes on, whatever is wrong with one run
        return row | {"summary": f"{run.folder} cannot be shown ({type(error).__name__}: {error})"}


def runs_page(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write the page of a folder of runs from the rows of the list.

    Raises:
        InputError: There is no such folder, or the page cannot be written there.
    """
    from onsphere.lab.report.runs_page import Listed, write_runs_page

    if not folder.is_dir():
        raise InputError(f"--page: {folder} is not a folder, so that no page can be written there")
    found = [Listed(Path(row["run"]), **{name: value for name, value in row.items() if name != "run"}) for row in rows]
    try:
        return write_runs_page(folder, found)
    except OSError as error:
        raise InputError(f"--page: {folder} cannot be written: {error.strerror or error}") from None


def _how_to_go_on(folder: Path | None) -> str:
    from onsphere.lab.store import resume_command

    return " before there was a run" if folder is None else f"; continue with: {resume_command(folder)}"
