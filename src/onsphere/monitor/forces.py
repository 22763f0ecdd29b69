"""What weight decay takes of a step, so that the rest of its radial part can be told from it.

The change of a norm in a step has three parts, which :func:`onsphere.monitor.readings.measure` computes:

    decay        what weight decay shrinks
    alignment    what the optimiser's update does along the weights, decay apart: zero for SGD where the weights are
                 scale-invariant, but not where an optimiser scales coordinates, or a projection takes a norm back
    push         what the part of the update across the weights grows

Weights are shrunk by the factor 1 - d, and d is

    lr λ             where decay is decoupled: AdamW, Muon, Lion, and optimisers that are not known here
    lr λ / (1 - μ)   torch's SGD, whose decay goes through the momentum μ: what a step's decay adds up to
    0                where decay goes through an optimiser's own scaling (Adam, RMSprop, ...): it is part of alignment

Source: arXiv 2606.19367 (three forces); the exact split of log norm is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

__all__ = ["Rule", "decay_rule", "shrunk"]

Rule = Literal["decoupled", "momentum", "scaled"]

_SCALED = tuple(
    getattr(torch.optim, name)
    for name in ("Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop")
    if hasattr(torch.optim, name)
)


def decay_rule(optimizer: Optimizer, group: Mapping[str, Any]) -> Rule:
    """How weight decay acts on one of an optimiser's param groups."""
    if isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD):
        return "momentum"
    if isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay"):
        return "decoupled"
    return "scaled" if isinstance(optimizer, _SCALED) else "decoupled"


def shrunk(
    rule: Rule, lr: NDArray[np.float64], weight_decay: NDArray[np.float64], momentum: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The fraction d by which decay shrinks the weights; ``[T]``, as the settings are. Missing settings count as 0."""
    fraction = np.nan_to_num(lr) * np.nan_to_num(weight_decay)
    if rule == "scaled":
        return np.zeros_like(fraction)
    return fraction / (1 - np.nan_to_num(momentum)) if rule == "momentum" else fraction
