"""Who runs shards: this process, or worker processes of this machine. Nothing else in the laboratory knows.

An executor takes shards and a folder and yields the names of the shards as they end. Workers are spawned, one thread
each, with a copy of the problem that they map from a file; they stop at a checkpoint when asked, and end with their
parent however it ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process, util
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import torch

from onsphere.lab.handover import Handed, hand_over
from onsphere.lab.population import Plan, Problem, Shard, run_shard
from onsphere.lab.threads import one_thread
from onsphere.tracing import trace

PROGRESS_SECONDS = 0.2

_POOLS: set[Workers] = set()  # those that are open, for a process that must end at once


class Interrupted(Exception):  # noqa: N818 (it is not an error: the run was asked to stop)
    """The run was stopped at its checkpoints; it can be resumed."""


class WorkerDied(RuntimeError):  # noqa: N818
    """A worker process ended without a word, usually killed or out of memory."""


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


class Workers:
    """Runs shards on worker processes of this machine.

    Args:
        problem: Every worker gets a copy of its own; nothing of this process is moved.
        folder: The folder of the shards; the file that the workers map lies beside it while they live.
        workers: How many processes there are.
        stop: Asked now and then; True stops all workers at a checkpoint.
        checkpoint_seconds: Seconds from one checkpoint to the next.
    """

    def __init__(
        self, problem: Problem, folder: Path, workers: int, stop: Callable[[], bool], checkpoint_seconds: float
    ) -> None:
        self.folder, self.stop = folder, stop
        self._handed = hand_over(problem, folder.parent / ".problem")
        _POOLS.add(self)
        context = get_context("spawn")
        self._progress: SimpleQueue[int] = context.SimpleQueue()
        self._stopping: Event = context.Event()
        self._pool = ProcessPoolExecutor(
            workers,
            context,
            initializer=_start_worker,
            initargs=(self._handed, self._progress, self._stopping, checkpoint_seconds),
        )
        with _interrupts_held():
            for _ in range(workers):  # they start and import while this process still decides how to execute
                self._pool.submit(_warm_up)

    def run(self, shards: list[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as :class:`Executor` says."""
        with _interrupts_held():
            pending = {self._pool.submit(_work, shard, plan, self.folder / shard.name): shard for shard in shards}
        stopped = False
        try:
            while pending:
                ended, _ = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                while not self._progress.empty():
                    progress(self._progress.get())
                for future in ended:
                    shard = pending.pop(future)
                    stopped |= not _outcome(future)
                    if not stopped:
                        yield shard.name
                if self.stop() and not self._stopping.is_set():
                    self._stopping.set()
                    for future in list(pending):
                        if future.cancel():
                            del pending[future]
                            stopped = True
        finally:
            self._stopping.set()
        if stopped:
            raise Interrupted
        self._stopping.clear()

    def close(self) -> None:
        """End the workers."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.forget()

    def forget(self) -> None:
        """Remove the file that the workers have mapped."""
        _POOLS.discard(self)
        self._handed.file.unlink(missing_ok=True)


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


def abandon() -> None:
    """Kill the workers and take back what this process lent them, in a process that is about to end at once.

    The semaphores of a process that ends without a word are left to multiprocessing's own helper, which warns of them.
    """
    for child in active_children():
        child.kill()
    for pool in list(_POOLS):
        pool.forget()
    with suppress(Exception):  # nothing that goes wrong now may keep the process from ending
        util._run_finalizers(0)  # type: ignore[attr-defined]  # no public way leads to a clean sudden end


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started inside the block are deaf to Ctrl-C from their first moment; this one hears it after it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outcome(future: Future[bool]) -> bool:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise WorkerDied("a worker process died (killed, or out of memory)") from error


# ------------------------------------------------------------------------------------------ inside a worker

_worker: dict[str, Any] = {}


def _start_worker(handed: Handed, progress: SimpleQueue[int], stopping: Event, checkpoint_seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    problem = handed.take()
    _worker.update(problem=problem, progress=progress, stopping=stopping, checkpoint_seconds=checkpoint_seconds)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _warm_up() -> None:
    """The first trace imports the compiler's front end, which takes a second or two."""
    trace(torch.neg, torch.zeros(1))


def _work(shard: Shard, plan: Plan, folder: Path) -> bool:
    waiting, told = 0, 0.0

    def progress(copy_steps: int) -> None:
        nonlocal waiting, told
        waiting += copy_steps
        if time.monotonic() - told > PROGRESS_SECONDS:
            _worker["progress"].put(waiting)
            waiting, told = 0, time.monotonic()

    ended = run_shard(
        shard,
        _worker["problem"],
        plan,
        folder,
        progress=progress,
        stop=_worker["stopping"].is_set,
        checkpoint_seconds=_worker["checkpoint_seconds"],
    )
    _worker["progress"].put(waiting)
    return ended
