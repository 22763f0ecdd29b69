"""Loss and error barriers on the way between two networks.

    barrier = max over t of [ value(t) - ((1 - t) value(0) + t value(1)) ],   at least 0

The way is the great circle of the scale-invariant weights or the straight line; batch statistics are re-estimated at
every point, the ends included, because those of one network are wrong for the next.

Source: Garipov et al. 2018 and Frankle et al. 2020 (barriers); Sadrtdinov et al., NeurIPS 2024 (with batch statistics
re-estimated at each of 20 intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.functional.untouched import untouched
from onsphere.functional.wrappers import unwrapped
from onsphere.landscape.directions import angle_between, interpolate, linear
from onsphere.landscape.evaluation import Batches, Evaluation, Forward, LossFunction, Mode
from onsphere.landscape.points import Parameters, Point, of_model, select
from onsphere.results import frame

__all__ = ["Barrier", "PathKind", "Straight", "barrier"]

#: The great circle, or the straight line.
PathKind = Literal["geodesic", "chord"]
Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class Barrier:
    """Losses and errors along a path, and how high they rise above the line between the ends.

    Attributes:
        t: Positions on the path, 0 at the first point and 1 at the second, ``[points]``.
        losses: Mean losses there, ``[points]``.
        errors: Shares of wrong predictions, ``[points]``, or None where targets are no classes.
        loss_barrier: The largest excess of a loss over the line between the ends, at least 0.
        error_barrier: The largest excess of an error over the line between the ends, at least 0, or None.
        position: The t of the largest excess of the loss (0 if there is none).
        error_position: The t of the largest excess of the error (0 if there is none), or None.
        angle: The angle between the ends over the weights on the sphere, radians.
        path: The kind of path: "geodesic", "chord" or "curve".
        mode: Where batch norms had their statistics from: "reestimate", "train" or "eval".
        statistics: The source of the batch norms' statistics in words.
        on_sphere: Names of the weights the angle is taken over, which follow the great circle.
        linear: Names of the other parameters in which the ends differ; they are interpolated linearly.
        examples: Number of examples behind every loss.
    """

    t: Array
    losses: Array
    errors: Array | None
    loss_barrier: float
    error_barrier: float | None
    position: float
    error_position: float | None
    angle: float
    path: str
    mode: str
    statistics: str
    on_sphere: tuple[str, ...]
    linear: tuple[str, ...]
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: v.tolist() if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
            for name, v in values.items()
        }

    def to_frame(self) -> Any:
        """One row a point of the path as a pandas data frame (needs pandas)."""
        columns = {"t": self.t, "loss": self.losses}
        return frame(columns if self.errors is None else {**columns, "error": self.errors})

    def __repr__(self) -> str:
        error = "" if self.error_barrier is None else f", error barrier {self.error_barrier:.4g}"
        return (
            f"Barrier(loss barrier {self.loss_barrier:.4g} at t = {self.position:.3g}{error}; {len(self.t)} points on "
            f"the {self.path}, angle {self.angle:.4g} rad, {self.statistics})"
        )


@dataclass(frozen=True, eq=False)
class Straight:
    """The great circle or chord between two points of a model's weight space; see :func:`straight`."""

    model: nn.Module
    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    buffers: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    on_sphere: tuple[str, ...]
    kind: PathKind

    @property
    def angle(self) -> float:
        """Radians between the ends."""
        return angle_between(self.a, self.b, self.on_sphere)

    @property
    def linear(self) -> tuple[str, ...]:
        """Parameters outside the sphere in which the ends differ."""
        others = (name for name in self.a if name not in self.on_sphere)
        return tuple(name for name in others if not bool((self.a[name] == self.b[name]).all()))

    def at(self, t: float) -> dict[str, Tensor]:
        """The parameters at ``t``."""
        return interpolate(self.kind, self.a, self.b, t, self.on_sphere)

    def chord_at(self, t: float) -> dict[str, Tensor]:
        """The parameters at ``t`` of the straight line."""
        return interpolate("chord", self.a, self.b, t, self.on_sphere)

    def buffers_at(self, t: float) -> dict[str, Tensor]:
        """Buffers at ``t``: floating-point ones interpolated linearly."""
        first, second = self.buffers
        return {name: linear(first[name], second[name], t) for name in first}


def straight(
    model: nn.Module, a: Point, b: Point, evaluation: Evaluation, kind: PathKind, parameters: Parameters
) -> Straight:
    """The path between two points; without ``parameters`` the joint sphere of a geodesic is found from a batch."""
    model = unwrapped(model)
    x, first = of_model(model, a, "a")
    y, second = of_model(model, b, "b")
    if parameters is None and kind == "geodesic":
        parameters = evaluation.joint_sphere(model)
    return Straight(model, x, y, (first, second), select(parameters, x, model), kind)


