"""The live display on standard error: a bar with steps per second and time left, and the boundaries so far."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from onsphere.lab.console import PlainConsole, visible
from onsphere.lab.progress import Progress


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} steps/s", style="cyan")


class Display(Progress):
    """Draws progress where standard error is a terminal; elsewhere prints one line a round and a finding.

    Attributes:
        run: The run's folder, once there is one.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or PlainConsole(stderr=True)
        self.run: Path | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._found = ""
        self._began = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                _Speed(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[finding]}", style="green", markup=False),
                console=self.console,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def folder(self, folder: Path) -> None:
        """Remember the folder for the sentence that says how to go on; say if nothing vouches for what is in it."""
        from onsphere.lab.store import Run

        self.run = folder
        if not Run(folder).sealed:
            self.note(f"{folder} was made without digests: what was changed in it since cannot be noticed")

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self.console.print(text)

    def begin(self, title: str, copy_steps: int) -> None:
        """Start a bar."""
        if self._bar is None:
            self.console.print(f"{title}: {copy_steps:,} training steps")
            return
        if self._task is not None:
            self._bar.update(self._task, finding="")
        self._task = self._bar.add_task(visible(title), total=copy_steps, finding=self._found)

    def advance(self, copy_steps: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, copy_steps)

    def finding(self, text: str) -> None:
        """Show the result so far beside the bar."""
        if visible(text) == self._found:
            return
        self._found = visible(text)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, finding=self._found)
        else:
            self.console.print(f"  {text}  ({time.monotonic() - self._began:.0f} s)")
