"""Tables in the terminal."""

import re
from types import SimpleNamespace

import pytest

from onsphere.lab.report.page import Cell
from onsphere.lab.report.page import Table as Page
from onsphere.lab.terminal import show


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width, monkeypatch, capsys):
    headings = ("ELR", "seeds in regime", "loss", "train err %", "angle (rad)")
    rows = [
        ("2.85e-03", "5 convergence", "0.00731", "0.0", "0.0029"),
        ("6.58e-03", "4 convergence, 1 chaotic equilibrium", "0.0618", "0.8", ""),
    ]
    table = Page([(heading, "") for heading in headings], rows)
    monkeypatch.setenv("COLUMNS", str(width))
    printed(table)
    _, first, second, *_ = capsys.readouterr().out.splitlines()[-6:]
    for line, row in zip((first, second), rows, strict=True):
        assert [word for cell in row for word in cell.split()] == line.split()
        assert "…" not in line


def printed(table):
    experiment = SimpleNamespace(printed=lambda _: [table], answer=lambda _: [], runs=lambda _: 0)
    show(experiment, SimpleNamespace(seconds=1.0, report="report.html"))


def test_a_table_that_is_too_wide_breaks_its_headings_before_columns_touch(monkeypatch, capsys):
    headings = ("gradient at match", "sharpness at match", "train loss", "test loss", "test err %", "proposal less it")
    table = Page([(heading, "") for heading in headings], [[Cell("0.125")] * len(headings)])
    lines = {}
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        printed(table)
        lines[columns] = capsys.readouterr().out.splitlines()
    assert lines["200"][0].rstrip() == "  ".join(headings)
    first, second, row, *_ = lines["80"]
    assert first.split() == ["gradient", "sharpness", "proposal"]
    assert [word for word in re.split(" {2,}", second.strip())] == [
        *("at match", "at match", "train loss", "test loss", "test err %", "less it"),
    ]
    assert row.split() == ["0.125"] * 6 and len(second) <= 80
