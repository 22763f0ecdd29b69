"""Train at every starting ELR, go on at every final one, then measure averages and paths.

round "start"   every starting effective learning rate x seed, with snapshots at its end
round "drop"    from the end of each, at every final effective learning rate; the batch order goes on
measured/       averages, angles, paths and sharpness from the weights of both, one file a run of the first round
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.drop.analyse import threshold
from onsphere.lab.experiments.drop.measure import Measured, Origin, Place, What, measure
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.experiments.drop.rows import Continuation
from onsphere.lab.experiments.drop.spec import DropSpec
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, ShardFolder, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
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


def drop_elr(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> DropResult:
    """Train at one ELR, go on at a smaller one, and see from which starting ELR the best minima come.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/landscape-drop-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.drop.spec.DropSpec`. With an own callable the default
            of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_drop` continues the run.

    Source: Sadrtdinov, Kodryan et al., NeurIPS 2024; classes by the rule in :mod:`.analyse`.

    Example:
        >>> from onsphere.lab import drop_elr
        >>> drop_elr(data="fashion-mnist", pool=4, train=2000, label_noise=0)  # doctest: +SKIP
    """
    listed = ("starts", "ends")
    fields = {n: [v] if n in listed and isinstance(v, int | float) else v for n, v in fields.items()}
    spec = validated(DropSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "landscape drop", spec.model_dump(mode="json"))
    return work.do(run)


def resume_drop(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> DropResult:
    """Continue an interrupted experiment to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`drop_elr`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return DropResult.load(run)
    spec = spec_of_run(DropSpec, run, model, data, "resume_drop")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(self, spec: DropSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data)
        self.snapshots = spec.snapshots(len(problem.data.x_train))
        if spec.averaged and len(self.snapshots) < 2:
            raise InputError(
                f"--averaged: {spec.averaged} is not allowed: in {spec.steps} steps there are not two passes over "
                f"{len(problem.data.x_train)} images; give --every, a longer --steps, or 0 for no average"
            )
        self.problem = prepared(replace(problem, snapshots=self.snapshots), progress)
        self.copies = [Copy(seed=seed, lr=elr) for elr in spec.all_starts() for seed in range(spec.seeds)]

    def do(self, run: Run) -> DropResult:
        self.progress.folder(run.folder)
        with run.lock(), one_thread():
            before, cells, engine = self._start(run)
            after = self._drop(run, before)
            origins = self._origins(before, after)
            spec = self.spec
            what = What(self.snapshots, spec.barriers, spec.points, spec.examples, spec.sharpness)
            found = measure(self.problem, origins, what, run.folder / "measured", self.progress, self.stop)
            return self._conclude(run, cells, self._continuations(after, found), found, engine)

    def _start(self, run: Run) -> tuple[list[ShardFolder], list[Cell], dict[str, Any]]:
        """The first round: its shards, its cells and the engine."""
        with open_trainer(self.problem, run, self.spec, len(self.copies), self.progress, self.stop) as trainer:
            cells: list[Cell] = []
            for shard in trainer.round("start", self.copies, "before the drop"):
                cells += read_cells(shard, 0)
                self.progress.finding(describe_threshold(cells))
            return _folders(run, trainer, "start", self.copies), _sorted(cells), trainer.engine

    def _drop(self, run: Run, before: Sequence[ShardFolder]) -> list[ShardFolder]:
        """The second round: every run of the first goes on at every final effective learning rate."""
        path = (run.folder / "starts.safetensors").resolve()
        if not path.exists():
            stack_starts(path, [own for shard in before for own in _rows(shard, self.problem.trained)])
        spec = self.spec
        problem = replace(self.problem, steps=spec.drop_steps, snapshots=(), starts=path, offset=spec.steps)
        copies = [Copy(seed=c.seed, lr=end, start=row) for end in spec.ends for row, c in enumerate(self.copies)]
        with open_trainer(problem, run, spec, len(copies), self.progress, self.stop) as trainer:
            for _ in trainer.round("drop", copies, "after the drop"):
                pass
            return _folders(run, trainer, "drop", copies)

    def _origins(self, before: Sequence[ShardFolder], after: Sequence[ShardFolder]) -> list[Origin]:
        places = [Place(shard, row) for shard in before for row in range(len(shard.copies()))]
        continued: list[dict[float, Place]] = [{} for _ in places]
        for shard in after:
            for row, copy in enumerate(shard.copies()):
                continued[copy.start][copy.lr] = Place(shard, row)
        return [Origin(c.lr, c.seed, place, own) for c, place, own in zip(self.copies, places, continued, strict=True)]

    def _continuations(self, after: Sequence[ShardFolder], measured: Sequence[Measured]) -> list[Continuation]:
        rows = []
        for shard in after:
            readings, (_, evaluations) = shard.readings(), shard.evaluations()
            late = readings.effective_gradient_norm[-(len(readings.values) // 4) :]
            finite = np.isfinite(readings.values).all(axis=(0, 2))
            for k, copy in enumerate(shard.copies()):
                origin, found = self.copies[copy.start], measured[copy.start]
                angle = found.angles[copy.lr]
                rows.append(
                    Continuation(
                        start=origin.lr,
                        end=copy.lr,
                        seed=copy.seed,
                        **dict(zip(MEASURES, map(float, evaluations[-1, k]), strict=True)),
                        gradient_norm=float(late[:, k].mean()),
                        angle=float("nan") if angle is None else angle,
                        sharpness=found.sharpness[copy.lr],
                        finite=bool(finite[k]),
                    )
                )
        return sorted(rows, key=lambda row: (row.end, row.start, row.seed))

    def _conclude(
        self,
        run: Run,
        cells: list[Cell],
        continuations: list[Continuation],
        measured: Sequence[Measured],
        engine: dict[str, Any],
    ) -> DropResult:
        from onsphere.lab.experiments.drop.page import write_page

        result = DropResult(
            run=run.folder,
            report=run.folder / "report.html",
            cells=cells,
            continuations=continuations,
            averages=[one.average for one in measured if one.average is not None],
            paths=[path for one in measured for path in one.paths],
            spec=self.spec.model_dump(mode="json"),
            engine=engine_summary(engine),
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
            radius=self.problem.radius,
            snapshots=list(self.snapshots),
        )
        return conclude(run, result, write_page)


MEASURES = ("train_loss", "train_error", "test_loss", "test_error")


def describe_threshold(cells: Sequence[Cell]) -> str:
    """Where convergence ends, so far, in one line."""
    found = threshold(cells)
    ends = ["?" if end is None else f"{end:.2g}" for end in (found.low, found.high)]
    return f"convergence ends between ELR {ends[0]} and {ends[1]}"


def _folders(run: Run, trainer: Trainer, name: str, copies: Sequence[Copy]) -> list[ShardFolder]:
    return [ShardFolder(run.shards / shard.name) for shard in trainer.shards(name, copies)]


def _rows(shard: ShardFolder, names: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    weights = shard.weights()
    return [{name: weights[name][row] for name in names} for row in range(len(weights["alive"]))]


def _sorted(cells: list[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: (cell.elr, cell.seed))


__all__ = ["Interrupted", "drop_elr", "resume_drop"]
