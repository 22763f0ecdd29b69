"""The page of a run that has not ended: there from the first finished round on, written again as rounds end.

It says which rounds of training are done and what is still to come. Where an experiment can already say something
(:meth:`~onsphere.lab.experiment.Session.so_far`), it is the experiment's own page of what is known, with that sentence
first. The page is taken away before the result is written, so that nobody takes the one for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onsphere import __version__
from onsphere.lab.config import to_command
from onsphere.lab.options import Options
from onsphere.lab.population import Stage
from onsphere.lab.progress import Progress
from onsphere.lab.report.page import Code, Page, Section, Table, Text
from onsphere.lab.report.words import format_duration
from onsphere.lab.store import Run, resume_command

PAGE = "report.html"


@dataclass(frozen=True)
class Round:
    """A finished round of training.

    Attributes:
        title: What it is called.
        copies: How many copies it had.
        steps: Training steps of each.
        found: What was known after it, in one line; empty where nobody said.
    """

    title: str
    copies: int
    steps: int
    found: str


class Rounds:
    """Which rounds of a run are done, and the page that says so.

    Args:
        run: The run, or None for no page.
        command: Command of the experiment, without ``onsphere``.
        spec: What was asked for.
        stages: The rounds that are expected, in order; none where an experiment does not say.
        beside: What comes after training, in words.
        draw: Writes the experiment's own page of what is known, from its fields and the sentence that is to be first.
        progress: Told when a page could not be made, which stops no run.
    """

    def __init__(
        self,
        run: Run | None = None,
        command: str = "",
        spec: Options | None = None,
        stages: Sequence[Stage] = (),
        beside: str = "",
        draw: Callable[[Mapping[str, Any], str], object] = lambda found, first: None,
        progress: Progress | None = None,
    ) -> None:
        self.run, self.command, self.spec, self.stages = run, command, spec, stages
        self.beside, self.draw, self.progress = beside, draw, progress or Progress()
        self.done: list[Round] = []
        self.began = time.monotonic()

    def ended(self, title: str, copies: int, steps: int, found: str = "") -> None:
        """A round has ended: write the page of the rounds."""
        self.done.append(Round(title, copies, steps, found))
        self._written(lambda run: self._page(run).write(run.folder / PAGE))

    def so_far(self, found: Mapping[str, Any]) -> None:
        """Write the experiment's own page of what is known, as the fields of a result."""
        self._written(lambda run: self.draw(found, self.still_to_come()))

    def take_away(self) -> None:
        """Remove the page, whose place the page of the result will take."""
        if self.run is not None and self.done:
            (self.run.folder / PAGE).unlink(missing_ok=True)

    def still_to_come(self) -> str:
        """Which rounds are done and what comes next, in a sentence."""
        left, many = self.stages[len(self.done) :], max(len(self.stages), len(self.done))
        said = f"This run has not ended: {len(self.done)} of {many} round{'' if many == 1 else 's'} of training "
        said += "is done" if len(self.done) == 1 else "are done"
        coming = [f"{s.title} ({'' if s.sure else 'about '}{len(s.copies)} copies)" for s in left]
        if self.beside:
            coming.append(self.beside)
        return f"{said}; still to come: {', '.join(coming)}." if coming else f"{said}; the result is still to come."

    def _written(self, write: Callable[[Run], object]) -> None:
        if self.run is None:
            return
        try:
            write(self.run)
        except OSError:
            raise  # a full disk is told as one
        except Exception as error:
            self.progress.note(f"the page so far could not be written ({type(error).__name__}: {error})")

    def _page(self, run: Run) -> Page:
        assert self.spec is not None
        left = self.stages[len(self.done) :]
        rows = [[r.title, "done", str(r.copies), str(r.steps), r.found] for r in self.done]
        rows += [
            [s.title, "to come", ("" if s.sure else "about ") + str(len(s.copies)), str(s.problem.steps), ""]
            for s in left
        ]
        columns = ["round", "state", "copies", "steps each", "what was known after it"]
        table = Table([(name, "") for name in columns], rows, numeric=frozenset({2, 3}), tight=frozenset({0, 1}))
        spent = time.monotonic() - self.began
        done = sum(r.copies * r.steps for r in self.done)
        more = sum(len(s.copies) * s.problem.steps for s in left) / done * spent if done else 0.0
        pace = f", about {format_duration(more)} of training at that pace are left" if left else ""
        repeat = to_command(self.command, type(self.spec), self.spec.model_dump(mode="json"), none={"train": "all"})
        known = [r.found for r in self.done if r.found]
        return Page(
            title=f"onsphere {self.command}, so far",
            subtitle=str(run.folder.name),
            answer=[self.still_to_come(), *known[-1:]],
            summary=[f"{sum(r.copies for r in self.done)} copies trained"],
            sections=[
                Section("rounds", "Rounds of training", [table, Text(f"{format_duration(spent)} in this call{pace}.")]),
                Section(
                    "repeat",
                    "Go on, or begin again",
                    [Code("if it was stopped", resume_command(run.folder)), Code("the same once more", repeat)],
                ),
            ],
            footer=f"Made by onsphere {__version__} while the run was at work; load it again to see more.",
            data={"command": self.command, "ended": False, "rounds": [vars(r) for r in self.done]},
        )
