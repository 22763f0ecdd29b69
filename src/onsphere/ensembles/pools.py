"""Every ensemble size from one pool of trained members, without training again.

The pool is cut into disjoint groups of n members; each group is one ensemble of size n, and the spread over groups is
an honest standard error, since groups share no member (they do share the test examples). What does not fill a group
is left over. Members that failed to train are reported in every result, and left out only when that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.ensembles._inputs import Array, as_array, check_labels, check_logits, log_softmax, positive_integer
from onsphere.ensembles.averaging import mean_probabilities
from onsphere.ensembles.calibration import Temperature, calibrated_nll
from onsphere.ensembles.calibration_errors import ece
from onsphere.ensembles.metrics import accuracy, brier, disagreement, nll

__all__ = ["FailedMember", "PoolSize", "disjoint_groups", "failed_members", "pool_metrics"]

METRICS = ("accuracy", "nll", "cnll", "brier", "ece", "disagreement")


@dataclass(frozen=True)
class FailedMember:
    """A member of a pool that did not learn.

    Attributes:
        member: The member's index in the pool.
        reason: Why it counts as failed: ``"non-finite"`` or ``"chance"``.
        accuracy: A fraction; None where its logits are not finite.
    """

    member: int
    reason: str
    accuracy: float | None


@dataclass(frozen=True)
class PoolSize:
    """The ensembles of one size.

    Attributes:
        size: Members of an ensemble, n.
        groups: How many disjoint ensembles there are.
        mean: Each metric's mean over groups: accuracy, nll, cnll, brier, ece, and disagreement (None for n = 1).
        standard_error: Each metric's standard error of that mean; None where there is one group.
        members: The pool's indices, group by group.
        left_over: Members of the pool in no group of this size.
        failed: Members that failed to train, in the whole pool.
        excluded: Whether those were left out of the groups.
    """

    size: int
    groups: int
    mean: dict[str, float | None]
    standard_error: dict[str, float | None]
    members: tuple[tuple[int, ...], ...]
    left_over: tuple[int, ...]
    failed: tuple[FailedMember, ...]
    excluded: bool

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        found = asdict(self)
        return {**found, "members": [list(g) for g in self.members], "left_over": list(self.left_over)}

    def __repr__(self) -> str:
        def one(name: str) -> str:
            error = self.standard_error[name]
            spread = "" if error is None else f" +- {error:.4f}"
            return f"{name} {self.mean[name]:.4f}{spread}"

        failed = f", {len(self.failed)} members failed to train" if self.failed else ""
        return (
            f"PoolSize: {self.groups} ensembles of {self.size}: {one('accuracy')}, {one('nll')}, {one('cnll')}{failed}"
        )


def failed_members(logits: Any, labels: Any, *, accuracy_at_most: float | None = None) -> tuple[FailedMember, ...]:
    """Members of a pool whose logits are not finite, or whose accuracy is that of chance.

    Args:
        logits: ``[members, examples, classes]``; here NaN and inf are allowed.
        labels: Class of each example, ``[examples]``.
        accuracy_at_most: A member with at most this accuracy has failed. None: the share of the most frequent label
            plus two standard deviations of a binomial share, which a constant prediction does not exceed. The papers
            use 0.15 for ten classes.

    Returns:
        The failed ones, in the pool's order.

    Raises:
        ValueError: Shapes that do not match, labels out of range, ``accuracy_at_most`` outside [0, 1).
    """
    array = as_array(logits)
    if array.ndim != 3:
        raise ValueError(f"logits have shape {array.shape}; they must be [members, examples, classes]")
    array = array.astype(np.float64)
    targets = check_labels(labels, *array.shape[1:])
    if accuracy_at_most is None:
        share = float(np.bincount(targets).max() / len(targets))
        accuracy_at_most = min(share + 2 * math.sqrt(share * (1 - share) / len(targets)), np.nextafter(1.0, 0.0))
    elif not 0 <= accuracy_at_most < 1:
        raise ValueError(f"accuracy_at_most is {accuracy_at_most}; it must lie in [0, 1)")
    found = []
    for i, member in enumerate(array):
        if not np.isfinite(member).all():
            found.append(FailedMember(i, "non-finite", None))
        elif (share := float((member.argmax(axis=1) == targets).mean())) <= accuracy_at_most:
            found.append(FailedMember(i, "chance", share))
    return tuple(found)


def disjoint_groups(pool: int, size: int, *, seed: int | None = None) -> list[tuple[int, ...]]:
    """Cut a pool into disjoint groups.

    Args:
        pool: How many members the pool has.
        size: Members of a group, n.
        seed: Shuffles the pool first; None keeps its order.

    Returns:
        ``pool // size`` groups of indices.

    Raises:
        ValueError: ``size`` above ``pool``, or no whole numbers.
    """
    pool, size = positive_integer("pool", pool), positive_integer("size", size)
    if size > pool:
        raise ValueError(f"size is {size}; a pool of {pool} has no ensemble of more than {pool} members")
    order = range(pool) if seed is None else np.random.default_rng(seed).permutation(pool).tolist()
    return [tuple(order[i : i + size]) for i in range(0, pool - size + 1, size)]


def pool_metrics(
    logits: Any,
    labels: Any,
    sizes: Sequence[int] | None = None,
    *,
    exclude_failed: bool = False,
    accuracy_at_most: float | None = None,
    temperature: Temperature = "averaged",
    seed: int | None = None,
) -> list[PoolSize]:
    """Mean and standard error of every metric for every ensemble size.

    Args:
        logits: ``[members, examples, classes]`` of the whole pool.
        labels: Class of each example, ``[examples]``.
        sizes: Ensemble sizes n; None: 1, 2, 3, ... up to the pool.
        exclude_failed: Leave members that failed to train out of the groups. Otherwise they stay in, as long as their
            logits are finite.
        accuracy_at_most: Accuracy up to which a member counts as failed, as for :func:`failed_members`.
        temperature: How CNLL is calibrated, as for :func:`~onsphere.ensembles.calibrated_nll`.
        seed: Shuffles the pool before it is cut; None keeps its order.

    Returns:
        One result for each size.

    Raises:
        ValueError: As :func:`failed_members`; a size above the number of members; a member that is not finite and not
            excluded.

    Source:
        Lobacheva, Chirkova et al. 2020 (disjoint groups from one pool).
    """
    failed = failed_members(logits, labels, accuracy_at_most=accuracy_at_most)
    array = as_array(logits).astype(np.float64)
    out = {f.member for f in failed} if exclude_failed else set()
    kept = [i for i in range(len(array)) if i not in out]
    if not kept:
        raise ValueError(f"all {len(array)} members failed to train; there is no ensemble without them")
    if broken := [f.member for f in failed if f.reason == "non-finite" and not exclude_failed]:
        raise ValueError(
            f"logits of member {broken[0]} are not finite; exclude_failed=True leaves such members out and reports them"
        )
    logs = log_softmax(check_logits(array[kept]))
    results = []
    for size in range(1, len(kept) + 1) if sizes is None else sizes:
        groups = disjoint_groups(len(kept), size, seed=seed)
        rows = [_group(logs[list(group)], labels, temperature) for group in groups]
        mean, error = _summary(rows)
        named = tuple(tuple(kept[i] for i in group) for group in groups)
        used = {i for group in named for i in group}
        left = tuple(i for i in kept if i not in used)
        results.append(PoolSize(size, len(groups), mean, error, named, left, failed, exclude_failed))
    return results


def _group(logs: Array, labels: Any, temperature: Temperature) -> dict[str, float | None]:
    average = mean_probabilities(logs)
    return {
        "accuracy": accuracy(average, labels),
        "nll": nll(average, labels),
        "cnll": calibrated_nll(logs, labels, temperature=temperature).value,
        "brier": brier(average, labels),
        "ece": ece(average, labels),
        "disagreement": disagreement(logs) if len(logs) > 1 else None,
    }


def _summary(rows: list[dict[str, float | None]]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    mean: dict[str, float | None] = {}
    error: dict[str, float | None] = {}
    for name in METRICS:
        values = [value for row in rows if (value := row[name]) is not None]
        mean[name] = float(np.mean(values)) if values else None
        several = len(values) > 1
        error[name] = float(np.std(values, ddof=1) / math.sqrt(len(values))) if several else None
    return mean, error
