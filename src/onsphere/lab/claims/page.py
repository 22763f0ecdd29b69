"""The page "The papers, claim by claim": every claim's statement, figure, numbers, verdict and command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from onsphere import __version__
from onsphere.lab.claims.catalogue import CLAIMS, TOPICS, studies
from onsphere.lab.claims.record import Outcome, as_rows, counts, told
from onsphere.lab.claims.rules import ORIGINS, Verdict
from onsphere.lab.claims.study import SCALES, Study
from onsphere.lab.report.page import Block, Cell, Code, Page, Picture, Section, Text
from onsphere.lab.report.sections import measured_section
from onsphere.lab.report.table import Column, table

COLOURS: dict[Verdict, str] = {
    "holds": "#009e73",
    "does not hold": "#d55e00",
    "not decided": "#999999",
    "not run": "transparent",
}


def chip(outcome: Outcome) -> Cell:
    """The verdict with its colour."""
    return Cell(outcome.verdict, outcome.verdict, COLOURS[outcome.verdict], outcome.reason or outcome.note)


SUMMARY = (
    Column("claim", "id", kind="tight"),
    Column("statement", "says", kind="text"),
    Column("source", "source", kind="text"),
    Column("data", lambda one: where(one), kind="tight"),
    Column("verdict", chip, "by the interval over seeds", kind="tight"),
)
NUMBERS = (
    Column("claim", "id", kind="tight"),
    Column("statement", lambda one: Cell(one.says, hint=one.source), "its source, at the pointer", kind="text"),
    Column("what was measured", "number", "one number a seed", kind="text"),
    Column("seen (95 % interval)", lambda one: Cell(one.seen or "–", hint=_each(one)), "over seeds", kind="tight"),
    Column("holds if", lambda one: Cell(one.rule), "the whole interval must be there", kind="text"),
    Column("bound", lambda one: Cell(one.origin, hint=ORIGINS[one.origin]), "where it comes from", kind="tight"),
    Column("verdict", chip, "by the interval over seeds", kind="tight"),
)
MEASURED = (
    (
        "number of a seed",
        "what the column says, from the run of that seed alone, or paired by seed where it compares two",
    ),
    ("interval", "of the mean over seeds by Student's t, 95 %; of a share of seeds by Wilson, 95 %"),
    ("holds", "the whole interval lies on the right side of the bound; for shares, above one half"),
    ("does not hold", "the whole interval lies on the wrong side"),
    ("not decided", "the interval holds the bound, or there are too few seeds for one"),
    ("not run", "its data are not on this machine"),
    *((f"bound: {name}", said) for name, said in ORIGINS.items()),
)


def write_claims_page(folder: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write ``claims.html`` beside the runs that it links to, and return its path."""
    return claims_page(folder, outcomes).write(folder / "claims.html")


def claims_page(folder: Path, outcomes: Sequence[Outcome]) -> Page:
    """The page of what was seen."""
    decided = {one.id for one in outcomes if one.verdict != "not run"}
    found = counts(outcomes)
    summary = [f"{len(decided)} of {len(CLAIMS)} claims run", f"{sum(found.values())} verdicts"]
    summary += [
        f"scale {scale}: {seeds} seeds" for scale, seeds in sorted({(one.scale, one.seeds) for one in outcomes})
    ]
    sections = [Section("all", "All claims", [table(outcomes, SUMMARY)])]
    for topic, title in TOPICS.items():
        own = [one for one in outcomes if one.topic == topic]
        if own:
            sections.append(Section(topic, title, list(_studies(folder, own))))
    measured = measured_section(("word", "what it means"), MEASURED)
    return Page(
        title="The papers, claim by claim",
        subtitle="What training of scale-invariant networks is said to do, and what was seen of it here",
        answer=[
            f"Of {sum(found.values())} verdicts on {len(decided)} claims: {told(outcomes)}.",
            *_not_as_said(outcomes),
        ],
        summary=summary,
        sections=[*sections, measured],
        footer=f"Made by onsphere {__version__}.",
        data={"outcomes": as_rows(outcomes), "version": __version__},
    )


def _not_as_said(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The claims that do not hold, by name."""
    failed = [f"{one.id} ({where(one)})" for one in outcomes if one.verdict == "does not hold"]
    if failed:
        yield f"Not as said: {', '.join(failed)}."


def _studies(folder: Path, outcomes: Sequence[Outcome]) -> Iterator[Block]:
    """Study by study: what was trained, its figures, the claims that it decides, the commands."""
    known = {study.name: study for study in studies()}
    order = list(known)
    first = [variant.data for study in known.values() for scale in SCALES for variant in study.variants(scale)]
    by_study = sorted(outcomes, key=lambda one: (order.index(one.study), one.scale, first.index(one.data)))
    for (name, scale, data), group in groupby(by_study, key=lambda one: (one.study, one.scale, one.data)):
        own = list(group)
        study = known[name]
        size = "" if scale == "small" else f", {scale} scale"
        yield Text(f"{data}{size}. {study.says}")
        yield from _figures(folder, study, own[0])
        yield table(own, NUMBERS, caption=f"{study.name}, {data}", sortable=False)
        for note in dict.fromkeys(f"{one.id}: {one.note}" for one in own if one.note):
            yield Text(note, tone="note")
        if own[0].reason:
            yield Text(f"Not run: {own[0].reason}", tone="warning")
        yield Code(
            "run and decide these claims", f"onsphere claims run {' '.join(one.id for one in own)} --scale {scale}"
        )
        if own[0].commands:
            yield Code("the run by itself", "\n".join(own[0].commands))


def _figures(folder: Path, study: Study, outcome: Outcome) -> Iterator[Picture]:
    """The figures of the first run of a study that there are."""
    for run in outcome.runs[:1]:
        for name in study.figures:
            path = folder / run / "figures" / f"{name}.png"
            if path.is_file():
                words = f"{study.name} on {outcome.data}: {name.replace('-', ' ')}"
                yield Picture(path.read_bytes(), f"{run}/report.html", f"{words} (its own page)", words)


def where(outcome: Outcome) -> str:
    """The data, and the scale if it is not the small one."""
    return outcome.data if outcome.scale == "small" else f"{outcome.data}, {outcome.scale}"


def _each(outcome: Outcome) -> str:
    """The seeds' numbers, for the pointer."""
    return "seeds: " + ", ".join(f"{number:.4g}" for number in outcome.numbers)
