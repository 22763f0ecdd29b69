"""What a monitor hands to others: new readings to sinks, new alarms to a callback. Training goes on whatever they do.

Of several processes one does so. All keep count of it, so that their states are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from onsphere.monitor.history import GroupHistory
from onsphere.monitor.readings import COLUMNS
from onsphere.monitor.record import Record
from onsphere.monitor.say import say

if TYPE_CHECKING:
    from onsphere.monitor.findings import Finding
    from onsphere.monitor.sinks import Sink

__all__ = ["Outlets"]


class Outlets:
    """Knows what was handed out.

    Args:
        record: What was read so far.
        rank: The process that hands out if there are several; None: every one.

    Attributes:
        shown: For each group the last step that went to the sinks.
        alarmed: Keys of the findings that were alarms.

    Raises:
        ValueError: There is no such rank.
    """

    def __init__(self, record: Record, rank: int | None) -> None:
        processes = _processes()
        known = rank is None or (isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0)
        if not known or (rank is not None and processes > 1 and rank >= processes):
            raise ValueError(f"rank is {rank!r}; it must be that of a process (there are {processes}), or None for all")
        self.record, self.rank = record, rank
        self.shown: dict[str, int] = {}
        self.alarmed: set[str] = set()
        self._reported: set[str] = set()

    def write(self, sinks: Iterable[Sink]) -> None:
        """Hand the readings that are new to the sinks."""
        sinks = list(sinks) if self._is_it() else []
        if not sinks and _processes() == 1:
            return
        lines: dict[int, dict[str, float]] = {}
        for group in self.record.groups:
            read = self.record.read(group, after=self.shown.get(group.name, -1))
            for i, step in enumerate(read["step"]):
                if sinks:
                    values = {f"{group.name}/{name}": float(read[name][i]) for name in (*COLUMNS, "lr", "weight_decay")}
                    lines.setdefault(int(step), {}).update(values)
                self.shown[group.name] = int(step)
        for step in sorted(lines):
            for sink in sinks:
                self.call(f"sink {type(sink).__name__}", sink.write, step, lines[step])

    def alarm(self, histories: Sequence[GroupHistory], on_alarm: Callable[[Finding], object]) -> None:
        """Hand the alarms that are new to the callback."""
        from onsphere.monitor.findings import diagnose

        for finding in diagnose(histories):
            if finding.kind in ("jump", "jump expected"):
                of = finding.evidence
                jump = of["steps"][-1] if finding.kind == "jump" else of["last"]
                key = f"{finding.kind}, {of['group']}, {jump}"
                if key not in self.alarmed:
                    self.alarmed.add(key)
                    if self._is_it():
                        self.call("on_alarm", on_alarm, finding)

    def call(self, what: str, call: Callable[..., object], *arguments: object) -> None:
        """Call something that may fail; the first time it does is said."""
        try:
            call(*arguments)
        except Exception as error:
            if what not in self._reported:
                self._reported.add(what)
                say(f"{what} failed ({type(error).__name__}: {error}); training goes on, and this is said once")

    def _is_it(self) -> bool:
        return self.rank is None or _processes() == 1 or torch.distributed.get_rank() == self.rank


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
