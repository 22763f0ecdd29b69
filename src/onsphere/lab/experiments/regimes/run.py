"""Map the three regimes: train a grid of effective learning rates, label each run, bisect the boundaries.

round 0      every effective learning rate of the grid x every seed
round 1 ...  for each seed, the geometric middle of each gap in which the label changes, until the gap is within
             ``refine_factor`` or ``refine`` rounds are done
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.regimes.boundaries import VERBS, find_boundaries, next_cells
from onsphere.lab.experiments.regimes.classify import Cell, summarise
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.spec import RegimesSpec
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.population import Copy, ShardFolder
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


def map_regimes(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> RegimesResult:
    """Find where convergence ends and where divergence begins, in effective learning rates.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/regimes-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.regimes.spec.RegimesSpec`. Own arrays are taken as
            they are: all of them, no label noise, not standardised, unless asked. With an own callable the default
            of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_regimes` continues the run.

    Source: Kodryan et al. 2022, sections 4 and 5; labels as in :mod:`onsphere.lab.experiments.regimes.classify`.
    """
    spec = validated(RegimesSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "regimes", spec.model_dump(mode="json"))
    return work.do(run)


def resume_regimes(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> RegimesResult:
    """Continue an interrupted map to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`map_regimes`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return RegimesResult.load(run)
    spec = spec_of_run(RegimesSpec, run, model, data, "resume_regimes")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: RegimesSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data)
        self.problem = prepared(problem, progress)

    def do(self, run: Run) -> RegimesResult:
        self.progress.folder(run.folder)
        spec = self.spec
        with run.lock(), one_thread():
            cells: list[Cell] = []
            first = spec.elrs * spec.seeds
            with open_trainer(self.problem, run, spec, first, self.progress, self.stop) as trainer:
                wanted = [(elr, seed) for seed in range(spec.seeds) for elr in spec.grid()]
                for number in range(spec.refine + 1):
                    cells += self._round(trainer, number, wanted, cells)
                    wanted = next_cells(cells, spec.refine_factor)
                    if not wanted:
                        break
            return self._conclude(run, sorted(cells, key=lambda c: (c.elr, c.seed)), trainer.engine)

    def _round(self, trainer: Trainer, number: int, wanted: list[tuple[float, int]], before: list[Cell]) -> list[Cell]:
        title = "grid" if number == 0 else f"round {number} of at most {self.spec.refine}: {len(wanted)} runs"
        copies = [Copy(seed=seed, lr=elr) for elr, seed in wanted]
        cells: dict[str, list[Cell]] = {}
        for shard in trainer.round(f"round{number}", copies, title):
            cells[shard.folder.name] = read_cells(shard, number)
            known = before + [cell for part in cells.values() for cell in part]
            self.progress.finding(describe_boundaries(known))
        return [cell for name in sorted(cells) for cell in cells[name]]

    def _conclude(self, run: Run, cells: list[Cell], engine: dict[str, Any]) -> RegimesResult:
        from onsphere.lab.experiments.regimes.page import write_page

        result = RegimesResult(
            run=run.folder,
            report=run.folder / "report.html",
            boundaries=find_boundaries(cells),
            cells=cells,
            spec=self.spec.model_dump(mode="json"),
            engine=engine_summary(engine),
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
            radius=self.problem.radius,
        )
        return conclude(run, result, write_page)


def describe_boundaries(cells: list[Cell]) -> str:
    """The boundaries so far in one line."""
    parts = []
    for name, b in find_boundaries(cells).items():
        verb = VERBS[name]
        ends = ["?" if end is None else f"{end:.2g}" for end in (b.low, b.high)]
        parts.append(f"{verb}: {ends[0]} to {ends[1]}" if b.low or b.high else f"{verb}: not seen yet")
    return "; ".join(parts)


def read_cells(shard: ShardFolder, round_number: int) -> list[Cell]:
    """The cells of an ended shard."""
    copies = shard.copies()
    elrs, seeds = np.array([c.lr for c in copies]), np.array([c.seed for c in copies])
    return summarise(shard.readings(), shard.evaluations(), elrs, seeds, round_number)


__all__ = ["Interrupted", "map_regimes", "resume_regimes"]
