"""What weight decay takes of a step, so that the rest of its radial part can be told from it.

The change of a norm in a step has three parts, which :func:`onsphere.monitor.readings.measure` computes:

    decay        what weight decay shrinks
    alignment    what the optimiser's update does along the weights, decay apart: zero for SGD where the weights are
                 scale-invariant, but not where an optimiser scales coordinates, or a projection takes a norm back
    push         what the part of the update across the weights grows

Weights are shrunk by the factor 1 - d, and d is

    lr λ                     where decay is decoupled: AdamW, Muon, Lion, and optimisers that are not known here
    lr λ (1 - τ) / (1 - μ)   torch's SGD, whose decay goes through momentum μ and its dampening τ: what it adds up to
    0                        where decay goes through an optimiser's own scaling (Adam, RMSprop, ...): it is part of
                             alignment; and of a tensor that did not move in the step, as one without a gradient

Source: arXiv 2606.19367 (three forces); the exact split of log norm is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

__all__ = ["Rule", "rule_of", "shrunk"]


def _known(*names: str) -> tuple[type[Optimizer], ...]:
    return tuple(getattr(torch.optim, name) for name in names if hasattr(torch.optim, name))


_ADAMS = _known("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
_SCALED = _known("Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop")


@dataclass(frozen=True)
class Rule:
    """How an optimiser treats one of its param groups, as far as it does not change from step to step.

    Attributes:
        decay: Whether weight decay is decoupled, goes through momentum, or is scaled with the gradient.
        share: The share of a gradient that enters the momentum, 1 - dampening; 1 without momentum.
        eps: What Adam adds to the root of its second moment; 0: another rule, or not known.
    """

    decay: Literal["decoupled", "momentum", "scaled"]
    share: float = 1.0
    eps: float = 0.0


def rule_of(optimizer: Optimizer, group: Mapping[str, Any]) -> Rule:
    """The rule of one of an optimiser's param groups."""
    if isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD):
        damped = group.get("dampening") if group.get("momentum") else None
        return Rule("momentum", 1 - float(damped) if isinstance(damped, Real) else 1.0)
    is_adam = isinstance(optimizer, _ADAMS) or "adam" in type(optimizer).__name__.lower()
    given = group.get("eps") if is_adam else None
    eps = float(given) if isinstance(given, Real) else 0.0
    if isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay"):
        return Rule("decoupled", eps=eps)
    return Rule("scaled" if isinstance(optimizer, _SCALED) else "decoupled", eps=eps)


def shrunk(
    rule: Rule, lr: NDArray[np.float64], weight_decay: NDArray[np.float64], momentum: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The fraction d by which decay shrinks the weights; ``[T]``, as the settings are. Missing settings count as 0."""
    fraction = np.nan_to_num(lr) * np.nan_to_num(weight_decay)
    if rule.decay == "scaled":
        return np.zeros_like(fraction)
    return fraction * rule.share / (1 - np.nan_to_num(momentum)) if rule.decay == "momentum" else fraction
