"""Critical sharpness: how far along the last update the loss would have begun to rise, from forward passes alone.

    η_c = min { η > 0 : L(θ + (η / lr) d) > L(θ) },     λ_c = 2 / η_c,     d = θ_after - θ_before the update at lr

On a quadratic loss L the update d = -lr u rises beyond η_c = 2 <∇L, u> / <u, H u>: for gradient descent along the top
eigenvector λ_c is the top eigenvalue. No second derivative is taken and nothing is differentiated, so that it works
where Hessian products do not: under flash attention, with sharded weights (FSDP2, tensor parallelism), at any size.

Source: Kalra et al., arXiv 2601.16979 (critical sharpness and its line search).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onsphere.functional.batches import Called, Forward
from onsphere.functional.untouched import untouched_random_state
from onsphere.sharding import is_spread, part, same_layout

__all__ = ["CriticalSharpness", "critical_sharpness"]

#: The farthest and the nearest that is looked at, in lengths of the update.
_FARTHEST = 2.0**20


@dataclass(frozen=True)
class CriticalSharpness:
    """Where along an update the loss begins to rise.

    Attributes:
        sharpness: λ_c = 2 / critical_lr; infinite if the update leads uphill from the start, 0 if the loss does not
            rise within 2^20 lengths of the update.
        critical_lr: η_c, in the units of ``lr``: the geometric mean of ``bracket`` times ``lr``.
        factor: critical_lr / lr: how many lengths of the update. Below 1 the step that was made raised the loss.
        bracket: The factors between which the loss begins to rise: the last at which it had not, the first at which
            it had.
        loss: The loss before the update.
        forward_passes: How many were made.
    """

    sharpness: float
    critical_lr: float
    factor: float
    bracket: tuple[float, float]
    loss: float
    forward_passes: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def critical_sharpness(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: tuple[Any, Any],
    *,
    update: Mapping[str, Tensor],
    lr: float,
    guess: float = 2.0,
    precision: float = 1.1,
    forward: Forward | None = None,
) -> CriticalSharpness:
    """The critical sharpness along the last update of a model, five to six forward passes in the usual case.

    The model is run as it is, in the mode it is in; weights are moved along the update in place and come back bit for
    bit, buffers and random states too, and every pass draws the same random numbers. Parameters may be DTensors; the
    loss is then the mean over processes, all of which take part, as it is under DistributedDataParallel.

    Args:
        model: The model after the update.
        loss_fn: ``loss_fn(output, target)``, which gives a 0-d tensor.
        batch: A pair (input, target): the batch of the update, or a larger one, the same every time.
        update: Weights now minus weights before the step, by the model's parameter names; parameters that are not named
            did not move.
        lr: The learning rate of that step, positive.
        guess: Where to look first, in lengths of the update; the ``factor`` of the last measurement saves passes.
        precision: Largest ratio of the bracket's ends, above 1.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        The sharpness, the critical learning rate and their bracket.

    Raises:
        ValueError: A name that the model does not have, a shape that does not fit, an update of zeros, a number out of
            its range, or a loss before the update that is not finite.
        TypeError: The loss is not a 0-d tensor.

    Source: Kalra et al., arXiv 2601.16979.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> before = model.weight.detach().clone()
        >>> x = torch.tensor([[3.0]])  # the loss is 9 weight², its second derivative 18
        >>> loss_fn = lambda output, target: output.square().sum()
        >>> _ = model.weight.data.sub_(0.01 * 18 * before)
        >>> found = critical_sharpness(model, loss_fn, (x, None), update={"weight": model.weight - before}, lr=0.01)
        >>> found.bracket[0] * 0.01 <= 2 / 18 <= found.bracket[1] * 0.01
        True
    """
    for name, value, least in (("lr", lr, 0.0), ("guess", guess, 0.0), ("precision", precision, 1.0)):
        if not least < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be finite and above {least:g}")
    _reshard(model)
    moved = _moved(model, update)
    # One count for all processes: they decide alike, because they see the same mean.
    together = any(is_spread(p) for p, _ in moved) or isinstance(model, nn.parallel.DistributedDataParallel)
    called, passes = Called(model, forward), 0

    def loss_at(factor: float) -> float:
        nonlocal passes
        passes += 1
        _reshard(model)
        for (p, d), now in zip(moved, present, strict=True):
            part(p).copy_(torch.add(now, d, alpha=factor - 1.0))
        with _unwritten(model):
            loss = loss_fn(called(batch[0]), batch[1])
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise TypeError(f"loss_fn gave {type(loss).__name__}; it must give a 0-d tensor")
        value = loss.detach().to(torch.float64)
        if together:
            torch.distributed.all_reduce(value)
            value = value / torch.distributed.get_world_size()
        return float(value)

    with torch.no_grad():
        present = [part(p).detach().clone() for p, _ in moved]
        try:
            start = loss_at(0.0)
            if not math.isfinite(start):
                raise ValueError(f"the loss before the update is {start}; there is nothing it could rise from")
            low, high = _bracket(lambda factor: not loss_at(factor) <= start, guess, precision)
        finally:
            _reshard(model)
            for (p, _), now in zip(moved, present, strict=True):
                part(p).copy_(now)
    factor = math.sqrt(low * high) if low > 0 and high < math.inf else (0.0 if low == 0 else math.inf)
    return CriticalSharpness(
        sharpness=math.inf if factor == 0 else 2 / (factor * lr),
        critical_lr=factor * lr,
        factor=factor,
        bracket=(low, high),
        loss=start,
        forward_passes=passes,
    )


def _bracket(rises: Callable[[float], bool], guess: float, precision: float) -> tuple[float, float]:
    """Two factors no further apart than ``precision`` between which ``rises`` begins to hold."""
    low, high = 0.0, math.inf
    at = guess
    while not (low > 0 and high < math.inf):
        if rises(at):
            high, at = at, at / 2
        else:
            low, at = at, at * 2
        if not 1 / _FARTHEST <= at <= _FARTHEST:
            return low, high
    while high / low > precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low, high


def _moved(model: nn.Module, update: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters that moved, and what this process holds of how far."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for name, moved in update.items():
        if name not in parameters:
            raise ValueError(f"the model has no parameter {name}; update is by names of model.named_parameters()")
        parameter, moved = parameters[name], moved.detach()
        if moved.shape != parameter.shape:
            raise ValueError(f"the update of {name} has the shape {tuple(moved.shape)}, not {tuple(parameter.shape)}")
        found[id(parameter)] = (parameter, part(same_layout(moved, parameter)).to(part(parameter).dtype))
    if not any(bool(d.any()) for _, d in found.values()) and not any(is_spread(p) for p, _ in found.values()):
        raise ValueError("the update is of zeros only, which leads nowhere; give weights after minus weights before")
    return list(found.values())


def _reshard(model: nn.Module) -> None:
    """Drop what FSDP2 gathered in a forward pass without a backward one: it would be run again, at old weights."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@contextmanager
def _unwritten(model: nn.Module) -> Iterator[None]:
    """Give back buffers and random states as they were."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        with untouched_random_state(model):
            yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
