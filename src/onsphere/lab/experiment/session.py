"""What a measurement has at hand while it works: the spec, the run, rounds of training, what is kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from onsphere.lab.engine_file import Execution, read_execution
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment.rounds import Rounds
from onsphere.lab.options import Options
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.result import plain_of, typed
from onsphere.lab.store import Damaged, Run
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.threads import one_thread
from onsphere.lab.training import Trainer, open_trainer

S = TypeVar("S", bound=Options)
P = TypeVar("P")
T = TypeVar("T")
Stop = Callable[[], bool]


def never() -> bool:
    """The default of every ``stop``: it never asks to stop."""
    return False


@dataclass(frozen=True)
class Session(Generic[S, P]):
    """What a measurement has at hand.

    Attributes:
        spec: The fields that were asked for.
        given: What ``prepare`` made, such as the problem that is trained.
        run: The run that keeps everything.
        progress: Whoever is told what happens.
        stop: Asked often; True ends the call at the next checkpoint.
        rounds: Which rounds are done, and the page that says so while the run works.
    """

    spec: S
    given: P
    run: Run
    progress: Progress
    stop: Stop
    rounds: Rounds = field(default_factory=Rounds)

    @property
    def execution(self) -> Execution:
        """How copies are executed, which is settled once something was trained."""
        found = read_execution(self.run)
        assert found is not None
        return found

    def trainer(self, problem: Problem, copies: int) -> AbstractContextManager[Trainer]:
        """Open a trainer for several rounds of one problem.

        Args:
            problem: The problem that is trained.
            copies: How many copies the largest round has; the plan of a new run is chosen for so many.
        """
        options: Any = self.spec
        return open_trainer(problem, self.run, options, copies, self.progress, self.stop)

    def train(
        self,
        problem: Problem,
        name: str,
        copies: Sequence[Copy],
        title: str,
        *,
        most: int = 0,
        told: Callable[[list[ShardFolder]], str] | None = None,
    ) -> list[ShardFolder]:
        """Train one round of copies.

        Args:
            problem: The problem that is trained.
            name: The shards are called ``NAME-000``, ...
            copies: The copies that are trained.
            title: What the display calls the round.
            most: How many copies a later round of the same plan has, where that is more.
            told: Says what is known from the shards that have ended so far, in one line.

        Returns:
            The shards in the order of the copies.

        Raises:
            Interrupted: The run was asked to stop.
        """
        with self.trainer(problem, max(most, len(copies))) as trainer:
            return self.round(trainer, name, copies, title, told)

    def round(
        self,
        trainer: Trainer,
        name: str,
        copies: Sequence[Copy],
        title: str,
        told: Callable[[list[ShardFolder]], str] | None = None,
    ) -> list[ShardFolder]:
        """Train one round on an open trainer; the arguments are those of :meth:`train`."""
        ended, said = list[ShardFolder](), ""
        for shard in trainer.round(name, copies, title):
            ended.append(shard)
            if told is not None:
                said = told(ended)
                self.progress.finding(said)
        self.rounds.ended(title, len(copies), trainer.steps, said)
        return [ShardFolder(trainer.folder / shard.name) for shard in trainer.shards(name, copies)]

    def so_far(self, found: Mapping[str, Any]) -> None:
        """Show what is known before the run has ended: the experiment's page, with what is still to come said first.

        Args:
            found: The fields of the result that are the experiment's own, as ``measure`` returns them at the end.
        """
        self.rounds.so_far(found)

    def kept(self, path: str, kind: type[T], measure: Callable[[], T], *, units: int = 1, key: str = "rows") -> T:
        """Measure once: what was measured is kept on disk as plain values and found there again.

        Args:
            path: The file within the run's folder, without its ending.
            kind: What is measured, such as ``list[Row]`` for a dataclass of that name.
            measure: Called on one thread if the file is not there; tells the progress itself, as :meth:`each` does.
            units: How much work this is, for the display, if it is found.
            key: Under which name the file holds the values, of which it may hold several; "" for values that are
                themselves the whole of the file, such as a dataclass.

        Returns:
            What the file holds, so that a resumed run computes with the same bits.

        Raises:
            Interrupted: The run was asked to stop before this was measured.
        """
        file = self.run.folder / f"{path}.json"
        held = read_json(file) if file.exists() else {}
        if held and key in (*held, ""):
            self.progress.advance(units)
        else:
            if self.stop():
                raise Interrupted
            file.parent.mkdir(parents=True, exist_ok=True)
            with one_thread():
                found = plain_of(measure())
            write_json(file, held | {key: found} if key else found)
            held = read_json(file)
        try:
            return typed(kind, held[key] if key else held)
        except (KeyError, ValueError) as error:
            raise Damaged(file, f"is damaged: it holds no {key or kind.__name__}") from error

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Items of a long measurement: a look at ``stop`` before each, a word to the display after it.

        Raises:
            Interrupted: The run was asked to stop.
        """
        for item in items:
            if self.stop():
                raise Interrupted
            yield item
            self.progress.advance(1)
