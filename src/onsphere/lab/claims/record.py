"""What was seen of the claims, kept in ``claims.json``: one row a claim, data set and scale, the last one each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onsphere import __version__
from onsphere.lab.claims.catalogue import CLAIMS
from onsphere.lab.claims.rules import VERDICTS, Origin, Verdict
from onsphere.lab.claims.study import SCALES, Scale
from onsphere.lab.options import misfit
from onsphere.lab.report.words import format_number
from onsphere.lab.result import Real, plain_of, typed
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.store.seal import Damaged

#: Where claims are run unless a folder is given.
HOME = Path("runs/claims")


@dataclass(frozen=True)
class Outcome:
    """What was seen of a claim on one data set.

    Attributes:
        id: The identifier of the claim.
        says: The claim in a sentence.
        source: Paper, and section or figure where it is known.
        data: The data set, as its study calls it.
        scale: The scale of the runs: ``small`` or ``paper``.
        seeds: How many seeds were asked for.
        verdict: ``holds``, ``does not hold``, ``not decided`` or ``not run``.
        number: What the numbers are, with their unit.
        numbers: One a seed; NaN where there is none.
        middle: Their mean, or the share of seeds on the right side of the bound.
        low: Lower end of its 95 % interval.
        high: Upper end of the interval.
        of: Whether ``middle`` is a ``mean`` or a ``share``.
        rule: What decides, in words.
        origin: Where the rule's bound comes from: ``statement``, ``derived`` or ``earlier seeds``.
        recorded: What the registry holds was seen at the small scale; None where it records nothing.
        note: What a reader must know.
        study: The name of the study that answers it.
        runs: Folders of its runs, relative to that of ``claims.json``.
        commands: The commands of its runs.
        reason: Why it was not run; else empty.
    """

    id: str
    says: str
    source: str
    data: str
    scale: Scale
    seeds: int
    verdict: Verdict
    number: str
    numbers: tuple[Real, ...]
    middle: Real
    low: Real
    high: Real
    of: Literal["mean", "share"]
    rule: str
    origin: Origin
    recorded: Verdict | None
    note: str
    study: str
    runs: tuple[str, ...]
    commands: tuple[str, ...]
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Claim, data set and scale."""
        return self.id, self.data, self.scale

    @property
    def topic(self) -> str:
        """The first part of the identifier."""
        return self.id.partition(".")[0]

    @property
    def seen(self) -> str:
        """Number and interval in words."""
        if self.of == "share" and self.middle == self.middle:
            count = round(self.middle * len(self.numbers))
            return f"{count} of {len(self.numbers)} seeds ({format_number(self.low)} to {format_number(self.high)})"
        text = format_number(self.middle)
        return f"{text} ({format_number(self.low)} to {format_number(self.high)})" if self.low == self.low else text


def record_path(folder: Path) -> Path:
    """The file that keeps what was seen."""
    return folder / "claims.json"


def read_record(folder: Path) -> list[Outcome]:
    """What was seen last, in the order of the claims; nothing where none was run.

    Raises:
        Damaged: The file is not what was written.
    """
    path = record_path(folder)
    if not path.exists():
        return []
    try:
        return typed(list[Outcome], read_json(path)["outcomes"])
    except (LookupError, ValueError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(path, f"is damaged: it holds no claims ({misfit(error)})") from error


def write_record(folder: Path, new: Sequence[Outcome]) -> list[Outcome]:
    """Put outcomes in the place of earlier ones of the same claims, and return all of them in the order of the claims.

    What the registry does not ask any more is left out.
    """
    found = {one.key: one for one in [*read_record(folder), *new]}
    asked = [(c.id, v.data, scale) for c in CLAIMS for scale in SCALES for v in c.variants(scale)]
    kept = [found[key] for key in asked if key in found]
    write_json(record_path(folder), {"version": __version__, "outcomes": plain_of(kept)})
    return kept


def counts(outcomes: Sequence[Outcome]) -> dict[Verdict, int]:
    """How many have each verdict."""
    found = Counter(one.verdict for one in outcomes)
    return {verdict: found[verdict] for verdict in VERDICTS}


def told(outcomes: Sequence[Outcome]) -> str:
    """The verdicts in one sentence."""
    found = counts(outcomes)
    parts = [f"{found[verdict]} {_MANY[verdict]}" for verdict in VERDICTS if found[verdict]]
    return ", ".join(parts) or "none was run"


_MANY: dict[Verdict, str] = {
    "holds": "hold",
    "does not hold": "do not hold",
    "not decided": "are not decided",
    "not run": "were not run",
}


def as_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as plain values."""
    return [dict(row) for row in plain_of(list(outcomes))]
