"""The thermodynamics toy's side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.toy_thermo.page import answer, write_page
from onsphere.lab.experiments.toy_thermo.result import NAMES, ToyThermoResult, describe
from onsphere.lab.experiments.toy_thermo.run import TOY
from onsphere.lab.experiments.toy_thermo.spec import ToyThermoSpec
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.tables import print_table

_FIXED = {"fixed_elr": "ELR", "fixed_lr": "lr", "sphere": "ELR, r"}


def start(spec: ToyThermoSpec, out: Path | None, progress: Progress, stop: Callable[[], bool]) -> ToyThermoResult:
    """Run it anew."""
    return TOY.start(spec.model_dump(), out, progress, stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> ToyThermoResult:
    """Run an interrupted one again."""
    return TOY.resume(run, progress, stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_page(run, ToyThermoResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(ToyThermoResult.load(run))


def show(result: ToyThermoResult) -> None:
    """Print the settings as a table, the Maxwell relations, the answer and the page's path."""
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("fixed", "rate", "wd or r", "U", "off %", "r", "off %", "p", "off %", "S", "off"):
        table.add_column(heading, justify="left" if heading == "fixed" else "right", no_wrap=True)
    for row in result.rows:
        cells = []
        for name in ("energy", "radius", "pressure"):
            value, law = getattr(row, name), getattr(row, f"predicted_{name}")
            cells += [f"{value:.4g}", f"{100 * (value / law - 1):+.1f}"]
        cells += [f"{row.entropy:.3f}", f"{row.entropy - row.predicted_entropy:+.3f}"]
        table.add_row(_FIXED[row.protocol], f"{row.rate:.3g}", f"{row.knob:.3g}", *cells)
    print_table(console, table)
    console.print()
    for relation in result.maxwell:
        name = f"{NAMES[relation.protocol]}: {relation.name}"
        console.print(f"{name:<40}{relation.slope:.4f} ± {relation.error:.4f}, expected {relation.expected:g}")
    for sentence in answer(result):
        console.print(sentence)
    console.print(f"{len(result.rows)} settings x {result.spec['copies']} copies in {result.seconds:.1f} s")
    console.print(f"page: {result.report}")
