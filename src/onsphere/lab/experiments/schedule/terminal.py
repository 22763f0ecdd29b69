"""The comparison's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.schedule.answer import answer, numbers
from onsphere.lab.experiments.schedule.page import write_page
from onsphere.lab.experiments.schedule.result import ScheduleResult
from onsphere.lab.experiments.schedule.run import compare_schedules, resume_schedules
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(fields: Mapping[str, Any], out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ScheduleResult:
    """Run a new comparison; ``fields`` are those that were given, so that a map's can stand for the others."""
    return compare_schedules(**fields, out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ScheduleResult:
    """Continue a comparison."""
    return resume_schedules(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended comparison again."""
    return write_page(run, ScheduleResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    result = ScheduleResult.load(run)
    start, end = (format_number(result.proposal[name]) for name in ("start_elr", "end_elr"))
    word = "better" if result.verdict.better else "not worse" if result.verdict.not_worse else "worse"
    return f"ELR {start} to {end}: {word} than the best of the others"


def show(result: ScheduleResult) -> None:
    """Print the tuned methods as a table, the answer and the page's path."""
    console = PlainConsole()
    console.width = max(console.width, 118)  # a row is never cut, also where output is not a terminal
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("numbers", no_wrap=True)
    for heading in ("test err %", "95 % interval", "test loss", "proposal − it", "train err %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in result.tuned:
        error, loss, train = (method.over_seeds(name) for name in ("test_error", "test_loss", "train_error"))
        gap = result.verdict.differences.get(method.family)
        table.add_row(
            method.name,
            numbers(method),
            f"{100 * error.mean:.2f}",
            f"{100 * error.low:.2f} to {100 * error.high:.2f}",
            f"{loss.mean:.4g}",
            "" if gap is None else f"{100 * gap['mean']:+.2f} ± {100 * gap['standard_error']:.2f}",
            f"{100 * train.mean:.1f}",
        )
    print_table(console, table)
    console.print()
    for sentence in answer(result):
        console.print(sentence)
    runs = len(result.methods) * result.spec["seeds"]
    engine = result.engine
    console.print(
        f"{runs} runs in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
