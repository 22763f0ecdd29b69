"""Tables in the terminal."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from onsphere.lab.report.page import Cell
from onsphere.lab.report.page import Table as Page
from onsphere.lab.tables import print_table
from onsphere.lab.terminal import show


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width):
    out = io.StringIO()
    table = Table(box=None, pad_edge=False)
    table.add_column("ELR", justify="right")
    table.add_column("seeds in regime", no_wrap=True)
    for heading in ("loss", "train err %", "angle (rad)"):
        table.add_column(heading, justify="right")
    rows = [
        ("2.85e-03", "5 convergence", "0.00731", "0.0", "0.0029"),
        ("6.58e-03", "4 convergence, 1 chaotic equilibrium", "0.0618", "0.8", ""),
    ]
    for row in rows:
        table.add_row(*row)
    print_table(Console(file=out, width=width, highlight=False, soft_wrap=True), table)
    *_, first, second = out.getvalue().splitlines()
    for line, row in zip((first, second), rows, strict=True):
        assert [word for cell in row for word in cell.split()] == line.split()
    assert "…" not in out.getvalue()


def test_a_table_that_is_too_wide_breaks_its_headings_before_columns_touch(monkeypatch, capsys):
    headings = ("gradient at match", "sharpness at match", "train loss", "test loss", "test err %", "proposal less it")
    table = Page([(heading, "") for heading in headings], [[Cell("0.125")] * len(headings)])
    experiment = SimpleNamespace(printed=lambda _: [table], answer=lambda _: [], runs=lambda _: 0)
    printed = {}
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        show(experiment, SimpleNamespace(seconds=1.0, report="report.html"))
        printed[columns] = capsys.readouterr().out.splitlines()
    assert printed["200"][0].rstrip() == "  ".join(headings)
    first, second, row, *_ = printed["80"]
    assert first.split() == ["gradient", "sharpness", "proposal"]
    assert [word for word in re.split(" {2,}", second.strip())] == [
        *("at match", "at match", "train loss", "test loss", "test err %", "less it"),
    ]
    assert row.split() == ["0.125"] * 6 and len(second) <= 80
