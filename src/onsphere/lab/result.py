"""What results of experiments share: where the run lies, what was asked for, plain values out and back in.

A result is a frozen dataclass of frozen rows. Its types say what ``result.json`` holds and check it when it is read
again, so that no result writes or reads itself by hand. JSON has no NaN: where a number may be missing a row says
:data:`Real` for one that is NaN then, and ``float | None`` for one that is None.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import to_jsonable_python

from onsphere.lab.keyed import Keyed
from onsphere.lab.options import InputError, Options, misfit
from onsphere.lab.store import Run, resume_command
from onsphere.lab.store.seal import plain
from onsphere.results import frame

#: A number that JSON writes as null where it is not finite, and that is NaN when it is read again.
Real = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]

T = TypeVar("T")

#: Rows of which there is at least one.
Rows = Annotated[list[T], Field(min_length=1)]

_FIRST, _LAST = ("run", "report"), ("spec", "radius", "engine", "seconds", "cpu_seconds")


@dataclass(frozen=True)
class Engine(Keyed):
    """What executed the copies.

    Attributes:
        mode: ``vmap`` for batched copies or ``loop`` for one after another.
        chunk: Copies per shard, at most.
        compiled: Whether the step went through ``torch.compile``.
        workers: How many processes shared a round.
    """

    mode: str
    chunk: int
    compiled: bool
    workers: int

    def __str__(self) -> str:
        kind = "compiled" if self.compiled else "not compiled"
        workers = f"{self.workers} worker" + ("" if self.workers == 1 else "s")
        return f"{self.mode}, {self.chunk} copies a shard, {kind}, {workers}"


@dataclass(frozen=True, repr=False, kw_only=True)
class ExperimentResult:
    """Base of an experiment's result; subclasses add what was found, and the class of their spec.

    Attributes:
        run: Folder of the run.
        report: The page in that folder.
        spec: What was asked for.
        seconds: Wall-clock seconds of the call.
    """

    command: ClassVar[str]
    #: The field whose rows :meth:`to_frame` gives.
    rows_field: ClassVar[str] = ""
    #: Which of its own values :meth:`to_dict` gives before the others.
    foremost: ClassVar[tuple[str, ...]] = ()

    run: Path
    report: Path
    spec: Options
    seconds: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__eq__ = ExperimentResult.__eq__  # type: ignore[method-assign] # a dataclass leaves what is there

    def __eq__(self, other: object) -> bool:
        """Whether both say the same; what is not finite is the same as itself."""
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds; None for what is not finite."""
        values = _adapter(type(self)).dump_python(self, mode="json", warnings="error")
        found = [name for name in values if name not in _FIRST + _LAST]
        order = [name for name in dict.fromkeys((*_FIRST, *self.foremost, *found, *_LAST)) if name in values]
        return dict(plain({"command": self.command} | {name: values[name] for name in order}))

    @classmethod
    def restored(cls, run: Run, values: Mapping[str, Any]) -> Self:
        """The result from what :meth:`to_dict` gave, of a run whose folder may have been moved.

        Raises:
            ValueError: A value is missing, or is not what the types say.
        """
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        given |= {"run": str(run.folder), "report": str(run.folder / "report.html")}
        return typed(cls, given)

    @classmethod
    def load(cls, run: Run) -> Self:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet, its file is damaged, or it is a run of another experiment.
        """
        values = run.result()
        run.check_command(cls.command)
        with run.reading():
            try:
                return cls.restored(run, values)
            except (LookupError, TypeError, ValueError) as error:
                if not run.result_sealed:
                    raise
                raise InputError(
                    f"{run.result_path} does not fit this version of onsphere ({misfit(error)}); read it with the "
                    "version that run.json names"
                ) from error

    def to_frame(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame(self.to_dict()[self.rows_field])


@dataclass(frozen=True, repr=False, kw_only=True)
class TrainedResult(ExperimentResult):
    """Base of the result of an experiment that trains copies.

    Attributes:
        engine: How they were executed.
        cpu_seconds: Processor seconds of all shards, those of earlier, interrupted calls included.
    """

    engine: Engine
    cpu_seconds: float


@dataclass(frozen=True)
class Backend(Keyed):
    """What ran the inner loops of a toy.

    Attributes:
        backend: ``numpy`` or ``numba``, to the same bits.
    """

    backend: str

    def __str__(self) -> str:
        return self.backend


@dataclass(frozen=True, repr=False, kw_only=True)
class ToyResult(ExperimentResult):
    """Base of the result of a toy.

    Attributes:
        engine: What ran the inner loops.
    """

    engine: Backend


#: Made once for a type.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def typed(kind: type[T], values: Any) -> T:
    """What plain values stand for: rows of dataclasses (``list[Row]``), lists of numbers.

    Raises:
        ValueError: They are something else.
    """
    found: T = _adapter(kind).validate_json(json.dumps(plain(values)), strict=True)
    return found


def plain_of(value: Any) -> Any:
    """Plain values of dataclasses, models, paths, tuples and numbers; None for what is not finite."""
    return plain(to_jsonable_python(value))


class PageFailed(RuntimeError):  # noqa: N818
    """A result was written and its page was not."""


R = TypeVar("R", bound=ExperimentResult)


def conclude(run: Run, result: R, write_page: Callable[[Run, R], object]) -> R:
    """End a run and return its result: first the result, then the page, so that no page can cost a result.

    Raises:
        PageFailed: The page could not be made; the result is written.
    """
    run.write_result(result.to_dict())
    try:
        write_page(run, result)
    except (InputError, OSError):
        raise
    except Exception as error:
        again = resume_command(run.folder).replace("onsphere resume", "onsphere report", 1)
        raise PageFailed(
            f"the result is in {run.result_path}, but its page could not be written ({type(error).__name__}: {error}); "
            f"try again with: {again}"
        ) from error
    return result


def elapsed(started: float) -> float:
    """Seconds since a reading of ``time.monotonic()``, as ``result.json`` keeps them: rounded to 1e-3.

    Rounded here and nowhere later, so that a result shows the same time when it is read again.
    """
    return round(time.monotonic() - started, 3)
