"""The regimes toy's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.toy_regimes.page import write_page
from onsphere.lab.experiments.toy_regimes.result import ToyRegimesResult, describe
from onsphere.lab.experiments.toy_regimes.run import TOY
from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(spec: ToyRegimesSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ToyRegimesResult:
    """Run it anew."""
    return TOY.start(spec.model_dump(), out, progress, stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ToyRegimesResult:
    """Run an interrupted one again."""
    return TOY.resume(run, progress, stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_page(run, ToyRegimesResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(ToyRegimesResult.load(run))


def show(result: ToyRegimesResult) -> None:
    """Print the rows as a table and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    for heading in ("ELR", "ELR A", "mean loss", "range over seeds", "predicted", "loss / random"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(
            f"{row.elr:.4g}",
            f"{row.relative_elr:.4g}",
            f"{row.loss:.5g}",
            f"{row.loss_low:.4g} to {row.loss_high:.4g}",
            f"{row.predicted_loss:.5g}",
            f"{row.loss / row.loss_at_random:.4g}",
        )
    print_table(console, table)
    console.print()
    console.print(describe(result))
    runs = len(result.rows) * result.spec["seeds"]
    console.print(f"{runs} runs of {result.spec['steps']} steps in {result.seconds:.1f} s ({result.engine['backend']})")
    console.print(f"page: {result.report}")
