"""What experiments that train populations share: the data, the checks, the plan, rounds of shards.

    spec -> checked data, device, model -> problem (before a folder is made)
    problem + run -> engine.json (the plan, once) -> executor -> shards/ROUND-000, ...

Everything that can be wrong with what the user gave is found here, as an :class:`InputError` of one line.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import nn

from onsphere.lab import data as datasets
from onsphere.lab.data import DataError, Dataset
from onsphere.lab.engine_file import ENGINE, Execution, read_execution, write_execution
from onsphere.lab.execution import Executor, make_executor
from onsphere.lab.models import ModelError
from onsphere.lab.options import DataOptions, EngineOptions, InputError, Options, one_line
from onsphere.lab.placement import Placement, missing_package
from onsphere.lab.population import Copy, Plan, Problem, Shard, ShardFolder, choose_plan
from onsphere.lab.population.shard import check_same
from onsphere.lab.preparation import prepare_model
from onsphere.lab.progress import Progress
from onsphere.lab.store import Damaged, Run

Arrays = tuple[Any, Any, Any, Any]
Model = str | Callable[..., nn.Module]
Data = str | Dataset | Arrays
S = TypeVar("S", bound=Options)

PAPER_EPS, SPHERE_EPS = 1e-5, 1e-12


def fields_of_call(model: Model, data: Data, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec from the arguments of a Python call, with the defaults that own data and models have."""
    given = dict(fields)
    if not isinstance(data, str):
        given = {"train": None, "label_noise": 0.0, "standardise": False} | given
    if not isinstance(model, str):
        given = ({} if given.get("executor") else {"workers": 1}) | given
    return {"model": name_of(model), "data": data if isinstance(data, str) else "arrays"} | given


def validated(spec: type[S], fields: Mapping[str, Any], where: str = "") -> S:
    """The spec of these fields.

    Raises:
        InputError: A field is wrong; ``where`` stands before the message.
    """
    try:
        return spec(**fields)
    except ValidationError as error:
        raise InputError(where + one_line(error, style="key")) from None


def spec_of_run(spec: type[S], run: Run, model: Model | None, data: Data | None, resume: str) -> S:
    """The spec that a run was started with, after a look at everything that will be continued.

    Where no model is given again, the run may name one that this user does not trust; ``resume`` is what is called.

    Raises:
        InputError: It is damaged, names arrays that were not given again to ``resume`` or code of somebody else, or a
            file of the run is missing or is not what was written.
    """
    run.check()
    found = validated(spec, run.manifest["spec"], f"{run.manifest_path}: ")
    if model is None:
        run.check_trust()
    run.verify()
    folders = run.shard_folders()
    for folder in folders:
        ShardFolder(folder).verify(run.digest)
    if folders and not (run.folder / ENGINE).exists():
        raise Damaged(run.folder / ENGINE, "is missing")
    if data is None and getattr(found, "data", None) == "arrays":
        raise InputError(
            f"this run was started from Python with its own arrays; continue it there with {resume}(run, data=...)"
        )
    return found


def load_data(options: DataOptions, seed: int, data: Data) -> Dataset:
    """The data set that was named, or given as arrays.

    Raises:
        InputError: It does not exist, is damaged, or is too small.
    """
    shared: dict[str, Any] = {
        "train": options.train,
        "test": options.test,
        "label_noise": options.label_noise,
        "label_noise_kind": options.label_noise_kind,
        "seed": seed,
        "standardise": options.standardise,
    }
    try:
        if isinstance(data, Dataset):
            return data
        if isinstance(data, str):
            return datasets.load(data, data_dir=options.data_dir, pool=options.pool, **shared)
        if options.pool != 1:
            raise InputError(f"pool: {options.pool} is not allowed with own arrays: pool them before")
        return datasets.from_arrays(*data, **shared)
    except DataError as error:
        raise InputError(str(error)) from error


