"""The periods' side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.periods.page import answer, write_page
from onsphere.lab.experiments.periods.result import PeriodsResult, describe, summaries
from onsphere.lab.experiments.periods.run import resume_periods, train_periods
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(spec: PeriodsSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> PeriodsResult:
    """Run a new study."""
    return train_periods(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> PeriodsResult:
    """Continue a study."""
    return resume_periods(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended study again."""
    return write_page(run, PeriodsResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(PeriodsResult.load(run).runs)


def show(result: PeriodsResult) -> None:
    """Print the settings as a table (medians over seeds), the answer and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    for heading in ("lr", "wd", "jumps", "period", "of τ", "recovery", "predicted", "rms angle", "predicted", "ELR"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting in summaries(result.runs):
        low, high = setting.jumps
        values = ("period", "period_tau", "measured_recovery", "predicted_recovery")
        angles = ("rms_angular_update", "predicted_angular_update")
        table.add_row(
            f"{setting.lr:g}",
            f"{setting.weight_decay:g}",
            str(low) if low == high else f"{low}-{high}",
            *(format_number(setting.median(name), 3) for name in (*values, *angles)),
            format_number(setting.median("mean_elr"), 3),
        )
    print_table(console, table)
    console.print()
    for sentence in answer(result):
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{len(result.runs)} runs in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
