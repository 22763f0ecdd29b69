"""One training step of one copy, as a pure function of tensors; the population runs it for many copies at once.

    loss, error, g = value and gradient on the copy's own minibatch (batch statistics of that minibatch)
    readings       = loss, error, and per tensor |w|², |g|², <w, g>, all taken before the update
    sphere:  w <- radius (w - lr radius² g) / |w - lr radius² g|          (lr is the effective learning rate)
             or, on several spheres, with momentum, or with other tensors besides, :mod:`.spheres`
    space:   v <- momentum v + g + weight_decay w;  w <- w - lr v;  or Adam's rule; with keep_elr lr |w|² for lr

The updates are the functional twins of :mod:`onsphere.optim`: they are written there once. A copy whose loss or
weights stop being finite keeps its last finite weights and is marked dead; it never influences another copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from onsphere.lab.population.running import Recorder
from onsphere.lab.population.spheres import Spheres, spheres_step
from onsphere.optim import adam, sgd
from onsphere.optim.updates import sphere_sgd_measured
from onsphere.products import squared_norm

LossName = Literal["cross-entropy", "mse"]


class Hyper(NamedTuple):
    """Hyper-parameters of one copy as 0-d tensors (of K copies: [K])."""

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor
    radius: Tensor
    number: Tensor  # of the step, from 1


class StepState(NamedTuple):
    """What a step changes."""

    params: list[Tensor]
    buffers: list[Tensor]
    alive: Tensor
    statistics: list[Tensor]  # running ones, where they are kept


Step = Callable[[StepState, list[Tensor], Hyper, Tensor, Tensor], tuple[StepState, Tensor]]


def loss_function(name: LossName) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss by name: mean over examples; ``mse`` also over classes, with 0/1 targets (Nakhodnov et al. 2022)."""
    return _cross_entropy if name == "cross-entropy" else _mse


def _targets(outputs: Tensor, labels: Tensor) -> Tensor:
    """0/1 targets [B, C]. F.one_hot looks at the labels' values, which neither vmap nor tracing allows."""
    return (labels.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=labels.device)).to(outputs.dtype)


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    # F.cross_entropy's value with a third of its operations: no ignored labels, no class weights
    return -(F.log_softmax(outputs, -1) * _targets(outputs, labels)).sum(-1).mean()


def _mse(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - _targets(outputs, labels)).square().mean()


def recorded_product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> accumulated in float64, 0-d; multiplied in the run's precision, at half the cost of ``products.inner``."""
    return (a * b).sum(dtype=torch.float64)


def tensor_moments(params: list[Tensor], grads: list[Tensor], gradient2: list[Tensor]) -> list[Tensor]:
    """|w|², |g|² and <w, g> of every tensor, in the order of the readings: 3 L 0-d float64 tensors."""
    products = [recorded_product(w, g) for w, g in zip(params, grads, strict=True)]
    return [recorded_product(w, w) for w in params] + gradient2 + products


def make_step(
    template: nn.Module,
    trained: tuple[str, ...],
    frozen: tuple[str, ...],
    *,
    loss: LossName,
    geometry: Literal["sphere", "space"],
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd",
    spheres: Spheres | None = None,
    recorder: Recorder | None = None,
    keep_elr: bool = False,
) -> Step:
    """Build the step of one copy.

    Args:
        template: The network without running statistics; only its structure is used, its values are replaced.
        trained: Names of the trained tensors, in the order of ``StepState.params``.
        frozen: Names of all other parameters and buffers, in the order of the step's second argument.
        loss: Name of the loss, ``cross-entropy`` or ``mse``.
        geometry: Where the weights move.
        optimizer: Which update; on the sphere ``sgd`` only.
        spheres: On which spheres the tensors are; None: on one, all of them, and without momentum.
        recorder: Sees what enters the template's norms; None: no running statistics are kept.
        keep_elr: Whether ``lr`` is the effective learning rate of weights whose norm is free; ``sgd`` in space only.

    Raises:
        ValueError: An update that the geometry does not have, or an ELR to be kept where it is given or has no meaning.

    Returns:
        ``step(state, frozen values, hyper, x [B, ...], y [B]) -> (state, readings [2 + 3 L])``, usable under
        ``torch.func.vmap`` and ``make_fx``; with ``spheres`` the angle of the step is the last reading.
    """
    if geometry == "sphere" and optimizer != "sgd":
        raise ValueError(
            f"optimizer is {optimizer!r}; on the sphere only 'sgd' keeps to a fixed effective learning rate"
        )
    if keep_elr and (geometry != "space" or optimizer != "sgd"):
        raise ValueError(f"keep_elr needs 'sgd' in the 'space', and was given {optimizer!r} in the {geometry!r}")
    criterion = loss_function(loss)
    recorded = len(trained) - (len(spheres.free) if spheres is not None else 0)

    def step(state: StepState, constants: list[Tensor], hyper: Hyper, x: Tensor, y: Tensor) -> tuple[StepState, Tensor]:
        fixed = dict(zip(frozen, constants, strict=True))

        def objective(params: list[Tensor]) -> tuple[Tensor, Any]:
            outputs: Tensor = functional_call(template, fixed | dict(zip(trained, params, strict=True)), (x,))
            return criterion(outputs, y), (outputs, recorder.updated(statistics) if recorder is not None else [])

        params, buffers, alive, statistics = state
        grads, (value, (outputs, running)) = grad_and_value(objective, has_aux=True)(params)
        error = (outputs.argmax(-1) != y).to(torch.float64).mean()
        gradient2 = [recorded_product(g, g) for g in grads]
        moments = tensor_moments(params[:recorded], grads[:recorded], gradient2[:recorded])
        found = [value.to(torch.float64), error, *moments]
        if geometry == "sphere" and spheres is not None:
            new, new_buffers, norm, angle = spheres_step(
                spheres, trained, params, grads, buffers, lr=hyper.lr, radius=hyper.radius, momentum=hyper.momentum
            )
            found.append(angle)
        elif geometry == "sphere":
            new, new_buffers, norm = sphere_sgd_measured(
                params, grads, buffers, lr=hyper.lr, radius=hyper.radius, momentum=hyper.momentum
            )
        elif optimizer == "sgd":
            lr = hyper.lr * squared_norm(params) if keep_elr else hyper.lr
            new, new_buffers = sgd(
                params, grads, buffers, lr=lr, momentum=hyper.momentum, weight_decay=hyper.weight_decay
            )
        else:
            firsts, seconds = buffers[: len(params)], buffers[len(params) :]
            decay, decoupled = hyper.weight_decay, optimizer == "adamw"
            new, firsts, seconds = adam(
                params, grads, firsts, seconds, hyper.number, lr=hyper.lr, weight_decay=decay, decoupled=decoupled
            )
            new_buffers = firsts + seconds
        readings = torch.stack(found).to(value.dtype)
        # finite gradients are not enough: a large step can overflow, on the sphere before it is projected
        size = torch.stack([*gradient2, norm]).sum() if geometry == "sphere" else squared_norm(new)
        alive = alive & torch.isfinite(value) & torch.isfinite(size)
        keep: Any = lambda fresh, old: torch.where(alive, fresh, old)  # noqa: E731
        return StepState(
            [keep(a, b) for a, b in zip(new, params, strict=True)],
            [keep(a, b) for a, b in zip(new_buffers, buffers, strict=True)],
            alive,
            [keep(a, b) for a, b in zip(running, statistics, strict=True)],
        ), readings

    return step
