"""Who runs shards: this process, or worker processes of this machine. Nothing else in the laboratory knows.

An executor takes shards and a folder and yields the names of the shards as they end. What is trained and how comes with
the shards; where it is trained changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onsphere.lab.population import Plan, Problem, Shard, run_shard
from onsphere.lab.threads import one_thread
from onsphere.lab.workers import Interrupted, WorkerDied, Workers, abandon

__all__ = ["Executor", "InProcess", "Interrupted", "WorkerDied", "abandon", "make_executor"]


class Executor(Protocol):
    """Runs shards to their ends."""

    def run(self, shards: list[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards by the plan: yield each one's name when it has ended, tell ``progress`` the copy-steps done."""
        ...


@dataclass
class InProcess:
    """Runs one shard after another in this process, on one thread."""

    problem: Problem
    folder: Path
    stop: Callable[[], bool]
    checkpoint_seconds: float

    def run(self, shards: list[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as :class:`Executor` says."""
        for shard in shards:
            with one_thread():
                ended = run_shard(
                    shard,
                    self.problem,
                    plan,
                    self.folder / shard.name,
                    progress=progress,
                    stop=self.stop,
                    checkpoint_seconds=self.checkpoint_seconds,
                )
            if not ended:
                raise Interrupted
            yield shard.name


@contextmanager
def make_executor(
    problem: Problem, folder: Path, workers: int, stop: Callable[[], bool], checkpoint_seconds: float = 5.0
) -> Iterator[Executor]:
    """An executor for this machine: this process for one worker, worker processes for more."""
    if workers == 1:
        yield InProcess(problem, folder, stop, checkpoint_seconds)
        return
    pool = Workers(problem, folder, workers, stop, checkpoint_seconds)
    try:
        yield pool
    finally:
        pool.close()
