"""The loop that drives shards through an engine of other machines, whichever it is.

    backend: submit shards, hear how they end, hear how far they are, ask them to stop
    drive:   give out, listen, give out again what was lost; yield the names of those that have ended

A shard whose machine was lost goes on from its checkpoint wherever it is given out next. One that is lost
:data:`~onsphere.lab.workers.DEATHS` times in a row without getting any further is given up, and the run fails once all
others have ended: the rule of the worker processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from onsphere.lab.population import Plan, Shard
from onsphere.lab.workers import DEATHS, Interrupted, WorkerDied

__all__ = ["WINDOW", "Backend", "Outcome", "drive"]

#: Shards given out and not ended, at most; beyond it an engine's own queue costs more than it gains.
WINDOW = 1000


@dataclass(frozen=True)
class Outcome:
    """How a shard ended.

    Attributes:
        name: Name of the shard.
        kind: ``ended``; ``stopped`` at its checkpoint; ``lost`` with its machine or process; ``failed``.
        error: What was raised there, if it failed; else None.
        done: The copy-steps done at its end, if that is known; else 0.
    """

    name: str
    kind: Literal["ended", "stopped", "lost", "failed"]
    error: Exception | None = None
    done: int = 0


class Backend(Protocol):
    """What an engine of other machines is asked for."""

    def submit(self, shards: Sequence[Shard], plan: Plan) -> None:
        """Give out shards; each of them will be heard of once by :meth:`outcomes`."""
        ...

    def outcomes(self) -> Iterable[Outcome]:
        """The shards that have come to an end since the last call; waits a moment if there are none."""
        ...

    def steps(self) -> Iterable[tuple[str, int, bool]]:
        """News of shards at work: the name, the copy-steps done, and whether that is how far it was when it began."""
        ...

    def stop(self) -> None:
        """Ask every shard to end at its checkpoint; asked again and again until all have."""
        ...


@dataclass
class _Known:
    """What is known of a shard: copy-steps done, those it began with, how often it was lost since it got further."""

    shard: Shard
    done: int = 0
    begun: int = 0
    deaths: int = 0


@dataclass
class _Round:
    unended: dict[str, _Known]
    waiting: deque[_Known] = field(default_factory=deque)
    out: int = 0
    lost: list[str] = field(default_factory=list)
    left: bool = False


def drive(
    backend: Backend,
    shards: Sequence[Shard],
    plan: Plan,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> Iterator[str]:
    """Run shards on an engine: yield each one's name when it has ended, tell ``progress`` the copy-steps done.

    Raises:
        Interrupted: ``stop`` said so, and all shards have ended or stand at a checkpoint.
        WorkerDied: Shards were lost again and again, and all others have ended.
        Exception: What a shard raised; the others were asked to stop.
    """
    known = {shard.name: _Known(shard) for shard in shards}
    state, stopping = _Round(known, deque(known.values())), False
    try:
        while state.unended:
            if not stopping and stop():
                stopping = True
                state.left |= bool(state.waiting)
                for one in state.waiting:
                    del state.unended[one.shard.name]
                state.waiting.clear()
            if stopping:
                backend.stop()
            _give_out(backend, state, plan)
            _hear_steps(backend, state, progress)
            yield from _hear_outcomes(backend, state, stopping, progress)
    finally:
        if state.unended:
            backend.stop()
    if state.left:
        raise Interrupted
    if state.lost:
        raise WorkerDied(
            f"the machine or process that trained {', '.join(state.lost)} was lost {DEATHS} times in a row, without "
            "getting any further; all other shards have ended"
        )


def _give_out(backend: Backend, state: _Round, plan: Plan) -> None:
    free = min(WINDOW - state.out, len(state.waiting))
    if free > 0:
        backend.submit([state.waiting.popleft().shard for _ in range(free)], plan)
        state.out += free


def _hear_steps(backend: Backend, state: _Round, progress: Callable[[int], None]) -> None:
    for name, done, begun in backend.steps():
        one = state.unended.get(name)
        if one is None:
            continue
        if begun and done > one.begun:
            one.begun, one.deaths = done, 0
        _advance(one, done, progress)


def _advance(one: _Known, done: int, progress: Callable[[int], None]) -> None:
    if done > one.done:
        progress(done - one.done)
        one.done = done


def _hear_outcomes(backend: Backend, state: _Round, stopping: bool, progress: Callable[[int], None]) -> Iterator[str]:
    for outcome in backend.outcomes():
        one = state.unended[outcome.name]
        _advance(one, outcome.done, progress)
        state.out -= 1
        if outcome.kind == "lost" and not stopping:
            one.deaths += 1
            if one.deaths < DEATHS:
                state.waiting.append(one)
                continue
            state.lost.append(outcome.name)
        del state.unended[outcome.name]
        if outcome.kind == "failed":
            raise outcome.error or RuntimeError(f"{outcome.name} failed without a word")
        if outcome.kind == "ended":
            yield outcome.name
        state.left |= outcome.kind == "stopped" or (outcome.kind == "lost" and stopping)
