"""Map the spectrum of regime 1: train a grid of small ELRs, measure at matched loss and at the end, compare minima.

round "spectrum"   every effective learning rate x every seed on the sphere
matched            the same shards once more, to keep the weights where the loss first reached the target
measured           gradient norm, sharpness, losses, errors, angle from init at both places; angles and barriers
                   between the minima of a seed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.regimes.classify import Cell
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.experiments.spectrum.matched import Match, candidates, lowest_common, matched_weights
from onsphere.lab.experiments.spectrum.measure import TrainLoss, measure_pair, measure_point
from onsphere.lab.experiments.spectrum.result import Pair, Point, SpectrumResult, SpectrumRun
from onsphere.lab.experiments.spectrum.spec import SpectrumSpec
from onsphere.lab.old_result import conclude, elapsed
from onsphere.lab.population import Copy, Plan, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_json, write_json
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

COMMAND, ROUND = "landscape spectrum", "spectrum"
Key = tuple[float, int]  # ELR, seed


def map_spectrum(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> SpectrumResult:
    """Compare the minima of different effective learning rates: sharpness, test loss, distance, barriers.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/landscape-spectrum-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.spectrum.spec.SpectrumSpec`. With an own callable the
            default of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_spectrum` continues the run.

    Source: Kodryan et al., NeurIPS 2022, section 5.1 (regime 1: sharpness, angles and paths between minima).
    """
    spec = validated(SpectrumSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), COMMAND, spec.model_dump(mode="json"))
    return work.do(run)


def resume_spectrum(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> SpectrumResult:
    """Continue an interrupted run to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`map_spectrum`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return SpectrumResult.load(run)
    spec = spec_of_run(SpectrumSpec, run, model, data, "resume_spectrum")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self, spec: SpectrumSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data, widths=spec.widths_used)
        self.problem = prepared(problem, progress)

    def do(self, run: Run) -> SpectrumResult:
        spec = self.spec
        self.progress.folder(run.folder)
        # by ELR first: copies of a shard then reach the target at about the same time
        copies = [Copy(seed, elr) for elr in spec.elr for seed in range(spec.seeds)]
        with run.lock(), one_thread():
            with open_trainer(self.problem, run, spec, len(copies), self.progress, self.stop) as trainer:
                for _ in trainer.round(ROUND, copies, "grid"):
                    pass
                shards = [ShardFolder(run.shards / shard.name) for shard in trainer.shards(ROUND, copies)]
                engine = trainer.engine
            cells, losses = _read(shards)
            target = spec.target if spec.target is not None else lowest_common(losses, cells, spec.window)
            matched: dict[Key, Match] = {}
            if target is not None:
                looks = {key: candidates(loss, spec.window, target) for key, loss in losses.items()}
                again = (self.problem, Plan(**engine["plan"]), shards, looks, target)
                reached = TrainLoss(self.problem, spec.gradients)
                matched = matched_weights(*again, reached, self.progress, self.stop)
            runs, pairs = self._measure(run, shards, cells, matched)
            return self._conclude(run, target, runs, pairs, engine)

    def _measure(
        self,
        run: Run,
        shards: list[ShardFolder],
        cells: list[Cell],
        matched: Mapping[Key, Match],
    ) -> tuple[list[SpectrumRun], list[Pair]]:
        spec, problem = self.spec, self.problem
        finals = {
            (copy.lr, copy.seed): {name: weights[name][k] for name in problem.trained}
            for shard in shards
            for weights in [shard.weights()]
            for k, copy in enumerate(shard.copies())
        }
        alive = {(cell.elr, cell.seed) for cell in cells if cell.finite}
        pairs = [(low, high, s) for s in range(spec.seeds) for low, high in combinations(spec.elr, 2)]
        pairs = [(low, high, s) for low, high, s in pairs if {(low, s), (high, s)} <= alive]
        self.progress.begin("measuring", len(matched) + len(alive) + len(pairs))
        kept = _Kept(run.folder / "measurements.json", self.progress, self.stop)

        def point(where: str, key: Key, weights: Mapping[str, Tensor], step: int) -> Point:
            values = kept(
                f"{where}/{key[0]!r}/{key[1]}",
                lambda: measure_point(problem, weights, key[1], step, gradients=spec.gradients, examples=spec.examples),
            )
            return Point(**values)

        def pair(low: float, high: float, seed: int) -> Pair:
            values = kept(
                f"pair/{low!r}/{high!r}/{seed}",
                lambda: measure_pair(
                    problem,
                    finals[low, seed],
                    finals[high, seed],
                    seed,
                    (low, high),
                    examples=spec.examples,
                    points=spec.points,
                ),
            )
            return Pair(**values)

        runs = []
        with one_thread():
            for cell in cells:
                key = (cell.elr, cell.seed)
                match = matched.get(key)
                at_target = None if match is None else point("matched", key, match.weights, match.step)
                end = point("end", key, finals[key], spec.steps) if key in alive else None
                runs.append(SpectrumRun(*key, cell.regime, cell.finite, at_target, end))
            return runs, [pair(*one) for one in pairs]

    def _conclude(
        self, run: Run, target: float | None, runs: list[SpectrumRun], pairs: list[Pair], engine: dict[str, Any]
    ) -> SpectrumResult:
        from onsphere.lab.experiments.spectrum.page import write_page

        result = SpectrumResult(
            run=run.folder,
            report=run.folder / "report.html",
            target=target,
            runs=runs,
            pairs=pairs,
            spec=self.spec.model_dump(mode="json"),
            engine=engine_summary(engine),
            seconds=elapsed(self.started),
            cpu_seconds=cpu_seconds(run),
        )
        return conclude(run, result, write_page)


class _Kept:
    """Measurements by name, each made once and found again on disk after an interruption."""

    def __init__(self, path: Path, progress: Progress, stop: Callable[[], bool]) -> None:
        self.path, self.progress, self.stop = path, progress, stop
        self.values: dict[str, Any] = read_json(path) if path.exists() else {}

    def __call__(self, name: str, measure: Callable[[], Point | Pair]) -> dict[str, Any]:
        if name not in self.values:
            if self.stop():
                raise Interrupted
            self.values[name] = asdict(measure())
            write_json(self.path, self.values)
        self.progress.advance(1)
        values: dict[str, Any] = self.values[name]
        return values


def _read(shards: list[ShardFolder]) -> tuple[list[Cell], dict[Key, NDArray[np.float64]]]:
    """The labelled runs, by ELR and seed, and their minibatch losses [T]."""
    cells: list[Cell] = []
    losses: dict[Key, NDArray[np.float64]] = {}
    for shard in shards:
        cells += read_cells(shard, 0)
        loss = shard.readings().loss
        losses |= {(copy.lr, copy.seed): loss[:, k] for k, copy in enumerate(shard.copies())}
    return sorted(cells, key=lambda cell: (cell.elr, cell.seed)), losses


__all__ = ["Interrupted", "map_spectrum", "resume_spectrum"]
