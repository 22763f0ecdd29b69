"""What happens where a shard is trained, on whichever engine: run it, say how far it is, hear whether to stop."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onsphere.lab.executors.driving import Outcome
from onsphere.lab.population import Plan, Problem, Shard, run_shard
from onsphere.lab.threads import one_thread
from onsphere.lab.workers import error_from, pickled

__all__ = ["Word", "train"]


@dataclass(frozen=True)
class Word:
    """The last word about a shard, from where it was trained.

    Attributes:
        kind: ``ended``, ``stopped`` at its checkpoint, ``failed``, or ``lost`` for want of memory.
        done: How many copy-steps are done by then.
        node: The name of the machine that trained it.
        error: What was raised, as bytes.
        there: The traceback of the error, as text.
    """

    kind: Literal["ended", "stopped", "failed", "lost"]
    done: int
    node: str
    error: bytes = b""
    there: str = ""

    def outcome(self, name: str) -> Outcome:
        """The same for the loop that drives."""
        error = error_from(self.error, self.there) if self.kind == "failed" else None
        return Outcome(name, self.kind, error, self.done)


def train(
    shard: Shard,
    problem: Callable[[], Problem],
    plan: Plan,
    folder: Path,
    *,
    node: str,
    checkpoint_seconds: float,
    tell: Callable[[int, bool], bool],
    seconds: float,
) -> Word:
    """Train a shard to its end, on one thread, from its checkpoint if there is one.

    Args:
        shard: The copies that are trained together.
        problem: Gives the problem; asked once, unless the shard is to stop before it begins.
        plan: How it is executed.
        folder: The shard's own folder.
        node: What this machine is called.
        checkpoint_seconds: Seconds from one checkpoint to the next.
        tell: Told the copy-steps done, and whether they are those it begins with; says whether to stop. What it raises
            is passed over: whoever listens may be away for a moment.
        seconds: From one word to the next.
    """
    stopping, ended, done = threading.Event(), threading.Event(), list[int]()

    def ask(first: bool) -> None:
        with suppress(Exception):
            if tell(sum(done[:1]) if first else sum(done), first):
                stopping.set()

    def keep_asking() -> None:
        told = False
        while not ended.wait(seconds):
            ask(first=bool(done) and not told)
            told |= bool(done)

    ask(first=False)
    if stopping.is_set():
        return Word("stopped", 0, node)
    asking = threading.Thread(target=keep_asking, daemon=True)
    asking.start()
    try:
        with one_thread():
            whole = run_shard(
                shard,
                problem(),
                plan,
                folder,
                progress=_Counter(done).add,
                stop=stopping.is_set,
                checkpoint_seconds=checkpoint_seconds,
            )
    except MemoryError:
        return Word("lost", sum(done), node)
    except Exception as error:
        return Word("failed", sum(done), node, pickled(error), traceback.format_exc())
    finally:
        ended.set()
        asking.join()
    return Word("ended" if whole else "stopped", sum(done), node)


class _Counter:
    """Keeps what a shard begins with and what it has done since as the two entries of a list."""

    def __init__(self, done: list[int]) -> None:
        self.done = done

    def add(self, copy_steps: int) -> None:
        if len(self.done) < 2:
            self.done.append(copy_steps)
        else:
            self.done[1] += copy_steps
