"""The drop's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.drop.answer import answer
from onsphere.lab.experiments.drop.page import write_page
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.run import drop_elr, resume_drop
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(spec: DropSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> DropResult:
    """Run a new experiment."""
    return drop_elr(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> DropResult:
    """Continue an experiment."""
    return resume_drop(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended experiment again."""
    return write_page(run, DropResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return answer(DropResult.load(run))[0]


def show(result: DropResult) -> None:
    """Print the matrix of test errors (means over seeds ± standard errors), the answer and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("from ELR", justify="right", no_wrap=True)
    table.add_column("class", no_wrap=True)
    for end in result.ends:
        table.add_column(f"to {end:.2g}", justify="right", no_wrap=True)
        table.add_column("gradient", justify="right", no_wrap=True)
    averages = {one.start for one in result.averages}
    if averages:
        table.add_column("average", justify="right", no_wrap=True)
    console.print("test error in percent, mean ± standard error over seeds; gradient norm after the drop")
    for one in result.analysis.classes:
        row = [f"{one.start:.2e}", one.label]
        for end in result.ends:
            cell = result.analysis.at(one.start, end)
            row += [f"{100 * cell.test_error:.2f} ± {100 * cell.test_error_se:.2f}", f"{cell.gradient_norm:.3g}"]
        if averages:
            own = [a.test_error for a in result.averages if a.start == one.start]
            row.append(f"{100 * sum(own) / len(own):.2f}" if own else "–")
        table.add_row(*row)
    print_table(console, table)
    console.print()
    for sentence in answer(result):
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{len(result.cells) + len(result.continuations)} runs in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
