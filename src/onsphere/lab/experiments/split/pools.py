"""Pools of networks of one width: trained by the population engine, kept as logits on the test examples.

    shards/width-00040-000, ...          the networks
    logits/width-00040.safetensors       logits [members, examples, classes] float32, alive [members]

Everything that follows is computed from the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.ensembles import failed_members
from onsphere.lab.experiments.split.family import Family, prepare_whole
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.networks import batches, network
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store import Damaged, Run
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.lab.training import open_trainer, prepared
from onsphere.normalisation import norm_layers, reestimate_batch_statistics


@dataclass(frozen=True)
class Failed:
    """A network that did not learn.

    Attributes:
        width: Of its pool.
        member: Its index in the pool, which is its seed.
        reason: ``non-finite`` or ``chance``.
        accuracy: A fraction; None where its logits are not finite.
    """

    width: int
    member: int
    reason: str
    accuracy: float | None

    def __str__(self) -> str:
        what = "became non-finite" if self.reason == "non-finite" else "predicts at chance"
        return f"member {self.member} of width {self.width} {what}"


@dataclass(frozen=True, eq=False)
class Pool:
    """The networks of one width.

    Attributes:
        width: Theirs.
        logits: float32 [members, examples, classes].
        failed: Those that did not learn.
    """

    width: int
    logits: NDArray[np.float32]
    failed: tuple[Failed, ...]

    def usable(self, members: Sequence[int]) -> list[int]:
        """Those of some members that did learn."""
        out = {f.member for f in self.failed}
        return [i for i in members if i not in out]


class Trainer:
    """Trains the pools of a run, one width after another, narrow ones first; finished ones are found on disk.

    Args:
        spec: How.
        family: Of the networks.
        base: The problem, all but the network's width.
        sizes: How many networks of each width.
        lr: Learning rate, on the sphere the effective one.
        progress: Told what happens.
        stop: Asked often.

    Raises:
        InputError: The networks cannot be trained so.
    """

    def __init__(
        self,
        spec: SplitSpec,
        family: Family,
        base: Problem,
        sizes: Mapping[int, int],
        lr: float,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self.spec, self.sizes, self.lr, self.progress, self.stop = spec, dict(sorted(sizes.items())), lr, progress, stop
        narrowest = replace(base, model_options=family.options(min(sizes)))
        ready = (
            prepared(narrowest, progress) if spec.geometry == "sphere" else prepared(narrowest, progress, prepare_whole)
        )
        self.problems = {width: replace(ready, model_options=family.options(width)) for width in self.sizes}

    def copies(self, members: int) -> list[Copy]:
        """The networks of a pool."""
        if self.spec.geometry == "sphere":
            return [Copy(seed, self.lr) for seed in range(members)]
        momentum = self.spec.momentum if self.spec.optimizer == "sgd" else 0.0
        return [Copy(seed, self.lr, self.spec.weight_decay, momentum) for seed in range(members)]

    def train(self, run: Run) -> dict[int, Pool]:
        """All pools.

        Raises:
            Interrupted: The run was asked to stop.
        """
        (run.folder / "logits").mkdir(exist_ok=True)
        labels = self.problems[min(self.sizes)].data.y_test.cpu().numpy()
        found = {}
        for width, members in self.sizes.items():
            path = run.folder / "logits" / f"width-{width:05d}.safetensors"
            if not path.exists():
                self._train(run, width, members, path)
            found[width] = read_pool(path, width, labels)
        return found

    def _train(self, run: Run, width: int, members: int, path: Path) -> None:
        problem = self.problems[width]
        most = max(self.sizes.values())  # the plan is chosen once, for the largest pool
        with open_trainer(problem, run, self.spec, most, self.progress, self.stop) as trainer:
            folders = list(trainer.round(_name(width), self.copies(members), f"width {width}: {members} networks"))
        parts = [member_logits(problem, shard) for shard in sorted(folders, key=lambda s: s.folder.name)]
        tensors = {"logits": torch.cat([p[0] for p in parts]), "alive": torch.cat([p[1] for p in parts])}
        write_tensors(path, tensors)

    def networks(self, run: Run, width: int, members: Sequence[int]) -> list[nn.Module]:
        """Trained networks, on the CPU, with batch statistics of the whole training set."""
        problem, found = self.problems[width], {}
        for folder in run.shard_folders(_name(width)):
            shard = ShardFolder(folder)
            for row, copy in enumerate(shard.copies()):
                if copy.seed in members:
                    found[copy.seed] = ready_network(problem, shard.weights(), row, copy.seed).cpu()
        return [found[member] for member in members]


def _name(width: int) -> str:
    return f"width-{width:05d}"


def ready_network(problem: Problem, weights: Mapping[str, Tensor], row: int, seed: int) -> nn.Module:
    """One network in evaluation mode, its batch statistics re-estimated over the training set if it has any."""
    model = network(problem, weights, row, seed)
    if norm_layers(model):
        reestimate_batch_statistics(model, [x for x, _ in batches(problem, "train", size=1000)])
    return model.eval()


@torch.no_grad()
def member_logits(problem: Problem, shard: ShardFolder) -> tuple[Tensor, Tensor]:
    """Logits [K, examples, classes] float32 of a shard's networks on the test examples, and who stayed finite [K]."""
    weights: dict[str, Any] = shard.weights()
    test = [x for x, _ in batches(problem, "test", size=2000)]
    rows = []
    for row, copy in enumerate(shard.copies()):
        model = ready_network(problem, weights, row, copy.seed)
        rows.append(torch.cat([model(x) for x in test]).float().cpu())
    return torch.stack(rows), weights["alive"].cpu()


def read_pool(path: Path, width: int, labels: NDArray[np.int64]) -> Pool:
    """A pool from its file."""
    tensors = read_tensors(path)[0]
    if not {"logits", "alive"} <= tensors.keys():
        raise Damaged(path, "is damaged: it holds no logits")
    logits, alive = tensors["logits"].numpy(), tensors["alive"].numpy()
    failed = {f.member: Failed(width, f.member, f.reason, f.accuracy) for f in failed_members(logits, labels)}
    for member in np.flatnonzero(~alive).tolist():  # its last finite weights may still predict something
        failed[member] = Failed(width, member, "non-finite", None)
    return Pool(width, logits, tuple(failed[m] for m in sorted(failed)))
