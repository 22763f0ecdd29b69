"""What an experiment tells while it works; the command line draws it, the library is silent by default."""

from __future__ import annotations

from pathlib import Path


class Progress:
    """Receives news of a run. This one ignores them; subclasses draw."""

    def folder(self, folder: Path) -> None:
        """The run's folder was made or opened."""

    def note(self, text: str) -> None:
        """A sentence worth reading once."""

    def begin(self, title: str, copy_steps: int) -> None:
        """A round of work begins.

        Args:
            title: What the round does.
            copy_steps: How much it is: copies times steps.
        """

    def advance(self, copy_steps: int) -> None:
        """Work was done."""

    def finding(self, text: str) -> None:
        """The result so far, in one line."""
