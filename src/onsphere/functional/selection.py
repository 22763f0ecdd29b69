"""Which parameters of a model a measurement is about: names, patterns, tensors or a parameter group, made names.

Everything that measures at given weights (curvature, paths between weights) selects by these rules:

    None                      every trainable parameter
    "head.weight"             this one, trainable or not
    "blocks.*.weight"         trainable ones that match (the patterns of fnmatch: * ? [])
    model.head.weight         the tensor itself
    {"params": [...]}         a parameter group, as onsphere.sphere_groups gives
    a list of the above       all of them

Names come back in registration order, each once; tied parameters under their first name.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Selection", "select_parameters"]

Selection: TypeAlias = "str | Tensor | Mapping[str, Any] | Iterable[str | Tensor] | None"

_ENOUGH = 64  # examples to recognise scale-invariant parameters by


def select_parameters(model: nn.Module, parameters: Selection = None) -> tuple[str, ...]:
    """The names of the selected parameters.

    Args:
        model: Any module.
        parameters: What to select: see the module's text.

    Returns:
        Names in the order of ``model.named_parameters()``.

    Raises:
        ValueError: Nothing is selected, a name or pattern matches nothing, a tensor is not a parameter of the model.
        TypeError: An entry is neither a name nor a tensor, or a selected parameter is not of real floating point.
    """
    named = dict(model.named_parameters())
    first = {id(parameter): name for name, parameter in named.items()}
    if parameters is None:
        chosen = {name for name, parameter in named.items() if parameter.requires_grad}
        if not chosen:
            raise ValueError(
                f"none of the model's {len(named)} parameters requires a gradient: give `parameters`, names of those "
                "to differentiate by"
            )
    else:
        chosen = set()
        for entry in _entries(parameters):
            chosen |= _matching(entry, model, named, first)
        if not chosen:
            raise ValueError(
                "`parameters` is empty: give names, patterns or tensors, or None for all that are trainable"
            )
    for name in chosen:
        if not named[name].is_floating_point():
            raise TypeError(
                f"parameter {name!r} has dtype {named[name].dtype}; only real floating point can be selected"
            )
        if isinstance(named[name], nn.UninitializedParameter):
            raise ValueError(f"parameter {name!r} is lazy and has no shape yet: run one forward pass first")
    return tuple(name for name in named if name in chosen)


def _entries(parameters: Any) -> list[Any]:
    if isinstance(parameters, str | Tensor):
        return [parameters]
    if isinstance(parameters, Mapping):
        if "params" not in parameters:
            raise ValueError(
                "a parameter group needs the key 'params'; this dictionary has the keys "
                f"{', '.join(map(repr, parameters)) or 'none'}"
            )
        return _entries(parameters["params"])
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"`parameters` is a {type(parameters).__name__}; it must be None, a name or pattern, a tensor, a parameter "
            "group, or a list of names and tensors"
        )
    entries: list[Any] = []
    for entry in parameters:  # a list may hold groups as well
        entries += _entries(entry) if isinstance(entry, Mapping) else [entry]
    return entries


def _matching(entry: Any, model: nn.Module, named: Mapping[str, Tensor], first: Mapping[int, str]) -> set[str]:
    if isinstance(entry, Tensor):
        if id(entry) not in first:
            raise ValueError(
                f"a tensor of shape {tuple(entry.shape)} in `parameters` is not a parameter of the model: give the "
                "parameters themselves (not .data, copies or slices), or their names"
            )
        return {first[id(entry)]}
    if not isinstance(entry, str):
        raise TypeError(
            f"an entry of `parameters` is a {type(entry).__name__}; it must be a name, a pattern or a tensor"
        )
    every = dict(model.named_parameters(remove_duplicate=False))  # tied ones under each of their names
    if entry in every:
        return {first[id(every[entry])]}
    found = {first[id(p)] for name, p in every.items() if p.requires_grad and fnmatch.fnmatchcase(name, entry)}
    if not found:
        frozen = [name for name in named if fnmatch.fnmatchcase(name, entry)]
        close = difflib.get_close_matches(entry, named, n=3)
        if frozen:
            hint = f"only frozen ones match ({', '.join(frozen[:3])}); give exact names to select those"
        else:
            hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(list(named)[:8])}, ..."
        raise ValueError(f"no trainable parameter is called or matches {entry!r}: {hint}")
    return found


def check_finite(named: Mapping[str, Tensor]) -> None:
    """Refuse weights or buffers with NaNs or infinities (ValueError)."""
    bad = [name for name, t in named.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ValueError(
            f"not finite (NaN or infinite values): {', '.join(bad[:5])}; there is no curvature at such weights"
        )
