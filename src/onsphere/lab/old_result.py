"""What results of experiments share: where the run lies, what was asked for, plain values out and back in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from onsphere.lab.result import PageFailed, conclude, elapsed, frame
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain
from onsphere.lab.store.shape import check_shape

__all__ = ["ExperimentResult", "PageFailed", "conclude", "elapsed", "frame", "restored", "vouched"]

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


def _value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_value(item) for item in value] if isinstance(value, list | tuple) else value


def restored(kind: type, entry: Mapping[str, Any]) -> Any:
    """A row from its plain values; None becomes NaN where a number belongs."""
    return kind(**{k: math.nan if v is None and kind.__annotations__[k] == "float" else v for k, v in entry.items()})
