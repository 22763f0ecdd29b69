"""Who runs shards: this process, worker processes of this machine, Ray, or Slurm. Nothing else in the laboratory knows.

An executor takes shards and a folder and yields the names of the shards as they end. What is trained and how comes with
the shards; where it is trained changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onsphere.lab.placement import Placement, RayCluster, SlurmCluster
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
    problem: Problem,
    folder: Path,
    workers: int,
    stop: Callable[[], bool],
    checkpoint_seconds: float = 5.0,
    placement: Placement | None = None,
) -> Iterator[Executor]:
    """An executor where it was asked for; on this machine, this process for one worker, worker processes for more.

    Args:
        problem: The network, data and training of all copies.
        folder: The folder of the shards.
        workers: How many processes of this machine there are.
        stop: Asked now and then; True stops at a checkpoint.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        placement: Where, if not on this machine.

    Raises:
        InputError: There is no such cluster, or a node of it does not share the folder or the version of onsphere.
    """
    with ExitStack() as stack:
        if isinstance(placement, RayCluster):
            yield stack.enter_context(_on_ray(problem, folder, placement, stop, checkpoint_seconds))
        elif isinstance(placement, SlurmCluster):
            from onsphere.lab.executors.on_slurm import OnSlurm

            jobs = OnSlurm(problem, folder.absolute(), placement, workers, stop, checkpoint_seconds)
            stack.callback(jobs.close)
            yield jobs
        elif workers == 1:
            yield InProcess(problem, folder, stop, checkpoint_seconds)
        else:
            pool = Workers(problem, folder, workers, stop, checkpoint_seconds)
            stack.callback(pool.close)
            yield pool


def _on_ray(
    problem: Problem, folder: Path, place: RayCluster, stop: Callable[[], bool], checkpoint_seconds: float
) -> AbstractContextManager[Executor]:
    from onsphere.lab.executors.on_ray import on_ray

    return on_ray(problem, folder, place, stop, checkpoint_seconds)
