"""The regime map's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.regimes.boundaries import VERBS
from onsphere.lab.experiments.regimes.page import write_page
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.run import describe_boundaries, map_regimes, resume_regimes
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

NAMES = {
    "convergence": "convergence",
    "chaotic_equilibrium": "chaotic equilibrium",
    "divergence": "divergence",
}


def start(spec: RegimesSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> RegimesResult:
    """Run a new map."""
    return map_regimes(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> RegimesResult:
    """Continue a map."""
    return resume_regimes(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended map again."""
    return write_page(run, RegimesResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe_boundaries(RegimesResult.load(run).cells)


def show(result: RegimesResult) -> None:
    """Print the grid as a table (means over seeds), both boundaries and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("ELR", justify="right")
    table.add_column("seeds in regime", no_wrap=True)
    for heading in ("loss", "train err %", "test err %", "angle (rad)"):
        table.add_column(heading, justify="right")
    for elr, counts in result.counts(rounds=1):
        cells = [cell for cell in result.cells if cell.elr == elr and cell.round == 0]
        loss, train, test, angle = (
            sum(getattr(cell, name) for cell in cells) / len(cells)
            for name in ("loss", "train_error", "test_error", "angular_update")
        )
        regimes = ", ".join(f"{count} {NAMES[regime]}" for regime, count in counts.items() if count)
        table.add_row(f"{elr:.2e}", regimes, f"{loss:.3g}", f"{100 * train:.1f}", f"{100 * test:.1f}", f"{angle:.2g}")
    print_table(console, table)
    console.print()
    for name, boundary in result.boundaries.items():
        console.print(f"{VERBS[name] + ':':<20}{boundary}")
    engine = result.engine
    kind = "compiled" if engine["compiled"] else "not compiled"
    console.print(
        f"{len(result.cells)} runs in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {kind}, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
