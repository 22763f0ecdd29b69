"""A shard: some copies, trained together, with their own checkpoint and readings in their own folder.

    shard.json                     the copies
    readings-00000.parquet ...     every step's readings, in parts
    checkpoint.safetensors         the state at the end of the last part, and the evaluations so far
    snapshots/00000100.safetensors ...  the trained tensors after the steps asked for, one leading axis of copies
    weights.safetensors            the final weights, likewise, with all that is not trained
    evaluations.parquet            losses and errors on all training and test examples
    done.json                      written last: steps and seconds

A killed shard restarts at its checkpoint and gives the same numbers as one that was never interrupted: the batch order
is a function of seed and step, and everything else that a step depends on is in the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from onsphere.lab.population.copies import Copy, Problem
from onsphere.lab.population.engine import Engine, Plan, State
from onsphere.lab.population.evaluate import COLUMNS, Evaluator
from onsphere.lab.population.readings import Readings, read_parts, write_part
from onsphere.lab.store.files import atomic, read_json, write_json

RING = 256  # steps between two reads of the device's ring buffer


@dataclass(frozen=True)
class Shard:
    """The unit of work.

    Attributes:
        name: Name of its folder.
        copies: The copies, in the order of every leading axis.
    """

    name: str
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class ShardFolder:
    """The files of one shard."""

    folder: Path

    @property
    def done(self) -> bool:
        """Whether the shard has ended."""
        return (self.folder / "done.json").exists()

    @property
    def seconds(self) -> float:
        """Process CPU seconds that it took, all its pieces together."""
        return float(read_json(self.folder / "done.json")["cpu_seconds"])

    def copies(self) -> list[Copy]:
        """The copies."""
        return [Copy(**c) for c in read_json(self.folder / "shard.json")["copies"]]

    def readings(self) -> Readings:
        """All readings of the shard."""
        return read_parts(sorted(self.folder.glob("readings-*.parquet")))

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps [E] and values [E, K, 4]: train loss, train error, test loss, test error."""
        table = pq.read_table(self.folder / "evaluations.parquet")
        steps, copies = np.unique(table["step"].to_numpy()), int(table["copy"].to_numpy().max()) + 1
        values = np.stack([table[c].to_numpy() for c in COLUMNS], axis=-1)
        return steps, values.reshape(len(steps), copies, len(COLUMNS))

    def snapshot_path(self, step: int) -> Path:
        """The file of the trained tensors [K, ...] after a step; another problem may start from it."""
        return self.folder / "snapshots" / f"{step:08d}.safetensors"

    def snapshot_steps(self) -> list[int]:
        """Steps of which there are snapshots, ascending."""
        return sorted(int(path.stem) for path in (self.folder / "snapshots").glob("*.safetensors"))

    def snapshot(self, step: int) -> dict[str, Tensor]:
        """The trained tensors after a step, each [K, ...]."""
        return load_file(self.snapshot_path(step))

    def weights(self) -> dict[str, Tensor]:
        """Final trained and constant tensors, each [K, ...], and ``alive`` [K]."""
        with safe_open(self.folder / "weights.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def stack_starts(path: Path, rows: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the file of a problem's ``starts``.

    Args:
        path: Where.
        rows: For each start the trained tensors by name, without a leading axis.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        save_file({name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}, temporary)


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
    """Train a shard to its end, from its checkpoint if there is one.

    Args:
        shard: Which copies.
        problem: What they are copies of.
        plan: How they are executed.
        folder: The shard's own folder.
        progress: Told the copy-steps done (those found in a checkpoint first).
        stop: Asked after every step; True ends the work at a checkpoint.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        True when the shard has ended, False when it was stopped.
    """
    if ShardFolder(folder).done:
        progress(problem.steps * len(shard.copies))
        return True
    return _ShardRun(shard, problem, plan, folder, progress, stop, checkpoint_seconds).run()


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
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "shard.json", {"copies": [asdict(c) for c in shard.copies], "plan": plan.to_dict()})
        self.engine = Engine(problem, shard.copies, plan)
        self.evaluator = Evaluator(problem, self.engine.constant_names)
        self.ring = torch.empty(
            (RING, len(shard.copies), self.engine.columns), dtype=problem.dtype, device=problem.device
        )
        self.state, self.pending, self.parts, self.evaluated, self.spent = self._restore()
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

    # -------------------------------------------------------------------------------------------------- files

    @property
    def _checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _restore(self) -> tuple[State, list[Tensor], int, dict[int, Tensor], float]:
        parts = 0
        state, evaluated, spent = self.engine.initial_state(), {}, 0.0
        if self._checkpoint_path.exists():
            with safe_open(self._checkpoint_path, framework="pt", device=self.problem.device) as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            parts, spent = facts["parts"], facts["cpu_seconds"]
            state.params = [tensors[f"param/{name}"] for name in self.problem.trained]
            state.buffers = [tensors[name] for name in self._buffer_names()]
            state.alive, state.step = tensors["alive"], facts["step"]
            evaluated = dict(zip(facts["evaluated"], tensors["evaluations"].cpu(), strict=True))
        for stale in sorted(self.folder.glob("readings-*.parquet"))[parts:]:
            stale.unlink()
        return state, [], parts, evaluated, spent

    def _flush(self) -> None:
        if not self.pending:
            return
        values = torch.cat(self.pending).numpy()
        readings = Readings(self.problem.trained, self.state.step - len(values), values)
        write_part(readings, self.folder / f"readings-{self.parts:05d}.parquet")
        self.pending, self.parts = [], self.parts + 1

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"param/{n}": p for n, p in zip(self.problem.trained, self.state.params, strict=True)}
        tensors |= dict(zip(self._buffer_names(), self.state.buffers, strict=True))
        return {name: t.contiguous() for name, t in tensors.items()} | {"alive": self.state.alive}

    def _buffer_names(self) -> list[str]:
        return [f"buffer{i}/{name}" for i in range(self.engine.buffers_each) for name in self.problem.trained]

    def _snapshot(self) -> None:
        path = ShardFolder(self.folder).snapshot_path(self.state.step)
        path.parent.mkdir(exist_ok=True)
        tensors = dict(zip(self.problem.trained, self.state.params, strict=True))
        with atomic(path) as temporary:
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)

    def _checkpoint(self) -> None:
        self._flush()
        facts = {
            "step": self.state.step,
            "parts": self.parts,
            "evaluated": list(self.evaluated),
            "cpu_seconds": self.spent + time.process_time() - self.started,
        }
        tensors = self._tensors() | {"evaluations": torch.stack(list(self.evaluated.values()))}
        with atomic(self._checkpoint_path) as temporary:
            save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
        self.saved = time.monotonic()

    def _finish(self) -> None:
        self._flush()
        constants = dict(zip(self.engine.constant_names, self.state.constants, strict=True))
        tensors = dict(zip(self.problem.trained, self.state.params, strict=True)) | constants
        with atomic(self.folder / "weights.safetensors") as temporary:
            save_file({n: t.contiguous() for n, t in tensors.items()} | {"alive": self.state.alive}, temporary)
        steps, copies = list(self.evaluated), len(self.shard.copies)
        values = torch.stack(list(self.evaluated.values())).reshape(-1, len(COLUMNS)).numpy()
        columns = {"step": np.repeat(steps, copies), "copy": np.tile(np.arange(copies), len(steps))}
        columns |= {name: values[:, i] for i, name in enumerate(COLUMNS)}
        with atomic(self.folder / "evaluations.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary)
        seconds = self.spent + time.process_time() - self.started
        write_json(self.folder / "done.json", {"steps": self.state.step, "cpu_seconds": round(seconds, 3)})
        self._checkpoint_path.unlink(missing_ok=True)
