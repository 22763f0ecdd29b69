"""The spectrum's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.spectrum.answer import answer, describe, warnings_of
from onsphere.lab.experiments.spectrum.charts import means
from onsphere.lab.experiments.spectrum.page import write_page
from onsphere.lab.experiments.spectrum.result import SpectrumResult
from onsphere.lab.experiments.spectrum.run import map_spectrum, resume_spectrum
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

_COLUMNS = (
    ("matched", "gradient_norm", "gradient", 1),
    ("matched", "sharpness", "sharpness", 1),
    ("end", "train_loss", "train loss", 1),
    ("end", "test_loss", "test loss", 1),
    ("end", "test_error", "test err %", 100),
    ("end", "angle", "angle (rad)", 1),
)


def start(spec: SpectrumSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> SpectrumResult:
    """Run a new spectrum."""
    return map_spectrum(**spec.model_dump(), out=out, progress=progress, stop=stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> SpectrumResult:
    """Continue a spectrum."""
    return resume_spectrum(run, progress=progress, stop=stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended spectrum again."""
    return write_page(run, SpectrumResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(SpectrumResult.load(run))


def show(result: SpectrumResult) -> None:
    """Print means over seeds as a table, the answer and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("ELR", justify="right")
    for where, _, heading, _ in _COLUMNS:
        table.add_column(heading + (" at match" if where == "matched" else ""), justify="right")
    columns = {
        (where, quantity): dict(
            zip(*means(result, where, quantity, geometric=quantity in ("gradient_norm", "sharpness")), strict=True)
        )
        for where, quantity, _, _ in _COLUMNS
    }
    for elr in result.elrs:
        values = (columns[where, quantity].get(elr) for where, quantity, _, _ in _COLUMNS)
        scaled = (None if value is None else scale * value for value, (*_, scale) in zip(values, _COLUMNS, strict=True))
        table.add_row(f"{elr:.2e}", *(format_number(value) for value in scaled))
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
