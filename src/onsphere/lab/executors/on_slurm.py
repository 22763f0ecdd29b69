"""Shards as jobs of Slurm, one array a round, through submitit; word of them goes by files in the run's folder.

    jobs/problem               what is trained, which every job maps
    jobs/SHARD.told            how far a shard is, written again and again while a job trains it
    jobs/SHARD.word            how it ended
    jobs/stop                  asks all jobs to end at their checkpoints
    jobs/logs/                 what submitit and the jobs say

A job that is preempted, cancelled or lost with its node leaves no last word, and :func:`~onsphere.lab.executors.driving
.drive` gives its shard out again, from its checkpoint. When the driver is lost its jobs go on; the next one takes up
those whose ``told`` is fresh instead of giving their shards out a second time.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from onsphere import __version__
from onsphere.lab.executors.driving import Outcome, drive
from onsphere.lab.executors.probe import check_done
from onsphere.lab.executors.remote import Word, train
from onsphere.lab.handover import Handed, hand_over
from onsphere.lab.options import InputError
from onsphere.lab.placement import SlurmCluster
from onsphere.lab.population import Plan, Problem, Shard
from onsphere.lab.store.files import read_json, write_json

__all__ = ["OnSlurm"]

#: Seconds from one word of a job to the next, and from one look of the driver to the next.
TELL_SECONDS, HEAR_SECONDS = 2.0, 0.5
#: Seconds after which a job that has said nothing is not at work any more, and for jobs to come to their checkpoints.
SILENT_SECONDS, LEAVE_SECONDS = 60.0, 60.0


class OnSlurm:
    """Runs shards as jobs of Slurm.

    Args:
        problem: Written once into the folder of the jobs.
        folder: The folder of the shards, which all nodes share.
        place: What a job asks for.
        at_once: How many jobs of an array run at the same time.
        stop: Asked now and then; True stops all jobs at a checkpoint.
        checkpoint_seconds: Seconds from one checkpoint to the next.
    """

    def __init__(
        self,
        problem: Problem,
        folder: Path,
        place: SlurmCluster,
        at_once: int,
        stop: Callable[[], bool],
        checkpoint_seconds: float,
    ) -> None:
        import submitit

        self.folder, self._stop, self.checkpoint_seconds = folder, stop, checkpoint_seconds
        self.jobs = folder.parent / "jobs"
        self.jobs.mkdir(parents=True, exist_ok=True)
        (self.jobs / "stop").unlink(missing_ok=True)
        self._handed = hand_over(problem, self.jobs / "problem")
        self._executor = submitit.AutoExecutor(folder=self.jobs / "logs", cluster=place.cluster)
        self._executor.update_parameters(**place.parameters(at_once))
        self._out: dict[str, Any] = {}  # the job of each shard that was given out; None: one of an earlier driver
        self._given: set[str] = set()
        self._here: list[Any] = []  # jobs that are processes of this machine
        self._local = place.cluster == "local"

    def run(self, shards: Sequence[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as :class:`onsphere.lab.execution.Executor` says.

        Raises:
            Interrupted: ``stop`` said so.
            WorkerDied: A shard was lost again and again, and all others have ended.
        """
        yield from drive(self, shards, plan, self._stop, progress)

    def submit(self, shards: Sequence[Shard], plan: Plan) -> None:
        """Give out shards as one array, but for those that jobs of an earlier driver are still at."""
        new = []
        for shard in shards:
            if shard.name not in self._given and self._is_at_work(shard.name):
                self._out[shard.name] = None
            else:
                for ending in ("told", "word"):
                    self._file(shard.name, ending).unlink(missing_ok=True)
                new.append(shard)
            self._given.add(shard.name)
        if not new:
            return
        import submitit

        try:
            with self._executor.batch():
                jobs = [
                    self._executor.submit(
                        _train, self._handed, shard, plan, self.folder / shard.name, self.checkpoint_seconds, self.jobs
                    )
                    for shard in new
                ]
        except submitit.core.utils.FailedJobError as error:
            reason = str(error).strip().splitlines()
            raise InputError(f"--executor: Slurm does not take the jobs ({reason[-1] if reason else error})") from error
        self._out.update(zip((shard.name for shard in new), jobs, strict=True))
        self._here += jobs if self._local else []

    def outcomes(self) -> Iterable[Outcome]:
        """The shards whose jobs have ended."""
        time.sleep(HEAR_SECONDS)
        for name, job in list(self._out.items()):
            silent = self._file(name, "told").exists() and not self._is_at_work(name)
            over = silent or (job is not None and job.done())  # Slurm need not keep account of what it ran
            file = self._file(name, "word")
            if file.exists():
                said = read_json(file)
                word = Word(said["kind"], int(said["done"]), str(said["node"]), b"", str(said["there"]))
                if word.kind == "ended":
                    check_done(self.folder / name, word.node)
                del self._out[name]
                # A job of an earlier driver may have heard that one's wish to stop.
                yield Outcome(name, "lost") if job is None and word.kind == "stopped" else word.outcome(name)
            elif over:
                del self._out[name]
                if job is not None and silent:
                    job.cancel(check=False)  # so that no two train one shard
                yield self._unsaid(name, job)

    def _unsaid(self, name: str, job: Any) -> Outcome:
        """A job that ended without its last word: lost, or one that could not even begin."""
        with suppress(Exception):
            text = str(job.exception())
            if "ModuleNotFoundError" in text or "ImportError" in text:
                line = next(line for line in reversed(text.splitlines()) if "Error" in line).strip()
                return Outcome(
                    name,
                    "failed",
                    InputError(
                        f"--executor: the node that was given {name} cannot import onsphere ({line}); install "
                        f"onsphere[lab,slurm] {__version__} there"
                    ),
                )
        return Outcome(name, "lost")

    def steps(self) -> Iterable[tuple[str, int, bool]]:
        """What the jobs have written."""
        for name in list(self._out):
            with suppress(OSError, ValueError, KeyError):
                told = read_json(self._file(name, "told"))
                yield name, int(told["begun"]), True
                yield name, int(told["done"]), False

    def stop(self) -> None:
        """Ask the jobs to end at their checkpoints; those that have not begun are taken back."""
        if not (self.jobs / "stop").exists():
            (self.jobs / "stop").touch()
            for name, job in self._out.items():
                if job is not None and not self._file(name, "told").exists():
                    job.cancel(check=False)

    def close(self) -> None:
        """End the jobs at their checkpoints."""
        until = time.monotonic() + LEAVE_SECONDS
        if self._out:
            self.stop()
        while self._out and time.monotonic() < until:
            for outcome in self.outcomes():
                del outcome
        while any(not job.done() for job in self._here) and time.monotonic() < until:
            time.sleep(HEAR_SECONDS)
        if not self._out:
            (self.jobs / "problem").unlink(missing_ok=True)

    def _file(self, name: str, ending: str) -> Path:
        return self.jobs / f"{name}.{ending}"

    def _is_at_work(self, name: str) -> bool:
        """Whether a job has said a moment ago how far it is, by the clock of the file system."""
        now = self.jobs / ".now"
        now.touch()
        with suppress(OSError):
            fresh = now.stat().st_mtime - self._file(name, "told").stat().st_mtime < SILENT_SECONDS
            return fresh and not self._file(name, "word").exists()
        return False


def _train(handed: Handed, shard: Shard, plan: Plan, folder: Path, checkpoint_seconds: float, jobs: Path) -> str:
    """Train a shard as a job of Slurm, and leave its last word."""
    begun: list[int] = []

    def tell(done: int, first: bool) -> bool:
        if first:
            begun.append(done)
        write_json(jobs / f"{shard.name}.told", {"begun": begun[0] if begun else 0, "done": done})
        return (jobs / "stop").exists()

    def taken() -> Problem:
        problem: Problem = handed.take()
        return problem

    word = train(
        shard,
        taken,
        plan,
        folder,
        node=platform.node(),
        checkpoint_seconds=checkpoint_seconds,
        tell=tell,
        seconds=TELL_SECONDS,
    )
    last = {"kind": word.kind, "done": word.done, "node": word.node, "there": word.there}
    write_json(jobs / f"{shard.name}.word", last)
    return word.kind
