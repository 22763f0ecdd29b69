"""An experiment from its fields to its page: what is the same for all of them, written once.

    fields -> spec -> prepared (everything wrong is found here) -> folder, lock -> measured -> result.json -> page

An experiment says what it asks (``spec``), what it needs before there is a folder (``prepare``), how it finds out
(``measure``), what it found (``result``) and what is to be read about it (``report``). It is then started, resumed,
drawn again, told in one line and printed without a word of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from onsphere.lab.experiment.planning import TrainingPlan, plan_of
from onsphere.lab.experiment.rounds import Rounds
from onsphere.lab.experiment.session import Session, Stop, never
from onsphere.lab.frame import Report, write_page
from onsphere.lab.options import EngineOptions, InputError, Options
from onsphere.lab.population import Problem, Stage
from onsphere.lab.progress import Progress
from onsphere.lab.registry import ENTRIES, entry_of
from onsphere.lab.report.page import Table
from onsphere.lab.result import ExperimentResult, TrainedResult, conclude, elapsed, plain_of
from onsphere.lab.store import Run
from onsphere.lab.store.place import given_back
from onsphere.lab.threads import one_thread
from onsphere.lab.training import (
    Data,
    Model,
    choose_execution,
    cpu_seconds,
    fields_of_call,
    prepared,
    problem_of,
    spec_of_run,
    validated,
)

S = TypeVar("S", bound=Options)
P = TypeVar("P")
R = TypeVar("R", bound=ExperimentResult)


class Refused(InputError):  # noqa: N818 (named for what happened)
    """Raised while an experiment measures: what was asked cannot be answered, and the new folder is taken back."""


def trained(spec: Any, model: Model, data: Data, progress: Progress) -> Problem:
    """Prepare the one problem of an experiment that trains on the sphere by its spec alone.

    Raises:
        InputError: Data, batch size, device or model are not usable.
    """
    return prepared(problem_of(spec, model, data), progress)


@dataclass(frozen=True)
class Experiment(Generic[S, P, R]):
    """One of the experiments.

    Attributes:
        spec: The options that it takes.
        result: The class of what it finds.
        prepare: Called with the spec, the model, the data and the progress to tell, before there is a folder; raises
            :class:`~onsphere.lab.options.InputError` for whatever is wrong, and gives what ``measure`` works with.
        measure: The science: from a session to the fields of the result that are its own. ``engine`` may be among them
            with what is to be said beside how copies were executed.
        report: What is to be read about a result.
        answer: What was found, in sentences; the first stands by itself.
        describe: The result in one line, for the list of runs.
        runs: How many runs the time was for; 0 where there is no telling.
        printed: Tables and lines for the terminal, above the answer.
        fields: From the fields that a user gave to those that the spec is made of.
        stages: Called with the spec and what ``prepare`` gave: the rounds of training that ``measure`` is going to ask
            for; None of an experiment that trains nothing.
        beside: What ``measure`` does besides training, in words; it is in no plan.
    """

    spec: type[S]
    result: type[R]
    prepare: Callable[[S, Any, Any, Progress], P]
    measure: Callable[[Session[S, P]], Mapping[str, Any]]
    report: Callable[[Run, R], Report]
    answer: Callable[[R], Sequence[str]]
    describe: Callable[[R], str]
    runs: Callable[[R], int]
    printed: Callable[[R], Sequence[Table | str]] = lambda _: ()
    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    stages: Callable[[S, P], Sequence[Stage]] | None = None
    beside: str = ""

    def start(
        self,
        model: Model | None = None,
        data: Data | None = None,
        *,
        out: str | Path | None = None,
        progress: Progress | None = None,
        stop: Stop = never,
        **fields: Any,
    ) -> R:
        """Run the experiment in a new folder.

        Args:
            model: A name, ``package.module:factory``, or a callable that returns a new module. A callable has 1 for the
                default of ``workers``; with more it must be importable and the script guarded by ``__main__``.
            data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
                with x [N, ...] and integer labels y [N], which are taken as they are: all of them, no label noise, not
                standardised, unless asked.
            out: Folder of the run; must be new or empty. Default: ``runs/COMMAND-DATE-TIME``.
            progress: Whoever is told what happens.
            stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
            **fields: Fields of the spec by name.

        Raises:
            InputError: A field, the model or the data is wrong; the message is one line.
            Interrupted: ``stop`` returned True; the run can be resumed.
        """
        began, told = time.monotonic(), progress or Progress()
        spec, ready = self._asked(model, data, fields, told)
        place = None if out is None else Path(out)
        made = place is None or not os.path.lexists(place)  # no error for a name that no file can have
        run = Run.create(place, self.result.command, spec.model_dump(mode="json"))
        try:
            return self._do(self._session(spec, ready, run, told, stop, began), began)
        except Refused:
            given_back(run.folder, made)
            raise

    def plan(self, model: Model | None = None, data: Data | None = None, **fields: Any) -> TrainingPlan:
        """Say what a run with these arguments of :meth:`start` is going to be, from a few steps, without a folder.

        Raises:
            InputError: A field, the model or the data is wrong, or the experiment trains nothing.
        """
        if self.stages is None:
            why = "does not say which rounds it trains" if issubclass(self.result, TrainedResult) else "trains nothing"
            raise InputError(f"--plan: is not allowed with onsphere {self.result.command}: it {why}")
        began = time.monotonic()
        spec, ready = self._asked(model, data, fields, Progress())
        stages, options = self.stages(spec, ready), cast(EngineOptions, spec)
        execution = choose_execution(stages[0].problem, options, stages[0].most or len(stages[0].copies))
        return plan_of(self.result.command, stages, execution, time.monotonic() - began, self.beside)

    def resume(
        self,
        run: Run,
        *,
        model: Model | None = None,
        data: Data | None = None,
        progress: Progress | None = None,
        stop: Stop = never,
    ) -> R:
        """Continue an interrupted run to the same bits, or return the result of one that has ended.

        Args:
            run: The run that is continued.
            model: The callable, if the run was started with one.
            data: The data, if the run was started with own arrays.
            progress: Whoever is told what happens.
            stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.

        Raises:
            InputError: A file of the run is damaged, the data or model cannot be found again, the data have changed, or
                it is a run of another experiment.
            Interrupted: ``stop`` returned True; the run can be resumed.
        """
        if run.done:
            return self.result.load(run)
        run.check_command(self.result.command)
        began, told = time.monotonic(), progress or Progress()
        entry = entry_of(self.result.command)
        name = entry.functions[-1] if entry is not None and entry.functions else "resume"
        spec = spec_of_run(self.spec, run, model, data, name)
        used = model or getattr(spec, "model", None)
        ready = self.prepare(spec, used, data or getattr(spec, "data", None), told)
        return self._do(self._session(spec, ready, run, told, stop, began), began)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return _named, (self.result.command,)  # by name, as functions are: what resumes runs goes to a pool

    def rewrite(self, run: Run) -> Path:
        """Write the page and the figures of an ended run again."""
        return self._write(run, self.result.load(run))

    def one_line(self, run: Run) -> str:
        """The result of an ended run in one line."""
        return self.describe(self.result.load(run))

    def _asked(self, model: Model | None, data: Data | None, fields: Mapping[str, Any], told: Progress) -> tuple[S, P]:
        """The spec of the arguments of a call, and what its measurement works with."""
        named = {name: value for name, value in (("model", model), ("data", data)) if value is not None}
        given = self.fields({**fields, **named})
        known = self.spec.model_fields
        used: dict[str, Any] = {
            name: given.pop(name, known[name].default) for name in ("model", "data") if name in known
        }
        if "data" in used:
            given = fields_of_call(used["model"], used["data"], given)
        else:
            given |= used
        spec = validated(self.spec, given)
        return spec, self.prepare(spec, used.get("model"), used.get("data"), told)

    def _do(self, session: Session[S, P], began: float) -> R:
        run = session.run
        session.progress.folder(run.folder)
        with run.lock(), one_thread():
            result = self._result(session, self.measure(session), began)
            session.rounds.take_away()
            return conclude(run, result, self._write)

    def _session(self, spec: S, ready: P, run: Run, progress: Progress, stop: Stop, began: float) -> Session[S, P]:
        def draw(found: Mapping[str, Any], first: str) -> None:
            self._write(run, self._result(session, found, began), first)

        stages = () if self.stages is None else self.stages(spec, ready)
        rounds = Rounds(run, self.result.command, spec, stages, self.beside, draw, progress)
        session = Session(spec, ready, run, progress, stop, rounds)
        return session

    def _result(self, session: Session[S, P], found: Mapping[str, Any], began: float) -> R:
        values: dict[str, Any] = {"spec": session.spec, "seconds": elapsed(began)} | dict(found)
        if issubclass(self.result, TrainedResult):
            values["engine"] = session.execution.summary | dict(found.get("engine", {}))
            values["cpu_seconds"] = cpu_seconds(session.run)
        return self.result.restored(session.run, plain_of(values))

    def _write(self, run: Run, result: R, so_far: str = "") -> Path:
        runs = self.runs(result) or None
        return write_page(run, result, self.report(run, result), self.answer(result), runs, so_far)


def plan(command: str, model: Model | None = None, data: Data | None = None, **fields: Any) -> TrainingPlan:
    """Say what a run of an experiment is going to be, from a few steps: copies, time, memory, disk.

    Args:
        command: What is typed after ``onsphere``, such as ``regimes`` or ``landscape drop``.
        model: The network, as :meth:`Experiment.start` takes it.
        data: The data, as it takes them.
        **fields: Fields of the experiment's spec by name.

    Raises:
        InputError: There is no such experiment, it trains nothing, or a field, the model or the data is wrong.

    Example:
        >>> from onsphere.lab import plan
        >>> plan("regimes", steps=10_000, seeds=8)  # doctest: +SKIP
    """
    entry = entry_of(command)
    if entry is None:
        names = ", ".join(entry.command for entry in ENTRIES)
        raise InputError(f"command: {command!r} is not allowed: there are {names}")
    return entry.experiment.plan(model, data, **fields)


def _named(command: str) -> Experiment[Any, Any, Any]:
    entry = entry_of(command)
    if entry is None:
        raise LookupError(f"there is no experiment {command!r}")
    return entry.experiment
