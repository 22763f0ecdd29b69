"""Which layers are norms by their class: torch's own and what onsphere adds to them.

A norm layer divides the scale of its input out, ``y(c x) = y(x)`` for c > 0 as far as its eps is negligible. Norms of
another make are told by what they compute (:mod:`onsphere.surgery.recognise`).
"""

from __future__ import annotations

from torch import nn

from onsphere.normalisation.statistics import BatchStatistics

__all__ = ["NORM_LAYERS", "is_norm", "norm_layers"]

#: Classes whose output does not change when their input is multiplied by a positive number (eps aside).
NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
    BatchStatistics,
)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is one of :data:`NORM_LAYERS` or a subclass of one."""
    return isinstance(module, NORM_LAYERS)


def norm_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every norm layer of ``model`` by name, in registration order; a shared one once, by its first name."""
    return {name: module for name, module in model.named_modules() if is_norm(module)}
