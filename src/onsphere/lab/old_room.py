# ruff: noqa: D101, D102
"""For the time of the move: an experiment that still has a module ``terminal`` of its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class OldRoom:
    def __init__(self, entry: Any) -> None:
        self.entry, self.module = entry, import_module(f"{entry.home}.terminal")

    def start(self, *, out: Any, progress: Any, stop: Any, **fields: Any) -> Any:
        given = fields if self.entry.command in ("schedule", "symmetries") else self.entry.options(**fields)
        return self.module.start(given, out, progress, stop)

    def resume(self, run: Any, *, progress: Any, stop: Any) -> Any:
        return self.module.resume(run, progress, stop)

    def rewrite(self, run: Any) -> Any:
        return self.module.rewrite_report(run)

    def one_line(self, run: Any) -> Any:
        return self.module.one_line(run)

    def show(self, result: Any) -> Any:
        return self.module.show(result)
