"""Train the same network in three set-ups and set the ordinary runs against the sphere.

round "sphere"     scale-invariant weights on the sphere at fixed ELRs x seeds
round "invariant"  the same network in the whole space: learning rates x seeds, with weight decay
round "all"        an ordinary network: every parameter trained, affine norms and head, momentum, schedule
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.conventional.analyse import space_runs, sphere_runs
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun
from onsphere.lab.experiments.conventional.spec import ORDINARY_EPS, SETUPS, ConventionalSpec, Setup
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.periods.setups import ready
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.population import Copy, Problem
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

COMMAND = "landscape conventional"
TITLES = {"sphere": "sphere", "invariant": "whole space", "all": "ordinary network"}


def compare_conventional(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> ConventionalResult:
    """Set ordinary training against the sphere: its effective learning rate, its regime, its loss.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network of one's own is taken as it is in the set-up "all" and made scale-invariant in the
            others; reference networks get affine norms and a trained head in "all".
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/landscape-conventional-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.conventional.spec.ConventionalSpec`. With an own
            callable the default of ``workers`` is 1; with more it must be importable and the script guarded by
            ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_conventional` continues the run.

    Source: Kodryan et al., NeurIPS 2022, section 6 (conventional training).
    """
    fields = {n: [v] if n in ("lr", "elr") and isinstance(v, int | float) else v for n, v in fields.items()}
    spec = validated(ConventionalSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), COMMAND, spec.model_dump(mode="json"))
    return work.do(run)


def resume_conventional(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ConventionalResult:
    """Continue an interrupted run to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`compare_conventional`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return ConventionalResult.load(run)
    spec = spec_of_run(ConventionalSpec, run, model, data, "resume_conventional")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: ConventionalSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data, augment=spec.augment)
        self.invariant: dict[Setup, tuple[str, ...]] = {}
        self.problems: dict[Setup, Problem] = {}
        if {"sphere", "invariant"} & set(spec.setups):
            sphere = prepared(problem, progress)
            self.problems |= {"sphere": sphere, "invariant": replace(sphere, geometry="space", radius=None)}
            self.invariant |= dict.fromkeys(("sphere", "invariant"), sphere.trained)
        if "all" in spec.setups:
            ordinary = replace(
                problem,
                geometry="space",
                radius=None,
                schedule=spec.schedule,
                model_options=problem.model_options | {"eps": ORDINARY_EPS},
            )
            whole = ready(ordinary, "all-parameters", progress)
            self.problems["all"], self.invariant["all"] = whole.problem, whole.invariant

    def _copies(self, setup: Setup) -> list[Copy]:
        spec = self.spec
        decay = 0.0 if setup == "sphere" else spec.weight_decay
        momentum = spec.momentum if setup == "all" else 0.0
        return [Copy(seed, lr, decay, momentum) for lr in spec.rates(setup) for seed in range(spec.seeds)]

    def do(self, run: Run) -> ConventionalResult:
        self.progress.folder(run.folder)
        runs: list[ConventionalRun] = []
        sphere: SphereMap | None = None
        engine: dict[str, Any] = {}
        with run.lock(), one_thread():
            for setup in self.spec.setups:
                problem, copies = self.problems[setup], self._copies(setup)
                with open_trainer(problem, run, self.spec, len(copies), self.progress, self.stop) as trainer:
                    shards = sorted(trainer.round(setup, copies, TITLES[setup]), key=lambda s: s.folder.name)
                    engine = trainer.engine
                if setup == "sphere":
                    runs += sphere_runs([cell for shard in shards for cell in read_cells(shard, 0)])
                    sphere = SphereMap.of(runs)
                else:
                    for shard in shards:
                        runs += space_runs(problem, shard, setup, self.invariant[setup], sphere)
                self.progress.finding(describe(runs))
            runs.sort(key=lambda r: (SETUPS.index(r.setup), r.lr, r.seed))
            return self._conclude(run, runs, engine)

    def _conclude(self, run: Run, runs: list[ConventionalRun], engine: dict[str, Any]) -> ConventionalResult:
        from onsphere.lab.experiments.conventional.page import write_page

        result = ConventionalResult(
            run=run.folder,
            report=run.folder / "report.html",
            runs=runs,
            spec=self.spec.model_dump(mode="json"),
            engine=engine_summary(engine) | {"invariant": {name: list(v) for name, v in self.invariant.items()}},
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
        )
        return conclude(run, result, write_page)


def describe(runs: list[ConventionalRun]) -> str:
    """Labels so far in one line."""
    parts = []
    for setup in SETUPS:
        own = [run for run in runs if run.setup == setup]
        if own:
            counts = {name: sum(run.regime == name for run in own) for name in dict.fromkeys(r.regime for r in own)}
            parts.append(f"{setup}: " + ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()))
    return "; ".join(parts)


__all__ = ["Interrupted", "compare_conventional", "describe", "resume_conventional"]
