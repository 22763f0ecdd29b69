"""One thing that a monitor's readings say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "finding", "in_order", "listed"]

Severity = Literal["info", "warning", "alarm"]

#: Kinds by what is to be done: first what spoils the run, then what the optimiser does not do, then what to choose.
_ORDER = (
    *("non-finite", "jump expected", "precision", "lr", "param groups", "invariance", "jump"),
    *("time scale", "rotation", "schedule", "equilibrium", "spheres by choice"),
)
_SEVERITIES: tuple[Severity, ...] = ("alarm", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """Something the readings say.

    Attributes:
        kind: ``jump``, ``jump expected``, ``equilibrium``, ``time scale``, ``rotation``, ``schedule``, ``invariance``,
            ``spheres by choice``, ``precision``, ``non-finite``, ``lr``, or ``param groups`` (the optimiser's were
            changed after the monitor was attached).
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


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Alarms first, then warnings; among these by what is to be done, what spoils the run first."""

    def place(one: Finding) -> tuple[int, int]:
        return _SEVERITIES.index(one.severity), _ORDER.index(one.kind) if one.kind in _ORDER else len(_ORDER)

    return sorted(found, key=place)


def listed(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
