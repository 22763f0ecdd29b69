"""Two-dimensional slices of the loss landscape, through three points or along two directions.

On the sphere a slice is drawn by the exponential map at a centre c with orthonormal tangents u, v:

    x(p, q) = r [ cos(s) ĉ + sin(s) (p u + q v) / s ],     s = sqrt(p² + q²) radians

so that the distance from the middle is the angle from the centre. Three points span a three-dimensional space; with the
centre at their mean direction all three lie exactly on the slice. In the flat space x = c + p u + q v.

Source: Garipov et al. 2018 (planes through three points); Li et al. 2018 (random directions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.functional.untouched import untouched
from onsphere.landscape.evaluation import Batches, Evaluation, Forward, LossFunction, Mode
from onsphere.landscape.points import Parameters, Point, double, is_number, of_model, real, select
from onsphere.results import frame

__all__ = ["Slice", "slice_along", "slice_through"]

Array = NDArray[np.float64]
State = Mapping[str, Tensor]


@dataclass(frozen=True, repr=False, eq=False)
class Slice:
    """Losses and errors on a rectangular grid.

    Attributes:
        x: Coordinates along the first direction, ``[columns]``; radians on the sphere.
        y: Coordinates along the second, ``[rows]``.
        losses: Mean losses at the grid's points, ``[rows, columns]``.
        errors: Shares of wrong predictions ``[rows, columns]``, or None where targets are no classes.
        coordinates: Where the given points lie, ``[points, 2]``: three points, or the centre at (0, 0).
        sphere: Whether the slice bends with the sphere.
        radius: Norm of the weights on the slice at the centre.
        mode: Where batch norms had their statistics from.
        statistics: The source of the batch norms' statistics in words.
    """

    x: Array
    y: Array
    losses: Array
    errors: Array | None
    coordinates: Array
    sphere: bool
    radius: float
    mode: str
    statistics: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}

    def to_frame(self) -> Any:
        """One row a point of the grid as a pandas data frame (needs pandas)."""
        x, y = np.meshgrid(self.x, self.y)
        columns = {"x": x.ravel(), "y": y.ravel(), "loss": self.losses.ravel()}
        return frame(columns if self.errors is None else {**columns, "error": self.errors.ravel()})

    def __repr__(self) -> str:
        unit = " rad" if self.sphere else ""
        return (
            f"Slice({len(self.y)} x {len(self.x)} points, x {self.x[0]:.3g}..{self.x[-1]:.3g}{unit}, "
            f"y {self.y[0]:.3g}..{self.y[-1]:.3g}{unit}, losses {np.nanmin(self.losses):.4g}.."
            f"{np.nanmax(self.losses):.4g}, {self.statistics})"
        )


def slice_through(
    model: nn.Module,
    points: Sequence[Point],
    loss_fn: LossFunction,
    batches: Batches,
    grid: int = 21,
    *,
    margin: float = 0.2,
    sphere: bool = True,
    parameters: Parameters = None,
    mode: Mode = "reestimate",
    statistics: Batches | None = None,
    forward: Forward | None = None,
) -> Slice:
    """The slice through three points.

    Parameters outside the slice and, in ``mode="eval"``, buffers follow the affine map that has the values of the three
    points at their coordinates.

    Args:
        model: The architecture; not changed and not run (a copy is).
        points: Three points, not on one great circle (line).
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: Pairs (input, target) or one such pair.
        grid: Points a side, at least 2.
        margin: How far beyond the points the grid reaches, as a share of their extent.
        sphere: Whether the slice bends with the sphere. Norms of the three points are interpolated like the other
            parameters.
        parameters: The weights on the slice, as for :func:`onsphere.landscape.barrier`. ``None``: the scale-invariant
            ones on the sphere, all that require grad otherwise.
        mode: Where batch norms get their statistics, as for :func:`onsphere.landscape.barrier`.
        statistics: Batches to re-estimate these statistics from; by default ``batches``.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Raises:
        ValueError: Not three points, points on one great circle or line, and all that
            :func:`onsphere.landscape.barrier` refuses.
    """
    if isinstance(points, nn.Module | Mapping | Tensor) or len(points) != 3:
        raise ValueError("a slice goes through three points; for one point and two directions take slice_along")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin is {margin}; it must be a share of the extent, 0 or more")
    _check_grid(grid)
    with untouched(model, batches, statistics):
        evaluation = Evaluation(model, loss_fn, batches, mode, statistics, forward=forward, points=tuple(points))
        states = [of_model(model, point, f"point {i}") for i, point in enumerate(points)]
        names = _names(model, parameters, evaluation, sphere, states[0][0])
        flat = torch.stack([_flat(state, names) for state, _ in states])
        norms = flat.norm(dim=1)
        if bool((norms == 0).any()):
            raise ValueError("a point has norm zero, so no direction")
        rows = flat / norms[:, None] if sphere else flat
        centre = rows.mean(0)
        if sphere:
            if float(centre.norm()) < 1e-6:
                raise ValueError("the three directions cancel; there is no centre to draw the slice around")
            centre = centre / centre.norm()
        towards = torch.stack([_log(centre, row) for row in rows]) if sphere else rows - centre
        u, v = _orthonormal(towards[1] - towards[0], towards[2] - towards[0], centre if sphere else None)
        where, norms = torch.stack([towards @ u, towards @ v], 1).cpu(), norms.cpu()
        affine = torch.linalg.inv(torch.cat([where, torch.ones(3, 1, dtype=torch.float64)], 1).T)

        def at(p: float, q: float) -> tuple[State, State]:
            shares = affine @ torch.tensor([p, q, 1.0], dtype=torch.float64)
            radius = float(shares @ norms)
            if sphere and radius <= 0:
                raise ValueError(
                    f"at ({p:.3g}, {q:.3g}) the interpolated norm is {radius:.3g}; the points have norms "
                    f"{norms.tolist()}: take a smaller margin, or points of one norm"
                )
            point = radius * _exp(centre, u, v, p, q) if sphere else centre + p * u + q * v
            mixed, buffers = ([state[i] for state in states] for i in (0, 1))
            rest = _mixed(mixed, shares, [n for n in mixed[0] if n not in names])
            return {**rest, **_unflat(point, states[0][0], names)}, _mixed(buffers, shares, list(buffers[0]))

        coordinates = where.numpy()
        low, high = coordinates.min(0), coordinates.max(0)
        reach = margin * (high - low)
        x, y = (np.linspace(low[i] - reach[i], high[i] + reach[i], grid) for i in (0, 1))
        return _measured(evaluation, at, x, y, coordinates, sphere, float(norms.mean()))


def slice_along(
    model: nn.Module,
    centre: Point,
    loss_fn: LossFunction,
    batches: Batches,
    grid: int = 21,
    *,
    directions: Sequence[Point] | None = None,
    extent: float = 1.0,
    sphere: bool = True,
    parameters: Parameters = None,
    mode: Mode = "reestimate",
    statistics: Batches | None = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> Slice:
    """The slice around a point along two directions.

    Args:
        model: The architecture; not changed and not run (a copy is).
        centre: The point in the middle.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: Pairs (input, target) or one such pair.
        grid: Points a side, at least 2.
        directions: Two directions in the form of points (a difference of weights, ``vector(0)`` of
            :class:`onsphere.curvature.Eigenvalues`); parameters a mapping does not name have no part in it. They are
            made orthonormal, and tangent on the sphere. ``None``: random, from ``seed``.
        extent: How far the grid reaches on each side: radians on the sphere (below pi), a Euclidean norm otherwise.
        sphere: Whether the slice bends with the sphere.
        parameters: The weights on the slice; the others stay those of the centre. As for :func:`slice_through`.
        mode: Where batch norms get their statistics, as for :func:`onsphere.landscape.barrier`.
        statistics: Batches to re-estimate these statistics from; by default ``batches``.
        seed: Seed of the random directions.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Raises:
        ValueError: Not two directions, parallel ones, and all that :func:`onsphere.landscape.barrier` refuses.
    """
    if not (math.isfinite(extent) and 0 < extent < (math.pi if sphere else math.inf)):
        raise ValueError(f"extent is {extent}; it must be positive" + (" and below pi radians" if sphere else ""))
    if directions is not None and (isinstance(directions, nn.Module | Mapping | Tensor) or len(directions) != 2):
        raise ValueError("a slice needs two directions")
    _check_grid(grid)
    with untouched(model, batches, statistics):
        evaluation = Evaluation(model, loss_fn, batches, mode, statistics, forward=forward, points=(centre,))
        state, buffers = of_model(model, centre, "the centre")
        names = _names(model, parameters, evaluation, sphere, state)
        flat = _flat(state, names)
        norm = float(flat.norm())
        if norm == 0:
            raise ValueError("the centre has norm zero, so no direction")
        middle = flat / norm if sphere else flat
        if directions is None:
            generator = torch.Generator().manual_seed(seed)
            first, second = torch.randn(2, len(flat), dtype=torch.float64, generator=generator).to(flat.device)
        else:
            nothing = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
            given = [{**nothing, **d} if isinstance(d, Mapping) else d for d in directions]
            first, second = (_flat(of_model(model, d, f"direction {i}")[0], names) for i, d in enumerate(given))
        u, v = _orthonormal(first, second, middle if sphere else None)

        def at(p: float, q: float) -> tuple[State, State]:
            point = norm * _exp(middle, u, v, p, q) if sphere else middle + p * u + q * v
            # The centre itself, bit for bit.
            return (state if p == q == 0 else {**state, **_unflat(point, state, names)}), buffers

        axis = np.linspace(-extent, extent, grid)
        return _measured(evaluation, at, axis, axis.copy(), np.zeros((1, 2)), sphere, norm)


def _measured(
    evaluation: Evaluation,
    at: Callable[[float, float], tuple[State, State]],
    x: Array,
    y: Array,
    coordinates: Array,
    sphere: bool,
    radius: float,
) -> Slice:
    readings = [[evaluation(*at(float(p), float(q))) for p in x] for q in y]
    losses = np.array([[loss for loss, _ in row] for row in readings])
    errors = None if readings[0][0][1] is None else np.array([[error for _, error in row] for row in readings], float)
    return Slice(x, y, losses, errors, coordinates, sphere, radius, evaluation.mode, evaluation.sentence)


def _check_grid(grid: int) -> None:
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 2:
        raise ValueError(f"grid is {grid!r}; it must be a number of points a side, 2 or more")


def _names(
    model: nn.Module, parameters: Parameters, evaluation: Evaluation, sphere: bool, available: State
) -> tuple[str, ...]:
    if parameters is None and sphere:
        parameters = evaluation.joint_sphere(model)
    return select(parameters, available, model)


def _flat(state: State, names: Sequence[str]) -> Tensor:
    return torch.cat([real(double(state[name])).reshape(-1) for name in names])


def _unflat(flat: Tensor, like: State, names: Sequence[str]) -> dict[str, Tensor]:
    parts = torch.split(flat, [real(like[name]).numel() for name in names])
    whole = {n: part.reshape(real(like[n]).shape) for n, part in zip(names, parts, strict=True)}
    return {n: (torch.view_as_complex(t) if like[n].is_complex() else t).to(like[n].dtype) for n, t in whole.items()}


def _mixed(states: Sequence[State], shares: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Affine combinations of what differs; what is equal, or cannot move, stays as it is."""
    first = states[0]
    return {
        name: first[name]
        if not is_number(first[name]) or all(bool((s[name] == first[name]).all()) for s in states[1:])
        else sum(
            (double(s[name]) * float(c) for s, c in zip(states, shares, strict=True)),
            start=0.0 * double(first[name]),
        ).to(first[name].dtype)
        for name in names
    }


def _exp(centre: Tensor, u: Tensor, v: Tensor, p: float, q: float) -> Tensor:
    s = math.hypot(p, q)
    return centre.clone() if s == 0 else math.cos(s) * centre + math.sin(s) / s * (p * u + q * v)


def _log(centre: Tensor, point: Tensor) -> Tensor:
    """The tangent at ``centre`` that leads to ``point``, its length the angle."""
    along = float(centre @ point)
    tangent = point - along * centre
    length = float(tangent.norm())
    return tangent * (math.atan2(length, along) / length) if length > 0 else tangent


def _orthonormal(first: Tensor, second: Tensor, normal: Tensor | None) -> tuple[Tensor, Tensor]:
    basis = [] if normal is None else [normal]
    for vector in (first, second):
        size = float(vector.norm())
        for _ in range(2):  # twice is enough for full precision
            for b in basis:
                vector = vector - (vector @ b) * b
        if not float(vector.norm()) > 1e-7 * size:
            raise ValueError("the directions are parallel (or radial on the sphere): they span no slice")
        basis.append(vector / vector.norm())
    return basis[-2], basis[-1]
