"""Shards as tasks of Ray: one task a shard, the problem once in the object store, one actor for progress and stop.

A task that is lost with its node is given out again by :func:`~onsphere.lab.executors.driving.drive`, and goes on from
the shard's own checkpoint; Ray's own retries are switched off, since they would count deaths that made progress. When
the driver is lost Ray ends its tasks, and ``onsphere resume`` is the answer.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onsphere.lab.executors.driving import Outcome, drive
from onsphere.lab.executors.probe import check, check_done, make_look, probing
from onsphere.lab.executors.remote import Word, train
from onsphere.lab.options import InputError
from onsphere.lab.placement import RayCluster
from onsphere.lab.population import Plan, Problem, Shard

__all__ = ["OnRay", "on_ray"]

#: Seconds from one word of a task to the next, from one look at the actor to the next, for a node to answer a probe,
#: and for tasks to come to their checkpoints when the run ends.
TELL_SECONDS, HEAR_SECONDS, PROBE_SECONDS, LEAVE_SECONDS = 0.5, 0.2, 300.0, 60.0
#: Tasks asked about in one call; a call costs by their number.
ASKED = 100


@contextmanager
def on_ray(
    problem: Problem, folder: Path, place: RayCluster, stop: Callable[[], bool], checkpoint_seconds: float
) -> Iterator[OnRay]:
    """An executor on a cluster: the one that was named, that ``RAY_ADDRESS`` names, that is there, or one started now.

    Raises:
        InputError: There is no such cluster, none of its nodes is large enough, or a node does not share the folder or
            the version of the package.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        _connect(place)
    try:
        nodes = _nodes(place)
        _probe(folder, nodes)
        pool = OnRay(problem, folder.absolute(), place, stop, checkpoint_seconds)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        if not connected:
            ray.shutdown()


class OnRay:
    """Runs shards as tasks of the cluster that this process is connected to.

    Args:
        problem: Put into the object store once.
        folder: The folder of the shards, which all nodes share.
        place: What a task reserves.
        stop: Asked now and then; True stops all tasks at a checkpoint.
        checkpoint_seconds: Seconds from one checkpoint to the next.
    """

    def __init__(
        self, problem: Problem, folder: Path, place: RayCluster, stop: Callable[[], bool], checkpoint_seconds: float
    ) -> None:
        import ray

        self.ray, self.folder, self._stop, self.checkpoint_seconds = ray, folder, stop, checkpoint_seconds
        self._problem, self._token, self._round = ray.put(problem), uuid.uuid4().hex, 0
        self._names: dict[Any, str] = {}
        self._heard = 0.0
        options = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus, "max_retries": 0}
        self._task = ray.remote(_train).options(**options)
        here = _on(ray.get_runtime_context().get_node_id(), soft=True)
        desk: Any = ray.remote(_Desk)
        self._desk = desk.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def run(self, shards: Sequence[Shard], plan: Plan, progress: Callable[[int], None]) -> Iterator[str]:
        """Run shards as :class:`onsphere.lab.execution.Executor` says.

        Raises:
            Interrupted: ``stop`` said so.
            WorkerDied: A shard was lost again and again, and all others have ended.
        """
        self._round += 1
        self._names.clear()
        yield from drive(self, shards, plan, self._stop, progress)

    def submit(self, shards: Sequence[Shard], plan: Plan) -> None:
        """Give out shards."""
        for shard in shards:
            where = self.folder / shard.name
            task = self._task.remote(
                self._token, [self._problem], shard, plan, where, self.checkpoint_seconds, self._desk, self._round
            )
            self._names[task] = shard.name

    def outcomes(self) -> Iterable[Outcome]:
        """The tasks that have come to an end; waits a fifth of a second if there are none."""
        asked = list(self._names)
        many = min(len(asked), ASKED)
        ended, _ = self.ray.wait(asked, num_returns=1, timeout=HEAR_SECONDS, fetch_local=False)
        if ended and many > 1:  # the others that have ended by now
            ended, _ = self.ray.wait(asked, num_returns=many, timeout=0, fetch_local=False)
        for task in ended:
            yield self._outcome(self._names.pop(task), task)

    def _outcome(self, name: str, task: Any) -> Outcome:
        errors = self.ray.exceptions
        try:
            word: Word = self.ray.get(task)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:  # beside the training: in the task's start
            return Outcome(name, "failed", RuntimeError(str(error).strip().splitlines()[-1]))
        except errors.RayError:
            return Outcome(name, "lost")
        if word.kind == "ended":
            check_done(self.folder / name, word.node)
        return word.outcome(name)

    def steps(self) -> Iterable[tuple[str, int, bool]]:
        """What the tasks have told the actor."""
        if time.monotonic() - self._heard < HEAR_SECONDS:
            return []
        self._heard = time.monotonic()
        try:
            news: list[tuple[str, int, bool]] = self.ray.get(self._desk.hear.remote(self._round), timeout=5)
        except self.ray.exceptions.RayError:  # it is started anew
            return []
        return news

    def stop(self) -> None:
        """Ask the tasks of this round to end at their checkpoints."""
        self._desk.stop.remote(self._round)

    def close(self) -> None:
        """End the tasks at their checkpoints."""
        if self._names:
            self.stop()
            self.ray.wait(list(self._names), num_returns=len(self._names), timeout=LEAVE_SECONDS, fetch_local=False)
        self.ray.kill(self._desk)


