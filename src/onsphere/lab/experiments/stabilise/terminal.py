"""The stationary state's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.stabilise.answer import answer, describe, unexpected
from onsphere.lab.experiments.stabilise.page import write_page
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.experiments.stabilise.run import resume_stabilise, stabilise
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table


def start(spec: StabiliseSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> StabiliseResult:
    """Run it anew."""
    return stabilise(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> StabiliseResult:
    """Continue an interrupted one."""
    return resume_stabilise(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_page(run, StabiliseResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(StabiliseResult.load(run))


def show(result: StabiliseResult) -> None:
    """Print both tables (means over seeds), the answer and the page's path.

    Steps to the level; angle to the start (rad), steps until it is forgotten, a walk's; loss in the middle of the way.
    """
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    for heading in ("before", "after", "loss", "from start", "gap %", "/s.e.", "gradient %", "/s.e.", "steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.levels:
        table.add_row(
            format_number(row.before),
            format_number(row.after),
            format_number(row.loss, 4),
            format_number(row.loss_reference, 4),
            f"{100 * row.loss_gap:+.1f}",
            f"{row.loss_gap_in_errors:+.1f}",
            f"{100 * row.gradient_norm_gap:+.1f}",
            f"{row.gradient_norm_gap_in_errors:+.1f}",
            format_number(row.steps_to_level),
        )
    print_table(console, table)
    console.print()
    table = Table(box=None, pad_edge=False)
    for heading in ("ELR", "rad/step", "angle", "forgets", "walk", "middle", "barrier"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stay in result.stays:
        table.add_row(
            format_number(stay.elr),
            format_number(stay.angular_update),
            f"{stay.angle:.2f} ± {stay.angle_error:.2f}",
            format_number(stay.steps_to_forget),
            format_number(stay.walk_steps_to_forget),
            f"{stay.middle:+.2f} ± {stay.middle_error:.2f}",
            f"{stay.barrier:.2f} ± {stay.barrier_error:.2f}",
        )
    print_table(console, table)
    console.print()
    for sentence in (*answer(result), *unexpected(result)):
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{result.seconds:.0f} s ({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")
