"""Tables said by columns: what a column is called and what of a row it shows; the page and the terminal draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import format_number, format_percent

SORT = "Click a heading to sort."


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: Name of the column.
        value: What of a row it shows: the name of an attribute, or a function of the row. A function may also give a
            ready :class:`~onsphere.lab.report.page.Cell`.
        hint: Explanation, shown on the page while the pointer rests on the heading.
        kind: ``number`` and ``percent`` (of a fraction) are set flush right and sorted by value, ``text`` is not;
            ``tight`` is text that does not break.
        digits: Significant digits of a number.
        form: How a number is written where it is not as short as it can be, such as ``"+.1f"`` or ``","``.
        scale: What a number is multiplied by.
        error: Name of the attribute that is the number's standard error; it is written behind it.
    """

    heading: str
    value: str | Callable[[Any], Any]
    hint: str = ""
    kind: Literal["number", "percent", "text", "tight"] = "number"
    digits: int = 3
    form: str = ""
    scale: float = 1
    error: str = ""

    def cell(self, row: Any) -> Cell:
        """The cell of a row."""
        value = getattr(row, self.value) if isinstance(self.value, str) else self.value(row)
        if isinstance(value, Cell):
            return value
        if self.kind == "number":
            return self._number(None if value is None else self.scale * value, row)
        return percent(value) if self.kind == "percent" else Cell(str(value))

    def _number(self, value: Any, row: Any) -> Cell:
        if not self.form or value is None or not math.isfinite(value):
            return number(value, self.digits)
        error = self.scale * getattr(row, self.error) if self.error else None
        behind = "" if error is None else f" ± {error:{self.form.removeprefix('+')}}"
        return Cell(f"{value:{self.form}}{behind}", value)


def table(rows: Iterable[Any], columns: Sequence[Column], caption: str = SORT, *, sortable: bool = True) -> Table:
    """A table of rows that the columns, from left to right, know to read."""
    return Table(
        [(column.heading, column.hint) for column in columns],
        [[column.cell(row) for column in columns] for row in rows],
        caption=caption,
        sortable=sortable,
        numeric=frozenset(i for i, column in enumerate(columns) if column.kind in ("number", "percent")),
        tight=frozenset(i for i, column in enumerate(columns) if column.kind == "tight"),
    )


def number(value: Any, digits: int = 3) -> Cell:
    """A number as a cell that is sorted by value, the missing ones last."""
    return Cell(format_number(value, digits), _sorted_by(value))


def percent(fraction: Any) -> Cell:
    """A fraction 0..1 in percent."""
    return Cell(format_percent(fraction), _sorted_by(fraction))


def _sorted_by(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan
