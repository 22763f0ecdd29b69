"""Blocks of one tensor that are scale-invariant by themselves: heads, parts of a fused matrix, experts, channel groups.

A block is a set S of slices along dimension 0 or 1 of a tensor θ. Multiplying it by any number changes nothing if, at
every point and for every direction v of the output,

    Σ_{r in S} s_r = 0,      s_r = <θ_r, gradient of <v, output> by θ_r>.

So blocks are the 0/1 vectors in the null space of the matrix of all s, one row a direction. Each that is found is
rescaled by 2 and by 1/2, and only where the output stays is it a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.symmetry.lattice import disjoint_groups, largest_sphere, row_reduced
from onsphere.symmetry.probe import Probe, relative_change

__all__ = ["Block", "find_blocks", "labels_of", "said_of_blocks"]

#: Slices of one tensor whose products are not zero one by one: more are not searched, the cost grows with their square.
MOST_SLICES = 512
#: Products, relative to a tensor's gradient, that count as zero; what is certain is decided by rescaling.
_ZERO = 1e-9
#: A slice with a smaller part of its tensor's gradient is not seen (an embedding of a token that is not in the batch).
_SEEN = 1e-6
#: Relative changes of the output that count as none.
_INVARIANT_BELOW = 1e-8
_CHUNK, _POINTS_THAT_ADD_NOTHING, _LEAST_GAP, _MOST_MIXED = 8, 2, 1e3, 128


@dataclass(frozen=True)
class Block:
    """Slices of a tensor that may be multiplied by a common number.

    Attributes:
        name: Name of the parameter.
        dim: The dimension along which the slices are counted: 0, rows, or 1, columns.
        rows: Indices of the slices, ascending.
    """

    name: str
    dim: int
    rows: tuple[int, ...]


@dataclass
class _Search:
    """What is known of the slices of one tensor along one dimension: products that are not zero one by one shrink it.

    Attributes:
        index: Which parameter of the probe.
        dim: The dimension along which the slices are counted.
        gathered: Rows of products, ``[directions, R]``.
        null: Basis of what the products allow, ``[R, k]``.
        sizes: The largest part that each slice has had of its tensor's gradient, ``[R]``.
    """

    index: int
    dim: int
    null: NDArray[np.float64]
    sizes: NDArray[np.float64]
    gathered: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, rows: NDArray[np.float64]) -> bool:
        """Take rows in; whether they have taken something away from the null space."""
        self.gathered.append(rows)
        left = rows @ self.null
        if not self.null.shape[1] or not np.abs(left).max(initial=0.0) > _ZERO:
            return False
        _, values, directions = np.linalg.svd(left, full_matrices=True)
        self.null = self.null @ directions[int((values > _ZERO).sum()) :].T
        return True

    def busy(self) -> int:
        """How many slices have products that are not zero by themselves."""
        return int((np.abs(np.concatenate(self.gathered)).max(0) > _ZERO).sum())


def find_blocks(probe: Probe) -> tuple[dict[str, tuple[Block, ...]], list[str]]:
    """The blocks of every tensor of at least two dimensions, each certified.

    Args:
        probe: The copy of the model; it is moved to other points on the way.

    Returns:
        For every tensor that has some its blocks, disjoint, along the dimension along which they hold most of it; a
        block that is the whole tensor is none. And notes on what was not searched, as sentences.
    """
    searches = [
        _Search(i, dim, np.eye(p.shape[dim]), np.zeros(p.shape[dim]))
        for i, p in enumerate(probe.parameters)
        for dim in (0, 1)
        if p.dim() > 1 and p.shape[dim] > 1
    ]
    notes: list[str] = []
    active, idle, point = searches, 0, 0
    while active and idle < _POINTS_THAT_ADD_NOTHING:
        if point:
            probe.move()
        outputs = _outputs(probe)
        if not outputs:
            return {}, ["blocks were not searched for: the output has no backward pass"]
        taken, size, added = 0, sum(t.numel() for t in outputs), False
        while taken < size:
            count = min(_CHUNK, size - taken)
            found = _products(probe, outputs, active, count)
            taken += count
            if found is None:
                return {}, ["blocks were not searched for: the output has no backward pass"]
            new = [search.add(rows) for search, rows in zip(active, found, strict=True)]
            if point == 0 and taken == count:
                large = [s for s in active if s.busy() > MOST_SLICES]
                notes += [_too_large(probe, s) for s in large]
                searches = [s for s in searches if s not in large]
                active = [s for s in active if s not in large]
            added = added or any(new)
            if not any(new):
                break
        active = [s for s in active if s.null.shape[1]]
        idle, point = 0 if added else idle + 1, point + 1
    best: dict[int, tuple[float, list[Block]]] = {}
    for search in searches:
        blocks = _certified(probe, search, _candidates(search))
        held = sum(len(block.rows) for block in blocks) / len(search.sizes)
        before = best.get(search.index)
        if blocks and (before is None or held > before[0]):
            best[search.index] = (held, blocks)
    return {probe.names[i]: tuple(blocks) for i, (_, blocks) in sorted(best.items())}, notes


def labels_of(blocks: Sequence[Block], count: int) -> tuple[int, ...] | None:
    """The blocks of a tensor as labels, one for each of its slices; None where some slices are in no block."""
    labels = [-1] * count
    for label, block in enumerate(blocks):
        for row in block.rows:
            labels[row] = label
    return None if -1 in labels else tuple(labels)


def said_of_blocks(blocks: Sequence[Block]) -> str:
    """How many blocks of how many slices: ``4 blocks of 8 rows``."""
    sizes = sorted({len(block.rows) for block in blocks})
    many = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    what = "column" if blocks[0].dim else "row"
    return f"{len(blocks)} block{'s' * (len(blocks) > 1)} of {many} {what}{'s' * (sizes[-1] > 1)}"


def _too_large(probe: Probe, search: _Search) -> str:
    return (
        f"{probe.names[search.index]} was not searched for blocks along dimension {search.dim}: more than "
        f"{MOST_SLICES} of its slices are not invariant one by one; search a smaller twin"
    )


def _outputs(probe: Probe) -> list[Tensor]:
    with torch.enable_grad():
        for parameter in probe.parameters:
            parameter.requires_grad_()
        return [t for t in probe.outputs() if t.requires_grad]


def _products(
    probe: Probe, outputs: Sequence[Tensor], searches: Sequence[_Search], count: int
) -> list[NDArray[np.float64]] | None:
    """Products of gradient and weight slice by slice for random directions, ``[count, R]``; None: no backward pass."""
    rows: list[list[NDArray[np.float64]]] = [[] for _ in searches]
    tensors = [probe.parameters[s.index] for s in searches]
    for _ in range(count):
        try:
            gradients = torch.autograd.grad(
                outputs, tensors, [probe.noise(t) for t in outputs], retain_graph=True, allow_unused=True
            )
        except (RuntimeError, NotImplementedError):
            return None
        for search, own, g, p in zip(searches, rows, gradients, tensors, strict=True):
            if g is None:
                own.append(np.zeros(len(search.sizes)))
                continue
            g, theta = (torch.view_as_real(t) if t.is_complex() else t for t in (g, p.detach()))
            over = [d for d in range(g.dim()) if d != search.dim]
            slices = g.square().sum(over).sqrt() * theta.square().sum(over).sqrt()
            whole = float(g.norm() * theta.norm()) or 1.0
            own.append(((g * theta).sum(over) / whole).cpu().numpy())
            search.sizes = np.maximum(search.sizes, (slices / whole).cpu().numpy())
    return [np.stack(own) for own in rows]


def _candidates(search: _Search) -> list[list[int]]:
    """Disjoint sets of slices whose products add up to zero, those that cannot be split."""
    rows = np.concatenate(search.gathered)
    _, values, directions = np.linalg.svd(rows, full_matrices=True)
    values = np.concatenate([values, np.zeros(rows.shape[1])])[: rows.shape[1]]
    rank = int((values > _ZERO).sum())
    if rank == len(values) or (rank and values[rank - 1] < _LEAST_GAP * max(values[rank], 1e-17)):
        return []
    null = directions[rank:].T
    linked = np.abs(null @ null.T) > 1e-6
    found = []
    for members in _parts(linked):
        own = null[members]
        freedom = round(float((own * own).sum()))
        if freedom == 1:
            vector = own[:, int(np.abs(own).sum(0).argmax())]
            if np.ptp(vector) < 1e-6 * np.abs(vector).max():
                found.append(members.tolist())
        elif freedom > 1 and len(members) <= _MOST_MIXED:
            constraints = row_reduced(directions[:rank][:, members])
            spanned = [row for row in constraints if np.abs(row).max() > 1e-6]
            reduced = np.array(spanned).reshape(len(spanned), len(members))
            sphere = largest_sphere(reduced, [1] * len(members), range(len(members)))
            found += [members[group].tolist() for group in disjoint_groups(reduced, sphere)]
    seen = search.sizes > _SEEN
    return [block for block in found if seen[block].all() and len(block) < len(seen)]


def _parts(linked: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """The connected parts of a graph, without slices that nothing leaves free."""
    left = linked.diagonal().copy()
    while left.any():
        part = np.zeros_like(left)
        part[int(left.argmax())] = True
        while True:
            more = part | linked[part].any(0)
            if (more == part).all():
                break
            part = more
        left &= ~part
        yield np.flatnonzero(part)


def _certified(probe: Probe, search: _Search, candidates: Sequence[Sequence[int]]) -> list[Block]:
    """The candidates that leave the output alone: all of them at once, by 2 or 1/2 each, or, failing that, singly."""
    name = probe.names[search.index]
    signs = np.where(np.arange(len(candidates)) % 2, 1.0, -1.0)

    def stays(exponents: NDArray[np.float64]) -> bool:
        slices = np.zeros(len(search.sizes))
        for block, exponent in zip(candidates, exponents, strict=True):
            slices[list(block)] = exponent
        return _change(probe, search, slices) < _INVARIANT_BELOW

    if not candidates:
        return []
    if stays(signs) and stays(-signs):
        sound = list(candidates)
    else:
        units = np.eye(len(candidates))
        sound = [block for block, unit in zip(candidates, units, strict=True) if stays(unit) and stays(-unit)]
    return sorted((Block(name, search.dim, tuple(sorted(block))) for block in sound), key=lambda block: block.rows)


@torch.no_grad()
def _change(probe: Probe, search: _Search, exponents: NDArray[np.float64]) -> float:
    """Relative change of the output when the slices are multiplied by powers of two."""
    parameter = probe.parameters[search.index]
    before = parameter.detach().clone()
    factors = torch.as_tensor(2.0**exponents, device=parameter.device)
    shape = [-1 if d == search.dim else 1 for d in range(parameter.dim())]
    try:
        parameter.mul_(factors.view(shape))
        return relative_change(probe.reference, probe.outputs())
    finally:
        parameter.copy_(before)
