"""The result of an experiment in the terminal: its tables, the answer, the cost, where the page is."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Lines

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiment import Experiment
from onsphere.lab.report.page import Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_duration
from onsphere.lab.result import ExperimentResult

_NARROWEST = 10  # letters of a heading that is not broken


def show(experiment: Experiment[Any, Any, Any], result: ExperimentResult) -> None:
    """Print a result."""
    console = show_tables(experiment.printed(result))
    console.print()
    for sentence in experiment.answer(result):
        console.print(sentence)
    runs = experiment.runs(result)
    cost = f"{counted(runs, 'run')} in {format_duration(result.seconds)}" if runs else format_duration(result.seconds)
    engine = getattr(result, "engine", None)
    console.print(cost if engine is None else f"{cost} ({engine})")
    console.print(f"page: {result.report}")


def show_tables(blocks: Sequence[Table | str]) -> PlainConsole:
    """Print tables and lines, and return the console that they were printed on."""
    console = PlainConsole()
    for block in blocks:
        console.print(_lines(block, console) if isinstance(block, Table) else block)
    return console


def _lines(table: Table, console: Console) -> Lines:
    """The table; if that makes it fit a terminal with headings of several lines, or else with less between columns.

    In a terminal that is too narrow for that its lines are too long, and no word or number is cut.
    """

    def width(lines: Lines) -> int:
        return Measurement.get(console, console.options.update_width(10_000), lines).maximum

    headings = [heading for heading, _ in table.columns]
    lines = _set(table, headings)
    if width(lines) <= console.width:
        return lines
    widths = [max((len(row[i].text) for row in table.cells), default=0) for i in range(len(headings))]
    pairs = zip(headings, widths, strict=True)
    broken = _set(table, [fill(heading, max(_NARROWEST, most), break_long_words=False) for heading, most in pairs])
    if width(broken) <= console.width:
        return broken
    lines.padding = (0, 1, 0, 0)
    lines.width = width(lines)
    return lines


def _set(table: Table, headings: Sequence[str]) -> Lines:
    lines = Lines(box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        lines.add_column(heading, justify="right" if index in table.numeric else "left", no_wrap=True)
    for row in table.cells:
        lines.add_row(*(cell.text for cell in row))
    return lines
