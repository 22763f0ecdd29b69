"""Worker processes of this machine that run shards, and are replaced when they die.

Every worker is a process behind a pipe of its own, and no two share a lock: one that is killed at any moment leaves
nothing held. It is told ``(shard, plan, folder)``, or to stop at a checkpoint; it says that it is ready, how many
copy-steps of its shard are done, and how the shard ended. A worker that dies, killed or out of memory, is replaced, and
its shard goes on from its checkpoint to the bits that it would have had. A shard of which :data:`DEATHS` workers die in
a row, without getting any further between them, is given up, and the run fails once all others have ended.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from onsphere.lab.handover import Handed, hand_over
from onsphere.lab.population import Plan, Problem, Shard, run_shard
from onsphere.tracing import trace

__all__ = ["DEATHS", "Interrupted", "WorkerDied", "Workers", "abandon", "error_from", "pickled"]

#: A shard is begun again three times where it gets no further; the fourth death is the last.
DEATHS = 4
#: Seconds from one word about progress to the next, and from one question whether to stop to the next.
PROGRESS_SECONDS, ASKED_SECONDS = 0.2, 0.1

_OPEN: set[Workers] = set()  # for a process that must end at once


class Interrupted(Exception):  # noqa: N818 (it is not an error: the run was asked to stop)
    """The run was stopped at its checkpoints; it can be resumed."""


class WorkerDied(RuntimeError):  # noqa: N818
    """Worker processes ended without a word, usually killed or out of memory, and no further one was started."""


class _There(Exception):  # noqa: N818 (it is no error of its own)
    """The traceback of an error in a worker, shown as its cause."""


@dataclass(eq=False)
class _Task:
    """A shard to run: the copy-steps known to be done, those it began with, and deaths since it got further."""

    shard: Shard
    done: int = 0
    begun: int = 0
    deaths: int = 0

    def heard(self, kind: str, copy_steps: int) -> int:
        """How many copy-steps more than known are done; a shard that was begun further on has no deaths behind it."""
        if kind == "begun" and copy_steps > self.begun:
            self.begun, self.deaths = copy_steps, 0
        new = max(copy_steps - self.done, 0)
        self.done += new
        return new

    def dies(self) -> int:
        """One more death, and how many there are now."""
        self.deaths += 1
        return self.deaths


@dataclass(eq=False)
class _Worker:
    """A process, this end of its pipe, whether it has begun, and what it is at."""

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    task: _Task | None = None

    def tell(self, what: Any) -> None:
        """Send it something; that it has died will be heard from its pipe."""
        with suppress(OSError):
            self.pipe.send(what)

    def hear(self) -> tuple[str, Any]:
        """What it says next, or that it has died."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return "died", None
        return kind, value


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
        self.folder, self.stop, self.checkpoint_seconds = folder, stop, checkpoint_seconds
        self._handed = hand_over(problem, folder.parent / ".problem")
        self._stillborn = 0
        _OPEN.add(self)
        # They start and import while this process still decides how to execute.
        self._workers = [self._start() for _ in range(workers)]

    def run(self, shards: Sequence[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as :class:`onsphere.lab.execution.Executor` says.

        Raises:
            Interrupted: ``stop`` said so.
            WorkerDied: Workers died of a shard again and again, and all others have ended; or none can even begin.
        """
        waiting = deque(_Task(shard) for shard in shards)
        unended, lost = set(waiting), list[_Task]()
        stopping = left = False
        try:
            while unended:
                if not stopping and self.stop():
                    stopping, left = True, bool(waiting)
                    unended.difference_update(waiting)
                    waiting.clear()
                    self._stop_all()
                self._give_out(waiting, plan)
                for worker, kind, value in self._heard():
                    task = worker.task
                    if kind == "died":
                        self._replace(worker)
                    elif kind in ("ended", "failed"):
                        worker.task = None
                    if task is None or task not in unended:  # nothing, or what an earlier round has left behind
                        continue
                    if kind in ("begun", "done"):
                        progress(task.heard(kind, value))
                    elif kind == "died" and not stopping and task.dies() < DEATHS:
                        waiting.append(task)
                    else:
                        unended.remove(task)
                    if kind == "failed":
                        raise error_from(*value)
                    if kind == "ended" and value:
                        yield task.shard.name
                    left |= (kind == "ended" and not value) or (kind == "died" and stopping)
                    if task.deaths == DEATHS:
                        lost.append(task)
        finally:
            self._stop_all()
        if left:
            raise Interrupted
        if lost:
            names = ", ".join(task.shard.name for task in lost)
            raise WorkerDied(
                f"a worker process died (killed, or out of memory) {DEATHS} times in a row while it trained {names}, "
                "without getting any further; all other shards have ended"
            )

    def close(self) -> None:
        """End the workers, those at work at their checkpoints."""
        self._stop_all()
        for worker in self._workers:
            worker.tell(None)
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self.forget()

    def forget(self) -> None:
        """Remove the file that the workers have mapped."""
        _OPEN.discard(self)
        self._handed.file.unlink(missing_ok=True)

    def _start(self) -> _Worker:
        context = get_context("spawn")
        here, there = context.Pipe()
        arguments = (there, self._handed, self.checkpoint_seconds)
        process = context.Process(target=_serve, args=arguments)
        with _interrupts_held():
            process.start()
        there.close()  # so that this end hears when the other one is gone
        return _Worker(process, here)

    def _replace(self, worker: _Worker) -> None:
        """Put a new process in the place of one that has died."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        self._stillborn = 0 if worker.ready else self._stillborn + 1
        if self._stillborn == DEATHS:
            raise WorkerDied(f"{DEATHS} worker processes in a row ended before they could begin (see above)")
        self._workers.append(self._start())

    def _give_out(self, waiting: deque[_Task], plan: Plan) -> None:
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                worker.task = waiting.popleft()
                worker.tell((worker.task.shard, plan, self.folder / worker.task.shard.name))

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.tell("stop")

    def _heard(self) -> Iterator[tuple[_Worker, str, Any]]:
        """What the workers say now, one word each, or nothing in a tenth of a second."""
        pipes = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(pipes), timeout=ASKED_SECONDS):
            worker = pipes[pipe]  # type: ignore[index]  # only pipes are waited for
            kind, value = worker.hear()
            if kind == "ready":
                worker.ready, self._stillborn = True, 0
            yield worker, kind, value


def abandon() -> None:
    """Kill the workers and take back what this process lent them, in a process that is about to end at once."""
    for child in active_children():
        child.kill()
    for pool in list(_OPEN):
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


def error_from(sent: bytes, there: str) -> Exception:
    """The error that :func:`pickled` made bytes of elsewhere, with its traceback there as its cause."""
    try:
        error: Exception = pickle.loads(sent)
    except Exception:  # of a class that can be made there alone
        error = RuntimeError(there.strip().splitlines()[-1])
    error.__cause__ = _There(f"\n{there}")
    return error


# ------------------------------------------------------------------------------------------ inside a worker


def _serve(pipe: Connection, handed: Handed, checkpoint_seconds: float) -> None:
    """Run what the pipe asks for until it says None; end at once when its other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    tasks, stopping = queue.SimpleQueue[Any](), threading.Event()
    threading.Thread(target=_listen, args=(pipe, tasks, stopping), daemon=True).start()
    torch.set_num_threads(1)
    problem = handed.take()
    trace(torch.neg, torch.zeros(1))  # the first trace imports the compiler's front end: a second or two
    pipe.send(("ready", None))
    while (task := tasks.get()) is not None:
        try:
            pipe.send(("ended", _work(pipe, problem, stopping, checkpoint_seconds, *task)))
        except MemoryError:
            os._exit(1)  # begun anew when others may have ended
        except Exception as error:
            pipe.send(("failed", (pickled(error), traceback.format_exc())))


def _listen(pipe: Connection, tasks: queue.SimpleQueue[Any], stopping: threading.Event) -> None:
    """Hear what the parent says while the worker works."""
    while True:
        try:
            said = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        if said == "stop":
            stopping.set()
        else:
            stopping.clear()
            tasks.put(said)


def _work(
    pipe: Connection,
    problem: Problem,
    stopping: threading.Event,
    checkpoint_seconds: float,
    shard: Shard,
    plan: Plan,
    folder: Path,
) -> bool:
    done, told = 0, 0.0

    def progress(copy_steps: int) -> None:
        nonlocal done, told
        done += copy_steps
        if told == 0 or time.monotonic() - told > PROGRESS_SECONDS:
            pipe.send(("begun" if told == 0 else "done", done))
            told = time.monotonic()

    ended = run_shard(
        shard,
        problem,
        plan,
        folder,
        progress=progress,
        stop=stopping.is_set,
        checkpoint_seconds=checkpoint_seconds,
    )
    pipe.send(("done", done))
    return ended


def pickled(error: Exception) -> bytes:
    """An error as bytes; empty if it is of a class that cannot be sent."""
    try:
        return pickle.dumps(error)
    except Exception:
        return b""
