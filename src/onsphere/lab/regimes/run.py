"""Map the three regimes: train a grid of effective learning rates, label each run, bisect the boundaries.

round 0      every effective learning rate of the grid x every seed
round 1 ...  for each seed, the geometric middle of each gap in which the label changes, until the gap is within
             ``refine_factor`` or ``refine`` rounds are done
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from onsphere.lab import data as datasets
from onsphere.lab.data import DataError, Dataset
from onsphere.lab.execution import Executor, Interrupted, make_executor
from onsphere.lab.models import ModelError
from onsphere.lab.options import InputError, one_line
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, choose_plan
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress
from onsphere.lab.regimes.boundaries import VERBS, find_boundaries, next_cells
from onsphere.lab.regimes.classify import Cell, summarise
from onsphere.lab.regimes.result import RegimesResult
from onsphere.lab.regimes.spec import RegimesSpec
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_json, write_json

Arrays = tuple[Any, Any, Any, Any]
PAPER_EPS, SPHERE_EPS = 1e-5, 1e-12


def map_regimes(
    model: str | Callable[..., nn.Module] = "mlp",
    data: str | Dataset | Arrays = "digits",
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
        **fields: Any field of :class:`~onsphere.lab.regimes.spec.RegimesSpec`. Own arrays are taken as
            they are: all of them, no label noise, not standardised, unless asked. With an own callable the default
            of ``workers`` is 1; with more it must be importable and the script guarded by ``__main__``.

    Returns:
        The result; everything is also on disk.

    Raises:
        InputError: A field, the model or the data is wrong; the message is one line.
        Interrupted: ``stop`` returned True; :func:`resume_regimes` continues the run.

    Source: Kodryan et al. 2022, sections 4 and 5; labels as in :mod:`onsphere.lab.regimes.classify`.
    """
    if not isinstance(data, str):
        fields = {"train": None, "label_noise": 0.0, "standardise": False} | fields
    if not isinstance(model, str):
        fields = {"workers": 1} | fields
    names = {"model": _name_of(model), "data": data if isinstance(data, str) else "arrays"}
    try:
        spec = RegimesSpec(**(names | fields))
    except ValidationError as error:
        raise InputError(one_line(error, style="key")) from None
    work = _Work(spec, model, data, progress or Progress(), stop)
    run = Run.create(None if out is None else Path(out), "regimes", spec.model_dump(mode="json"))
    return work.do(run)


