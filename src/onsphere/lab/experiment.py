"""An experiment from its fields to its page: what is the same for all of them, written once.

    fields -> spec -> prepared (everything wrong is found here) -> folder, lock -> measured -> result.json -> page

An experiment says what it asks (``spec``), what it needs before there is a folder (``prepare``), how it finds out
(``measure``), what it found (``result``) and what is to be read about it (``report``). It is then started, resumed,
drawn again, told in one line and printed without a word of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from onsphere.lab.engine_file import Execution, read_execution
from onsphere.lab.execution import Interrupted
from onsphere.lab.frame import Report, write_page
from onsphere.lab.options import InputError, Options
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.registry import entry_of
from onsphere.lab.report.page import Table
from onsphere.lab.result import ExperimentResult, TrainedResult, conclude, elapsed, plain_of, typed
from onsphere.lab.store import Damaged, Run
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.store.place import given_back
from onsphere.lab.threads import one_thread
from onsphere.lab.training import (
    Data,
    Model,
    Trainer,
    cpu_seconds,
    fields_of_call,
    open_trainer,
    prepared,
    problem_of,
    spec_of_run,
    validated,
)

S = TypeVar("S", bound=Options)
P = TypeVar("P")
R = TypeVar("R", bound=ExperimentResult)
T = TypeVar("T")
Stop = Callable[[], bool]


def never() -> bool:
    """The default of every ``stop``: it never asks to stop."""
    return False


class Refused(InputError):  # noqa: N818 (named for what happened)
    """Raised while an experiment measures: what was asked cannot be answered, and the new folder is taken back."""


def trained(spec: Any, model: Model, data: Data, progress: Progress) -> Problem:
    """Prepare the one problem of an experiment that trains on the sphere by its spec alone.

    Raises:
        InputError: Data, batch size, device or model are not usable.
    """
    return prepared(problem_of(spec, model, data), progress)


@dataclass(frozen=True)
class Session(Generic[S, P]):
    """What a measurement has at hand.

    Attributes:
        spec: The fields that were asked for.
        given: What ``prepare`` made, such as the problem that is trained.
        run: The run that keeps everything.
        progress: Whoever is told what happens.
        stop: Asked often; True ends the call at the next checkpoint.
    """

    spec: S
    given: P
    run: Run
    progress: Progress
    stop: Stop

    @property
    def execution(self) -> Execution:
        """How copies are executed, which is settled once something was trained."""
        found = read_execution(self.run)
        assert found is not None
        return found

    def trainer(self, problem: Problem, copies: int) -> AbstractContextManager[Trainer]:
        """Open a trainer for several rounds of one problem.

        Args:
            problem: The problem that is trained.
            copies: How many copies the largest round has; the plan of a new run is chosen for so many.
        """
        options: Any = self.spec
        return open_trainer(problem, self.run, options, copies, self.progress, self.stop)

    def train(
        self,
        problem: Problem,
        name: str,
        copies: Sequence[Copy],
        title: str,
        *,
        most: int = 0,
        told: Callable[[list[ShardFolder]], str] | None = None,
    ) -> list[ShardFolder]:
        """Train one round of copies.

        Args:
            problem: The problem that is trained.
            name: The shards are called ``NAME-000``, ...
            copies: The copies that are trained.
            title: What the display calls the round.
            most: How many copies a later round of the same plan has, where that is more.
            told: Says what is known from the shards that have ended so far, in one line.

        Returns:
            The shards in the order of the copies.

        Raises:
            Interrupted: The run was asked to stop.
        """
        with self.trainer(problem, max(most, len(copies))) as trainer:
            return self.round(trainer, name, copies, title, told)

    def round(
        self,
        trainer: Trainer,
        name: str,
        copies: Sequence[Copy],
        title: str,
        told: Callable[[list[ShardFolder]], str] | None = None,
    ) -> list[ShardFolder]:
        """Train one round on an open trainer; the arguments are those of :meth:`train`."""
        ended: list[ShardFolder] = []
        for shard in trainer.round(name, copies, title):
            ended.append(shard)
            if told is not None:
                self.progress.finding(told(ended))
        return [ShardFolder(trainer.folder / shard.name) for shard in trainer.shards(name, copies)]

    def kept(self, path: str, kind: type[T], measure: Callable[[], T], *, units: int = 1, key: str = "rows") -> T:
        """Measure once: what was measured is kept on disk as plain values and found there again.

        Args:
            path: The file within the run's folder, without its ending.
            kind: What is measured, such as ``list[Row]`` for a dataclass of that name.
            measure: Called on one thread if the file is not there; tells the progress itself, as :meth:`each` does.
            units: How much work this is, for the display, if it is found.
            key: Under which name the file holds the values, of which it may hold several; "" for values that are
                themselves the whole of the file, such as a dataclass.

        Returns:
            What the file holds, so that a resumed run computes with the same bits.

        Raises:
            Interrupted: The run was asked to stop before this was measured.
        """
        file = self.run.folder / f"{path}.json"
        held = read_json(file) if file.exists() else {}
        if held and key in (*held, ""):
            self.progress.advance(units)
        else:
            if self.stop():
                raise Interrupted
            file.parent.mkdir(parents=True, exist_ok=True)
            with one_thread():
                found = plain_of(measure())
            write_json(file, held | {key: found} if key else found)
            held = read_json(file)
        try:
            return typed(kind, held[key] if key else held)
        except (KeyError, ValueError) as error:
            raise Damaged(file, f"is damaged: it holds no {key or kind.__name__}") from error

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Items of a long measurement: a look at ``stop`` before each, a word to the display after it.

        Raises:
            Interrupted: The run was asked to stop.
        """
        for item in items:
            if self.stop():
                raise Interrupted
            yield item
            self.progress.advance(1)


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
        began, told = time.monotonic(), progress or Progress()
        spec = validated(self.spec, given)
        ready = self.prepare(spec, used.get("model"), used.get("data"), told)
        place = None if out is None else Path(out)
        made = place is None or not os.path.lexists(place)  # no error for a name that no file can have
        run = Run.create(place, self.result.command, spec.model_dump(mode="json"))
        try:
            return self._do(Session(spec, ready, run, told, stop), began)
        except Refused:
            given_back(run.folder, made)
            raise

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
        return self._do(Session(spec, ready, run, told, stop), began)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return _named, (self.result.command,)  # by name, as functions are: what resumes runs goes to a pool

    def rewrite(self, run: Run) -> Path:
        """Write the page and the figures of an ended run again."""
        return self._write(run, self.result.load(run))

    def one_line(self, run: Run) -> str:
        """The result of an ended run in one line."""
        return self.describe(self.result.load(run))

    def _do(self, session: Session[S, P], began: float) -> R:
        run = session.run
        session.progress.folder(run.folder)
        with run.lock(), one_thread():
            found = dict(self.measure(session))
            values = {"spec": session.spec, "seconds": elapsed(began)} | found
            if issubclass(self.result, TrainedResult):
                values["engine"] = session.execution.summary | dict(found.get("engine", {}))
                values["cpu_seconds"] = cpu_seconds(run)
            return conclude(run, self.result.restored(run, plain_of(values)), self._write)

    def _write(self, run: Run, result: R) -> Path:
        return write_page(run, result, self.report(run, result), self.answer(result), self.runs(result) or None)


def _named(command: str) -> Experiment[Any, Any, Any]:
    entry = entry_of(command)
    if entry is None:
        raise LookupError(f"there is no experiment {command!r}")
    return entry.experiment
