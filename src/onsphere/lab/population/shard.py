"""A shard: some copies, trained together, with their own checkpoint and readings in their own folder.

    shard.json                     the copies, the plan, the digest of what the run was asked for
    readings-00000.parquet ...     every step's readings, in parts
    checkpoint.safetensors         the state at the end of the last part, and the evaluations so far
    snapshots/00000100.safetensors ...  the trained tensors after the steps asked for, one leading axis of copies
    weights.safetensors            the final weights, likewise, with all that is not trained
    evaluations.parquet            losses and errors on all training and test examples
    done.json                      written last: steps, seconds, and the digests of the files above

Checkpoint and done.json name the digest of every part of the readings, so a part that is missing or another is noticed.
A killed shard restarts at its checkpoint and gives the same numbers as one that was never interrupted: the batch order
is a function of seed and step, and everything else that a step depends on is in the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan
from onsphere.lab.population.evaluate import Evaluator
from onsphere.lab.population.readings import Readings, write_part
from onsphere.lab.population.shard_folder import ShardFolder, facts_of, part_name
from onsphere.lab.store.files import read_json, read_tensors, write_json, write_table, write_tensors
from onsphere.lab.store.seal import Damaged, digest_of_bytes, plain

RING = 256  # steps between two reads of the device's ring buffer


@dataclass(frozen=True)
class Shard:
    """The unit of work.

    Attributes:
        name: Name of its folder.
        copies: The copies, in the order of every leading axis.
        asked: The digest of what its run was asked for; empty outside a run.
    """

    name: str
    copies: tuple[Copy, ...]
    asked: str = ""


def stack_starts(path: Path, rows: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the file of a problem's ``starts`` from the trained tensors of each by name, without a leading axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def run_shard(
    shard: Shard,
    problem: Problem,
    plan: Plan,
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda copy_steps: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 5.0,
) -> bool:
    """Train a shard by a plan in its own folder to its end, from its checkpoint if there is one.

    ``progress`` is told the copy-steps done (those found in a checkpoint first). ``stop`` is asked after every step;
    True ends the work at a checkpoint.

    Returns:
        True when the shard has ended, False when it was stopped.

    Raises:
        Damaged: The folder holds a shard of other copies, or of another plan or run, or its files are damaged.
    """
    check_same(shard, plan, folder)
    if ShardFolder(folder).done:
        progress(problem.steps * len(shard.copies))
        return True
    return _ShardRun(shard, problem, plan, folder, progress, stop, checkpoint_seconds).run()


def _described(shard: Shard, plan: Plan) -> dict[str, Any]:
    """What ``shard.json`` says."""
    said = {"copies": [asdict(c) for c in shard.copies], "plan": asdict(plan)}
    return said | ({"asked": shard.asked} if shard.asked else {})


def check_same(shard: Shard, plan: Plan, folder: Path) -> None:
    """Raise :class:`Damaged` if the folder holds another shard than this one; what an older version left out may be."""
    path, wanted = folder / "shard.json", plain(_described(shard, plan))
    if not path.exists():
        if ShardFolder(folder).done or (folder / "checkpoint.safetensors").exists():
            raise Damaged(path, "is missing")
        return
    found = read_json(path)
    for name in ("copies", "plan", "asked"):
        if name in found and found[name] != wanted.get(name, found[name]) and not _older(found[name], wanted[name]):
            raise Damaged(path, f"has other {name} than the run asks for (run.json, engine.json or this was changed)")


def _older(found: Any, wanted: Any) -> bool:
    """Whether values differ only in keys that were not there when they were written."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_older, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return all(name in wanted and _older(value, wanted[name]) for name, value in found.items())
    return bool(found == wanted)


