"""Averages of weights on the sphere, of the last K points or running in a training loop.

    x̄ = r m / |m|,     m = sum_k w_k x̂_k,     r = sum_k w_k |x_k|,     sum w_k = 1

The mean of directions over the weights on the joint sphere, put back onto it: a plain mean of points on a sphere lies
inside, where the same learning rate means a larger effective one. All other weights are averaged as they are. Batch
statistics of the parts are not those of the mean: give ``batches`` to re-estimate them. Norms that are frozen in the
model (:func:`onsphere.normalisation.frozen.frozen_norms`) are not re-estimated: theirs are averaged, as weights are.

Source: Izmailov et al. 2018 (SWA); Sadrtdinov et al., NeurIPS 2024 (SWA of runs on the sphere).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.functional.batches import Batches, Forward, as_batches, call, placed
from onsphere.functional.untouched import private_copy, untouched
from onsphere.functional.wrappers import matched_names, unwrapped
from onsphere.landscape.points import (
    Parameters,
    Point,
    check_finite,
    check_matching,
    double,
    is_number,
    norm_of,
    of_model,
    select,
    tensors_of,
    weights,
)
from onsphere.normalisation.frozen import frozen_norms, mark_frozen
from onsphere.normalisation.reestimation import reestimate_batch_statistics

__all__ = ["SphereAverage", "average"]

# A mean direction shorter than this is rounding: the directions cancel.
_NO_DIRECTION = 1e-6


def average(
    points: Sequence[Point],
    coefficients: Sequence[float] | None = None,
    *,
    last: int | None = None,
    parameters: Parameters = None,
    model: nn.Module | None = None,
    batches: Batches | None = None,
    forward: Forward | None = None,
) -> Any:
    """The average of points on the sphere.

    Args:
        points: Modules, state dicts, lists of tensors or tensors, all of one form, in the order of training.
        coefficients: Non-negative weights of the points, normalised here; equal by default.
        last: Average only the last so many.
        parameters: The weights on the joint sphere (:mod:`onsphere.functional.selection`): names, patterns (of a module
            they match what requires grad), a group of :func:`onsphere.sphere_groups`, ... ``None``: all weights (of
            modules, those that require grad). Where a network has weights that are not scale-invariant (an affine norm,
            a trained head), name those that are.
        model: The architecture, to re-estimate batch statistics with; a copy of it is run.
        batches: (input, target) pairs, one such pair, or inputs: a tensor, or a list of tensors of one kind; with
            them, batch statistics are re-estimated at the average.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        New tensors in the form of the first point; of modules, and of state dicts with ``batches``, a state dict.
        Without ``batches`` batch statistics are plain means, and stale.

    Raises:
        TypeError: Something is not a point, or a batch is not a pair.
        ValueError: No points, points that do not match or hold NaN, directions that cancel, coefficients that are not
            weights, or ``batches`` without a model.
    """
    chosen = list(points) if not isinstance(points, nn.Module | Mapping | Tensor) else [points]
    if last is not None:
        _check_last(last)
        chosen = chosen[-last:]
        coefficients = None if coefficients is None else list(coefficients)[-last:]
    if not chosen:
        raise ValueError("there are no points to average")
    shares = [1.0] * len(chosen) if coefficients is None else [float(c) for c in coefficients]
    if len(shares) != len(chosen) or min(shares) < 0 or not math.isfinite(sum(shares)) or sum(shares) == 0:
        raise ValueError(f"coefficients must be {len(chosen)} non-negative numbers, not all zero; got {shares}")
    first = chosen[0]
    mean = SphereAverage(parameters)
    for point, share in zip(chosen, shares, strict=True):
        if share > 0:
            mean.update(point, share)
    if batches is None:
        named = mean.average()
        if isinstance(first, nn.Module | Mapping):
            return named
        return named["0"] if isinstance(first, Tensor) else list(named.values())
    model = model if model is not None else first if isinstance(first, nn.Module) else None
    if model is None:
        raise ValueError("to re-estimate batch statistics from batches, give the model as well")
    copied = private_copy(model)
    mark_frozen(copied, frozen_norms(model))
    new = mean.apply(copied, batches, forward)
    return {name: tensor.detach().clone() for name, tensor in new.state_dict().items()}


class SphereAverage:
    """A running average of weights on the sphere, for a training loop.

    Args:
        parameters: The weights on the joint sphere, as for :func:`average`. Names or a group serve for a training loop;
            tensors must be those of the first module.
        last: Average only the last so many points, copies of which are kept. ``None``: all, of which only sums are.

    Raises:
        ValueError: ``last`` is no positive number.

    Example:
        >>> mean = SphereAverage("weight")
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> mean.update(model).count
        1
    """

    def __init__(self, parameters: Parameters = None, last: int | None = None) -> None:
        if last is not None:
            _check_last(last)
        self._parameters = parameters
        self._last = last
        self._names: tuple[str, ...] = ()
        self._dtypes: dict[str, torch.dtype] = {}
        self._parts: deque[_Part] = deque(maxlen=last)
        self._taken = 0

    @property
    def count(self) -> int:
        """Number of points in the average."""
        return self._taken if self._last is None else len(self._parts)

    @torch.no_grad()
    def update(self, point: Point, coefficient: float = 1.0) -> SphereAverage:
        """Take in one more point, a model in training for instance; it is read, not changed.

        Args:
            point: A module, state dict, list of tensors or tensor; always of the same tensors.
            coefficient: The point's positive weight in the average.

        Returns:
            This object, so that calls can be chained.

        Raises:
            TypeError: It is no point.
            ValueError: It does not match the first, holds NaN, or its weights on the sphere are all zero.
        """
        if not (math.isfinite(coefficient) and coefficient > 0):
            raise ValueError(f"coefficient is {coefficient}; it must be positive and finite")
        here, movable = tensors_of(point), weights(point)
        if self._parts:
            first = self._parts[0].sums
            here, movable = matched_names(here, first), matched_names(movable, first)
            check_matching(first, here, "the new point")
        names = self._names or select(self._parameters, movable, point)
        check_finite(movable, "the point")
        norm = norm_of(here[n] for n in names)
        if not (math.isfinite(norm) and norm > 0):
            raise ValueError(f"the weights on the sphere have norm {norm}, so no direction")
        self._names = names
        self._dtypes = {name: tensor.dtype for name, tensor in here.items()}
        scaled = {
            name: double(tensor) * (coefficient / (norm if name in names else 1.0))
            if is_number(tensor)
            else tensor.clone()
            for name, tensor in here.items()
        }
        part = _Part(scaled, coefficient * norm, coefficient)
        if self._last is None and self._parts:
            part = _joined([self._parts.pop(), part])
        self._parts.append(part)
        self._taken += 1
        return self

    def average(self) -> dict[str, Tensor]:
        """The average so far, by name; batch statistics among them are plain means.

        Raises:
            ValueError: Nothing was taken in, or the directions cancel.
        """
        if not self._parts:
            raise ValueError("there is nothing to average yet; call update(model) first")
        whole = _joined(self._parts)
        length = norm_of(whole.sums[n] for n in self._names)
        if length < _NO_DIRECTION * whole.total:
            raise ValueError("the directions cancel (antipodal points), so their mean has none")
        on_sphere, rest = whole.norms / whole.total / length, 1.0 / whole.total
        return {
            n: (s * (on_sphere if n in self._names else rest)).to(self._dtypes[n]) if is_number(s) else s.clone()
            for n, s in whole.sums.items()
        }

    def apply(self, model: nn.Module, batches: Batches | None = None, forward: Forward | None = None) -> nn.Module:
        """Write the average into ``model``, in place, and return it.

        Args:
            model: The network to overwrite: its parameters, and the statistics of frozen norms; not those of others.
            batches: Batches to re-estimate batch statistics from, in a form that :func:`average` takes. Without them
                statistics stay as they are, and are stale.
            forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

        Raises:
            ValueError: Nothing was taken in, or the model has other parameters.
            TypeError: A batch is not a pair.
        """
        mean: Any = self.average()
        if all(name.isdecimal() for name in mean):  # those of lists
            mean = list(mean.values())
        new, buffers = of_model(model, mean, "the average")
        frozen = [
            f"{name}.{part}".lstrip(".") for name in frozen_norms(model) for part in ("running_mean", "running_var")
        ]
        with untouched(model, batches):
            # Read before anything is written: a wrong entry then changes nothing.
            pairs = None if batches is None else placed(_pairs(batches, model, forward), model)
            with torch.no_grad():
                for name, parameter in unwrapped(model).named_parameters():
                    parameter.copy_(new[name])
                for name, buffer in unwrapped(model).named_buffers():
                    if name in frozen:
                        buffer.copy_(buffers[name])
            if pairs is not None:
                reestimate_batch_statistics(model, pairs, lambda network, pair: call(network, pair[0], forward))
        return model

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on: sums, names and counts. The selection as given is not kept."""
        return {
            "names": list(self._names),
            "dtypes": dict(self._dtypes),
            "parts": [
                {"sums": {n: t.clone() for n, t in part.sums.items()}, "norms": part.norms, "total": part.total}
                for part in self._parts
            ],
            "last": self._last,
            "taken": self._taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            ValueError: Something is missing in it.
        """
        if missing := {"names", "dtypes", "parts", "last", "taken"} - set(state):
            raise ValueError(f"the state lacks {sorted(missing)}; give what SphereAverage.state_dict() returned")
        self._names, self._dtypes = tuple(state["names"]), dict(state["dtypes"])
        self._last, self._taken = state["last"], int(state["taken"])
        parts = [
            _Part({n: t.clone() for n, t in part["sums"].items()}, float(part["norms"]), float(part["total"]))
            for part in state["parts"]
        ]
        self._parts = deque(parts, maxlen=self._last)

    def __repr__(self) -> str:
        which = "" if self._last is None else f" (of the last {self._last})"
        return f"SphereAverage({self.count} points{which}, {len(self._names)} tensors on the sphere)"


@dataclass(frozen=True)
class _Part:
    """What one point, or several, add: sums of w x̂ and w x, of w |x| and of w; of integers the last."""

    sums: dict[str, Tensor]
    norms: float
    total: float


def _joined(parts: Iterable[_Part]) -> _Part:
    found = list(parts)
    sums = {
        name: sum((part.sums[name] for part in found[1:]), start=first)
        if is_number(first := found[0].sums[name])
        else found[-1].sums[name]
        for name in found[0].sums
    }
    return _Part(sums, sum(part.norms for part in found), sum(part.total for part in found))


def _check_last(last: int) -> None:
    if isinstance(last, bool) or not isinstance(last, int) or last < 1:
        raise ValueError(f"last is {last!r}; it must be a positive number of points")


def _pairs(batches: Batches, model: nn.Module, forward: Forward | None) -> list[tuple[Any, Any]]:
    """Pairs, of which only the inputs count; those of plain tensors have no targets."""
    if isinstance(batches, Tensor):
        return [(batches, None)]
    if not isinstance(batches, tuple | list | Mapping | str) and isinstance(batches, Iterable):
        batches = list(batches)
    if isinstance(batches, list) and batches and all(isinstance(x, Tensor) for x in batches):
        alike = {(x.dtype, x.shape[1:]) for x in batches}
        if len(alike) == 1 or len(batches) != 2:  # else an input with its target, as a loader gives them
            return [(x, None) for x in batches]
    return as_batches(batches, model, forward=forward)
