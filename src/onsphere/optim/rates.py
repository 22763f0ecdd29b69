"""Learning rates, momentum and weight decay of SphereSGD: checked when they are given, and again before every step.

Schedulers and users write into param groups, so a step may find what the constructor never saw. Nothing is read back
from a device: a learning rate that is a tensor is checked when it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from onsphere.rounding import wide_dtype

__all__ = ["check_lr", "check_no_decay", "check_options", "check_reach", "check_step", "scalar"]

#: No step of a factor below this overflows in any dtype that a step is computed in.
_SAFE = 1e30


def scalar(lr: float | Tensor, device: torch.device) -> float | Tensor:
    """The learning rate as a step takes it: a float, or a 0-d tensor.

    Under ``torch.compile`` a float becomes a tensor: an operation that takes a number is compiled anew for each.
    """
    if isinstance(lr, Tensor):
        return lr.reshape(())
    if torch.compiler.is_compiling():
        return torch.ones((), dtype=torch.float64, device=device) * lr
    return float(lr)


def check_step(group: Mapping[str, Any]) -> None:
    """Refuse settings that somebody has written into a param group since it was added (ValueError)."""
    if torch.compiler.is_compiling():  # a guard for each number would have the step compiled anew for each
        return
    lr = group["lr"]
    if not isinstance(lr, Tensor):
        check_lr(lr, 'group["lr"]')
    check_options(group["momentum"], group["weight_decay"])
    check_reach(group)


def check_reach(group: Mapping[str, Any], *, read: bool = False) -> None:
    """Refuse steps whose factor, lr or on a sphere lr radius², overflows where they are computed (ValueError).

    Args:
        group: A param group that is otherwise sound.
        read: Whether numbers on a device may be read.
    """
    lr, radius = group["lr"], group.get("radius", 1.0)
    if isinstance(lr, Tensor) and not read:
        return
    if isinstance(radius, list):
        radius = max(float(r.max()) for r in radius) if read else 1.0
    lr = float(lr)
    factor = lr * radius * radius
    if factor <= _SAFE:
        return
    for dtype in {p.dtype for p in group["params"]}:
        if not factor <= torch.finfo(wide_dtype(dtype)).max:
            on_sphere = f" (lr radius² with radius {radius:.3g})" if group.get("sphere") else ""
            raise ValueError(
                f"lr is {lr:.3g}: the factor of a step{on_sphere} overflows in {str(wide_dtype(dtype))[6:]}; give a "
                "smaller one"
            )


def check_lr(lr: object, name: str) -> None:
    """Refuse a learning rate that is none (ValueError)."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"{name} is a tensor of shape {tuple(lr.shape)}; a tensor {name} must have one element")
    if not isinstance(lr, (Real, Tensor)) or not (0.0 <= float(lr) < math.inf):
        raise ValueError(f"{name} is {lr!r}; it must be a finite number, zero or more")


def check_options(momentum: object, weight_decay: object) -> None:
    """Refuse momentum and weight decay that are none (ValueError)."""
    if not isinstance(momentum, Real) or not 0.0 <= float(momentum) < 1.0:
        raise ValueError(f"momentum is {momentum!r}; it must be at least 0 and less than 1")
    if not isinstance(weight_decay, Real) or not (0.0 <= float(weight_decay) < math.inf):
        raise ValueError(f"weight_decay is {weight_decay!r}; it must be a finite number, zero or more")


def check_no_decay(group: Mapping[str, Any]) -> None:
    """Refuse weight decay on a sphere (ValueError)."""
    decay = group["weight_decay"]
    if decay != 0:
        raise ValueError(
            f"weight_decay is {decay} for a sphere group; it must be 0 there. The projection undoes the pull towards "
            "the origin: all that would be left is a step larger by the factor 1 / (1 - lr rho² weight_decay). To "
            'decay the other weights write it into their groups, {"params": others, "weight_decay": '
            f'{decay}}}, or write "weight_decay": 0 into the sphere groups'
        )
