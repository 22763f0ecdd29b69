"""One thing that a monitor's readings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "finding", "gathered", "in_order", "listed"]

Severity = Literal["info", "warning", "alarm"]

#: Kinds by what is to be done: first what spoils the run, then what the optimiser does not do, then what to choose.
_ORDER = (
    *("non-finite", "jump expected", "precision", "lr", "param groups", "invariance", "jump", "no gradient"),
    *("eps", "time scale", "rotation", "schedule", "equilibrium", "spheres by choice"),
)
#: More findings of one kind than these become one.
_MOST = 3
_SEVERITIES: tuple[Severity, ...] = ("alarm", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """Something the readings say.

    Attributes:
        kind: ``jump``, ``jump expected``, ``equilibrium``, ``time scale``, ``rotation``, ``schedule``, ``invariance``,
            ``spheres by choice``, ``precision``, ``non-finite``, ``lr``, ``no gradient``, ``eps``, or ``param groups``
            (the optimiser's were changed after the monitor was attached).
        severity: ``info``, ``warning`` or ``alarm``.
        message: One sentence or two: what is seen, and what to do.
        evidence: The numbers behind it.
        advice: What to do, which is how the message ends.
    """

    kind: str
    severity: Severity
    message: str
    evidence: dict[str, Any]
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        return self.message


def finding(kind: str, severity: Severity, seen: str, evidence: dict[str, Any], advice: str) -> Finding:
    """A finding whose message is what is seen and what to do."""
    return Finding(kind, severity, f"{seen}; {advice}", evidence, advice)


def gathered(found: Sequence[Finding], said: Mapping[str, str]) -> list[Finding]:
    """Findings of which more than three groups have the same one to say, as one: in the words of the first.

    Args:
        found: Findings on one group each, the one to quote first.
        said: What groups are called, by name; messages begin with it.
    """
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for one in found:
        alike.setdefault((one.kind, one.severity, one.advice), []).append(one)
    kept = []
    for several in alike.values():
        first = several[0]
        if len(several) <= _MOST:
            kept += several
            continue
        name = said[first.evidence["group"]]
        message = f"{name} and {len(several) - 1} other groups{first.message.removeprefix(name)}"
        evidence = {"groups": {one.evidence["group"]: one.evidence for one in several}}
        kept.append(Finding(first.kind, first.severity, message, evidence, first.advice))
    return kept


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Alarms first, then warnings; among these by what is to be done, what spoils the run first."""

    def place(one: Finding) -> tuple[int, int]:
        return _SEVERITIES.index(one.severity), _ORDER.index(one.kind) if one.kind in _ORDER else len(_ORDER)

    return sorted(found, key=place)


def listed(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
