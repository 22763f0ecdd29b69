"""Tables in the terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from onsphere.lab.tables import print_table


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
