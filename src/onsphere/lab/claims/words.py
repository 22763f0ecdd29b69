"""The claims in the terminal: what there are, and what was seen last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onsphere.lab.claims.catalogue import CLAIMS, TOPICS
from onsphere.lab.claims.record import Outcome, told
from onsphere.lab.claims.study import Claim
from onsphere.lab.result import plain_of

NEVER = "not run yet"


def listing(claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Every claim with its source, below it a line for each data set with what was seen last."""
    for topic, title in TOPICS.items():
        own = [claim for claim in claims if claim.topic == topic]
        if own:
            yield f"{title}"
        for claim in own:
            yield f"  {claim.id}: {claim.says} [{claim.source}]"
            seen = [one for one in outcomes if one.id == claim.id]
            for one in seen:
                yield f"      {_line(one)}"
            missing = [v.data for v in claim.variants("small") if v.data not in {one.data for one in seen}]
            if missing:
                yield f"      {', '.join(missing)}: {NEVER}"
    yield f"{len(claims)} claims; {told(outcomes)}"


def rows(claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "id": claim.id,
            "says": claim.says,
            "source": claim.source,
            "study": claim.study.name,
            "data": [variant.data for variant in claim.variants("small")],
            "paper": [variant.data for variant in claim.variants("paper")],
            "number": claim.number,
            "rule": str(claim.rule),
            "recorded": dict(claim.recorded),
            "seen": [plain_of(one) for one in outcomes if one.id == claim.id],
        }
        for claim in claims
    ]


def _line(one: Outcome) -> str:
    if one.verdict == "not run":
        return f"{one.data}: not run ({one.reason})"
    return f"{one.data}: {one.verdict}; {one.seen}, {one.number}; {one.rule} ({one.scale} scale, {one.seeds} seeds)"


def conclusion(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What a call has seen: a line a claim and data set, then the verdicts together."""
    for one in outcomes:
        yield f"{one.verdict:<14}{one.id}, {one.data}: {one.seen or one.reason}"
    asked = len({one.id for one in outcomes})
    yield f"{asked} of {len(CLAIMS)} claims: {told(outcomes)}"
