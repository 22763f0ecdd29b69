"""Reorder the channels of one network so that its weights come as near as possible to another's.

    maximise over permutations P of the permutation groups:   <a, P b>

Two networks trained from different seeds differ by an arbitrary order of their channels, and the barrier between them
says little before that is taken out. Weight matching solves one linear assignment a group, the others held, until
nothing changes; it needs no data. The first start goes through the network from the input, matching each group by what
is matched already, which finds a permuted copy exactly; further starts are random.

Source: Ainsworth et al. 2023 (Git Re-Basin), section 3.2 (matching weights).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onsphere.landscape.directions import angle_between
from onsphere.landscape.permutations import Axis, Groups, permutation_groups, permute
from onsphere.landscape.points import Point, double, of_model, real

__all__ = ["Alignment", "align"]

Orders = dict[str, Tensor]


@dataclass(frozen=True, repr=False, eq=False)
class Alignment:
    """A network in another's order of channels.

    Attributes:
        state: The reordered state dict of ``b``: the same function, batch statistics included.
        permutations: For each group, which channel of ``b`` comes to each place, ``[channels]``.
        groups: The axes that each permutation reorders.
        angle_before: Angle between the weights that may be reordered, radians, before.
        angle: The angle between the same weights after the reordering, radians.
        rounds: Rounds over all groups until nothing changed, of the best start.
        starts: Number of starts that were tried.
    """

    state: dict[str, Tensor]
    permutations: dict[str, Tensor]
    groups: Groups
    angle_before: float
    angle: float
    rounds: int
    starts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the weights, ready for JSON."""
        return {
            "permutations": {name: order.tolist() for name, order in self.permutations.items()},
            "angle_before": self.angle_before,
            "angle": self.angle,
            "rounds": self.rounds,
            "starts": self.starts,
        }

    def __repr__(self) -> str:
        moved = sum(int((order != torch.arange(len(order))).sum()) for order in self.permutations.values())
        channels = sum(map(len, self.permutations.values()))
        return (
            f"Alignment({len(self.permutations)} groups, {moved} of {channels} channels moved, "
            f"angle {self.angle_before:.4g} -> {self.angle:.4g} rad)"
        )


def align(
    model: nn.Module,
    a: Point,
    b: Point,
    *,
    groups: Mapping[str, Iterable[Axis | Sequence[Any]]] | None = None,
    rounds: int = 100,
    starts: int = 1,
    seed: int = 0,
) -> Alignment:
    """Reorder the channels of ``b`` to match those of ``a``.

    Args:
        model: The architecture, traced on a copy by ``torch.fx``; not run.
        a: The point that stays: a module, a state dict, or a list with a tensor for each parameter.
        b: The point to reorder.
        groups: Which axes are reordered together, where the model cannot be traced: group name -> axes, each an
            :class:`Axis` or (tensor name, dimension[, entries a channel]).
        rounds: At most so many rounds over all groups a start.
        starts: 1: from the input on. More: also from random orders; the best is kept.
        seed: Seed of the order of groups and of the random starts.

    Returns:
        The reordered network and how near it came.

    Raises:
        ValueError: The points do not match the model or hold NaN, the model cannot be traced, nothing can be reordered,
            or ``groups`` does not fit.
    """
    if rounds < 1 or starts < 1:
        raise ValueError(f"rounds is {rounds} and starts {starts}; both must be at least 1")
    x, _ = of_model(model, a, "a")
    y, buffers = of_model(model, b, "b")
    found: Groups = permutation_groups(model) if groups is None else _given(groups)
    state = {**y, **buffers}
    sizes = _sizes(found, state)
    if not sizes:
        raise ValueError("no channels of this model can be reordered; say which axes belong together with groups=")
    matching = _Matching(x, y, found, sizes)
    generator = np.random.default_rng(seed)
    best: tuple[float, int, Orders] | None = None
    for start in range(starts):
        if start == 0:
            orders = matching.from_the_input()
        else:
            orders = {g: torch.from_numpy(generator.permutation(n)) for g, n in sizes.items()}
        used = matching.improve(orders, rounds, generator)
        reached = matching.overlap(orders)
        if best is None or reached > best[0]:
            best = (reached, used, orders)
    assert best is not None
    kept = best[2]
    names = sorted(matching.names)
    aligned = permute(state, found, kept)
    return Alignment(
        state=_with_aliases(model, aligned),
        permutations=kept,
        groups=found,
        angle_before=angle_between(x, y, names),
        angle=angle_between(x, aligned, names),
        rounds=best[1],
        starts=starts,
    )