def resume_regimes(
    run: Run,
    *,
    model: str | Callable[..., nn.Module] | None = None,
    data: str | Dataset | Arrays | None = None,
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
    try:
        spec = RegimesSpec(**run.manifest["spec"])
    except ValidationError as error:
        raise InputError(f"{run.manifest_path}: {one_line(error, style='key')}") from None
    if data is None and spec.data == "arrays":
        raise InputError(
            "this run was started from Python with its own arrays; continue it there with resume_regimes(run, data=...)"
        )
    return _Work(spec, model or spec.model, data or spec.data, progress or Progress(), stop).do(run)


class _Work:
    """One call: everything that can be wrong is found in the constructor, before a folder is made."""

    def __init__(
        self,
        spec: RegimesSpec,
        model: str | Callable[..., nn.Module],
        data: str | Dataset | Arrays,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self.spec, self.progress, self.stop = spec, progress, stop
        self.started = time.monotonic()
        dataset = _load(spec, data)
        if spec.batch_size > len(dataset.x_train):
            raise InputError(
                f"--batch-size: {spec.batch_size} is not allowed: there are {len(dataset.x_train)} training images"
            )
        _check_device(spec.device)
        _check_sendable(model, spec.workers)
        paper = spec.preset == "paper"
        problem = Problem(
            data=dataset,
            model=model,
            model_options={
                "width": spec.width,
                "widths": spec.widths,
                "head_norm": spec.head_norm_used,
                "eps": PAPER_EPS if paper else SPHERE_EPS,
            },
            radius=None if paper else 1.0,
            loss=spec.loss,
            steps=spec.steps,
            batch_size=spec.batch_size,
            evaluations=spec.evaluations,
            seed=spec.seed,
            dtype=getattr(torch, spec.dtype),
            device=spec.device,
        )
        try:
            self.problem, notes = prepare_model(problem)
        except ModelError as error:
            raise InputError(f"--model: {error}") from error
        for note in notes:
            progress.note(note)

    def do(self, run: Run) -> RegimesResult:
        self.progress.folder(run.folder)
        with run.lock():
            workers = self._workers(run)
            cells: list[Cell] = []
            with make_executor(self.problem, run.shards, workers, self.stop, self.spec.checkpoint_seconds) as executor:
                plan, engine = self._engine(run)
                wanted = [(elr, seed) for seed in range(self.spec.seeds) for elr in self.spec.grid()]
                for number in range(self.spec.refine + 1):
                    cells += self._round(run, executor, plan, workers, number, wanted, cells)
                    wanted = next_cells(cells, self.spec.refine_factor)
                    if not wanted:
                        break
            return self._conclude(run, sorted(cells, key=lambda c: (c.elr, c.seed)), engine)

    def _workers(self, run: Run) -> int:
        """How many copies a shard has depends on the number of workers, so a resumed run keeps it."""
        path = run.folder / "engine.json"
        return int(read_json(path)["workers"]) if path.exists() else self.spec.workers

    def _engine(self, run: Run) -> tuple[Plan, dict[str, Any]]:
        """The plan: what ``engine.json`` says, or chosen now and written there, so that a resumed run repeats it."""
        path = run.folder / "engine.json"
        fingerprint = self.problem.data.fingerprint()
        if path.exists():
            stored = read_json(path)
            if stored["data"] != fingerprint:
                raise InputError(f"the data are not those that {run.folder} was started with")
            return Plan(**stored["plan"]), stored
        copies = self.spec.elrs * self.spec.seeds
        try:
            plan, timings = choose_plan(
                self.problem,
                copies,
                self.spec.workers,
                mode=self.spec.mode,
                chunk=self.spec.chunk,
                compiled=self.spec.compiled,
            )
        except RuntimeError as error:
            raise InputError(f"--mode: {error}") from error
        engine = {
            "plan": plan.to_dict(),
            "workers": self.spec.workers,
            "timings": timings,
            "data": fingerprint,
        }
        write_json(path, engine)
        return plan, engine

    def _round(
        self,
        run: Run,
        executor: Executor,
        plan: Plan,
        workers: int,
        number: int,
        wanted: list[tuple[float, int]],
        before: list[Cell],
    ) -> list[Cell]:
        shards = _shards(number, wanted, plan, workers)
        title = f"round {number} of at most {self.spec.refine}: {len(wanted)} runs"
        self.progress.begin("grid" if number == 0 else title, len(wanted) * self.spec.steps)
        cells: dict[str, list[Cell]] = {}
        for name in executor.run(shards, plan, self.progress.advance):
            cells[name] = read_cells(ShardFolder(run.shards / name), number)
            known = before + [cell for part in cells.values() for cell in part]
            self.progress.finding(describe_boundaries(known))
        return [cell for shard in shards for cell in cells[shard.name]]

    def _conclude(self, run: Run, cells: list[Cell], engine: dict[str, Any]) -> RegimesResult:
        from onsphere.lab.regimes.page import write_page

        spent = sum(ShardFolder(folder).seconds for folder in run.shards.iterdir())
        plan = engine["plan"]
        result = RegimesResult(
            run=run.folder,
            report=run.folder / "report.html",
            boundaries=find_boundaries(cells),
            cells=cells,
            spec=self.spec.model_dump(mode="json"),
            engine={k: plan[k] for k in ("mode", "chunk", "compiled")} | {"workers": engine["workers"]},
            seconds=time.monotonic() - self.started,
            cpu_seconds=spent,
            radius=self.problem.radius,
        )
        write_page(run, result)
        write_json(run.result_path, result.to_dict())
        return result


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


def _shards(number: int, wanted: Sequence[tuple[float, int]], plan: Plan, workers: int) -> list[Shard]:
    size = max(1, min(plan.chunk, -(-len(wanted) // workers)))
    parts = [wanted[i : i + size] for i in range(0, len(wanted), size)]
    return [
        Shard(f"round{number}-{i:03d}", tuple(Copy(seed=seed, lr=elr) for elr, seed in part))
        for i, part in enumerate(parts)
    ]


def _load(spec: RegimesSpec, data: str | Dataset | Arrays) -> Dataset:
    options: dict[str, Any] = {
        "train": spec.train,
        "test": spec.test,
        "label_noise": spec.label_noise,
        "seed": spec.seed,
    }
    try:
        if isinstance(data, Dataset):
            return data
        if isinstance(data, str):
            return datasets.load(data, data_dir=spec.data_dir, pool=spec.pool, standardise=spec.standardise, **options)
        if spec.pool != 1:
            raise InputError(f"pool: {spec.pool} is not allowed with own arrays: pool them before")
        return datasets.from_arrays(*data, standardise=spec.standardise, **options)
    except DataError as error:
        raise InputError(str(error)) from error


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} is not usable here ({reason}); cpu always is") from None


def _check_sendable(model: str | Callable[..., nn.Module], workers: int) -> None:
    """Workers are other processes: they import the factory by its name."""
    if isinstance(model, str) or workers == 1:
        return
    try:
        pickle.dumps(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers: {workers} processes cannot import this model ({error}); define the factory at the top of a "
            "module, or use workers=1"
        ) from error


def _name_of(model: str | Callable[..., nn.Module]) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError(
            f"model: a {type(model).__name__} is not allowed: give a name or a callable that returns a new module, "
            "because each seed needs its own initial weights"
        )
    return f"{getattr(model, '__module__', '?')}:{getattr(model, '__qualname__', type(model).__qualname__)}"


__all__ = ["Interrupted", "map_regimes", "resume_regimes"]
