"""Weight decay that keeps the balance of norm and gradient while the learning rate falls.

At equilibrium scale-invariant weights have ||gradient|| / ||weights|| = √(2 λ / lr): as a schedule lowers lr, gradients
grow towards the end of training. With

    λ_t = λ lr_t / lr_peak

for these weights the ratio stays what it is at the peak; other weights keep their λ.

Source: Defazio, arXiv 2506.02285 (AdamC, corrected weight decay).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer

from onsphere.groups import listed_params, parameter_names, sphere_kind
from onsphere.optim.rates import check_lr
from onsphere.optim.wrappers import torch_optimizers

__all__ = ["correct_decay", "is_corrected", "uncorrect_decay"]

AnyOptimizer = TypeVar("AnyOptimizer")
#: Where param groups keep the decay that was given and the learning rate at which it holds.
INITIAL, PEAK = "initial_weight_decay", "peak_lr"


def correct_decay(
    optimizer: AnyOptimizer, groups: Iterable[Mapping[str, Any]], *, peak_lr: float | None = None
) -> AnyOptimizer:
    """Scale the weight decay of scale-invariant weights by ``lr / peak_lr`` at every step.

    It is written into the param groups' ``weight_decay`` before each step, where a Monitor reads it; what was given
    stays in ``initial_weight_decay``, the peak in ``peak_lr``, so that checkpoints hold both. :func:`onsphere.release`
    takes it off again.

    Args:
        optimizer: A torch optimiser with ``weight_decay`` in its param groups (AdamW, SGD, Muon), one that Accelerate
            or Lightning has wrapped, or a list of them.
        groups: Sphere groups, as ``onsphere.sphere_groups(model, batch)`` returns them. They say which weights are
            scale-invariant: a param group of the optimiser must hold such weights alone, or none.
        peak_lr: The largest learning rate of the schedule. Without it each group's ``max_lr`` (OneCycleLR), else its
            ``initial_lr`` (other schedulers), else its present ``lr`` is taken: attach after making the scheduler.

    Returns:
        The optimiser, wrapper or list that was given.

    Raises:
        TypeError: It is not a torch optimiser.
        ValueError: It is corrected already, a group mixes scale-invariant weights with others, none has both such
            weights and a weight decay, or the peak is not positive.

    Source: Defazio, arXiv 2506.02285, section 4.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.5)
        >>> optimizer = correct_decay(optimizer, [{"params": [weight], "sphere": "joint"}])
        >>> optimizer.param_groups[0]["lr"], weight.grad = 0.1, torch.zeros(2)
        >>> optimizer.step()  # a decay of 0.05 at an lr of 0.1
        >>> weight.detach()
        tensor([0.9950, 0.9950])
    """
    optimizers = torch_optimizers(optimizer, "correct_decay")
    if any(one in _CORRECTED for one in optimizers):
        raise ValueError("the decay of this optimizer is corrected already; call onsphere.release(optimizer) first")
    if peak_lr is not None:
        check_lr(peak_lr, "peak_lr")
    invariant = {id(p) for group in groups if sphere_kind(group) is not None for p in listed_params(group["params"])}
    peaks = [_peaks(one, invariant, peak_lr) for one in optimizers]
    if not any(any(own) for own in peaks):
        raise ValueError(
            "no param group has scale-invariant weights and a weight decay, so there is nothing to correct; pass the "
            "groups of onsphere.sphere_groups(model, batch) and an optimizer with weight_decay"
        )
    for one, own in zip(optimizers, peaks, strict=True):
        _CORRECTED[one] = _Correction(one, own)
    return optimizer


def is_corrected(optimizer: Optimizer) -> bool:
    """Whether :func:`correct_decay` is at work on an optimiser."""
    return optimizer in _CORRECTED


def uncorrect_decay(optimizer: Optimizer) -> None:
    """Undo :func:`correct_decay` for one optimiser, if it is at work there."""
    correction = _CORRECTED.pop(optimizer, None)
    if correction is not None:
        correction.remove(optimizer)


class _Correction:
    """The hook of one optimiser; all that it needs is in the param groups, where checkpoints find it."""

    def __init__(self, optimizer: Optimizer, peaks: list[float]) -> None:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            if peak:
                group[INITIAL], group[PEAK] = group["weight_decay"], peak
        opaque: Any = torch._dynamo.disable(self._scale)  # type: ignore[no-untyped-call]
        self._handle = optimizer.register_step_pre_hook(opaque)

    def remove(self, optimizer: Optimizer) -> None:
        self._handle.remove()
        for group in optimizer.param_groups:
            if INITIAL in group:
                group["weight_decay"] = group.pop(INITIAL)
                del group[PEAK]

    @staticmethod
    def _scale(optimizer: Optimizer, args: object, kwargs: object) -> None:
        for group in optimizer.param_groups:
            if INITIAL in group:
                group["weight_decay"] = group[INITIAL] * float(group["lr"]) / group[PEAK]


_CORRECTED: WeakKeyDictionary[Optimizer, _Correction] = WeakKeyDictionary()


def _peaks(optimizer: Optimizer, invariant: set[int], peak_lr: float | None) -> list[float]:
    """The peak of each param group; 0 where nothing is to be corrected."""
    found = []
    for group in optimizer.param_groups:
        on = [id(p) in invariant for p in group["params"]]
        if not any(on) or not group.get("weight_decay"):
            found.append(0.0)
            continue
        if not all(on):
            free = next(name for name, yes in zip(parameter_names(group), on, strict=True) if not yes)
            raise ValueError(
                f"{free} is not scale-invariant and in a param group with tensors that are, and a group has one weight "
                "decay; put it into a param group of its own"
            )
        peak = float(peak_lr if peak_lr is not None else group.get("max_lr", group.get("initial_lr", group["lr"])))
        if not peak > 0:
            raise ValueError(f"the peak of the learning rate is {peak:g}; give peak_lr, the largest of the schedule")
        found.append(peak)
    return found