def measure(
    evaluation: Evaluation,
    at: Callable[[float], Mapping[str, Tensor]],
    buffers_at: Callable[[float], Mapping[str, Tensor]],
    points: int,
    **facts: Any,
) -> Barrier:
    """Evaluate a path at evenly spaced points."""
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise ValueError(f"points is {points!r}; a path needs at least 3, the ends and one between")
    t = np.linspace(0.0, 1.0, points)
    readings = [evaluation(at(float(s)), buffers_at(float(s))) for s in t]
    losses = np.array([loss for loss, _ in readings])
    known = [error for _, error in readings if error is not None]
    errors = np.array(known) if len(known) == points else None
    loss_barrier, position = excess(t, losses)
    error_barrier, error_position = (None, None) if errors is None else excess(t, errors)
    return Barrier(
        t=t,
        losses=losses,
        errors=errors,
        loss_barrier=loss_barrier,
        error_barrier=error_barrier,
        position=position,
        error_position=error_position,
        mode=evaluation.mode,
        statistics=evaluation.sentence,
        examples=evaluation.examples,
        **facts,
    )


def excess(t: Array, values: Array) -> tuple[float, float]:
    """The largest excess over the line between the ends, and where; not finite where a value is not."""
    over = values - (values[0] + t * (values[-1] - values[0]))
    over[[0, -1]] = np.where(np.isfinite(values[[0, -1]]), 0.0, np.nan)
    highest = int(np.argmax(over))
    return max(0.0, float(over[highest])) if np.isfinite(over[highest]) else float(over[highest]), float(t[highest])


def barrier(
    model: nn.Module,
    a: Point,
    b: Point,
    loss_fn: LossFunction,
    batches: Batches,
    points: int = 21,
    path: PathKind = "geodesic",
    *,
    parameters: Parameters = None,
    mode: Mode = "reestimate",
    statistics: Batches | None = None,
    forward: Forward | None = None,
) -> Barrier:
    """How high the loss and the error rise on the way from ``a`` to ``b``.

    The ends are exactly ``a`` and ``b``. Parameters that are not on the sphere, frozen ones included, are interpolated
    linearly (those in which the ends agree stay, bit for bit); the result names them.

    Args:
        model: The architecture; neither its weights nor anything else of it changes. Not run: a copy is.
        a: A point: a module, a state dict, or a list with a tensor for each parameter (each trainable one).
        b: The other point, in any of these forms.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: Pairs (input, target), or one such pair (:mod:`onsphere.functional.batches`). Read once into a list.
        points: Number of evenly spaced points, the ends included, at least 3.
        path: "geodesic", the great circle of the weights on the sphere at constant speed, or "chord", the straight
            line of everything.
        parameters: The weights on the joint sphere (:mod:`onsphere.functional.selection`): names, patterns (which match
            what requires grad), tensors of ``model``, or a group of :func:`onsphere.sphere_groups`. ``None``: for a
            geodesic the scale-invariant ones, found by that function on the first batch; for a chord (where they
            matter for the angle alone) all that require grad.
        mode: Where batch norms get their statistics: "reestimate" (at each point, of all ``statistics`` together),
            "train" (each batch its own), "eval" (the points' running statistics, interpolated). Norms that are frozen
            in ``model`` keep those of the points in every mode. Dropout is off.
        statistics: Batches to re-estimate from, the training data when ``batches`` are test data. By default
            ``batches``.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        Losses and errors along the path, with the barriers.

    Raises:
        ValueError: Points that do not match the model or hold NaN, antipodal points of a geodesic, fewer than 3
            points, no batches, a loss that is no mean or reads the parameters of ``model``, ``a`` or ``b`` by itself,
            an unknown path or mode, or no scale-invariant parameter to be found.
        TypeError: A batch is not a pair, the loss is no tensor, or ``parameters`` holds something else.
    """
    if path not in get_args(PathKind):
        raise ValueError(f"path is {path!r}; it must be one of {', '.join(get_args(PathKind))}")
    with untouched(model, batches, statistics):
        evaluation = Evaluation(model, loss_fn, batches, mode, statistics, forward=forward, points=(a, b))
        way = straight(model, a, b, evaluation, path, parameters)
        return measure(
            evaluation,
            way.at,
            way.buffers_at,
            points,
            angle=way.angle,
            path=path,
            on_sphere=way.on_sphere,
            linear=way.linear,
        )
