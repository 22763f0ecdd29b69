"""The files of one shard, as they are read: every one is compared with its digest, and none may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from onsphere.lab.population.copies import Copy
from onsphere.lab.population.evaluate import COLUMNS
from onsphere.lab.population.readings import Readings, read_parts
from onsphere.lab.store.files import read_arrow, read_json, read_tensors
from onsphere.lab.store.seal import Damaged


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
        return float(self._field("done.json", "cpu_seconds"))

    def copies(self) -> list[Copy]:
        """The copies that the shard holds."""
        try:
            return [Copy(**c) for c in self._field("shard.json", "copies")]
        except (TypeError, ValueError) as error:
            raise Damaged(self.folder / "shard.json", f"is damaged: its copies are none ({error})") from None

    def readings(self) -> Readings:
        """All readings of the shard.

        Raises:
            Damaged: A part is missing, or is not what was written.
        """
        known = self._known()
        there = (path.name for path in self.folder.glob("*.parquet")) if known is None else known
        names = sorted(n for n in there if n.startswith("readings-") and n.endswith(".parquet"))
        if not names:
            raise Damaged(self.folder / part_name(0), "is missing")
        found = read_parts([self.folder / name for name in names], None if known is None else [known[n] for n in names])
        if found.start != 0:
            raise Damaged(self.folder / part_name(0), "is missing")
        if self.done and found.start + len(found.values) != self._field("done.json", "steps"):
            raise Damaged(self.folder / part_name(len(names)), "is missing")
        return found

    def evaluations(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps [E] and values [E, K, 4]: train loss, train error, test loss, test error."""
        steps, found = self.evaluated()
        return steps, np.stack([found[name] for name in COLUMNS], axis=-1)

    def evaluated(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Steps [E] and everything that was measured there, each [E, K], by the names of :mod:`.evaluate`."""
        table = read_arrow(self.folder / "evaluations.parquet", (self._known() or {}).get("evaluations.parquet"))
        steps = np.unique(table["step"].to_numpy())
        names = [name for name in table.column_names if name not in ("step", "copy")]
        return steps, {name: table[name].to_numpy().reshape(len(steps), -1) for name in names}

    def snapshot_path(self, step: int) -> Path:
        """The file of the trained tensors [K, ...] after a step; another problem may start from it."""
        return self.folder / "snapshots" / f"{step:08d}.safetensors"

    def snapshot(self, step: int) -> dict[str, Tensor]:
        """The trained tensors after a step, each [K, ...]."""
        return read_tensors(self.snapshot_path(step))[0]

    def weights(self) -> dict[str, Tensor]:
        """Final trained and constant tensors, each [K, ...], and ``alive`` [K]."""
        expected = (self._known() or {}).get("weights.safetensors")
        return read_tensors(self.folder / "weights.safetensors", expected=expected)[0]

    def verify(self, asked: str) -> None:
        """Look whether the shard has what it says it has, and belongs to the run whose question has this digest.

        Raises:
            Damaged: A part of the readings or another file is missing, or the shard was made for another question.
        """
        checkpoint, described = self.folder / "checkpoint.safetensors", self.folder / "shard.json"
        if not described.exists():
            if self.done or checkpoint.exists():
                raise Damaged(described, "is missing")
            return
        if read_json(described).get("asked") not in (None, asked):
            manifest = self.folder.parents[1] / "run.json"
            raise Damaged(described, f"was made for another question than {manifest} asks: one of them was changed")
        if self.done:
            self.readings()
            self.evaluations()
            self.weights()
        elif checkpoint.exists():
            self.check_parts(facts_of(checkpoint, read_tensors(checkpoint)[1]))

    def check_parts(self, facts: Mapping[str, Any]) -> None:
        """Raise :class:`Damaged` if a part of the readings that a checkpoint counts on is missing or another."""
        digests = facts.get("readings") or [None] * facts["parts"]
        for number, digest in enumerate(digests):
            read_arrow(self.folder / part_name(number), digest)

    def _known(self) -> dict[str, str] | None:
        """The digests of the files of an ended shard, by name; None of a shard that was made before there were any."""
        known = read_json(self.folder / "done.json").get("files") if self.done else None
        return known if isinstance(known, dict) else None

    def _field(self, file: str, name: str) -> Any:
        values = read_json(self.folder / file)
        if name not in values:
            raise Damaged(self.folder / file, f"is damaged: it has no {name}")
        return values[name]


def part_name(number: int) -> str:
    """The file of a part of the readings."""
    return f"readings-{number:05d}.parquet"


def facts_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    try:
        facts = json.loads(metadata["facts"])
        if not {"step", "parts", "evaluated", "cpu_seconds"} <= facts.keys():
            raise ValueError("there are too few of them")
    except (ValueError, KeyError, AttributeError) as error:
        raise Damaged(path, f"is damaged: it holds no facts ({error})") from None
    return dict(facts)
