"""See the stationary state from inside: change the ELR, wait, compare; then look how far the runs have wandered.

round "stay"    every ELR x every seed, from start to end, weights kept at growing lags after the middle
round "change"  every ELR of the chaotic equilibrium into every other x every seed, changed in the middle
barriers        between the middle and later times of the runs that stay
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.stabilise.analyse import Course, courses, levels, memory_course, remaining
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.experiments.stabilise.spec import StabiliseSpec
from onsphere.lab.experiments.stabilise.wander import distances, measure_ways, stays, way_lags, with_snapshots
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.population import Copy, Phase, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain
from onsphere.lab.threads import one_thread
from onsphere.lab.training import (
    Data,
    Model,
    Trainer,
    cpu_seconds,
    fields_of_call,
    open_trainer,
    prepared,
    problem_of,
    spec_of_run,
    validated,
)

STAY, CHANGE = "stay", "change"


def stabilise(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> StabiliseResult:
    """Change the ELR inside the chaotic equilibrium and see what is remembered; see how far runs wander.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/landscape-stabilise-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.stabilise.spec.StabiliseSpec`. With an own callable the
            default of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_stabilise` continues the run.

    Source: Kodryan et al., NeurIPS 2022, sections 5 and 6.

    Example:
        >>> from onsphere.lab import stabilise
        >>> stabilise(elrs=[0.02, 0.05], seeds=3)  # doctest: +SKIP
    """
    spec = validated(StabiliseSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), StabiliseResult.command, spec.model_dump(mode="json"))
    return work.do(run)


def resume_stabilise(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StabiliseResult:
    """Continue an interrupted run to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`stabilise`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return StabiliseResult.load(run)
    spec = spec_of_run(StabiliseSpec, run, model, data, "resume_stabilise")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: StabiliseSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data)
        self.problem = prepared(problem, progress)

    def do(self, run: Run) -> StabiliseResult:
        spec, change = self.spec, self.spec.change_used
        self.progress.folder(run.folder)
        staying = [Copy(seed, elr) for elr in (*spec.elrs, *spec.divergence_elrs) for seed in range(spec.seeds)]
        changing = [
            Copy(seed, after, phases=(Phase(0, before), Phase(change, after)))
            for before, after in spec.changes()
            for seed in range(spec.seeds)
        ]
        lags = spec.lags()
        with run.lock(), one_thread():
            with open_trainer(
                with_snapshots(self.problem, change, lags), run, spec, len(staying), self.progress, self.stop
            ) as trainer:
                shards = _all(trainer, STAY, staying, "runs at one ELR")
                engine = trainer.engine
            runs = [course for shard in shards for course in courses(shard, change)]
            runs = [course for course in runs if course.after in spec.elrs]
            with open_trainer(self.problem, run, spec, len(staying), self.progress, self.stop) as trainer:
                for shard in trainer.round(CHANGE, changing, "changes of the ELR"):
                    runs += courses(shard, change)
            runs.sort(key=lambda course: (course.after, course.before, course.seed))
            far = [row for shard in shards for row in distances(shard, change, lags)]
            ways = measure_ways(
                self.problem,
                shards,
                change,
                way_lags(lags),
                spec.points,
                run.folder / "barriers",
                self.progress,
                self.stop,
            )
            rows: dict[str, list[Any]] = {"stays": stays(shards, change, far, ways), "distances": far, "ways": ways}
            return self._conclude(run, runs, rows, engine)

    def _conclude(
        self, run: Run, runs: list[Course], rows: dict[str, list[Any]], engine: dict[str, Any]
    ) -> StabiliseResult:
        from onsphere.lab.experiments.stabilise.page import write_page

        change = self.spec.change_used
        rows |= {"levels": levels(runs, change), "memory_course": memory_course(runs, change)}
        values: dict[str, Any] = {name: [asdict(row) for row in table] for name, table in rows.items()}
        values["memory"] = {name: asdict(value) for name, value in remaining(runs, change).items()}
        values |= {
            "spec": self.spec.model_dump(mode="json"),
            "engine": engine_summary(engine),
            "seconds": elapsed(self.started),
            "cpu_seconds": cpu_seconds(run),
        }
        result = StabiliseResult.of(run, plain(values))
        return conclude(run, result, write_page)


def _all(trainer: Trainer, name: str, copies: list[Copy], title: str) -> list[ShardFolder]:
    """The shards of a round, in the order of the copies."""
    return sorted(trainer.round(name, copies, title), key=lambda shard: shard.folder.name)


__all__ = ["Interrupted", "resume_stabilise", "stabilise"]
