"""The page around an experiment: what all of them have, written once; an experiment gives a :class:`Report`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onsphere import __version__
from onsphere.lab.chart.page import block
from onsphere.lab.chart.paper import save_figures
from onsphere.lab.chart.spec import Chart
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.engine_file import read_execution
from onsphere.lab.registry import entry_of
from onsphere.lab.report.page import Code, Page, Section
from onsphere.lab.report.sections import cost_section, measured_section, repeat_section
from onsphere.lab.report.words import format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from onsphere.lab.result import ExperimentResult
    from onsphere.lab.store import Run

#: The usual note below what is measured.
ANGLES = "Angles are in radians, times in steps; log is the natural logarithm."


@dataclass(frozen=True)
class Report:
    """What a page says of one experiment alone.

    Attributes:
        title: Heading of the page.
        subtitle: What was trained or looked at, one line; charts bear it too.
        summary: Short facts; the time is added.
        sections: The parts between the answer and how things are measured.
        measured: Name and definition of every quantity.
        note: Conventions that hold for all quantities.
        heading: What kind of thing ``measured`` lists.
        engine: Facts about the execution beside those of the result.
        left_out: Fields that need not be given to repeat the run.
        figures: Charts for paper alone, such as one that brings together what the page shows in several.
    """

    title: str
    subtitle: str
    summary: Sequence[str]
    sections: Sequence[Section]
    measured: Sequence[tuple[str, str]]
    note: str = ANGLES
    heading: str = "quantity"
    engine: Mapping[str, object] | None = None
    left_out: Sequence[str] = ()
    figures: Sequence[Chart] = ()


def write_page(
    run: Run,
    result: ExperimentResult,
    report: Report,
    answer: Sequence[str],
    runs: int | None = None,
    so_far: str = "",
) -> Path:
    """Write ``report.html``, which is returned, and ``figures/`` into the run's folder.

    The first sentence of the answer stands by itself; ``runs`` says how many the time was for, if several. Of a run
    that has not ended ``so_far`` says what is still to come: it stands first, and no figures are written.
    """
    said = [block for section in report.sections for block in section.blocks if isinstance(block, Chart)]
    if not so_far:
        save_figures([*said, *report.figures], report.subtitle, run.folder)
    values = result.to_dict()
    engine = dict(values.get("engine", {}) if report.engine is None else report.engine)
    execution = read_execution(run)
    if execution is not None:
        engine["timings (CPU s per copy and step)"] = execution.timings
    fields = {name: value for name, value in values["spec"].items() if name not in report.left_out}
    given = {name: value for name, value in fields.items() if value not in (None, [])}
    page = _page(
        replace(report, summary=[*report.summary, format_duration(result.seconds)]),
        [*([so_far] if so_far else []), *answer],
        values,
        cost_section(result.seconds, runs, engine, run.manifest["environment"]),
        repeat_section(repeated(result, report.left_out), to_toml(given)),
        onward=None if so_far else _onward(result, run.folder, repeated(result, report.left_out)),
        footer="" if so_far else " The figures folder beside this page holds its charts as PNG and SVG.",
    )
    return page.write(run.folder / "report.html")


def write_plain_page(path: Path, report: Report, answer: Sequence[str], data: Mapping[str, Any]) -> Path:
    """Write the page of something that was found in a program, without a run and without figures, and return its path.

    The first sentence of the answer stands by itself; the data are embedded for programs that read the page. The
    folder is made if missing.
    """
    return _page(report, answer, data).write(path)


def _onward(result: ExperimentResult, folder: Path, again: str) -> Code | None:
    """What to do next: the experiment's own word, with the run and the command that repeats it filled in."""
    entry = entry_of(result.command)
    if entry is None or not entry.onward or "own arrays" in again:
        return None
    label, command = entry.onward
    if set(command.replace("{again}", "").split()) & set(again.split()) - {"onsphere"}:
        return None  # it was given
    return Code(f"next: {label}", command.format(run=shlex.quote(str(folder)), again=again))


def _page(
    report: Report,
    answer: Sequence[str],
    data: Mapping[str, Any],
    *last: Section,
    onward: Code | None = None,
    footer: str = "",
) -> Page:
    measured = measured_section((report.heading, "what it is"), report.measured, note=report.note)
    return Page(
        title=report.title,
        subtitle=report.subtitle,
        answer=answer,
        summary=report.summary,
        sections=[*(_drawn(section) for section in report.sections), measured, *last],
        onward=onward,
        footer=f"Made by onsphere {__version__}.{footer}",
        data={**data, "version": __version__},
    )


def _drawn(section: Section) -> Section:
    """A section with its charts drawn for the browser."""
    return replace(section, blocks=[block(one) if isinstance(one, Chart) else one for one in section.blocks])


def repeated(result: ExperimentResult, left_out: Sequence[str] = ()) -> str:
    """The shell command that repeats a run, with the fields that differ from the defaults; or the call, for arrays."""
    fields = {n: v for n, v in result.spec.model_dump(mode="json").items() if n not in left_out}
    entry = entry_of(result.command)
    if fields.get("data") == "arrays" and entry is not None:
        call = f"onsphere.lab.{entry.functions[0]}(model, arrays, **fields)"
        return f"{call}  # own arrays, in Python; the fields are below"
    none = {"train": "all"} if "train" in fields else None
    return to_command(result.command, type(result.spec), fields, none=none)
