"""The periods toy's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.toy_periods.page import answer, write_page
from onsphere.lab.experiments.toy_periods.result import ToyPeriodsResult, describe
from onsphere.lab.experiments.toy_periods.run import TOY
from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(spec: ToyPeriodsSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ToyPeriodsResult:
    """Run it anew."""
    return TOY.start(spec.model_dump(), out, progress, stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ToyPeriodsResult:
    """Run an interrupted one again."""
    return TOY.resume(run, progress, stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_page(run, ToyPeriodsResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(ToyPeriodsResult.load(run))


def show(result: ToyPeriodsResult) -> None:
    """Print the answer, the law's neighbourhood as a table, and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    for heading in ("lr", "weight decay", "floor", "jumps", "period", "law", "off %"):
        table.add_column(heading, justify="right")
    for row in result.law:
        measured = row.period is not None
        table.add_row(
            f"{row.lr:.3g}",
            f"{row.weight_decay:.3g}",
            f"{row.floor:.3g}",
            str(row.jumps),
            f"{row.period:g}" if measured else "-",
            f"{row.predicted_period:.1f}",
            f"{100 * (row.period / row.predicted_period - 1):+.1f}" if row.period is not None else "-",
        )
    if result.law:
        print_table(console, table)
        console.print()
    for sentence in answer(result):
        console.print(sentence)
    console.print(f"{result.steps} steps in {result.seconds:.1f} s ({result.engine['backend']})")
    console.print(f"page: {result.report}")