class _Desk:
    """The actor: tasks tell it how far they are, and hear whether to stop; the driver asks it for news."""

    def __init__(self) -> None:
        self.news: dict[tuple[int, str, bool], int] = {}
        self.stopped = 0

    def tell(self, number: int, name: str, done: int, first: bool) -> bool:
        self.news[number, name, first] = done
        return number <= self.stopped

    def hear(self, number: int) -> list[tuple[str, int, bool]]:
        news, self.news = self.news, {}
        return [(name, done, first) for (heard, name, first), done in news.items() if heard == number]

    def stop(self, number: int) -> None:
        self.stopped = max(self.stopped, number)


_TAKEN: dict[str, Problem] = {}  # in a process of Ray: the problem it took last


def _train(
    token: str,
    problem: list[Any],
    shard: Shard,
    plan: Plan,
    folder: Path,
    checkpoint_seconds: float,
    desk: Any,
    number: int,
) -> Word:
    """Train a shard as a task of Ray."""
    import ray

    def taken() -> Problem:
        if token not in _TAKEN:
            _TAKEN.clear()
            _TAKEN[token] = ray.get(problem[0])
        return _TAKEN[token]

    def tell(done: int, first: bool) -> bool:
        return bool(ray.get(desk.tell.remote(number, shard.name, done, first), timeout=10))

    node = ray.get_runtime_context().get_node_id()[:12]
    return train(
        shard,
        taken,
        plan,
        folder,
        node=node,
        checkpoint_seconds=checkpoint_seconds,
        tell=tell,
        seconds=TELL_SECONDS,
    )


def _connect(place: RayCluster) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or every task without a card warns
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with _signals_kept():
            if place.address is None and "RAY_ADDRESS" not in os.environ:
                with suppress(ConnectionError):
                    ray.init(address="auto", **options)
                    return
                ray.init(address="local", include_dashboard=False, **options)
            else:
                ray.init(address=place.address, **options)
    except Exception as error:
        where = place.address or os.environ.get("RAY_ADDRESS", "this machine")
        reason = str(error).strip().splitlines()
        raise InputError(
            f"--executor: no Ray cluster answers at {where} ({reason[0] if reason else type(error).__name__}); start "
            "one with `ray start --head`, or leave the address out for one on this machine"
        ) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """What Ray does to the handlers of signals is undone: Ctrl-C and SIGTERM are the driver's own."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError, TypeError):  # not in the main thread, or not set from Python
                signal.signal(number, handler)


def _nodes(place: RayCluster) -> dict[str, str]:
    """The nodes that can run a shard: what each is called by its identity."""
    import ray

    cluster: Any = ray  # this function of it has no types
    alive = [node for node in cluster.nodes() if node["Alive"]]
    wanted = {"CPU": place.num_cpus, "GPU": place.num_gpus}
    fit = [node for node in alive if all(node["Resources"].get(name, 0) >= much for name, much in wanted.items())]
    if not fit:
        raise InputError(
            f"--executor: none of the {len(alive)} nodes of the Ray cluster has {place.num_cpus:g} cores and "
            f"{place.num_gpus:g} accelerators for a shard; ask for less with ray:num_cpus=...,num_gpus=..."
        )
    return {node["NodeID"]: f"{node['NodeID'][:12]} at {node['NodeManagerAddress']}" for node in fit}


def _probe(folder: Path, nodes: dict[str, str]) -> None:
    import ray

    with probing(folder) as probe:
        look = ray.remote(make_look())
        asked = {
            look.options(num_cpus=0, scheduling_strategy=_on(identity, soft=False)).remote(
                str(probe.file("driver")), probe.token, str(probe.file(identity)), identity
            ): identity
            for identity in nodes
        }
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
        for task in silent:
            raise InputError(
                f"--executor: node {nodes[asked[task]]} did not answer within {PROBE_SECONDS:g} seconds; take it out "
                "of the cluster, or free it"
            )
        reports = []
        for task in answered:
            try:
                reports.append(ray.get(task))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(f"--executor: node {nodes[asked[task]]} cannot run a task ({reason})") from error
        check(probe, reports, names=nodes)


def _on(identity: str, *, soft: bool) -> Any:
    """The strategy that puts a task on a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(identity, soft=soft)
