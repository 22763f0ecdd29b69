"""Pools of networks of one width: trained by the population engine, kept as logits on the test examples.

    shards/width-00040-000, ...          the networks
    logits/width-00040.safetensors       logits [members, examples, classes] float32, alive [members]

Everything that follows is computed from the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.ensembles import failed_members
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.split.study import Labels, Study, copies_of
from onsphere.lab.networks import batches, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.store import Damaged
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import norm_layers, reestimate_batch_statistics


@dataclass(frozen=True)
class Failed:
    """A network that did not learn.

    Attributes:
        width: The width of its pool.
        member: Its index in the pool, which is its seed.
        reason: Either ``non-finite`` or ``chance``.
        accuracy: A fraction of the test images; None where its logits are not finite.
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
        width: Width of the networks.
        logits: float32 [members, examples, classes].
        failed: Networks that did not learn.
    """

    width: int
    logits: NDArray[np.float32]
    failed: tuple[Failed, ...]

    def usable(self, members: Sequence[int]) -> list[int]:
        """The members that did learn, of some."""
        out = {f.member for f in self.failed}
        return [i for i in members if i not in out]


def trained_pools(session: Session[SplitSpec, Study]) -> dict[int, Pool]:
    """All pools, one width after another, narrow ones first; finished ones are found on disk.

    Raises:
        Interrupted: The run was asked to stop.
    """
    study, folder = session.given, session.run.folder / "logits"
    folder.mkdir(exist_ok=True)
    most = max(study.sizes.values())  # the plan is chosen once, for the largest pool
    found = {}
    for width, problem in study.problems.items():
        path = folder / f"{_name(width)}.safetensors"
        if not path.exists():
            copies = copies_of(session.spec, study.sizes[width])
            shards = session.train(problem, _name(width), copies, f"width {width}: {len(copies)} networks", most=most)
            logits, alive = zip(*(member_logits(problem, shard) for shard in shards), strict=True)
            write_tensors(path, {"logits": torch.cat(logits), "alive": torch.cat(alive)})
        found[width] = read_pool(path, width, study.labels)
    return found


def networks(session: Session[SplitSpec, Study], width: int, members: Sequence[int]) -> list[nn.Module]:
    """Trained networks of a width, on the CPU, with batch statistics of the whole training set."""
    problem, found = session.given.problems[width], {}
    for folder in session.run.shard_folders(_name(width)):
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
    weights = shard.weights()
    test = [x for x, _ in batches(problem, "test", size=2000)]
    rows = []
    for row, copy in enumerate(shard.copies()):
        model = ready_network(problem, weights, row, copy.seed)
        rows.append(torch.cat([model(x) for x in test]).float().cpu())
    return torch.stack(rows), weights["alive"].cpu()


def read_pool(path: Path, width: int, labels: Labels) -> Pool:
    """A pool from its file."""
    tensors = read_tensors(path)[0]
    if not {"logits", "alive"} <= tensors.keys():
        raise Damaged(path, "is damaged: it holds no logits")
    logits, alive = tensors["logits"].numpy(), tensors["alive"].numpy()
    failed = {f.member: Failed(width, f.member, f.reason, f.accuracy) for f in failed_members(logits, labels)}
    for member in np.flatnonzero(~alive).tolist():  # its last finite weights may still predict something
        failed[member] = Failed(width, member, "non-finite", None)
    return Pool(width, logits, tuple(failed[m] for m in sorted(failed)))
