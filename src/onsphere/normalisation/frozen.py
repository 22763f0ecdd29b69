"""Which norms are frozen: they go on with the running statistics they have while the rest of the model trains.

A batch norm in evaluation mode is a fixed scaling and shift. Nothing ahead of it is scale-invariant, and its statistics
belong to the function that is trained, so that no measurement re-estimates or drops them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["frozen_norms", "mark_frozen"]

_MARK = "_statistics_are_frozen"  # on copies, which run in evaluation mode and have lost what the flags said


def frozen_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch and instance norms of ``model`` whose running statistics are part of the function that is trained.

    In a model of which any module is in training mode these are the ones in evaluation mode. A model that is wholly in
    evaluation mode is looked at as it would be after ``train()``: then none is frozen, unless an overridden ``train``
    keeps some so (it is asked on a copy without numbers).

    Args:
        model: Any module; it stays as it is.

    Returns:
        Names, as of ``named_modules``, and modules.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _NormBase) and m.running_mean is not None}
    norms = {name: m for name, m in norms.items() if m.track_running_stats}
    if any(hasattr(m, _MARK) for m in norms.values()):
        return {name: m for name, m in norms.items() if getattr(m, _MARK, False)}
    if any(m.training for m in model.modules()):
        return {name: m for name, m in norms.items() if not m.training}
    if all(type(m).train is nn.Module.train for m in model.modules()):
        return {}
    training = _flags_after_train(model)
    return {name: m for name, m in norms.items() if not training.get(name, True)}


def mark_frozen(model: nn.Module, names: Iterable[str]) -> None:
    """Let :func:`frozen_norms` find these norms of a copy and no others, whatever its flags."""
    wanted = set(names)
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            object.__setattr__(module, _MARK, name in wanted)


def _flags_after_train(model: nn.Module) -> dict[str, bool]:
    """``training`` of every module after ``model.train()``; of none where that cannot be tried."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        memo |= {id(t): _without_numbers(t) for t in held if isinstance(t, Tensor)}
    try:
        tried = copy.deepcopy(model, memo).train()
    except Exception:  # whatever a user's module does when it is copied or switched
        return {}
    return {name: module.training for name, module in tried.named_modules()}


def _without_numbers(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor.detach(), device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
