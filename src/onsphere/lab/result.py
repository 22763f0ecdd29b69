"""What results of experiments share: where the run lies, what was asked for, plain values out and back in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

from onsphere.lab.options import InputError
from onsphere.lab.store import Run, resume_command
from onsphere.lab.store.seal import plain
from onsphere.lab.store.shape import check_shape

F = TypeVar("F", bound=Callable[..., Any])

_FIRST, _LAST = ("run", "report"), ("spec", "engine", "seconds")


def vouched(load: F) -> F:
    """A ``load`` of a result that refuses, in one line, what is none: for files that no digest vouches for."""

    @wraps(load)
    def checked(cls: Any, run: Run) -> Any:
        with run.reading():
            result = load(cls, run)
            if not run.result_sealed:
                check_shape(result)
        return result

    return cast(F, checked)


@dataclass(frozen=True, repr=False, kw_only=True)
class ExperimentResult:
    """Base of an experiment's result; subclasses add what was found.

    Attributes:
        run: The run's folder.
        report: The page.
        spec: What was asked for.
        engine: What ran it.
        seconds: Wall-clock seconds of the call.
    """

    command: ClassVar[str]
    #: Fields that hold lists of row dataclasses, and which.
    tables: ClassVar[dict[str, type]] = {}

    run: Path
    report: Path
    spec: dict[str, Any]
    engine: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds; None for what is not finite."""
        found = [field.name for field in fields(self) if field.name not in _FIRST + _LAST]
        values = {name: _value(getattr(self, name)) for name in (*_FIRST, *found, *_LAST)}
        values |= {"run": str(self.run), "report": str(self.report)}
        return dict(plain({"command": self.command} | values))

    @classmethod
    def of(cls, run: Run, values: dict[str, Any]) -> Self:
        """The result from what :meth:`to_dict` gave.

        Args:
            run: Where the run lies now; its folder may have been moved.
            values: Plain values.
        """
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in plain(values).items() if name in known}
        for name, row in cls.tables.items():
            given[name] = [row(**entry) for entry in given[name]]
        return cls(**given | {"run": run.folder, "report": run.folder / "report.html"})

    @classmethod
    @vouched
    def load(cls, run: Run) -> Self:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        return cls.of(run, run.result())

    def to_frame(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame(self.to_dict()[next(iter(self.tables))])


class PageFailed(RuntimeError):  # noqa: N818
    """A result was written and its page was not."""


class _Writable(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=_Writable)


def conclude(run: Run, result: R, write_page: Callable[[Run, R], object]) -> R:
    """End a run: first the result, then the page, so that no page can cost a result.

    Args:
        run: The run.
        result: Its result.
        write_page: Writes page and figures.

    Returns:
        The result.

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


def _value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_value(item) for item in value] if isinstance(value, list | tuple) else value


def restored(kind: type, entry: Mapping[str, Any]) -> Any:
    """A row from its plain values; None becomes NaN where a number belongs."""
    return kind(**{k: math.nan if v is None and kind.__annotations__[k] == "float" else v for k, v in entry.items()})


def frame(rows: Any) -> Any:
    """Rows as a pandas data frame.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_frame() needs pandas: pip install pandas; or use to_dict()") from error
    return pd.DataFrame(rows)
