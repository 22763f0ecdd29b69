"""The claims as a page of the documentation, in Markdown: ``onsphere claims --markdown``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onsphere.lab.claims.catalogue import CLAIMS, TOPICS
from onsphere.lab.claims.page import where
from onsphere.lab.claims.record import Outcome, told
from onsphere.lab.claims.rules import ORIGINS

_HEAD = """# The papers, claim by claim

    onsphere claims run                 # all of them, small scale, seeds 0 to 4; resumes what was stopped
    onsphere claims run regimes.three   # one, or a whole topic: onsphere claims run periods
    onsphere claims                     # what was seen last
    onsphere claims --markdown          # this page, from claims.json

What the papers say about training scale-invariant networks, each statement in a sentence of ours that numbers can
decide, and what was seen of it. `--scale small` trains perceptrons on digits and on Fashion-MNIST; `--scale paper` has
the published networks and data, where there are such runs. Every run is one of the other commands' and lies in the
folder with its own page; `claims.html` shows statements, figures, numbers, verdicts and commands together.

Each seed gives a number. A claim **holds** where the 95 % interval over seeds lies wholly on the right side of its
bound, **does not hold** where it lies wholly on the wrong side, and is **not decided** else. The interval is Student's
t of the mean, or Wilson's of the share of seeds, which is to be above one half (with five seeds all must agree).
Bounds:
"""

_COLUMNS = "| claim | statement | source | data | seen | number of a seed | holds if | bound | verdict |"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The whole page: what the words mean, the verdicts together, what is not as said, a table a topic."""
    return "\n".join(_lines(outcomes)) + "\n"


def _lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield _HEAD
    for name, said in ORIGINS.items():
        yield f"- *{name}*: {said}"
    yield ""
    run = len({one.id for one in outcomes})
    yield f"Of {len(CLAIMS)} claims {run} were run, on {len(outcomes)} data sets in all: {told(outcomes)}."
    yield ""
    for verdict, title in (("does not hold", "Not as said"), ("not decided", "Not decided")):
        own = [one for one in outcomes if one.verdict == verdict]
        if own:
            yield f"{title}:"
            yield ""
            for one in own:
                yield f"- `{one.id}`, {where(one)}: {one.says} Seen: {one.seen or '–'}, {one.number}; {one.rule}."
            yield ""
    for topic, title in TOPICS.items():
        own = [one for one in outcomes if one.topic == topic]
        if own:
            yield from _table(title, own)


def _table(title: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield _COLUMNS
    yield "|" + "---|" * (_COLUMNS.count("|") - 1)
    for one in outcomes:
        verdict = one.verdict if one.verdict == "holds" else f"**{one.verdict}**"
        cells = (
            f"`{one.id}`",
            one.says,
            one.source,
            where(one),
            one.seen or "–",
            one.number,
            one.rule,
            one.origin,
            verdict,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    notes = dict.fromkeys(f"- `{one.id}`: {one.note}" for one in outcomes if one.note)
    if notes:
        yield from notes
        yield ""
    for command in dict.fromkeys(command for one in outcomes for command in one.commands):
        yield f"    {command}"
    yield ""
