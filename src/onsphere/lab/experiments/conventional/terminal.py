"""The comparison's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.conventional.answer import answer, warnings_of
from onsphere.lab.experiments.conventional.page import write_page
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun
from onsphere.lab.experiments.conventional.run import compare_conventional, describe, resume_conventional
from onsphere.lab.experiments.conventional.spec import ConventionalSpec
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

_SHORT = {"convergence": "convergence", "chaotic_equilibrium": "equilibrium", "divergence": "divergence"}


def start(spec: ConventionalSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ConventionalResult:
    """Run a new comparison."""
    return compare_conventional(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ConventionalResult:
    """Continue a comparison."""
    return resume_conventional(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended comparison again."""
    return write_page(run, ConventionalResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(ConventionalResult.load(run).runs)


def show(result: ConventionalResult) -> None:
    """Print each set-up's learning rates as a table (means over seeds), the answer and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("set-up", no_wrap=True)
    table.add_column("lr", justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True)
    for heading in ("ELR", "loss", "x sphere", "test %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setup in result.setups:
        for lr in sorted({run.lr for run in result.of(setup)}):
            runs = result.of(setup, lr)
            table.add_row(
                setup,
                format_number(lr),
                " / ".join(dict.fromkeys(_SHORT[run.regime] for run in runs)),
                format_number(_mean(runs, "elr")),
                format_number(_mean(runs, "loss")),
                format_number(_mean(runs, "ratio"), 2),
                format_number(_mean(runs, "test_error", 100)),
            )
    print_table(console, table)
    console.print()
    for sentence in [*answer(result), *warnings_of(result)]:
        console.print(sentence)
    engine = result.engine
    console.print(
        f"{len(result.runs)} runs in {result.seconds:.0f} s "
        f"({engine['mode']}, {engine['chunk']} copies a shard, {engine['workers']} workers)"
    )
    console.print(f"page: {result.report}")


def _mean(runs: list[ConventionalRun], name: str, scale: float = 1.0) -> float | None:
    values = [getattr(run, name) for run in runs]
    present = [value for value in values if value is not None]
    return scale * mean(present) if present else None
