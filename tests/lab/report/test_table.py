"""Tables said by columns: how numbers are written and sorted, and what is missing."""

import math
from dataclasses import dataclass

import pytest

from onsphere.lab.report.page import Cell
from onsphere.lab.report.table import Column, table


@dataclass
class Row:
    value: float | None
    spread: float = 0.05


@pytest.mark.parametrize(
    ("column", "value", "text", "sorted_by"),
    [
        (Column("", "value"), 0.123456, "0.123", 0.123456),
        (Column("", "value", digits=4), 0.123456, "0.1235", 0.123456),
        (Column("", "value", kind="percent"), 0.1234, "12.3", 0.1234),
        (Column("", "value", form="+.1f", scale=100), 0.123456, "+12.3", 12.3456),
        (Column("", "value", form="+.1f", scale=100, error="spread"), -0.2, "-20.0 ± 5.0", -20),
        (Column("", "value", form=","), 12345, "12,345", 12345),
        (Column("", "value", scale=100), 0.5, "50", 50),
        (Column("", lambda row: -row.value), 2, "-2", -2),
    ],
)
def test_a_number_is_written_as_its_column_says_and_sorted_by_its_value(column, value, text, sorted_by):
    cell = column.cell(Row(value))
    assert (cell.text, cell.value) == (text, pytest.approx(sorted_by))


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize("form", ["", "+.1f"])
def test_what_is_missing_is_a_dash_and_is_sorted_last(value, form):
    cell = Column("", "value", form=form, scale=100, error="spread").cell(Row(value))
    assert cell.text == "–" and cell.sort_value == ""


def test_a_table_knows_its_columns_by_their_kind():
    ready = Cell("ready", 3, "#123456")
    columns = [
        Column("n", "value", "how many"),
        Column("t", lambda row: ready, kind="text"),
        Column("x", str, kind="tight"),
    ]
    made = table([Row(1), Row(2)], columns, "rows")
    assert made.columns == [("n", "how many"), ("t", ""), ("x", "")] and made.caption == "rows"
    assert (made.numeric, made.tight, made.sortable) == ({0}, {2}, True)
    assert [row[1] for row in made.rows] == [ready, ready]
