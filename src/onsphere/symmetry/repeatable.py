"""A private copy made ready to be probed: in the mode that is trained, without chance, without the eps of its norms."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from onsphere.functional.nests import widened
from onsphere.normalisation import is_norm
from onsphere.normalisation.frozen import frozen_norms
from onsphere.symmetry.exact_mode import EPS

__all__ = ["as_trained", "lift", "make_repeatable", "without_eps"]

_EPS_ATTRIBUTES = ("eps", "epsilon", "variance_epsilon")
_SMALL = 0.02  # of an ordinary size
# Hugging Face: probabilities of leaving out whole layers, in modules and their configurations.
_LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)


def as_trained(copy: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """Put a copy into the mode that is trained, and return its frozen norms by name.

    Flags stay as they are where any module is in training mode; a model wholly in evaluation mode is switched.
    """
    frozen = frozen_norms(model)
    if not any(module.training for module in model.modules()):
        try:
            copy.train()
        except Exception:  # exported programs refuse; another ``train`` may need what a copy does not have
            for module in copy.modules():
                module.training = True
    modules = dict(copy.named_modules())
    return {name: modules[name] for name in frozen}


def make_repeatable(model: nn.Module, frozen: Mapping[str, nn.Module]) -> None:
    """No dropout and no running statistics, but for frozen norms; every parameter in double precision."""
    kept = set(frozen.values())
    for module in model.modules():
        if _draws(module):
            module.training = False
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # it takes a row out of the gradient, not out of the function
        for holder in (module, getattr(module, "config", None)):
            for name in _LAYER_DROPS:
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        if isinstance(module, _NormBase):
            module.training = module not in kept
        if isinstance(module, _NormBase) and module not in kept:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    for parameter in model.parameters():
        parameter.data = widened(parameter.data)  # parameters of classes of their own are not converted on the way


def _draws(module: nn.Module) -> bool:
    """Whether a layer does nothing but draw: dropout, and the like of other packages (``DropPath``)."""
    if isinstance(module, _RANDOM_LAYERS):
        return True
    name = type(module).__name__.lower()
    empty = not any(True for _ in itertools.chain(module.parameters(), module.buffers(), module.children()))
    return empty and any(word in name for word in ("drop", "stochasticdepth"))


def lift(parameter: Tensor) -> None:
    """Bring very small tensors (a layer scale of 1e-6) to an ordinary size: what they multiply would drown in rounding.

    A scaling symmetry holds at every size.
    """
    if parameter.numel() == 0 or (parameter.numel() == 1 and not parameter.requires_grad):
        return
    fan_in = parameter.numel() // parameter.shape[0] if parameter.dim() else 1
    size, ordinary = float(parameter.norm()) / parameter.numel() ** 0.5, 0.5 / fan_in**0.5
    if 0 < size < _SMALL * ordinary:
        parameter.mul_(ordinary / size)


def without_eps(model: nn.Module, frozen: Mapping[str, nn.Module]) -> None:
    """Give every norm but the frozen ones an eps that rounds away, where an attribute holds it."""
    kept = set(frozen.values())
    for module in model.modules():
        if module in kept:
            continue
        for name in _EPS_ATTRIBUTES:
            value = getattr(module, name, None)
            if isinstance(value, float) or (value is None and name == "eps" and is_norm(module)):
                setattr(module, name, EPS)
