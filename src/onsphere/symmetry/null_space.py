"""The scaling symmetries as a null space: which combinations of log-scales leave the output where it is.

Multiply tensor i by exp(t_i). A direction c is a symmetry if J c = 0, J[:, i] = d output / d t_i, at every point. A
backward pass of <v, output> with a random v gives a row v J for all tensors at once, sum over elements of grad_i θ_i;
rows are divided by the size of the gradient, √Σ ‖grad_i‖² ‖θ_i‖², so that what is zero stands near 1e-16 by itself.
About rank(J) + 8 rows determine the null space with probability one. Rows from further perturbed points must add
nothing: a symmetry holds everywhere, and a single point may show too few outputs or be special.

Where the output has no backward pass, rows come from central differences in log-scale (fourth order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.symmetry.fading import fading_direction
from onsphere.symmetry.probe import Probe, SymmetryError
from onsphere.symmetry.taps import Taps

__all__ = ["NullSpace", "find_null_space"]

#: Entries of scaled rows below this count as zero while rows are gathered; the gap decides in the end.
_ZERO = 1e-9
#: The least ratio of the smallest singular value that counts to the largest that does not.
_LEAST_GAP = 1e4
_ROUNDING = 1e-17
_CHUNK, _CONFIRMING, _POINTS_THAT_ADD_NOTHING = 8, 3, 2
#: Singular values in between are rounding or a weak dependence. Differences over a step that is short for a smooth
#: function and long for rounding tell which.
_GREY, _SHORT_STEP = (_ZERO, 1e-2), 1e-4
_STEP = 1e-3  # of the difference in log-scale: its error and rounding's both stay near 1e-12


@dataclass(frozen=True)
class NullSpace:
    """The space of all rescalings that the gradients' rows allow.

    Attributes:
        constraints: Orthonormal rows that span the row space, [rank, n].
        basis: Orthonormal columns that span the null space, [n, dimension].
        gap: Smallest singular value counted over the largest taken for zero.
        singular_values: All of them, descending, relative to the gradient's size, [n].
        row_products: For every tensor the largest |sum of grad θ| of each of its rows (slices along dimension 0),
            relative to the tensor's own ‖grad‖ ‖θ‖; None for a tensor with fewer than two dimensions, or if not asked
            for.
        differences: Whether differences stood in for a backward pass.
    """

    constraints: NDArray[np.float64]
    basis: NDArray[np.float64]
    gap: float
    singular_values: NDArray[np.float64]
    row_products: list[Tensor | None] | None
    differences: bool

    @property
    def dimension(self) -> int:
        """Number of independent symmetries."""
        return int(self.basis.shape[1])


class _Rows:
    """Makes scaled rows of J at the probe's present point."""

    def __init__(self, probe: Probe, *, row_products: bool) -> None:
        self.probe = probe
        self.differences = self._plain = False
        self.row_products: list[Tensor | None] | None = [None] * len(probe.names) if row_products else None
        self.at_point()

    def at_point(self) -> None:
        """One forward pass here; its graph serves all rows."""
        self._jacobian: Tensor | None = None
        parameters = self.probe.parameters
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_()
            self._taps: Taps | None = None
            self._all_outputs: list[Tensor] = []
            if not self.differences and self.row_products is None and not self._plain:
                self._all_outputs, self._taps = self.probe.tapped_outputs()
            elif not self.differences:
                self._all_outputs = self.probe.outputs()
            outputs = [t for t in self._all_outputs if t.requires_grad]
        self.outputs = outputs
        self.size = sum(t.numel() for t in self.probe.reference)
        if not outputs:
            self.differences = True
            self._jacobian = self._by_differences()
        self.norms = torch.stack([p.detach().norm() for p in parameters])

    def take(self, count: int) -> NDArray[np.float64]:
        """``count`` more random rows, [count, n]."""
        if self._jacobian is not None:
            directions = self.probe.noise(self._jacobian.new_empty(count, len(self._jacobian)))
            return np.asarray((directions @ self._jacobian / directions.norm(dim=1, keepdim=True)).cpu().numpy())
        return np.stack([self._row() for _ in range(count)])

    def _row(self) -> NDArray[np.float64]:
        directions = [self.probe.noise(t) for t in self.outputs]
        try:
            products, sizes = self._products(directions, retain=True)
        except (RuntimeError, NotImplementedError):
            if self._taps is not None:  # what is recomputed on the way back has no taps
                self._plain = True
                self.at_point()
                return self._row()
            self.differences = True
            self.outputs = []
            self._jacobian = self._by_differences()
            return np.asarray(self.take(1)[0])
        return products / (float(np.linalg.norm(sizes)) or 1.0)

    def _products(
        self, directions: Sequence[Tensor], *, retain: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σ grad θ of <directions, outputs> for every parameter, and how large its terms are, both [n]."""
        parameters = self.probe.parameters
        leaves = [] if self._taps is None else self._taps.leaves
        gradients = torch.autograd.grad(
            self.outputs, [*parameters, *leaves], directions, retain_graph=retain, allow_unused=True
        )
        products, sizes = np.zeros(len(parameters)), np.zeros(len(parameters))
        for i, (g, p) in enumerate(zip(gradients, parameters, strict=False)):
            if g is None:
                continue
            g, theta = _real(g), _real(p.detach())
            products[i] = float(g.reshape(-1) @ theta.reshape(-1))
            sizes[i] = float(g.norm() * self.norms[i])
            if self.row_products is not None and p.dim() > 1 and sizes[i] > 0:
                rows = (g * theta).flatten(1).sum(1).abs() / sizes[i]
                before = self.row_products[i]
                self.row_products[i] = rows if before is None else torch.maximum(before, rows)
        for i, g in enumerate(gradients[len(parameters) :]):
            if g is not None:
                products[i] += float(g[0])
                sizes[i] += float(g[1])
        return products, sizes

    def confirms_all(self, values: NDArray[np.float64], directions: NDArray[np.float64]) -> bool:
        """Whether :meth:`confirms` holds for many directions of these singular values: first for sums of all of them.

        In Σ ± v_k / value_k every direction has the same share of the slope, so that one that gradients have wrong
        shows as 1 / their number. Rounding shows in any direction.
        """
        if len(values) > 2:
            for _ in range(2):
                signs = np.sign(self.probe.noise(torch.empty(len(values))).cpu().numpy())
                if not self.confirms((signs * values.min() / values) @ directions, 0.25 / len(values)):
                    break
            else:
                return True
        return all(self.confirms(direction) for direction in directions)

    def confirms(self, direction: NDArray[np.float64], tolerance: float = 0.5) -> bool:
        """Whether the output's slope along a direction of log-scales is what gradients say: a dependence, however weak.

        Rounding out of sight shows in both, but not alike.
        """
        if self._jacobian is not None:
            return False
        parameters, start = self.probe.parameters, [p.detach().clone() for p in self.probe.parameters]

        def at(distance: float) -> list[Tensor]:
            for p, original, c in zip(parameters, start, direction, strict=True):
                p.copy_(original * float(np.exp(distance * c)))
            return self.probe.outputs()

        with torch.no_grad():
            ends = [at(k * _SHORT_STEP) for k in (1, -1, 2, -2)]
            for p, original in zip(parameters, start, strict=True):
                p.copy_(original)
        slopes = [(8 * (a - b) - (c - d)) / (12 * _SHORT_STEP) for a, b, c, d in zip(*ends, strict=True)]
        size = float(torch.stack([(s * s).sum() for s in slopes]).sum().sqrt())
        if size == 0:
            return False
        self.at_point()
        shown = [s / size for t, s in zip(self._all_outputs, slopes, strict=True) if t.requires_grad]
        return bool(abs(float(direction @ self._products(shown)[0]) / size - 1) < tolerance)

    @torch.no_grad()
    def _by_differences(self) -> Tensor:
        """J / ‖output‖ of all outputs, [outputs, n]."""
        scale = float(torch.cat([t.reshape(-1) for t in self.probe.reference]).norm())
        columns = []
        for i in range(len(self.probe.names)):
            far, near = (self._slope(i, factor * _STEP) for factor in (2, 1))
            columns.append((4 * near - far) / 3 / scale)
        return torch.stack(columns, dim=1)

    def _slope(self, index: int, step: float) -> Tensor:
        parameter = self.probe.parameters[index]
        original, ends = parameter.detach().clone(), []
        for sign in (1, -1):
            parameter.copy_(original * float(np.exp(sign * step)))
            ends.append(torch.cat([t.reshape(-1) for t in self.probe.outputs()]))
        parameter.copy_(original)
        return (ends[0] - ends[1]) / (2 * step)


def find_null_space(probe: Probe, *, row_products: bool = False) -> NullSpace:
    """The null space of J over points, batches and directions.

    Args:
        probe: The model; it is moved to other points on the way.
        row_products: Whether to look at each tensor's rows as well.

    Returns:
        The null space and how clear it is.

    Raises:
        SymmetryError: No clear gap between what is zero and what is not.
    """
    n = len(probe.names)
    source = _Rows(probe, row_products=row_products)
    gathered = np.zeros((0, n))
    null = np.eye(n)
    idle = 0
    for point in range(n + _POINTS_THAT_ADD_NOTHING + 1):
        if point:
            probe.move()
            source.at_point()
        taken, added = 0, False
        while taken < source.size:
            count = min(_CHUNK if point == 0 else _CONFIRMING, source.size - taken)
            rows = source.take(count)
            taken += count
            if not np.isfinite(rows).all():
                raise SymmetryError("gradients are not finite on the float64 copy of the model: check the batch")
            gathered = np.concatenate([gathered, rows])
            if null.shape[1] == 0 or np.abs(rows @ null).max() < _ZERO:
                break
            added = True
            null = _split(gathered)[1]
        idle = 0 if added else idle + 1
        if idle >= _POINTS_THAT_ADD_NOTHING or null.shape[1] == 0:
            break
    values = _split(gathered)[2]
    rank, gap = _rank(values)
    if gap < _LEAST_GAP:
        raise SymmetryError(
            f"no clear gap between symmetries and the rest: the {n} singular values fall from "
            f"{values[rank - 1] if rank else 1.0:.1e} to {values[rank] if rank < n else 0.0:.1e} at best, a ratio of "
            f"{gap:.1e} where {_LEAST_GAP:g} is clear. Something in the model computes in low precision out of sight "
            "(a custom kernel): give it float64, or probe a part of the model"
        )
    _, _, directions = np.linalg.svd(gathered, full_matrices=True)
    grey = (values > _GREY[0]) & (values < _GREY[1])
    if grey.any() and not source.confirms_all(values[grey], directions[grey]):
        raise SymmetryError(
            f"no clear gap between symmetries and the rest: of the singular values from {values[grey].min():.1e} to "
            f"{values[grey].max():.1e} one is neither zero nor a slope that differences of the output confirm. "
            "Something in the model rounds or computes in low precision out of sight: give it float64, or probe a part "
            "of the model"
        )
    fading = fading_direction(values, directions, lambda c: probe.changes_along(c.tolist()))
    if fading is not None:
        exponents, change, fall = fading
        raise SymmetryError(_cannot_tell(probe, exponents, change, fall))
    return NullSpace(
        constraints=directions[:rank],
        basis=directions[rank:].T,
        gap=gap,
        singular_values=values,
        row_products=source.row_products,
        differences=source.differences,
    )


def _cannot_tell(probe: Probe, exponents: NDArray[np.float64], change: float, fall: float) -> str:
    named = [(probe.names[i], float(exponents[i])) for i in np.flatnonzero(exponents)]
    listed = ", ".join(name if c == 1 else f"{name}^{c:g}" for name, c in named[:5]) + (", ..." if named[5:] else "")
    return (
        f"it cannot be told whether scaling {listed} changes the output: doubling changes it by a relative "
        f"{change:.1e}, and every further doubling by {fall:g} times less, as before a norm whose eps is out of sight "
        "(in numpy, in a kernel of your own). Write that norm in torch operations, or make its eps 0 for this search"
    )


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs: what a real factor does to them, it does to both parts."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _split(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Row space [r, n], null space [n, n - r] and all n singular values of [R, n], at the provisional zero."""
    n = rows.shape[1]
    _, found, directions = np.linalg.svd(rows, full_matrices=True)
    values = np.zeros(n)
    values[: len(found)] = found[:n]
    rank = int((values > _ZERO).sum())
    return directions[:rank], directions[rank:].T, values


def _rank(values: NDArray[np.float64]) -> tuple[int, float]:
    """The rank at the largest ratio of neighbours around the provisional zero, and that ratio."""
    edges = np.maximum(np.concatenate([[1.0], values, [0.0]]), _ROUNDING)
    ratios = edges[:-1] / edges[1:]
    # Only splits that put everything above 1e-6 on the one side and everything below 1e-13 on the other.
    allowed = (edges[1:] < 1e-6) & (edges[:-1] > 1e-13)
    ratios[~allowed] = 0.0
    rank = int(np.argmax(ratios))
    return rank, float(ratios[rank])
