"""The symmetries' side of the command line: start, resume, rewrite the report, print the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onsphere.lab.console import PlainConsole
from onsphere.lab.experiments.symmetries import run as work
from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.experiments.symmetries.names import folded, pattern
from onsphere.lab.experiments.symmetries.page import write_report
from onsphere.lab.experiments.symmetries.result import SymmetriesResult, describe
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

__all__ = ["one_line", "resume", "rewrite_report", "show", "start"]

_HEADINGS = ("groups", "tensors each", "numbers", "share %", "broken by eps", "scale-invariant together")


def start(fields: dict[str, Any], out: Path | None, progress: Progress, stop: Callable[[], bool]) -> SymmetriesResult:
    """Run it anew."""
    return work.start(fields, out, progress, stop)


def resume(run: Run, progress: Progress, stop: Callable[[], bool]) -> SymmetriesResult:
    """Run an interrupted one again."""
    return work.resume(run, progress, stop)


def rewrite_report(run: Run) -> Path:
    """Write the page of an ended run again."""
    return write_report(run, SymmetriesResult.load(run))


def one_line(run: Run) -> str:
    """The result in one line, for the list of runs."""
    return describe(SymmetriesResult.load(run).found)


def show(result: SymmetriesResult) -> None:
    """Print groups, rescalings and the rest; what is alike in several layers takes one line."""
    found = result.found
    console = PlainConsole()
    if found.groups:
        rows = [_HEADINGS, *(_row(found, alike) for alike in _alike(found))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS) - 1)]
        for row in rows:  # not a table of rich: it would break long names
            numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=True))
            console.print(f"{numbers}  {row[-1]}")
        console.print()
    for heading, lines in (
        ("rescalings", _sentences(found)),
        ("without effect", folded(found.without_effect)),
        ("in no symmetry", folded(found.fixed)),
        ("row by row", None if found.row_invariant is None else folded(found.row_invariant) or ["none"]),
        ("notes", found.notes),
    ):
        if lines:
            console.print(f"{heading}:")
            for line in lines:
                console.print(f"  {line}")
    gap = format_number(found.gap, 2) if found.gap is not None else "∞"
    console.print(describe(found))
    console.print(f"dimension {found.dimension}, gap {gap}, {result.seconds:.1f} s")
    console.print(f"page: {result.report}")


def _alike(found: Findings) -> list[list[int]]:
    """Indices of the groups, those whose names differ in numbers alone gathered; groups with most numbers first."""
    gathered: dict[tuple[str, ...], list[int]] = {}
    for i, group in enumerate(found.groups):
        gathered.setdefault(tuple(pattern(name) for name in group), []).append(i)

    def size(alike: Sequence[int]) -> int:
        return sum(found.sizes[name] for i in alike for name in found.groups[i])

    return sorted(gathered.values(), key=lambda alike: -size(alike))


def _row(found: Findings, alike: Sequence[int]) -> tuple[str, ...]:
    names = [name for i in alike for name in found.groups[i]]
    known = [change for i in alike if (change := found.broken_by_eps[i]) is not None]
    worst = "exact" if known and max(known) < 1e-12 else format_number(max(known), 2) if known else MISSING
    alone = len(found.groups[alike[0]]) == 1
    how = ("each by itself: " if len(alike) > 1 else "by itself: ") if alone else ""
    return (
        str(len(alike)),
        str(len(found.groups[alike[0]])),
        f"{sum(found.sizes[name] for name in names):,}",
        format_number(100 * found.share(names)),
        worst,
        how + ", ".join(folded(names)),
    )


def _sentences(found: Findings) -> list[str]:
    """A sentence for each kind of rescaling: names that differ in numbers alone, with the same exponents."""
    kinds: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for exponents, sentence in zip(found.rescalings, found.rescaling_sentences, strict=True):
        kind = tuple((pattern(name), power) for name, power in exponents.items())
        kinds.setdefault(kind, []).append(sentence)
    return [said[0] + (f" (and {len(said) - 1} more like it)" if len(said) > 1 else "") for said in kinds.values()]
