"""Compare schedules: find the boundaries, propose, train the proposal and its rivals, tune, judge.

rounds "map0" ...   a quick map, when neither a map nor numbers are given
round "sphere"      the proposal, constant ELRs and cosines from several peaks, every seed
round "space"       the same weights in the whole space: lr and weight decay, constant and cosine
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.schedule.maps import boundaries_of, propose, quick_map, with_map
from onsphere.lab.experiments.schedule.methods import Setting, copies_of, settings_of
from onsphere.lab.experiments.schedule.result import Method, ScheduleResult, choose, verdict
from onsphere.lab.experiments.schedule.spec import ScheduleSpec
from onsphere.lab.experiments.schedule.validation import validation_errors, validation_set
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.options import InputError
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_json, write_json
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
from onsphere.optim import ProposedElrs

ROUNDS = ("sphere", "space")


def compare_schedules(
    model: Model | None = None,
    data: Data | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> ScheduleResult:
    """Train the schedule that a regime map proposes, and its tuned rivals, at equal steps.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new module;
            made fully scale-invariant if it is not. Default: that of the map, else ``mlp``.
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N]. Default: that of the map, else ``digits``.
        out: Folder of the run; must be new or empty. Default: ``runs/schedule-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.schedule.spec.ScheduleSpec`;
            ``map`` may be the result of
            :func:`onsphere.lab.map_regimes` too. With an own callable the default of ``workers`` is 1; with more it
            must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the map, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_schedules` continues the run.

    Source: Kodryan et al. 2022 (starting ELRs); the comparison is ours.

    Example:
        >>> from onsphere.lab import compare_schedules
        >>> compare_schedules(convergence=8e-3, seeds=3)  # doctest: +SKIP
    """
    given = dict(fields)
    if getattr(given.get("map"), "run", None) is not None:
        given["map"] = str(given["map"].run)
    named = {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    given = with_map(given | named)
    used_model, used_data = given.pop("model", "mlp"), given.pop("data", "digits")
    spec = validated(ScheduleSpec, fields_of_call(used_model, used_data, given))
    work = _Work(spec, used_model, used_data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "schedule", spec.model_dump(mode="json"))
    return work.do(run)


def resume_schedules(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ScheduleResult:
    """Continue an interrupted comparison to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`compare_schedules`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return ScheduleResult.load(run)
    spec = spec_of_run(ScheduleSpec, run, model, data, "resume_schedules")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: ScheduleSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data)
        self.sphere = prepared(problem, progress)
        self.space = replace(self.sphere, geometry="space", radius=None)
        self.validation = validation_set(spec, data)
        if self.validation is None:
            progress.note("no images are left over for validation: methods are tuned on the test set")

    def do(self, run: Run) -> ScheduleResult:
        self.progress.folder(run.folder)
        spec = self.spec
        with run.lock(), one_thread():
            copies = spec.seeds * (1 + len(spec.constant) + len(spec.peaks))
            with open_trainer(self.sphere, run, spec, copies, self.progress, self.stop) as trainer:
                boundaries, proposed = self._boundaries(run, trainer)
                self.progress.finding(describe(proposed))
                settings = settings_of(spec, proposed)
                on_sphere = [setting for setting in settings if setting.on_sphere]
                in_space = [setting for setting in settings if not setting.on_sphere]
                methods = self._round(trainer, "sphere", on_sphere, self.sphere)
                engine = trainer.engine
            with open_trainer(self.space, run, spec, len(in_space), self.progress, self.stop) as trainer:
                methods += self._round(trainer, "space", in_space, self.space)
            return self._conclude(run, methods, boundaries, proposed, engine)

    def _boundaries(self, run: Run, trainer: Trainer) -> tuple[dict[str, Any], ProposedElrs]:
        """The boundaries as they are used, and the proposal."""
        spec = self.spec
        if spec.convergence is not None:
            proposed = replace(propose(spec, spec.convergence, spec.divergence), basis=spec.basis)
            return {"convergence": list(proposed.bracket), "divergence": spec.divergence}, proposed
        path = run.folder / "map.json"
        found = read_json(path) if path.exists() else quick_map(spec, trainer)
        if not path.exists():
            write_json(path, found)
        try:
            read = boundaries_of(found, "the quick map")
        except InputError as error:
            raise InputError(str(error).replace("--map: ", "", 1)) from None
        divergence = spec.divergence if spec.divergence is not None else read.get("divergence")
        proposed = replace(propose(spec, read["convergence"], divergence), basis=read["basis"])
        return {"convergence": list(proposed.bracket), "divergence": divergence}, proposed

    def _round(self, trainer: Trainer, name: str, settings: Sequence[Setting], problem: Problem) -> list[Method]:
        copies = copies_of(settings, self.spec.seeds)
        place = "on the sphere" if name == "sphere" else "in the whole space"
        for _ in trainer.round(name, copies, f"{len(settings)} methods {place}"):
            pass
        shards = [ShardFolder(trainer.folder / shard.name) for shard in trainer.shards(name, copies)]
        final = np.concatenate([shard.evaluations()[1][-1] for shard in shards])
        alive = np.concatenate([shard.weights()["alive"].numpy() for shard in shards])
        final = np.where(alive[:, None], final, np.nan).reshape(len(settings), self.spec.seeds, -1)
        checked = None
        if self.validation is not None:
            errors = np.where(alive, validation_errors(shards, problem, self.validation), np.nan)
            checked = errors.reshape(len(settings), self.spec.seeds)
        return [
            _method(setting, final[i], None if checked is None else checked[i]) for i, setting in enumerate(settings)
        ]

    def _conclude(
        self,
        run: Run,
        methods: list[Method],
        boundaries: dict[str, Any],
        proposed: ProposedElrs,
        engine: dict[str, Any],
    ) -> ScheduleResult:
        from onsphere.lab.experiments.schedule.page import write_page

        chosen, tuned_on = choose(methods)
        spec = self.spec
        result = ScheduleResult(
            run=run.folder,
            report=run.folder / "report.html",
            proposal={
                "start_elr": proposed.start,
                "end_elr": proposed.end,
                "threshold": proposed.threshold,
                "hold": spec.hold,
                "tail": spec.tail,
                "shape": spec.shape,
                "limited": proposed.limited,
                "basis": proposed.basis,
            },
            boundaries=boundaries,
            methods=chosen,
            tuned_on=tuned_on,
            verdict=verdict(chosen),
            spec=spec.model_dump(mode="json"),
            engine=engine_summary(engine),
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
        )
        return conclude(run, result, write_page)


def describe(proposed: ProposedElrs) -> str:
    """The proposal in one line."""
    return f"convergence ends at {proposed.threshold:.2g}; proposed: ELR {proposed.start:.2g} to {proposed.end:.2g}"


def _method(setting: Setting, final: NDArray[np.float64], checked: NDArray[np.float64] | None) -> Method:
    columns = [tuple(float(value) for value in column) for column in final.T]
    return Method(
        family=setting.family,
        lr=setting.lr,
        end_lr=setting.end_lr,
        weight_decay=setting.weight_decay,
        tuned=False,
        train_loss=columns[0],
        train_error=columns[1],
        test_loss=columns[2],
        test_error=columns[3],
        validation_error=() if checked is None else tuple(float(value) for value in checked),
    )


__all__ = ["Interrupted", "compare_schedules", "describe", "resume_schedules"]
