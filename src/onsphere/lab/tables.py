"""Tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(console: Console, table: Table) -> None:
    """Print a table whole: in a terminal that is too narrow its lines are too long, and no word or number is cut."""
    for column in table.columns:
        texts = [line for text in (column.header, *column.cells) for line in str(text).splitlines()]
        words = texts if column.no_wrap else [word for text in texts for word in text.split()]
        column.min_width = max(map(len, words), default=0)
    least = Measurement.get(console, console.options.update_width(10_000), table).minimum
    if least > console.width:
        table.width = least
    console.print(table)