def check_batch_size(batch_size: int, dataset: Dataset) -> None:
    """Raise :class:`InputError` if there are not that many training images."""
    if batch_size > len(dataset.x_train):
        raise InputError(f"--batch-size: {batch_size} is not allowed: there are {len(dataset.x_train)} training images")


def check_images(dataset: Dataset) -> None:
    """Raise :class:`InputError` if the examples are not images [channels, height, width], which can be cropped."""
    if len(dataset.input_shape) != 3:
        shape = " x ".join(map(str, dataset.input_shape))
        raise InputError(
            f"--augment: is not allowed with examples of shape {shape}: it flips and crops images, which have "
            "channels, height and width; leave it out"
        )


def check_device(device: str) -> None:
    """Raise :class:`InputError` if the device is not there or lacks float64."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()  # where nothing is computed (meta) this fails
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} is not usable here ({reason}); cpu always is") from None


def check_placement(placement: Placement) -> None:
    """Raise :class:`InputError` if the package of that executor is not installed."""
    missing = missing_package(placement)
    if missing is not None:
        raise InputError(f"--executor: {missing}")


def check_sendable(model: Model, workers: int) -> None:
    """Raise :class:`InputError` if workers, which are other processes, cannot import the factory by its name."""
    if isinstance(model, str) or workers == 1:
        return
    try:
        pickle.dumps(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers: {workers} processes cannot import this model ({error}); define the factory at the top of a "
            "module, or use workers=1"
        ) from error


def name_of(model: Model) -> str:
    """What a spec calls a model.

    Raises:
        InputError: It is neither a name nor a callable that makes modules.
    """
    if isinstance(model, str):
        return model
    if isinstance(model, nn.Module) or not callable(model):
        raise InputError(
            f"model: a {type(model).__name__} is not allowed: give a name or a callable that returns a new module, "
            "because each seed needs its own initial weights"
        )
    return f"{getattr(model, '__module__', '?')}:{getattr(model, '__qualname__', type(model).__qualname__)}"


def problem_of(
    spec: Any, model: Model, data: Data, *, widths: Sequence[int] | None = None, eps: float | None = None, **more: Any
) -> Problem:
    """The problem of a spec, not yet prepared, after all checks; on the sphere unless ``more`` says otherwise.

    Args:
        spec: With the fields of :class:`DataOptions`, :class:`ModelOptions` or :class:`NetworkOptions`,
            :class:`TrainingOptions` and :class:`EngineOptions`.
        model: The model that is trained.
        data: The data it is trained on.
        widths: Widths of the hidden layers, where they are not those of the spec.
        eps: The batch norms' eps, where it does not follow from the spec's preset.
        **more: Other fields of the problem.

    Raises:
        InputError: Data, batch size, device or model are not usable.
    """
    dataset = load_data(spec, spec.seed, data)
    batch_size = len(dataset.x_train) if spec.batch_size == "full" else spec.batch_size
    check_batch_size(batch_size, dataset)
    check_device(spec.device)
    check_placement(spec.placement)
    check_sendable(model, spec.senders)
    if more.get("augment"):
        check_images(dataset)
    paper = getattr(spec, "preset", "sphere") == "paper"
    options = {
        "width": spec.width,
        "widths": spec.widths if widths is None else widths,
        "head_norm": spec.head_norm_used,
        "eps": eps if eps is not None else PAPER_EPS if paper else SPHERE_EPS,
    }
    fields = {
        "radius": None if paper else 1.0,
        "loss": spec.loss,
        "steps": spec.steps,
        "batch_size": batch_size,
        "evaluations": spec.evaluations,
        "seed": spec.seed,
        "dtype": getattr(torch, spec.dtype),
        "device": spec.device,
    }
    return Problem(data=dataset, model=model, model_options=options, **fields | more)


def prepared(
    problem: Problem, progress: Progress, prepare: Callable[[Problem], tuple[Problem, list[str]]] = prepare_model
) -> Problem:
    """The problem with its trained tensors named; what was changed in the network is told to ``progress``.

    Raises:
        InputError: The network cannot be trained so.
    """
    try:
        ready, notes = prepare(problem)
    except ModelError as error:
        raise InputError(f"--model: {error}") from error
    for note in notes:
        progress.note(note)
    return ready


@dataclass(frozen=True)
class Trainer:
    """Trains rounds of copies of one problem in a run's folder.

    Attributes:
        folder: Folder of the shards.
        executor: Who runs the shards.
        plan: How copies are executed.
        workers: How many processes share a round.
        progress: Whoever is told what happens.
        steps: Training steps of each copy.
        asked: The digest of what the run was asked for, which every shard repeats.
    """

    folder: Path
    executor: Executor
    plan: Plan
    workers: int
    progress: Progress
    steps: int
    asked: str

    def round(self, name: str, copies: Sequence[Copy], title: str) -> Iterator[ShardFolder]:
        """Train copies in shards ``NAME-000``, ...; yield each as it ends, in any order. The display shows the title.

        Raises:
            Interrupted: The run was asked to stop.
            Damaged: The folder of a shard holds another one.
        """
        shards = self.shards(name, copies)
        for shard in shards:
            check_same(shard, self.plan, self.folder / shard.name)
        self.progress.begin(title, len(copies) * self.steps)
        for ended in self.executor.run(shards, self.plan, self.progress.advance):
            yield ShardFolder(self.folder / ended)

    def shards(self, name: str, copies: Sequence[Copy]) -> list[Shard]:
        """The shards that a round of these copies has: its number of copies depends on plan and workers alone."""
        size = shard_size(self.plan, len(copies), self.workers)
        parts = [copies[i : i + size] for i in range(0, len(copies), size)]
        return [Shard(f"{name}-{i:03d}", tuple(part), self.asked) for i, part in enumerate(parts)]


def shard_size(plan: Plan, copies: int, workers: int) -> int:
    """How many copies a shard of a round has, at most."""
    return max(1, min(plan.chunk, -(-copies // workers)))


@contextmanager
def open_trainer(
    problem: Problem, run: Run, options: EngineOptions, copies: int, progress: Progress, stop: Callable[[], bool]
) -> Iterator[Trainer]:
    """A trainer whose plan is what ``engine.json`` says, or is chosen now and written there.

    How many copies a shard has depends on plan and workers, so a resumed run keeps both.

    Raises:
        InputError: The network does not support the mode that was asked for, or the data have changed.
    """
    found = read_execution(run)
    workers = options.workers if found is None else found.workers
    place = options.placement
    with make_executor(problem, run.shards, workers, stop, options.checkpoint_seconds, place) as executor:
        execution = found or choose_execution(problem, options, copies)
        if execution.data != problem.data.fingerprint():
            raise InputError(
                f"the data are not those that {run.folder} was started with; put them back as they were, or start a "
                "new run in another folder"
            )
        if found is None:
            write_execution(run, execution)
        yield Trainer(run.shards, executor, execution.plan, workers, progress, problem.steps, run.digest)


def cpu_seconds(run: Run) -> float:
    """Processor seconds of all shards that have ended, earlier, interrupted calls included; rounded to 1e-3."""
    shards = (ShardFolder(folder) for folder in run.shard_folders())
    return round(sum(shard.seconds for shard in shards if shard.done), 3)


def choose_execution(problem: Problem, options: EngineOptions, copies: int) -> Execution:
    """Choose how the copies of a new run are executed.

    Raises:
        InputError: The network does not support the mode that was asked for.
    """
    try:
        plan, timings = choose_plan(
            problem, copies, options.workers, mode=options.mode, chunk=options.chunk, compiled=options.compiled
        )
    except RuntimeError as error:
        raise InputError(f"--mode: {error}") from error
    return Execution(plan, options.workers, timings, problem.data.fingerprint())