class _Matching:
    """Weight matching between two points whose channels form ``groups``."""

    def __init__(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], groups: Groups, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.groups = {g: [axis for axis in axes if axis.name in a] for g, axes in groups.items()}
        self.names = {axis.name for axes in self.groups.values() for axis in axes}
        self.a = {name: double(a[name].cpu()) for name in self.names}
        self.b = {name: double(b[name].cpu()) for name in self.names}
        self.on: dict[str, list[tuple[str, Axis]]] = {name: [] for name in self.names}
        for group, axes in self.groups.items():
            for axis in axes:
                self.on[axis.name].append((group, axis))

    def overlap(self, orders: Orders, names: Iterable[str] | None = None) -> float:
        """The dot product <a, P b>, of all tensors or of some."""
        chosen = sorted(self.names if names is None else names)
        return float(sum(float((real(self.a[n]) * real(self._ordered(n, orders))).sum()) for n in chosen))

    def from_the_input(self) -> Orders:
        """Match groups one after another, each by tensors whose other axes are matched already."""
        orders: Orders = {}
        while waiting := [g for g in self.groups if g not in orders]:
            ready = {g: [x for x in self.groups[g] if self._others_known(g, x, orders)] for g in waiting}
            # Most of its weights decided; for none, all of them in the order they have.
            group = max(waiting, key=lambda g: self._share(ready[g], g))
            orders[group] = self._assign(group, ready[group] or self.groups[group], orders)
        return orders

    def improve(self, orders: Orders, rounds: int, generator: np.random.Generator) -> int:
        """Assign group after group, in place, until no assignment gains anything; returns the rounds."""
        names = list(self.groups)
        for done in range(1, rounds + 1):
            changed = False
            for i in generator.permutation(len(names)):
                group = names[int(i)]
                new = {**orders, group: self._assign(group, self.groups[group], orders)}
                # The dot product itself: where a layer leads from a group to the same group, gains are but a guess.
                before, after = (self.overlap(o, {axis.name for axis in self.groups[group]}) for o in (orders, new))
                if after > before + 1e-12 * max(1.0, abs(before)):
                    orders[group], changed = new[group], True
            if not changed:
                return done
        return rounds

    def _share(self, axes: Sequence[Axis], group: str) -> float:
        whole = sum(float(real(self.a[x.name]).square().sum()) for x in self.groups[group])
        return sum(float(real(self.a[x.name]).square().sum()) for x in axes) / whole if whole > 0 else 0.0

    def _others_known(self, group: str, axis: Axis, orders: Orders) -> bool:
        return all(g in orders for g, other in self.on[axis.name] if other != axis)

    def _assign(self, group: str, axes: Sequence[Axis], orders: Orders) -> Tensor:
        return _assignment(self._gains(group, axes, orders))

    def _gains(self, group: str, axes: Sequence[Axis], orders: Orders) -> Tensor:
        """[i, j]: how much of <a, P b> comes from channel j of b at the place of channel i of a."""
        n = self.sizes[group]
        total = torch.zeros(n, n, dtype=torch.float64)
        for axis in axes:
            x, y = (
                _by_channel(tensor, axis, n).movedim(axis.dim, 0).reshape(n, -1)
                for tensor in (self.a[axis.name], self._ordered(axis.name, orders, but=axis))
            )
            total += (x @ y.mH).real if x.is_complex() else x @ y.T
        return total

    def _ordered(self, name: str, orders: Orders, but: Axis | None = None) -> Tensor:
        tensor = self.b[name]
        for group, axis in self.on[name]:
            if axis != but and group in orders:
                parts = _by_channel(tensor, axis, self.sizes[group])
                tensor = parts.index_select(axis.dim, orders[group]).flatten(axis.dim, axis.dim + 1)
        return tensor


def _by_channel(tensor: Tensor, axis: Axis, channels: int) -> Tensor:
    """``axis`` split into two, the channels and the entries of each."""
    return tensor.reshape(*tensor.shape[: axis.dim], channels, axis.block, *tensor.shape[axis.dim + 1 :])


def _assignment(gains: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(gains.numpy(), maximize=True)
    return torch.from_numpy(np.asarray(columns, dtype=np.int64))


def _given(groups: Mapping[str, Iterable[Axis | Sequence[Any]]]) -> dict[str, tuple[Axis, ...]]:
    found = {}
    for group, axes in groups.items():
        found[group] = tuple(axis if isinstance(axis, Axis) else Axis(*axis) for axis in axes)
        if not found[group]:
            raise ValueError(f"group {group!r} has no axes")
    return found


def _sizes(groups: Groups, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Channels of each group; every axis must agree (ValueError)."""
    sizes: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for group, axes in groups.items():
        for axis in axes:
            if axis.name not in state or not 0 <= axis.dim < state[axis.name].dim():
                raise ValueError(f"group {group!r} names dimension {axis.dim} of {axis.name!r}, which does not exist")
            if (axis.name, axis.dim) in seen:
                raise ValueError(f"dimension {axis.dim} of {axis.name!r} is in two groups")
            seen.add((axis.name, axis.dim))
            channels, left = divmod(state[axis.name].shape[axis.dim], axis.block)
            if left or sizes.setdefault(group, channels) != channels:
                raise ValueError(f"{axis.name!r} has not {sizes.get(group)} channels as the rest of group {group!r}")
    return sizes


def _with_aliases(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under every name of the model's state dict: tied parameters have several."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    keys = model.state_dict(keep_vars=True)
    return {key: state[names[id(tensor)]] for key, tensor in keys.items()}
