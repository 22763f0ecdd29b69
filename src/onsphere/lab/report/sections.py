"""The last parts of every page: how things are measured, what it cost and ran on, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .page import Code, Facts, Section, Table, Text
from .words import format_duration, format_number


def measured_section(headings: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> Section:
    """What each quantity on the page is, a row for each, and the conventions that hold for all of them."""
    table = Table([(heading, "") for heading in headings], [list(row) for row in rows], tight=frozenset({0}))
    return Section("measured", "How each quantity is measured", [table, *([Text(note, tone="note")] if note else [])])


def cost_section(
    seconds: float, runs: int | None, engine: Mapping[str, object], environment: Mapping[str, object]
) -> Section:
    """Wall-clock time, how the runs were executed (if there were several), versions and the machine's kind."""
    shared = f" for {counted(runs, 'run')}, {format_duration(seconds / runs)} a run" if runs else ""
    return Section(
        "engine",
        "Engine and cost",
        [
            Text(f"The experiment took {format_duration(seconds)} of wall-clock time{shared}."),
            Facts([(f"engine: {name}", _fact(value)) for name, value in engine.items()]),
            Facts([(str(name), _fact(value)) for name, value in environment.items()]),
        ],
    )


def repeat_section(command: str, toml: str) -> Section:
    """The shell command and the TOML file that give the same result again."""
    return Section("repeat", "Repeat it", [Code("shell command", command), Code("the same as a TOML file", toml)])


def counted(n: int, what: str) -> str:
    """A number and its noun: ``1 run``, ``2 runs``."""
    return f"{n} {what}" + ("" if n == 1 else "s")


def _fact(value: object) -> str:
    """A fact as short text: nested ones on one line, floats rounded."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_fact(item) for item in value)
    return format_number(value)
