"""Pools of networks of one width, and what their ensembles are worth: metrics from stored logits.

    shards/width-00040-000, ...          the networks
    logits/width-00040.safetensors       logits [members, examples, classes] float32, alive [members]

Everything that follows is computed from the logits. Group g of ensembles of n networks has the pool's members g n to
(g + 1) n - 1, so that no two ensembles of a split share a network. Networks that failed to train are left out of their
ensemble, which then has fewer of them; with ``failed_accuracy`` they are dropped first, as published, and the ensembles
are cut from those that remain.
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
    Split,
    accuracy,
    ace,
    average_probabilities,
    calibrated_nll,
    ece,
    failed_members,
    misclassification_auroc,
    nll,
    sce,
    tace,
    temperature_nll,
    top_k_accuracy,
)
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.split.pools.points import KINDS, AtTemperatures, Point
from onsphere.lab.experiments.split.pools.study import Labels, Study, copies_of
from onsphere.lab.experiments.split.result import METRICS, MORE, Failed
from onsphere.lab.experiments.split.spec import SplitSpec
from onsphere.lab.intervals import standard_error
from onsphere.lab.networks import batches, network
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.store import Damaged
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import norm_layers, reestimate_batch_statistics

Scores = dict[str, float]
Stop = Callable[[], bool]

#: Random halvings of the test set behind a CNLL: of a split, as in the papers; of a point of a curve.
REPEATS, CURVE_REPEATS = 5, 1
#: Ensembles behind a point of a curve that is no split of a budget.
CURVE_GROUPS = 3
#: Fixed temperatures whose NLL is measured, powers of the square root of 2.
TEMPERATURES = tuple(round(2 ** (i / 2), 4) for i in range(-4, 4))


@dataclass(frozen=True, eq=False)
class Pool:
    """The networks of one width.

    Attributes:
        width: Width of the networks.
        logits: float32 [members, examples, classes].
        failed: Networks that did not learn.
        dropped: Whether these are dropped before the pool is cut into ensembles.
    """

    width: int
    logits: NDArray[np.float32]
    failed: tuple[Failed, ...]
    dropped: bool = False

    def usable(self, members: Sequence[int]) -> list[int]:
        """The members that did learn, of some."""
        out = {f.member for f in self.failed}
        return [i for i in members if i not in out]

    def group(self, number: int, size: int) -> list[int]:
        """The usable members of an ensemble: of ``size`` networks in a row, or of those that were not dropped."""
        places = range(number * size, (number + 1) * size)
        if not self.dropped:
            return self.usable(places)
        kept = self.usable(range(len(self.logits)))
        return kept[places.start : places.stop] if len(kept) >= places.stop else []


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
            copies = copies_of(session.spec, study.sizes[width], width)
            shards = session.train(problem, _name(width), copies, f"width {width}: {len(copies)} networks", most=most)
            logits, alive = zip(*(_member_logits(problem, shard) for shard in shards), strict=True)
            write_tensors(path, {"logits": torch.cat(logits), "alive": torch.cat(alive)})
        found[width] = _read_pool(path, width, study.labels, session.spec.failed_accuracy)
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


def _read_pool(path: Path, width: int, labels: Labels, at_most: float | None) -> Pool:
    tensors = read_tensors(path)[0]
    if not {"logits", "alive"} <= tensors.keys():
        raise Damaged(path, "is damaged: it holds no logits")
    logits, alive = tensors["logits"].numpy(), tensors["alive"].numpy()
    known = {"chance": "chance" if at_most is None else "accuracy"}
    failed = {
        f.member: Failed(width, f.member, known.get(f.reason, f.reason), f.accuracy)
        for f in failed_members(logits, labels, accuracy_at_most=at_most)
    }
    for member in np.flatnonzero(~alive).tolist():  # its last finite weights may still predict something
        failed[member] = Failed(width, member, "non-finite", None)
    return Pool(width, logits, tuple(failed[m] for m in sorted(failed)), at_most is not None)


def scores(pool: Pool, members: Sequence[int], labels: Labels, repeats: int = REPEATS) -> Scores | None:
    """Accuracy, NLL, CNLL and its temperature of the ensemble of some members; None if none of them is usable."""
    usable = pool.usable(members)
    if not usable:
        return None
    logs = average_probabilities(pool.logits[usable])
    calibrated = calibrated_nll(logs[None], labels, repeats=repeats)
    found = {"accuracy": accuracy(logs, labels), "nll": nll(logs, labels), "cnll": float(calibrated)}
    return found | {"temperature": calibrated.mean_temperature}


def more_scores(pool: Pool, members: Sequence[int], labels: Labels) -> Scores | None:
    """Top-5 accuracy (NaN with at most five classes), calibration errors and AUROC of an ensemble; None as above."""
    usable = pool.usable(members)
    if not usable:
        return None
    logs = average_probabilities(pool.logits[usable])
    found = {f.__name__: f(logs, labels) for f in (ece, ace, sce, tace)}
    top = top_k_accuracy(logs, labels, k=5) if logs.shape[1] > 5 else math.nan
    return found | {"top5": top, "auroc": misclassification_auroc(logs, labels)}


def of_split(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> dict[str, list[float | None]]:
    """Every metric of each seed's ensemble; None where all of its networks failed."""
    rows: list[Scores | None] = []
    for seed in range(seeds):
        ask(stop)
        group = pool.group(seed, split.members)
        one, more = scores(pool, group, labels), more_scores(pool, group, labels)
        rows.append(None if one is None or more is None else one | more)
    return _columns(rows, (*METRICS, *MORE))


