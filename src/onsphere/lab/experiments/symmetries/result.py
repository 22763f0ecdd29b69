"""The result of ``onsphere symmetries``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from onsphere.lab.experiments.symmetries.findings import Findings
from onsphere.lab.old_result import vouched
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain

__all__ = ["SymmetriesResult", "describe"]


@dataclass(frozen=True, kw_only=True)
class SymmetriesResult:
    """What a run of ``onsphere symmetries`` gives.

    Attributes:
        run: The run's folder.
        report: The page.
        found: What was found.
        spec: What was asked for.
        seconds: Wall-clock seconds of the search.
    """

    command: ClassVar[str] = "symmetries"

    run: Path
    report: Path
    found: Findings
    spec: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, run: Run, found: Findings, spec: dict[str, Any], seconds: float) -> Self:
        """The result of a run, wherever its folder lies now."""
        return cls(run=run.folder, report=run.folder / "report.html", found=found, spec=spec, seconds=seconds)

    @classmethod
    @vouched
    def load(cls, run: Run) -> Self:
        """Read the result of an ended run.

        Raises:
            InputError: The run has no result yet.
        """
        values = run.result()
        return cls.of(run, Findings.load(values), values["spec"], values["seconds"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what ``--json`` prints and ``result.json`` holds."""
        values = {"command": self.command, "run": str(self.run), "report": str(self.report)}
        values |= self.found.to_dict() | {"spec": self.spec, "seconds": self.seconds}
        return dict(plain(values))

    def __repr__(self) -> str:
        return f"SymmetriesResult: {self.spec['model']}\n  {describe(self.found)}\n  page: {self.report}"


def describe(found: Findings) -> str:
    """The result in one line."""
    share = format_number(100 * found.share(found.invariant))
    parts = [
        f"{len(found.invariant)} of {len(found.names)} tensors ({share} % of {found.total:,} numbers) scale-invariant "
        f"in {len(found.groups)} groups",
        f"{len(found.rescalings)} rescalings",
        f"{len(found.without_effect)} without effect",
        f"{len(found.fixed)} in no symmetry",
    ]
    return "; ".join(parts)
