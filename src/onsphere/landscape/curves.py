"""Curved paths of low loss between two networks: a quadratic Bézier curve on the sphere with a trained middle.

    phi(t) = r(t) B(t) / |B(t)|,     B(t) = (1 - t)² â + 2 t (1 - t) ĉ + t² b̂

The control direction c minimises the expected loss along the curve, E over t ~ U(0, 1) of L(phi(t)), by stochastic
gradient descent on the sphere: one t and one batch a step, batch norms with the statistics of the batch, dropout off.
Parameters that are not on the sphere are interpolated linearly.

Source: Garipov et al. 2018 (Bézier curves of low loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onsphere.functional.checks import one_number
from onsphere.functional.untouched import untouched
from onsphere.landscape.barriers import Barrier, Straight, measure, straight
from onsphere.landscape.directions import ANTIPODAL, angle_between
from onsphere.landscape.evaluation import Batches, Evaluation, Forward, LossFunction, Mode
from onsphere.landscape.points import Parameters, Point, double, norm_of, real

__all__ = ["Curve", "train_curve"]


@dataclass(frozen=True, repr=False, eq=False)
class Curve:
    """A trained curve between two points.

    Attributes:
        ends: The straight path between the points, which says what is on the sphere.
        control: Unit control direction of the weights on the sphere, by name, in double precision.
        losses: Minibatch loss at a random place of the curve at every training step, ``[steps]``.
    """

    ends: Straight
    control: Mapping[str, Tensor]
    losses: NDArray[np.float64]

    @property
    def angle(self) -> float:
        """The angle between the ends, radians."""
        return self.ends.angle

    @property
    def length(self) -> float:
        """Length of the curve on the unit sphere, radians (200 pieces); at least :attr:`angle`."""
        names = self.ends.on_sphere
        places = [_bezier(*self._corners(), t) for t in np.linspace(0.0, 1.0, 201)]
        return sum(angle_between(p, q, names) for p, q in pairwise(places))

    def point(self, t: float) -> dict[str, Tensor]:
        """All parameters at ``t`` in [0, 1], by name; exactly the points at 0 and 1.

        Raises:
            ValueError: ``t`` is outside [0, 1].
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t is {t}; the curve runs from 0 to 1")
        ends = self.ends
        if t in (0, 1):
            return ends.at(t)
        radius = (1 - t) * _norm(ends.a, ends.on_sphere) + t * _norm(ends.b, ends.on_sphere)
        curved = {n: (radius * d).to(ends.a[n].dtype) for n, d in _bezier(*self._corners(), t).items()}
        straight_part = ends.chord_at(t)
        return {name: curved[name] if name in curved else straight_part[name] for name in ends.a}

    def barrier(
        self,
        loss_fn: LossFunction,
        batches: Batches,
        points: int = 21,
        *,
        mode: Mode = "reestimate",
        statistics: Batches | None = None,
        forward: Forward | None = None,
    ) -> Barrier:
        """Losses and errors along the curve, with the arguments and errors of :func:`onsphere.landscape.barrier`."""
        ends = self.ends
        with untouched(ends.model, batches, statistics):
            evaluation = Evaluation(ends.model, loss_fn, batches, mode, statistics, forward=forward)
            facts = {"angle": ends.angle, "path": "curve", "on_sphere": ends.on_sphere, "linear": ends.linear}
            return measure(evaluation, self.point, ends.buffers_at, points, **facts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the weights, ready for JSON."""
        return {
            "angle": self.angle,
            "length": self.length,
            "losses": self.losses.tolist(),
            "on_sphere": list(self.ends.on_sphere),
            "linear": list(self.ends.linear),
        }

    def _corners(self) -> tuple[dict[str, Tensor], Mapping[str, Tensor], dict[str, Tensor]]:
        names = self.ends.on_sphere
        return _unit(self.ends.a, names), self.control, _unit(self.ends.b, names)

    def __repr__(self) -> str:
        last = float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))
        return (
            f"Curve({len(self.losses)} steps, loss of the last tenth {last:.4g}; length {self.length:.4g} rad, "
            f"angle between the ends {self.angle:.4g} rad)"
        )


def train_curve(
    model: nn.Module,
    a: Point,
    b: Point,
    loss_fn: LossFunction,
    batches: Batches,
    steps: int = 1000,
    *,
    lr: float = 3e-3,
    momentum: float = 0.9,
    parameters: Parameters = None,
    seed: int = 0,
    forward: Forward | None = None,
) -> Curve:
    """Train a Bézier curve of low loss between two points on the sphere.

    Args:
        model: The architecture; not changed and not run (a copy is).
        a: A point: a module, a state dict, or a list with a tensor for each parameter.
        b: The other point in any of these forms, not antipodal to ``a``.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: Training data, pairs (input, target) or one such pair, read once into a list; every step draws one.
        steps: Number of training steps.
        lr: Effective learning rate of the control point on the unit sphere, falling linearly to 0. Momentum multiplies
            it by 1 / (1 - momentum); a product of the size that trains the networks themselves is a good start.
        momentum: Heavy-ball momentum, in [0, 1).
        parameters: The weights on the joint sphere, as for :func:`onsphere.landscape.barrier`; ``None``: the
            scale-invariant ones.
        seed: Seed of the places on the curve and the order of batches.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        The trained curve with its ends.

    Raises:
        ValueError: As for :func:`onsphere.landscape.barrier`; steps, lr or momentum out of range; a loss that became
            NaN or infinite.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be a positive number of steps")
    if not (math.isfinite(lr) and lr > 0 and 0 <= momentum < 1):
        raise ValueError(f"lr is {lr} and momentum {momentum}; lr must be positive, momentum in [0, 1)")
    with untouched(model, batches):
        evaluation = Evaluation(model, loss_fn, batches, "train", forward=forward, points=(a, b))
        ends = straight(model, a, b, evaluation, "geodesic", parameters)
        names = ends.on_sphere
        first, last = _unit(ends.a, names), _unit(ends.b, names)
        if math.pi - ends.angle < ANTIPODAL:
            raise ValueError("the points are antipodal: no curve between them starts from one great circle")
        control = _unit({n: first[n] + last[n] for n in names}, names)  # the middle of the great circle
        radii = _norm(ends.a, names), _norm(ends.b, names)
        velocity = {name: torch.zeros_like(tensor) for name, tensor in control.items()}
        generator = np.random.default_rng(seed)
        losses = np.empty(steps)
        for step in range(steps):
            t = float(generator.uniform())
            x, y = evaluation.batches[int(generator.integers(len(evaluation.batches)))]
            network = evaluation.place(ends.chord_at(t), ends.buffers_at(t))
            if step == 0:
                evaluation.check()
            leaves = {name: tensor.requires_grad_() for name, tensor in control.items()}
            with torch.enable_grad():
                radius = (1 - t) * radii[0] + t * radii[1]
                place = {n: (radius * d).to(ends.a[n].dtype) for n, d in _bezier(first, leaves, last, t).items()}
                loss = one_number(loss_fn(evaluation.output(network, place, x), y))
                gradients = torch.autograd.grad(loss, list(leaves.values()))
            losses[step] = float(loss.detach())
            if not math.isfinite(losses[step]):
                raise ValueError(f"the loss became {losses[step]} at step {step}; take a smaller lr than {lr}")
            control = {name: tensor.detach() for name, tensor in leaves.items()}
            _step(control, velocity, gradients, lr * (1 - step / steps), momentum)
        return Curve(ends, control, losses)


def _step(
    control: dict[str, Tensor],
    velocity: dict[str, Tensor],
    gradients: tuple[Tensor, ...],
    lr: float,
    momentum: float,
) -> None:
    """Heavy-ball step in the tangent space, then back to the unit sphere; in place."""
    for name, gradient in zip(control, gradients, strict=True):
        velocity[name].mul_(momentum).add_(gradient)
    # The velocity of earlier tangent spaces, and the gradient, are made tangent here.
    along = sum(float((real(velocity[n]) * real(control[n])).sum()) for n in control)
    for name, tensor in control.items():
        velocity[name].sub_(along * tensor)
        tensor.sub_(lr * velocity[name])
    norm = _norm(control, list(control))
    for tensor in control.values():
        tensor.div_(norm)


def _bezier(a: Mapping[str, Tensor], c: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """The normalised curve at ``t``; differentiable in ``c``."""
    raw = {n: (1 - t) ** 2 * a[n] + 2 * t * (1 - t) * c[n] + t**2 * b[n] for n in a}
    norm = torch.stack([real(r).square().sum() for r in raw.values()]).sum().sqrt()
    return {n: r / norm for n, r in raw.items()}


def _norm(state: Mapping[str, Tensor], names: tuple[str, ...] | list[str]) -> float:
    return norm_of(state[n] for n in names)


def _unit(state: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    norm = _norm(state, names)
    return {n: double(state[n]) / norm for n in names}
