"""Study the periods: train the population, measure every run, follow up on the sphere and at the periods' minima.

round "space"   every learning rate x weight decay x seed in the whole space
round "sphere"  on request, the same network at fixed ELRs around those measured
minima          on request, the same shards once more, to keep the weights at the loss minimum of each period
sharpness       on request, once more up to the first jumps, to measure the sharpness before them
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.periods.analyse import PeriodsRun, analyse, courses
from onsphere.lab.experiments.periods.minima import find_minima
from onsphere.lab.experiments.periods.result import Minima, PeriodsResult, Sharpness, describe
from onsphere.lab.experiments.periods.setups import prepare, set_up
from onsphere.lab.experiments.periods.sharpness import measure_sharpness
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.experiments.periods.sphere import SphereSide, compare, sphere_side
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.population import Copy, Plan, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.threads import one_thread
from onsphere.lab.training import (
    Data,
    Model,
    cpu_seconds,
    fields_of_call,
    open_trainer,
    prepared,
    problem_of,
    spec_of_run,
    validated,
)

ROUND = "space"


def train_periods(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> PeriodsResult:
    """Train with weight decay in the whole space and measure jumps, periods and the equilibrium.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new module.
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/periods-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.periods.spec.PeriodsSpec`.
            With an own callable the default of
            ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_periods` continues the run.

    Source: Lobacheva, Kodryan et al., NeurIPS 2021.

    Example:
        >>> from onsphere.lab import train_periods
        >>> train_periods(lr=1.0, weight_decay=3e-3, train=512, batch_size="full")  # doctest: +SKIP
    """
    fields = {n: [v] if n in ("lr", "weight_decay") and isinstance(v, int | float) else v for n, v in fields.items()}
    spec = validated(PeriodsSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "periods", spec.model_dump(mode="json"))
    return work.do(run)


def resume_periods(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PeriodsResult:
    """Continue an interrupted study to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`train_periods`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return PeriodsResult.load(run)
    spec = spec_of_run(PeriodsSpec, run, model, data, "resume_periods")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: PeriodsSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        space = {"geometry": "space", "radius": None, "schedule": spec.schedule, "augment": spec.augment}
        problem = problem_of(spec, model, data, widths=spec.widths_used, eps=spec.eps, **space)
        self.invariant: tuple[str, ...] = ()
        self.problem = prepared(set_up(problem, spec.setup), progress, self._prepare)

    def _prepare(self, problem: Problem) -> tuple[Problem, list[str]]:
        ready, self.invariant, notes = prepare(problem, self.spec.setup)
        return ready, notes

    def do(self, run: Run) -> PeriodsResult:
        spec = self.spec
        self.progress.folder(run.folder)
        copies = [
            Copy(seed, lr, decay, spec.momentum_used) for lr, decay in spec.settings() for seed in range(spec.seeds)
        ]
        with run.lock(), one_thread():
            with open_trainer(self.problem, run, spec, len(copies), self.progress, self.stop) as trainer:
                runs: list[PeriodsRun] = []
                for shard in trainer.round(ROUND, copies, "whole space"):
                    runs += read_runs(shard, self.invariant, spec.burn_in, self.problem.lr_factors(0, spec.steps))
                    self.progress.finding(describe(self._sorted(runs)))
                shards = trainer.shards(ROUND, copies)
                engine = trainer.engine
            runs = self._sorted(runs)
            side = SphereSide([], [])
            if spec.compare_sphere:
                side = self._sphere(run, runs)
            folders = [ShardFolder(run.shards / shard.name) for shard in shards]
            again = (self.problem, Plan(**engine["plan"]), folders, self.invariant, runs, self.progress, self.stop)
            minima = find_minima(*again) if spec.minima else []
            sharpness = measure_sharpness(*again) if spec.sharpness else []
            return self._conclude(run, runs, side, minima, sharpness, engine)

    def _sorted(self, runs: list[PeriodsRun]) -> list[PeriodsRun]:
        order = self.spec.settings()
        return sorted(runs, key=lambda r: (order.index((r.lr, r.weight_decay)), r.seed))

    def _sphere(self, run: Run, runs: list[PeriodsRun]) -> SphereSide:
        problem, wanted = sphere_side(self.problem, runs)
        if not wanted:
            return SphereSide([], [])
        copies = [Copy(seed, elr) for _, _, elr, seed in wanted]
        with open_trainer(problem, run, self.spec, len(copies), self.progress, self.stop) as trainer:
            shards = list(trainer.round("sphere", copies, "sphere"))
        return compare(runs, wanted, shards, self.spec.burn_in)

    def _conclude(
        self,
        run: Run,
        runs: list[PeriodsRun],
        side: SphereSide,
        minima: list[Minima],
        sharpness: list[Sharpness],
        engine: dict[str, Any],
    ) -> PeriodsResult:
        from onsphere.lab.experiments.periods.page import write_page

        result = PeriodsResult(
            run=run.folder,
            report=run.folder / "report.html",
            runs=runs,
            comparison=side.comparison,
            sphere=side.runs,
            minima=minima,
            sharpness=sharpness,
            spec=self.spec.model_dump(mode="json"),
            engine=engine_summary(engine) | {"invariant": list(self.invariant)},
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
        )
        return conclude(run, result, write_page)


def read_runs(
    shard: ShardFolder,
    invariant: tuple[str, ...] | None,
    burn_in: int = 100,
    factors: NDArray[np.float64] | None = None,
) -> list[PeriodsRun]:
    """The runs of an ended shard in numbers; ``factors`` [T] are those of a schedule."""
    _, evaluations = shard.evaluations()
    found = courses(shard.readings(), shard.copies(), invariant, factors)
    return [analyse(course, evaluations[-1, k], burn_in=burn_in) for k, course in enumerate(found)]


__all__ = ["Interrupted", "read_runs", "resume_periods", "train_periods"]