def _like(found: Tensor, wanted: Tensor) -> Tensor:
    """A tensor of a checkpoint, if it is one of this network."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise ValueError(f"{tuple(found.shape)} {found.dtype} in place of {tuple(wanted.shape)} {wanted.dtype}")
    return found


class _ShardRun:
    def __init__(
        self,
        shard: Shard,
        problem: Problem,
        plan: Plan,
        folder: Path,
        progress: Callable[[int], None],
        stop: Callable[[], bool],
        checkpoint_seconds: float,
    ) -> None:
        self.shard, self.problem, self.folder = shard, problem, folder
        self.progress, self.stop, self.checkpoint_seconds = progress, stop, checkpoint_seconds
        self.started = time.process_time()
        self.checkpoint = folder / "checkpoint.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "shard.json", _described(shard, plan))
        self.engine = Engine(problem, shard.copies, plan)
        self.evaluator = Evaluator(problem, self.engine.constant_names, self.engine.statistic_names)
        self.ring = torch.empty(
            (RING, len(shard.copies), self.engine.columns), dtype=problem.dtype, device=problem.device
        )
        self.state, self.spent = self.engine.initial_state(), 0.0
        self.pending: list[Tensor] = []
        self.parts: list[str] = []
        self.evaluated: dict[int, Tensor] = {}
        self._restore()
        self.saved = time.monotonic()

    def run(self) -> bool:
        self.progress(self.state.step * len(self.shard.copies))
        evaluation_steps = self.problem.evaluation_steps()
        pauses = sorted({*evaluation_steps, *(s for s in self.problem.snapshots if s <= self.problem.steps)})
        while True:
            if self.state.step in evaluation_steps and self.state.step not in self.evaluated:
                self.evaluated[self.state.step] = self.evaluator(self.state)
            if self.state.step in self.problem.snapshots:
                self._snapshot()
            if self.state.step >= self.problem.steps:
                break
            target = min(next(s for s in pauses if s > self.state.step), self.state.step + RING)
            start = self.state.step
            self.state = self.engine.advance(self.state, target, self.ring, interrupted=self._interrupted)
            self.pending.append(self.ring[: self.state.step - start].cpu().clone())
            stopped = self.state.step < target or self.stop()
            if stopped or time.monotonic() - self.saved > self.checkpoint_seconds:
                self._checkpoint()
            if stopped and self.state.step < self.problem.steps:
                return False
        self._finish()
        return True

    def _interrupted(self, copy_steps: int) -> bool:
        self.progress(copy_steps)
        return self.stop()

    def _restore(self) -> None:
        if self.checkpoint.exists():
            tensors, metadata = read_tensors(self.checkpoint, self.problem.device)
            facts = facts_of(self.checkpoint, metadata)
            ShardFolder(self.folder).check_parts(facts)
            self.spent = facts["cpu_seconds"]
            paths = (self.folder / part_name(number) for number in range(facts["parts"]))
            # a shard that was begun before digests were kept has none
            self.parts = facts.get("readings") or [digest_of_bytes(path.read_bytes()) for path in paths]
            try:
                found = {name: _like(tensors[name], own) for name, own in self._tensors().items()}
                # a shard that was begun when fewer things were measured goes on with those
                self.evaluator.columns = self.evaluator.columns[: tensors["evaluations"].shape[-1]]
                self.evaluated = dict(zip(facts["evaluated"], tensors["evaluations"].cpu(), strict=True))
            except (KeyError, ValueError) as error:
                raise Damaged(self.checkpoint, f"does not fit the network of this run ({error})") from None
            *values, alive = found.values()
            many = len(self.state.params)
            end = many * (1 + self.engine.buffers_each)
            restored: dict[str, Any] = {
                "params": values[:many],
                "buffers": values[many:end],
                "statistics": values[end:],
            }
            self.state = replace(self.state, **restored, alive=alive, step=facts["step"])
        kept = {part_name(number) for number in range(len(self.parts))}
        for stale in sorted(self.folder.glob("readings-*.parquet")):
            if stale.name not in kept:
                stale.unlink()

    def _flush(self) -> None:
        if not self.pending:
            return
        values = torch.cat(self.pending).numpy()
        readings = Readings(self.problem.invariant, self.state.step - len(values), values, self.engine.extra)
        digest = write_part(readings, self.folder / part_name(len(self.parts)))
        self.pending, self.parts = [], [*self.parts, digest]

    def _tensors(self) -> dict[str, Tensor]:
        kinds = ["param", *(f"buffer{i}" for i in range(self.engine.buffers_each))]
        names = [f"{kind}/{name}" for kind in kinds for name in self.problem.trained]
        names += [f"running/{name}" for name in self.engine.statistic_names]
        values = self.state.params + self.state.buffers + self.state.statistics
        return dict(zip(names, values, strict=True)) | {"alive": self.state.alive}

    def _trained(self) -> dict[str, Tensor]:
        return dict(zip(self.problem.trained, self.state.params, strict=True))

    def _seconds(self) -> float:
        return self.spent + time.process_time() - self.started

    def _snapshot(self) -> None:
        path = ShardFolder(self.folder).snapshot_path(self.state.step)
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, self._trained())

    def _checkpoint(self) -> None:
        self._flush()
        facts = {
            "step": self.state.step,
            "parts": len(self.parts),
            "readings": self.parts,
            "evaluated": list(self.evaluated),
            "cpu_seconds": self._seconds(),
        }
        tensors = self._tensors() | {"evaluations": torch.stack(list(self.evaluated.values()))}
        write_tensors(self.checkpoint, tensors, {"facts": json.dumps(facts)})
        self.saved = time.monotonic()

    def _finish(self) -> None:
        self._flush()
        constants = dict(zip(self.engine.constant_names, self.state.constants, strict=True))
        tensors = self._trained() | constants | {"alive": self.state.alive}
        files = {part_name(number): digest for number, digest in enumerate(self.parts)}
        files["weights.safetensors"] = write_tensors(self.folder / "weights.safetensors", tensors)
        steps, copies = list(self.evaluated), len(self.shard.copies)
        measured = self.evaluator.columns
        values = torch.stack(list(self.evaluated.values())).reshape(-1, len(measured)).numpy()
        columns = {"step": np.repeat(steps, copies), "copy": np.tile(np.arange(copies), len(steps))}
        columns |= {name: values[:, i] for i, name in enumerate(measured)}
        files["evaluations.parquet"] = write_table(self.folder / "evaluations.parquet", columns)
        ended = {"steps": self.state.step, "cpu_seconds": round(self._seconds(), 3), "files": files}
        write_json(self.folder / "done.json", ended)
        self.checkpoint.unlink(missing_ok=True)
