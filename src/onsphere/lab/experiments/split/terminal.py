"""The memory split's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.split.answer import answer, headline
from onsphere.lab.experiments.split.page import write_page
from onsphere.lab.experiments.split.result import SplitResult, SplitRow
from onsphere.lab.experiments.split.run import resume_split, split_budget
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

LEAST_WIDTH = 110  # columns; a narrower table would cut numbers off


def start(spec: SplitSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> SplitResult:
    """Run a new study."""
    return split_budget(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> SplitResult:
    """Continue a study."""
    return resume_split(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended study again."""
    return write_page(run, SplitResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    result = SplitResult.load(run)
    return " ".join(headline(own, result.spec["metric"]) for own in result.budgets)


def show(result: SplitResult) -> None:
    """Print the splits as a table, the answer and the page's path."""
    console = PlainConsole(width=max(LEAST_WIDTH, PlainConsole().width))
    table = Table(box=None, pad_edge=False)
    headings = ("budget", "members", "width", "each", "NLL", "CNLL", "accuracy %", "basis")
    for heading in headings if result.predicted else headings[:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    for own in result.budgets:
        for row in own.splits:
            cells = [f"{row.budget:,}", str(row.members), str(row.width), f"{row.parameters:,}"]
            cells += [_cell(row, "nll", 1, 4), _cell(row, "cnll", 1, 4), _cell(row, "accuracy", 100, 2)]
            table.add_row(*cells, *([row.basis] if result.predicted else []))
    print_table(console, table)
    console.print()
    for sentence in answer(result):
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{result.networks} networks in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    if result.saved is not None:
        console.print(f"ensemble: {result.saved}")
    console.print(f"page: {result.report}")


def _cell(row: SplitRow, metric: str, scale: int, digits: int) -> str:
    error = row.standard_error[metric]
    spread = "" if error is None else f" ± {scale * error:.{digits}f}"
    return f"{scale * getattr(row, metric):.{digits}f}{spread}"
