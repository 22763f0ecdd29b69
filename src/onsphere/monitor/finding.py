"""One thing that a monitor's readings say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding"]

Severity = Literal["info", "warning", "alarm"]


@dataclass(frozen=True)
class Finding:
    """Something the readings say.

    Attributes:
        kind: ``jump``, ``jump expected``, ``equilibrium``, ``rotation``, ``schedule``, ``invariance``, ``precision``,
            ``non-finite``, ``lr``, or ``param groups`` (the optimiser's were changed after the monitor was attached).
        severity: ``info``, ``warning`` or ``alarm``.
        message: One sentence or two: what is seen, and what to do.
        evidence: The numbers behind it.
    """

    kind: str
    severity: Severity
    message: str
    evidence: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        return self.message
