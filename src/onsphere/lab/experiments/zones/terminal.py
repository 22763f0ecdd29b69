"""The zones' side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.zones.answer import answer, describe
from onsphere.lab.experiments.zones.page import write_page
from onsphere.lab.experiments.zones.result import ZonesResult
from onsphere.lab.experiments.zones.run import map_zones, resume_zones
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

LETTERS = {"at once": "O", "up first": "^", "held": "-", "leaves": "x"}


def start(spec: ZonesSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ZonesResult:
    """Run it anew."""
    return map_zones(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ZonesResult:
    """Continue an interrupted one."""
    return resume_zones(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_page(run, ZonesResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(ZonesResult.load(run))


def show(result: ZonesResult) -> None:
    """Print the map of outcomes (one letter a seed) with the path's sharpness, the answer and the page's path."""
    console = PlainConsole()
    elrs = sorted(result.spec["elrs"])
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "loss", "sharpness", *(format_number(elr) for elr in elrs)):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in sorted({row.checkpoint for row in result.continuations}):
        rows = [row for row in result.continuations if row.checkpoint == step]
        first = min(rows, key=lambda row: row.seed)
        letters = ["".join(LETTERS[row.outcome] for row in rows if row.elr == elr) for elr in elrs]
        table.add_row(str(step), format_number(first.loss), format_number(first.sharpness), *letters)
    print_table(console, table)
    legend = "at once O, up first ^, held above the path -, leaves x"
    console.print(f"(loss and sharpness of seed 0; columns: ELR of the continuation, one letter a seed: {legend})")
    console.print()
    for sentence in answer(result):
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{result.seconds:.0f} s ({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
