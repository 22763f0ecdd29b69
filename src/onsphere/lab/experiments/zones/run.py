"""Follow the sharpness along a path of training, branch off with other ELRs, see which come through.

round "path"        every ELR of --path-elrs x every seed, weights kept at growing distances
sharpness           of the paths, at those steps
round "continue"    from the checkpoints of the first ELR's paths, every ELR of --elrs
sharpness           where the continuations ended
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onsphere.lab.engine_file import engine_summary
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.zones.analyse import course, judge, zone
from onsphere.lab.experiments.zones.measure import end_sharpness, measure_paths
from onsphere.lab.experiments.zones.result import Continuation, PathPoint, ZonesResult
from onsphere.lab.experiments.zones.spec import ZonesSpec
from onsphere.lab.population import Copy, ShardFolder, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.result import conclude, elapsed
from onsphere.lab.store import Run
from onsphere.lab.store.seal import plain
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

PATH, CONTINUE = "path", "continue"


def map_zones(
    model: Model = "mlp",
    data: Data = "digits",
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> ZonesResult:
    """Measure sharpness along paths of training and continue them from checkpoints with other ELRs.

    Args:
        model: ``mlp``, ``convnet``, ``resnet18``, ``package.module:factory``, or a callable that returns a new
            module. A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).
        data: A named data set, a :class:`~onsphere.lab.data.Dataset`, or arrays (x_train, y_train, x_test, y_test)
            with x [N, ...] and integer labels y [N].
        out: Folder of the run; must be new or empty. Default: ``runs/landscape-zones-DATE-TIME``.
        progress: Told what happens.
        stop: Asked often; when it returns True the run stops at a checkpoint and :class:`Interrupted` is raised.
        **fields: Any field of :class:`~onsphere.lab.experiments.zones.spec.ZonesSpec`. With an own callable the
            default of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_zones` continues the run.

    Source: Kodryan et al., NeurIPS 2022, section 5 (zones of high sharpness between regimes); Cohen et al., ICLR 2021
    (the threshold 2 / ELR); Lewkowycz et al. 2020 (rising first, then ending in flatter places).

    Example:
        >>> from onsphere.lab import map_zones
        >>> map_zones(seeds=1, elrs=[2e-3, 8e-3, 3.2e-2])  # doctest: +SKIP
    """
    spec = validated(ZonesSpec, fields_of_call(model, data, fields))
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), ZonesResult.command, spec.model_dump(mode="json"))
    return work.do(run)


def resume_zones(
    run: Run,
    *,
    model: Model | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ZonesResult:
    """Continue an interrupted run to the same bits, or return the result of one that has ended.

    Args:
        run: Its folder.
        model: The callable, if the run was started with one.
        data: The data, if the run was started with own arrays.
        progress: Told what happens.
        stop: As in :func:`map_zones`.

    Raises:
        InputError: The spec is damaged, the data or model cannot be found again, or the data have changed.
    """
    if run.done:
        return ZonesResult.load(run)
    spec = spec_of_run(ZonesSpec, run, model, data, "resume_zones")
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(self, spec: ZonesSpec, model: Model, data: Data, progress: Progress, stop: Callable[[], bool]) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        problem = problem_of(spec, model, data, steps=spec.steps + spec.continue_steps)
        self.problem = prepared(problem, progress)
        self.epoch = max(1, len(problem.data.x_train) // problem.batch_size)

    def do(self, run: Run) -> ZonesResult:
        spec = self.spec
        self.progress.folder(run.folder)
        copies = [Copy(seed, elr) for elr in spec.path_elrs for seed in range(spec.seeds)]
        with run.lock(), one_thread():
            path = replace(self.problem, snapshots=tuple(spec.reading_steps()))
            most = max(len(copies), len(spec.branches()) * len(spec.elrs) * spec.seeds)  # one plan for both rounds
            with open_trainer(path, run, spec, most, self.progress, self.stop) as trainer:
                shards = sorted(trainer.round(PATH, copies, "paths"), key=lambda shard: shard.folder.name)
                engine = trainer.engine
            folder = run.folder / "sharpness"
            points = measure_paths(
                self.problem, shards, spec.reading_steps(), spec.examples, folder, self.progress, self.stop
            )
            starts, wanted = self._branch(run, shards)
            problem = replace(
                self.problem, starts=starts, offset=spec.steps + spec.continue_steps, steps=spec.continue_steps
            )
            with open_trainer(problem, run, spec, len(wanted), self.progress, self.stop) as trainer:
                ended = sorted(trainer.round(CONTINUE, wanted, "continuations"), key=lambda shard: shard.folder.name)
            ends = end_sharpness(self.problem, ended, spec.examples, folder, self.progress, self.stop)
            rows = self._continuations(shards, points, ended, ends)
            return self._conclude(run, points, rows, engine)

    def _branch(self, run: Run, shards: list[ShardFolder]) -> tuple[Path, list[Copy]]:
        """The file of all starts, and the continuations that begin at its rows."""
        spec, path = self.spec, run.folder / "starts.safetensors"
        rows: list[dict[str, torch.Tensor]] = []
        copies: list[Copy] = []
        for shard in shards:
            for k, copy in enumerate(shard.copies()):
                if copy.lr != spec.path_elrs[0]:
                    continue
                for step in spec.branches():
                    kept = shard.snapshot(step)
                    copies += [Copy(copy.seed, elr, start=len(rows)) for elr in spec.elrs]
                    rows.append({name: kept[name][k] for name in self.problem.trained})
        if not path.exists():
            stack_starts(path, rows)
        return path, copies

    def _continuations(
        self, shards: list[ShardFolder], points: list[PathPoint], ended: list[ShardFolder], ends: list[list[float]]
    ) -> list[Continuation]:
        spec, branches = self.spec, self.spec.branches()
        at = {(point.seed, point.step): point for point in points if point.elr == spec.path_elrs[0]}
        losses = {
            copy.seed: shard.readings().loss[:, k]
            for shard in shards
            for k, copy in enumerate(shard.copies())
            if copy.lr == spec.path_elrs[0]
        }
        quarter = max(1, spec.continue_steps // 4)
        found = []
        for shard, sharpness in zip(ended, ends, strict=True):
            loss, evaluations = shard.readings().loss, shard.evaluations()[1]
            for k, copy in enumerate(shard.copies()):
                step = branches[copy.start % len(branches)]
                start, last = at[copy.seed, step], step + spec.continue_steps
                path_end = float(np.mean(losses[copy.seed][last - quarter : last]))
                peak, end, outcome = judge(start.loss, course(loss[:, k], self.epoch), path_end)
                found.append(
                    Continuation(
                        checkpoint=step,
                        seed=copy.seed,
                        elr=copy.lr,
                        loss=start.loss,
                        sharpness=start.sharpness,
                        peak=peak,
                        end=end,
                        path_end=path_end,
                        end_sharpness=sharpness[k],
                        test_error=float(evaluations[-1, k, 3]),
                        outcome=outcome,
                    )
                )
        return sorted(found, key=lambda row: (row.checkpoint, row.elr, row.seed))

    def _conclude(
        self, run: Run, points: list[PathPoint], rows: list[Continuation], engine: dict[str, Any]
    ) -> ZonesResult:
        from onsphere.lab.experiments.zones.page import write_page

        paths = [(elr, seed) for elr in self.spec.path_elrs for seed in range(self.spec.seeds)]
        zones = [zone([p for p in points if (p.elr, p.seed) == path]) for path in paths]
        values: dict[str, Any] = {
            "path": [asdict(row) for row in points],
            "continuations": [asdict(row) for row in rows],
            "zones": [asdict(row) for row in zones],
            "spec": self.spec.model_dump(mode="json"),
            "engine": engine_summary(engine),
            "seconds": elapsed(self.started),
            "cpu_seconds": cpu_seconds(run),
        }
        result = ZonesResult.of(run, plain(values))
        return conclude(run, result, write_page)


__all__ = ["Interrupted", "map_zones", "resume_zones"]
