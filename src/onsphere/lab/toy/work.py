"""A toy from its fields to its page: the part that is the same for all of them.

fields -> spec (everything wrong is found here) -> folder -> simulation -> tables, page -> result.json, last
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import ArrayLike
from pydantic import ValidationError

from onsphere.lab.old_result import ExperimentResult, conclude, elapsed
from onsphere.lab.options import InputError, Options, one_line
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.store.files import write_table
from onsphere.lab.threads import one_thread

S = TypeVar("S", bound=Options)
R = TypeVar("R", bound=ExperimentResult)
Stop = Callable[[], bool]


def never() -> bool:
    """The default of every ``stop``."""
    return False


@dataclass(frozen=True)
class Outcome:
    """What a simulation found.

    Attributes:
        values: Fields of the result as plain values.
        engine: What ran it.
        tables: Columns of one length each, by the table's name; the page is drawn from them.
    """

    values: dict[str, Any]
    engine: dict[str, Any]
    tables: dict[str, Mapping[str, ArrayLike]]


@dataclass(frozen=True)
class Toy(Generic[S, R]):
    """One of the toys.

    Attributes:
        spec: Its fields.
        result: Its result.
        simulate: Called with the spec, the progress to tell, and ``stop``, which it asks between pieces of work
            and answers with :class:`~onsphere.lab.execution.Interrupted`.
        write_page: Called with the run and the result; writes page and figures.
    """

    spec: type[S]
    result: type[R]
    simulate: Callable[[S, Progress, Stop], Outcome]
    write_page: Callable[[Run, R], Path]

    def start(self, fields: dict[str, Any], out: str | Path | None, progress: Progress | None, stop: Stop) -> R:
        """Run it in a new folder.

        Raises:
            InputError: A field is wrong, or the folder holds something.
            Interrupted: ``stop`` returned True.
        """
        spec = self._validated(fields, "")
        run = Run.create(None if out is None else Path(out), self.result.command, spec.model_dump(mode="json"))
        return self._do(run, spec, progress or Progress(), stop)

    def resume(self, run: Run, progress: Progress | None = None, stop: Stop = never) -> R:
        """The result of an ended run, or the whole simulation again from the run's spec, to the same bits.

        Raises:
            InputError: The spec is damaged, or another process is working on the run.
            Interrupted: ``stop`` returned True.
        """
        if run.done:
            return self.result.load(run)
        run.check()
        return self._do(
            run, self._validated(run.manifest["spec"], f"{run.manifest_path}: "), progress or Progress(), stop
        )

    def _validated(self, fields: dict[str, Any], where: str) -> S:
        try:
            return self.spec(**fields)
        except ValidationError as error:
            raise InputError(where + one_line(error, style="key")) from None

    def _do(self, run: Run, spec: S, progress: Progress, stop: Stop) -> R:
        progress.folder(run.folder)
        started = time.monotonic()
        with run.lock(), one_thread():
            outcome = self.simulate(spec, progress, stop)
            for name, columns in outcome.tables.items():
                write_table(run.table_path(name), columns)
            values = outcome.values | {
                "spec": spec.model_dump(mode="json"),
                "engine": outcome.engine,
                "seconds": elapsed(started),
            }
            result = self.result.of(run, values)
            return conclude(run, result, self.write_page)
