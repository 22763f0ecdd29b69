"""Pools of networks of one width, and what their ensembles are worth: accuracy, NLL and CNLL from stored logits.

    shards/width-00040-000, ...          the networks
    logits/width-00040.safetensors       logits [members, examples, classes] float32, alive [members]

Everything that follows is computed from the logits. Group g of ensembles of n networks has the pool's members g n to
(g + 1) n - 1, so that no two ensembles of a split share a network. Networks that failed to train are left out of their
ensemble, which then has fewer of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.ensembles import (
    PowerLaw,
    PowerLawError,
    Split,
    accuracy,
    average_probabilities,
    calibrated_nll,
    failed_members,
    fit_power_law,
    nll,
)
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.split.result import METRICS, Failed, Fit, Law, Point
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.experiments.split.study import Labels, Study, copies_of
from onsphere.lab.intervals import standard_error
from onsphere.lab.networks import batches, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.result import plain_of, typed
from onsphere.lab.store import Damaged
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import norm_layers, reestimate_batch_statistics

Scores = dict[str, float]
Stop = Callable[[], bool]

#: Random halvings of the test set behind a CNLL: of a split, as in the papers; of a point of a curve.
REPEATS, CURVE_REPEATS = 5, 1
#: Ensembles behind a point of a curve that is no split of a budget.
CURVE_GROUPS = 3


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
            logits, alive = zip(*(_member_logits(problem, shard) for shard in shards), strict=True)
            write_tensors(path, {"logits": torch.cat(logits), "alive": torch.cat(alive)})
        found[width] = _read_pool(path, width, study.labels)
    return found


def networks(session: Session[SplitSpec, Study], width: int, members: Sequence[int]) -> list[nn.Module]:
    """Trained networks of a width, on the CPU, with batch statistics of the whole training set."""
    problem, found = session.given.problems[width], {}
    for folder in session.run.shard_folders(_name(width)):
        shard = ShardFolder(folder)
        for row, copy in enumerate(shard.copies()):
            if copy.seed in members:
                found[copy.seed] = _ready(problem, shard.weights(), row, copy.seed).cpu()
    return [found[member] for member in members]


def _name(width: int) -> str:
    return f"width-{width:05d}"


def _ready(problem: Problem, weights: Mapping[str, Tensor], row: int, seed: int) -> nn.Module:
    """One network in evaluation mode, its batch statistics re-estimated over the training set if it has any."""
    model = network(problem, weights, row, seed)
    if norm_layers(model):
        reestimate_batch_statistics(model, [x for x, _ in batches(problem, "train", size=1000)])
    return model.eval()


@torch.no_grad()
def _member_logits(problem: Problem, shard: ShardFolder) -> tuple[Tensor, Tensor]:
    """Logits [K, examples, classes] float32 of a shard's networks on the test examples, and who stayed finite [K]."""
    weights = shard.weights()
    test = [x for x, _ in batches(problem, "test", size=2000)]
    rows = []
    for row, copy in enumerate(shard.copies()):
        model = _ready(problem, weights, row, copy.seed)
        rows.append(torch.cat([model(x) for x in test]).float().cpu())
    return torch.stack(rows), weights["alive"].cpu()


def _read_pool(path: Path, width: int, labels: Labels) -> Pool:
    tensors = read_tensors(path)[0]
    if not {"logits", "alive"} <= tensors.keys():
        raise Damaged(path, "is damaged: it holds no logits")
    logits, alive = tensors["logits"].numpy(), tensors["alive"].numpy()
    failed = {f.member: Failed(width, f.member, f.reason, f.accuracy) for f in failed_members(logits, labels)}
    for member in np.flatnonzero(~alive).tolist():  # its last finite weights may still predict something
        failed[member] = Failed(width, member, "non-finite", None)
    return Pool(width, logits, tuple(failed[m] for m in sorted(failed)))


def scores(pool: Pool, members: Sequence[int], labels: Labels, repeats: int = REPEATS) -> Scores | None:
    """Accuracy, NLL and CNLL of the ensemble of some members; None if none of them is usable."""
    usable = pool.usable(members)
    if not usable:
        return None
    logs = average_probabilities(pool.logits[usable])
    calibrated = calibrated_nll(logs[None], labels, repeats=repeats)
    return {"accuracy": accuracy(logs, labels), "nll": nll(logs, labels), "cnll": float(calibrated)}


def of_split(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> dict[str, list[float | None]]:
    """Every metric of each seed's ensemble; None where all of its networks failed."""
    n, rows = split.members, []
    for seed in range(seeds):
        ask(stop)
        rows.append(scores(pool, range(seed * n, (seed + 1) * n), labels))
    return _columns(rows)


def curve(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> list[Point]:
    """Ensembles of 1, 2, 4, ... networks of a split's pool, fewer than the split has, each seed's first one."""
    found, size = [], 1
    while size < split.members:
        rows = []
        for first in range(0, min(seeds, CURVE_GROUPS) * split.members, split.members):
            ask(stop)
            rows.append(scores(pool, range(first, first + size), labels, CURVE_REPEATS))
        found.append(point(split.width, size, _columns(rows)))
        size *= 2
    return [p for p in found if p.groups]


def _columns(rows: Sequence[Scores | None]) -> dict[str, list[float | None]]:
    return {name: [None if row is None else row[name] for row in rows] for name in METRICS}


def point(width: int, size: int, values: Mapping[str, Sequence[float | None]]) -> Point:
    """Mean and standard error of every metric over ensembles, those that are known."""
    errors = {name: standard_error([v for v in own if v is not None]) for name, own in values.items()}
    return Point(
        width,
        size,
        groups=sum(value is not None for value in values["nll"]),
        mean={name: mean(own) for name, own in values.items()},
        standard_error={name: error if math.isfinite(error) else None for name, error in errors.items()},
    )


def mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are known; NaN if none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else math.nan


def fit(width: int, metric: str, points: Sequence[Point]) -> Law:
    """The law through the points of one width: free exponent where they determine one, else -1, else none."""
    sizes = [p.size for p in points]
    values = [p.mean[metric] for p in points]
    errors = [p.standard_error[metric] for p in points]
    given = [e for e in errors if e] if all(errors) else None
    reason = ""
    for exponent in (-1.0,) if given is None and len(sizes) <= 3 else (None, -1.0):
        try:
            law = fit_power_law(sizes, values, errors=given, exponent=exponent, rising=metric == "accuracy")
        except PowerLawError as error:
            reason = str(error)
            continue
        return law_of(width, metric, law)
    return Law(width, metric, None, reason)


def law_of(width: int, metric: str, law: PowerLaw | None) -> Law:
    """A fitted law as the result keeps it."""
    if law is None:
        return Law(width, metric, None, "no law fits")
    return Law(width, metric, typed(Fit, plain_of(law.to_dict())), "exponent fixed at -1" if law.fixed_exponent else "")


def ask(stop: Stop) -> None:
    """Raise :class:`Interrupted` if the run was asked to stop."""
    if stop():
        raise Interrupted
