"""From a spec to a result on disk: model and batch (all wrong input is found here), folder, search, page, result.

A :class:`onsphere.SymmetryError` says that this model cannot be answered about with this batch, so it counts as bad
input: the folder that was made for it is taken back and the command ends with status 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import onsphere
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.page import write_report
from onsphere.lab.experiments.symmetries.prepare import Question, prepare
from onsphere.lab.experiments.symmetries.result import SymmetriesResult
from onsphere.lab.experiments.symmetries.spec import SymmetriesSpec
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.options import InputError, one_line
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.threads import one_thread

__all__ = ["resume", "start"]

_LARGE = 3_000_000  # trainable numbers from which a search takes long enough to say that it has begun


def start(fields: dict[str, Any], out: Path | None, progress: Progress, stop: Callable[[], bool]) -> SymmetriesResult:
    """Find the symmetries in a new folder.

    Raises:
        InputError: A field, the model or the folder is wrong, or the model's symmetries cannot be found.
        Interrupted: ``stop`` returned True.
    """
    spec = _validated(fields, "")
    question = prepare(spec)
    made = out is None or not out.exists()
    run = Run.create(out, SymmetriesResult.command, spec.model_dump(mode="json"))
    try:
        return _do(run, spec, question, progress, stop)
    except onsphere.SymmetryError as error:
        _withdraw(run, made)
        raise _as_input_error(spec, error) from error


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> SymmetriesResult:
    """The result of an ended run, or the whole search again from the run's spec, to the same numbers.

    Raises:
        InputError: The spec is damaged, the model cannot be built again, or another process works on the run.
        Interrupted: ``stop`` returned True.
    """
    if run.done:
        return SymmetriesResult.load(run)
    run.check()
    spec = _validated(run.manifest["spec"], f"{run.manifest_path}: ")
    run.check_trust()
    try:
        return _do(run, spec, prepare(spec), progress, stop)
    except onsphere.SymmetryError as error:
        raise _as_input_error(spec, error) from error


def _do(
    run: Run, spec: SymmetriesSpec, question: Question, progress: Progress, stop: Callable[[], bool]
) -> SymmetriesResult:
    progress.folder(run.folder)
    trained = [p.numel() for p in question.model.parameters() if p.requires_grad]
    with run.lock(), one_thread():
        if sum(trained) > _LARGE:
            progress.note(f"{spec.model}: {sum(trained):,} numbers in {len(trained)} tensors, a backward pass each")
        _ask(stop)
        started = time.monotonic()
        found = Findings.of(
            onsphere.find_symmetries(
                question.model,
                *question.inputs,
                output=question.output,
                rows=spec.rows,
                unused=spec.unused,
                **question.kwargs,
            )
        )
        seconds = elapsed(started)
        _ask(stop)
        result = SymmetriesResult.of(run, found, spec.model_dump(mode="json"), seconds)
        return conclude(run, result, write_report)


def _as_input_error(spec: SymmetriesSpec, error: onsphere.SymmetryError) -> InputError:
    """The same in one line; a wrong ``--output`` speaks for itself."""
    cause = error.__cause__
    return cause if isinstance(cause, InputError) else InputError(f"{spec.model}: {error}")


def _ask(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted


def _validated(fields: dict[str, Any], where: str) -> SymmetriesSpec:
    try:
        return SymmetriesSpec(**fields)
    except ValidationError as error:
        raise InputError(where + one_line(error, style="key")) from None


def _withdraw(run: Run, made: bool) -> None:
    """Take back a folder that :meth:`Run.create` has just made, and the folder ``runs`` if nothing else is in it."""
    run.manifest_path.unlink(missing_ok=True)
    (run.folder / ".lock").unlink(missing_ok=True)
    if made:
        with suppress(OSError):  # not empty: somebody else put something there
            run.folder.rmdir()
            if run.folder.parent == Path("runs"):
                run.folder.parent.rmdir()
