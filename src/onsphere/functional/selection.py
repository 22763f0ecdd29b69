"""Which parameters of a model a measurement is about: names, patterns, tensors or a parameter group, made names.

Everything that takes ``parameters=`` (curvature, landscape, averages) selects by these rules:

    None                      every trainable parameter
    "head.weight"             this one, trainable or not
    "blocks.*.weight"         trainable ones that match (the patterns of fnmatch: * ? [])
    model.head.weight         the tensor itself
    {"params": [...]}         a parameter group, as onsphere.sphere_groups gives; {"names": [...]} does as well
    a list of the above       all of them

Names come back in registration order, each once; tied parameters under their first name. What torch.compile and data
parallelism put before names (``_orig_mod.``, ``module.``) may be there or not. A point of weight space that is no
module (a state dict, a list of tensors) knows nothing of trainable and frozen: all its weights count as trainable.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from onsphere.functional.wrappers import matched_names, unwrapped

__all__ = ["Selection", "check_finite", "select_among", "select_parameters"]

Selection: TypeAlias = "str | Tensor | Mapping[str, Any] | Iterable[str | Tensor | Mapping[str, Any]] | None"


def select_parameters(model: nn.Module, parameters: Selection = None) -> tuple[str, ...]:
    """The names of the selected parameters.

    Args:
        model: Any module; it stays as it is.
        parameters: What to select: see the module's text.

    Returns:
        Names in the order of ``model.named_parameters()``.

    Raises:
        ValueError: Nothing is selected, a name or pattern matches nothing, a tensor is not a parameter of the model.
        TypeError: An entry is neither a name nor a tensor, or a selected parameter is not of real floating point.
    """
    model = unwrapped(model)
    names = select_among(dict(model.named_parameters()), parameters, model)
    for name, parameter in model.named_parameters():
        if name in names and not parameter.is_floating_point():
            raise TypeError(
                f"parameter {name!r} has dtype {parameter.dtype}; only real floating point can be selected: name the "
                "others with `parameters`"
            )
    return names


def select_among(
    named: Mapping[str, Tensor], parameters: Selection = None, model: nn.Module | None = None
) -> tuple[str, ...]:
    """The names selected from tensors by name, whatever their numbers are.

    Args:
        named: What there is to select from: parameters of ``model``, or the weights of a state dict or list.
        parameters: What to select: see the module's text.
        model: The module whose parameters they are, if there is one: it knows which are trainable and tied.

    Returns:
        Names in the order of ``named``.

    Raises:
        ValueError: As :func:`select_parameters`.
        TypeError: An entry is neither a name nor a tensor.
    """
    catalogue = _Catalogue(named, model)
    if parameters is None:
        chosen = {name for name in named if name in catalogue.trainable}
        if not chosen:
            raise ValueError(
                f"none of the model's {len(named)} parameters requires a gradient: give `parameters`, the names of "
                "those that are meant"
                if named
                else "there are no weights to select from"
            )
    else:
        chosen = set()
        for entry in _entries(parameters):
            chosen |= catalogue.matching(entry)
        if not chosen:
            raise ValueError(
                "`parameters` is empty: give names, patterns or tensors, or None for all that are trainable"
            )
    for name in chosen:
        if isinstance(named[name], nn.UninitializedParameter):
            raise ValueError(f"parameter {name!r} is lazy and has no shape yet: run one forward pass first")
    return tuple(name for name in named if name in chosen)


def _entries(parameters: Any) -> list[Any]:
    """Names, patterns, tensors and groups; a group stays together."""
    if isinstance(parameters, str | Tensor):
        return [parameters]
    if isinstance(parameters, Mapping):
        if not {"params", "names"} & set(parameters):
            raise ValueError(
                "a parameter group needs the key 'params' or 'names'; this dictionary has the keys "
                f"{', '.join(map(repr, parameters)) or 'none'}"
            )
        return [parameters]
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"`parameters` is a {type(parameters).__name__}; it must be None, a name or pattern, a tensor, a parameter "
            "group, or a list of names and tensors"
        )
    return [part for entry in parameters for part in (_entries(entry) if isinstance(entry, Mapping) else [entry])]


class _Catalogue:
    """Tensors by name, and what is known of them."""

    def __init__(self, named: Mapping[str, Tensor], model: nn.Module | None) -> None:
        self.named = named
        own = {} if model is None else dict(model.named_parameters(remove_duplicate=False))
        first = {id(p): name for name, p in ({} if model is None else dict(model.named_parameters())).items()}
        #: Every name a tensor goes by, tied ones included, and the first.
        self.aliases = {name: first[id(p)] for name, p in own.items()} or {name: name for name in named}
        self.tensors = first or {id(tensor): name for name, tensor in named.items()}
        frozen = {first[id(p)] for p in own.values() if not p.requires_grad}
        self.trainable = set(named) - frozen
        self.of_model = model is not None

    def matching(self, entry: Any) -> set[str]:
        if isinstance(entry, Mapping):
            return self._group(entry)
        if isinstance(entry, Tensor):
            return {self._name_of(entry)}
        if not isinstance(entry, str):
            raise TypeError(
                f"an entry of `parameters` is a {type(entry).__name__}; it must be a name, a pattern or a tensor"
            )
        (known,) = matched_names({entry: entry}, self.aliases)
        if known in self.aliases:
            return {self._present(self.aliases[known])}
        found = {f for name, f in self.aliases.items() if f in self.trainable and fnmatch.fnmatchcase(name, entry)}
        if not found:
            raise ValueError(f"no trainable parameter is called or matches {entry!r}: {self._hint(entry)}")
        return found

    def _group(self, group: Mapping[str, Any]) -> set[str]:
        """The tensors of a group; those of another model (a copy's, a state dict's) go by the group's names."""
        params = group.get("params")
        entries = [] if params is None else [params] if isinstance(params, str | Tensor) else list(params)
        foreign = any(isinstance(entry, Tensor) and id(entry) not in self.tensors for entry in entries)
        if params is None or (foreign and "names" in group):
            entries = list(group["names"])
        return {name for entry in entries for name in self.matching(entry)}

    def _name_of(self, tensor: Tensor) -> str:
        if id(tensor) in self.tensors:
            return self._present(self.tensors[id(tensor)])
        if not self.of_model:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} in `parameters` is none of the point's, which is no module: "
                "select by name"
            )
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} in `parameters` is not a parameter of the model: give the "
            "parameters themselves (not .data, copies or slices), or their names"
        )

    def _present(self, name: str) -> str:
        if name not in self.named:
            raise ValueError(f"{name!r} is selected but is no weight of the points; they have {_some([*self.named])}")
        return name

    def _hint(self, entry: str) -> str:
        frozen = [name for name in self.named if fnmatch.fnmatchcase(name, entry)]
        if frozen:
            return f"only frozen ones match ({', '.join(frozen[:3])}); give exact names to select those"
        close = difflib.get_close_matches(entry, self.named, n=3)
        return f"did you mean {', '.join(close)}?" if close else f"there are {_some([*self.named])}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def check_finite(named: Mapping[str, Tensor]) -> None:
    """Refuse weights or buffers with NaNs or infinities (ValueError)."""
    bad = [
        name
        for name, t in named.items()
        if (t.is_floating_point() or t.is_complex()) and not bool(torch.isfinite(t).all())
    ]
    if bad:
        raise ValueError(
            f"not finite (NaN or infinite values): {', '.join(bad[:5])}; there is no curvature at such weights"
        )
