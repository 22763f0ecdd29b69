"""What a monitor has read so far, by group or tensor: as readings, as a table, and as what a diagnosis is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.monitor.forces import shrunk
from onsphere.monitor.groups import Group, Watched
from onsphere.monitor.history import GroupHistory
from onsphere.monitor.readings import COLUMNS, SETTINGS, Store, measure

__all__ = ["Record"]

#: Below this Noether residual parameters that nobody called scale-invariant are taken for it.
_INVARIANT = 1e-4
#: Readings that say whether a tensor has a gradient at all.
_RECENT = 20


class Record:
    """The stores of all optimisers, read group by group.

    Args:
        watched: The tensors that are read, and their groups.
        classes: Name of each optimiser's class.
        keep: Readings that are kept.

    Attributes:
        stores: One for each optimiser.
        groups: The groups, ``total`` last.
        main: What a forecast is about: ``total``, else the sphere, else the first group.
    """

    def __init__(self, watched: Watched, classes: Sequence[str], keep: int) -> None:
        self.watched, self.classes = watched, list(classes)
        self.stores = [
            Store(keep, len(tensors), len(param_groups))
            for tensors, param_groups in zip(watched.tensors, watched.param_groups, strict=True)
        ]
        self.groups = watched.groups + ([watched.total] if watched.total else [])
        self.main = watched.total or next((g for g in watched.groups if g.sphere), watched.groups[0])

    def size(self, group: Group) -> int:
        """Numbers in a group's tensors."""
        return sum(tensor.numel() for tensor in self.tensors(group))

    def tensors(self, group: Group) -> list[Tensor]:
        """A group's tensors."""
        return [self.watched.tensors[k][i] for k, indices in group.members.items() for i in indices]

    def read(self, group: Group, *, after: int = -1, last: int | None = None) -> dict[str, NDArray[Any]]:
        """The readings of a group.

        Args:
            group: One of the groups of this record.
            after: Only of steps later than this one.
            last: At most so many, the latest.

        Returns:
            ``step``, ``shrunk``, what :func:`onsphere.monitor.readings.measure` gives, and the settings; ``[T]`` each.
            Where several optimisers step the group, steps that all of them read.
        """
        blocks = {k: self.stores[k].arrays() for k in group.members}
        steps = blocks[group.settings[0]][0]
        steps = steps[np.searchsorted(steps, after, side="right") :]
        if len(blocks) > 1:
            for other, _, _ in blocks.values():
                steps = np.intersect1d(steps, other, assume_unique=True)
        if last is not None:
            steps = steps[max(len(steps) - last, 0) :]
        rows = {k: np.searchsorted(block[0], steps) for k, block in blocks.items()}
        sums, decayed = np.zeros((len(steps), 5)), np.zeros(len(steps))
        for k, indices in group.members.items():
            own = blocks[k][1][rows[k]][:, list(indices)]
            sums = sums + own.sum(axis=1)
            taken = self._shrunk(k, indices, blocks[k][2][rows[k]])
            decayed = decayed + (own[:, :, 0] * taken * (own[:, :, 4] != 0)).sum(axis=1)  # what stays is not shrunk
        k, place = group.settings
        settings = blocks[k][2][rows[k], place]
        named = {name: settings[:, i] for i, name in enumerate(SETTINGS)}
        with np.errstate(all="ignore"):
            shrunk = np.nan_to_num(decayed / sums[:, 0])
        return {"step": steps, "shrunk": shrunk} | measure(sums, shrunk) | named

    def _shrunk(self, k: int, indices: Sequence[int], settings: NDArray[np.float64]) -> NDArray[np.float64]:
        """The fraction that decay takes of some tensors of an optimiser ``[n, T]``, from settings ``[n, P, 5]``."""
        places = [self.watched.places[k][i] for i in indices]
        used = sorted(set(places))
        rules = [self.watched.rules[k][j] for j in used]
        taken = [shrunk(rule, *(settings[:, j, i] for i in range(3))) for j, rule in zip(used, rules, strict=True)]
        return np.stack(taken, axis=1)[:, [used.index(j) for j in places]]

    def table(self, groups: Sequence[Group]) -> dict[str, NDArray[Any]]:
        """Readings of several groups as columns, one row for each step and group, by step."""
        read = [self.read(group) for group in groups]
        columns = ("step", *COLUMNS, "lr", "weight_decay", "finite")
        if not read:
            return {name: np.zeros(0) for name in ("step", "group", *columns[1:])}
        order = np.argsort(np.concatenate([one["step"] for one in read]), kind="stable")
        found = {name: np.concatenate([one[name] for one in read])[order] for name in columns}
        names = np.repeat([group.name for group in groups], [len(one["step"]) for one in read])[order]
        return {"step": found.pop("step"), "group": names} | found

    def history(self, group: Group, *, last: int | None = None) -> GroupHistory:
        """A group's readings (the ``last`` ones) as a diagnosis wants them."""
        read = self.read(group, last=last)
        residual = read["noether_residual"][read["finite"]]
        measured = group.name == "all" and len(residual) > 0 and float(np.median(residual)) < _INVARIANT
        latest = {name: float(read[name][-1]) if len(read[name]) else np.nan for name in SETTINGS}
        betas = latest["beta1"], latest["beta2"]
        parts = {t.name: self.read(t, last=last) for t in self.watched.by_tensor if _in(t, group)}
        broken = ~read["finite"]
        first = read["step"][np.argmax(broken)] if broken.any() else -1
        k, place = group.settings
        rule = self.watched.rules[k][place]
        kinds = ["AdamW" if one == "Adam" and rule.decay == "decoupled" else one for one in self._classes(group)]
        return GroupHistory(
            name=group.name,
            title=group.title,
            parameters=self.size(group),
            invariant=group.sphere is not None or measured,
            optimizer="+".join(kinds),
            steps=read["step"],
            norm=read["norm"],
            gradient_norm=read["gradient_norm"],
            effective_step=read["effective_step"],
            angular_update=read["angular_update"],
            noether_residual=read["noether_residual"],
            lr=read["lr"],
            weight_decay=np.nan_to_num(read["weight_decay"]),
            shrunk=read["shrunk"],
            momentum=float(np.nan_to_num(latest["momentum"])),
            share=rule.share,
            eps=rule.eps,
            betas=None if np.isnan(betas).any() else betas,
            tensors={name: part["angular_update"] for name, part in parts.items()},
            ends=self.watched.ends,
            vectors=frozenset(t.name for t in self.watched.by_tensor if self._is_vector(t)),
            broken=broken,
            damaged=tuple(n for n, part in parts.items() if (~part["finite"] & (part["step"] == first)).any()),
            frozen=tuple(n for n, part in parts.items() if not part["gradient_norm"][-_RECENT:].any()),
            rule=self._rule(group),
            resolution=max(torch.finfo(t.dtype).eps for t in self.tensors(group)),
        )

    def _classes(self, group: Group) -> list[str]:
        return [self.classes[k] for k in group.members]

    def _is_vector(self, tensor: Group) -> bool:
        return all(one.dim() < 2 for one in self.tensors(tensor))

    def _rule(self, group: Group) -> str | None:
        kind = self.classes[group.settings[0]]
        if group.param_groups > 1 or kind not in ("SGD", "SphereSGD"):
            return None
        if kind == "SGD" or group.sphere is None:
            return "space"
        return "sphere" if group.sphere == "joint" else None

    def histories(self, *, last: int | None = None) -> list[GroupHistory]:
        """The readings of all groups."""
        return [self.history(group, last=last) for group in self.groups]


def _in(tensor: Group, group: Group) -> bool:
    return all(set(indices) <= set(group.members.get(k, ())) for k, indices in tensor.members.items())
