"""Angles between weights, and the two straight ways from one to another: great circle and chord.

    angle     theta = 2 atan2(|â - b̂|, |â + b̂|)                                       â = a / |a|, joint norms
    geodesic  x(t) = r(t) [sin((1 - t) theta) â + sin(t theta) b̂] / sin(theta)        r(t) = (1 - t) |a| + t |b|
    chord     x(t) = (1 - t) a + t b                                                  optionally scaled to r(t)

Everything is computed in float64 and returned in the dtype of the first point. Only directions matter for
scale-invariant weights, so angles and the geodesic are taken over those alone (``parameters``); all other weights
follow the chord.

Source: Kodryan et al., NeurIPS 2022 (angles between solutions); Kahan's formula for the angle, which sees 1e-15
where a float32 cosine sees 3e-4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from onsphere.functional.wrappers import matched_names
from onsphere.landscape.points import (
    Parameters,
    Point,
    check_finite,
    check_matching,
    double,
    is_number,
    norm_of,
    select,
    tensors_of,
    weights,
)

__all__ = ["angle", "chord", "geodesic"]

P = TypeVar("P", bound=Point)

# Closer to pi than this, float32 rounding decides which great circle it is.
ANTIPODAL = 1e-6


def angle(a: Point, b: Point, parameters: Parameters = None) -> float:
    """The angle between two points seen from the origin, over all selected weights jointly.

    Args:
        a: A module, a state dict, a list of tensors or a tensor.
        b: Another with the same names and shapes.
        parameters: Which weights count (:mod:`onsphere.functional.selection`): ``None`` for all (of modules, those
            that require grad; of state dicts, all but batch statistics), names, patterns (of a module they match what
            requires grad), tensors of a module, or a group of :func:`onsphere.sphere_groups`. Give the scale-invariant
            ones.

    Returns:
        Radians in [0, pi].

    Raises:
        TypeError: Something is not a point.
        ValueError: The points do not match, hold NaN, or a selected part has norm zero.
    """
    x, y, names = _pair(a, b, parameters)
    return angle_between(x, y, names)


def geodesic(a: P, b: Point, t: float, parameters: Parameters = None) -> Any:
    """The point at ``t`` on the great circle from ``a`` (t = 0) to ``b`` (t = 1), at constant angular speed.

    Norms are interpolated linearly. Weights outside ``parameters`` and batch statistics of state dicts are
    interpolated linearly, integers are those of ``a``.

    Args:
        a: A module, a state dict, a list of tensors or a tensor.
        b: Another with the same names and shapes.
        t: Position; outside [0, 1] the circle goes on.
        parameters: The weights on the joint sphere, as for :func:`angle`.

    Returns:
        New tensors in the form of ``a`` (of a module, its state by name); ``a`` and ``b`` themselves at 0 and 1.

    Raises:
        TypeError: Something is not a point.
        ValueError: As for :func:`angle`; or the points are antipodal, so that there is no one great circle; or ``t``
            is not finite.
    """
    return _along("geodesic", a, b, t, parameters)


def chord(a: P, b: Point, t: float, parameters: Parameters = None, *, renormalise: bool = False) -> Any:
    """The point at ``t`` on the straight line from ``a`` (t = 0) to ``b`` (t = 1).

    Args:
        a: A module, a state dict, a list of tensors or a tensor.
        b: Another with the same names and shapes.
        t: Position; may lie outside [0, 1].
        parameters: With ``renormalise``, the weights on the joint sphere, as for :func:`angle`.
        renormalise: Scale the selected weights so that their joint norm is interpolated linearly: the great circle
            at another speed.

    Returns:
        New tensors in the form of ``a``.

    Raises:
        TypeError: Something is not a point.
        ValueError: As for :func:`angle`; with ``renormalise`` also if the line meets the origin.
    """
    return _along("renormalised" if renormalise else "chord", a, b, t, parameters)


def angle_between(x: Mapping[str, Tensor], y: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """The angle over ``names``."""
    unit_x, unit_y = _unit(x, names, "the first point")[0], _unit(y, names, "the second point")[0]
    apart, together = norm_of(unit_x[n] - unit_y[n] for n in names), norm_of(unit_x[n] + unit_y[n] for n in names)
    return 2.0 * math.atan2(apart, together)


def interpolate(
    kind: str, x: Mapping[str, Tensor], y: Mapping[str, Tensor], t: float, names: Sequence[str]
) -> dict[str, Tensor]:
    """The point at ``t`` between states ``x`` and ``y`` with ``names`` on the sphere; ``kind`` says which way."""
    if not math.isfinite(t):
        raise ValueError(f"t is {t}; it must be finite, 0 at the first point and 1 at the second")
    if kind == "geodesic":
        on_sphere = _slerp(x, y, t, names)
    elif kind == "renormalised":
        on_sphere = _renormalised(x, y, t, names)
    else:
        on_sphere = {}
    return {name: on_sphere[name] if name in on_sphere else linear(x[name], y[name], t) for name in x}


def linear(x: Tensor, y: Tensor, t: float) -> Tensor:
    """``(1 - t) x + t y`` in the dtype of ``x``, exactly x and y at the ends; equal numbers and integers stay."""
    y = y.to(device=x.device)
    if not is_number(x) or t == 0:
        return x.clone()
    if t == 1:
        return y.to(dtype=x.dtype, copy=True)
    start = double(x)
    return (start + t * (double(y) - start)).to(x.dtype)


def _slerp(x: Mapping[str, Tensor], y: Mapping[str, Tensor], t: float, names: Sequence[str]) -> dict[str, Tensor]:
    unit_x, norm_x = _unit(x, names, "the first point")
    unit_y, norm_y = _unit(y, names, "the second point")
    theta = angle_between(x, y, names)
    if math.pi - theta < ANTIPODAL:
        raise ValueError("the points are antipodal: no great circle between them is shortest; go through a third point")
    if t in (0, 1):
        end = x if t == 0 else y
        return {name: end[name].to(device=x[name].device, dtype=x[name].dtype, copy=True) for name in names}
    if theta == 0:
        share_x, share_y = 1 - t, t
    else:
        share_x, share_y = math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)
    radius = _radius(norm_x, norm_y, t)
    return {n: (radius * (share_x * unit_x[n] + share_y * unit_y[n])).to(x[n].dtype) for n in names}


def _renormalised(
    x: Mapping[str, Tensor], y: Mapping[str, Tensor], t: float, names: Sequence[str]
) -> dict[str, Tensor]:
    norm_x, norm_y = _unit(x, names, "the first point")[1], _unit(y, names, "the second point")[1]
    if t in (0, 1):
        return {name: linear(x[name], y[name], t) for name in names}
    between = {n: (1 - t) * double(x[n]) + t * double(y[n].to(x[n].device)) for n in names}
    length = norm_of(between.values())
    if length < ANTIPODAL * min(norm_x, norm_y):
        raise ValueError("the points are antipodal: the chord meets the origin, where there is no direction")
    unit, _ = _unit(between, names, "the chord")
    return {n: (_radius(norm_x, norm_y, t) * unit[n]).to(x[n].dtype) for n in names}


def _radius(first: float, second: float, t: float) -> float:
    radius = (1 - t) * first + t * second
    if radius <= 0:
        raise ValueError(
            f"at t = {t} the interpolated norm is {radius}; norms {first} and {second} allow t closer to 0..1"
        )
    return radius


def _unit(x: Mapping[str, Tensor], names: Sequence[str], what: str) -> tuple[dict[str, Tensor], float]:
    device = x[names[0]].device
    doubles = {n: double(x[n].to(device=device)) for n in names}
    norm = norm_of(doubles.values())
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(f"the selected weights of {what} have norm {norm}, so no direction")
    return {n: d / norm for n, d in doubles.items()}, norm


def _pair(a: Point, b: Point, parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]:
    x = weights(a)
    y = matched_names(weights(b), x)
    names = select(parameters, x, a, b)
    x, y = ({n: z[n] for n in names if n in z} for z in (x, y))
    check_matching(x, y)
    check_finite(x, "the first point")
    check_finite(y, "the second point")
    return x, y, names


def _along(kind: str, a: Point, b: Point, t: float, parameters: Parameters) -> Any:
    _, _, names = _pair(a, b, parameters)
    x = tensors_of(a)
    y = matched_names(tensors_of(b), x)
    check_matching(x, y)
    check_finite(weights(a), "the first point")
    check_finite(weights(b), "the second point")
    return shaped_like(a, interpolate(kind, x, y, t, names))


def shaped_like(point: Point, named: dict[str, Tensor]) -> Any:
    """``named`` in the form of ``point``: a dictionary, a list or a tensor."""
    if isinstance(point, nn.Module | Mapping):
        return named
    return named["0"] if isinstance(point, Tensor) else list(named.values())