def curve(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> list[Point]:
    """Ensembles of 1, 2, 4, ... networks of a split's pool, fewer than the split has, each seed's first one."""
    found, size = [], 1
    while size < split.members:
        rows = []
        for group in _curve_groups(pool, split, seeds):
            ask(stop)
            rows.append(scores(pool, group[:size], labels, CURVE_REPEATS))
        found.append(point(split.width, size, _columns(rows, (*METRICS, "temperature"))))
        size *= 2
    return [p for p in found if p.groups]


def at_temperatures(pool: Pool, split: Split, seeds: int, labels: Labels, stop: Stop) -> list[AtTemperatures]:
    """NLL at fixed temperatures of ensembles of 1, 2, 4, ... networks up to the split's, by both ways to apply them."""
    sizes = sorted({split.members, *(2**i for i in range(split.members.bit_length()))})
    found = []
    for size in sizes:
        for kind in KINDS:
            rows = []
            for group in _curve_groups(pool, split, seeds):
                ask(stop)
                if usable := pool.usable(group[:size]):
                    rows.append(temperature_nll(pool.logits[usable], labels, TEMPERATURES, temperature=kind))
            if rows:
                means = tuple(np.mean(rows, axis=0).tolist())
                found.append(AtTemperatures(split.width, size, kind, TEMPERATURES, means))
    return found


def _curve_groups(pool: Pool, split: Split, seeds: int) -> list[list[int]]:
    """The ensembles whose first members make the points of a curve: of those who failed there is only a gap."""
    groups = range(min(seeds, CURVE_GROUPS))
    if pool.dropped:
        return [pool.group(g, split.members) for g in groups]
    return [list(range(g * split.members, (g + 1) * split.members)) for g in groups]


def _columns(rows: Sequence[Scores | None], names: Sequence[str]) -> dict[str, list[float | None]]:
    return {name: [None if row is None else row[name] for row in rows] for name in names}


def point(width: int, size: int, values: Mapping[str, Sequence[float | None]]) -> Point:
    """Mean and standard error of every metric over ensembles, those that are known; and their mean temperature."""
    errors = {name: spread(values[name]) for name in METRICS}
    return Point(
        width,
        size,
        groups=sum(value is not None for value in values["nll"]),
        mean={name: mean(values[name]) for name in METRICS},
        standard_error=errors,
        temperature=mean_temperature(values["temperature"]),
    )


def mean(values: Sequence[float | None]) -> float:
    """Mean of the values that are known; NaN if none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else math.nan


def spread(values: Sequence[float | None]) -> float | None:
    """Standard error of the mean of those that are known; None where it is not known."""
    error = standard_error([v for v in values if v is not None])
    return error if math.isfinite(error) else None


def mean_temperature(values: Sequence[float | None]) -> float:
    """Geometric mean of temperatures that are known; NaN if none is."""
    known = [v for v in values if v is not None]
    return math.exp(float(np.mean(np.log(known)))) if known else math.nan


def ask(stop: Stop) -> None:
    """Raise :class:`Interrupted` if the run was asked to stop."""
    if stop():
        raise Interrupted
