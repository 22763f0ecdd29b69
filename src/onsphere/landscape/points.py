"""Points of weight space: what counts as one, and which of its tensors count as weights.

A point is a module, a state dict (name -> tensor), a list of tensors or one tensor. Its *weights* are its
floating-point tensors but the running statistics of batch norms (``running_mean``, ``running_var``), which follow from
weights and data and are re-estimated at every point rather than interpolated. The weights that lie on the joint sphere
are *selected*: by default all of them (of a module, those that require grad), or a part by name, glob pattern, the
tensors themselves, or one of the groups of :func:`onsphere.sphere_groups`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from onsphere.functional.wrappers import matched_names

__all__ = ["Parameters", "Point", "check_finite", "check_matching", "of_model", "select", "weights"]

#: A point of weight space.
Point: TypeAlias = nn.Module | Mapping[str, Tensor] | Sequence[Tensor] | Tensor

#: Which weights: all (None), names or glob patterns, tensors of a module, or a group of ``onsphere.sphere_groups``.
Parameters: TypeAlias = str | Iterable[str | Tensor] | Mapping[str, Any] | None

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def tensors_of(point: Point) -> dict[str, Tensor]:
    """Every tensor of a point by name, detached; those of lists are named "0", "1", ..."""
    if isinstance(point, nn.Module):
        return {name: tensor.detach() for name, tensor in [*point.named_parameters(), *point.named_buffers()]}
    if isinstance(point, Tensor):
        return {"0": point.detach()}
    if isinstance(point, Mapping):
        items = [(str(name), tensor) for name, tensor in point.items()]
    elif isinstance(point, Sequence) and not isinstance(point, str | bytes):
        items = [(str(i), tensor) for i, tensor in enumerate(point)]
    else:
        raise TypeError(f"a point is a module, a state dict, a list of tensors or a tensor, not {type(point).__name__}")
    for name, tensor in items:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} of the point is {type(tensor).__name__}; every entry must be a tensor")
    return {name: tensor.detach() for name, tensor in items}


def is_statistic(name: str) -> bool:
    """Whether a name of a state dict is a batch norm's running statistic."""
    return name.rpartition(".")[2] in _STATISTICS


def weights(point: Point) -> dict[str, Tensor]:
    """The weights of a point by name, detached: of a module all parameters, tied ones once."""
    if isinstance(point, nn.Module):
        return {name: p.detach() for name, p in point.named_parameters() if p.is_floating_point()}
    return {n: t for n, t in tensors_of(point).items() if t.is_floating_point() and not is_statistic(n)}


def select(parameters: Parameters, names: Sequence[str], *modules: object) -> tuple[str, ...]:
    """The selected names, in the order of ``names``.

    Args:
        parameters: The selection. ``None``: all names; of a module only those that require grad.
        names: What there is to select from.
        *modules: Points; those that are modules say which tensors require grad, and what a given tensor is called.

    Raises:
        TypeError: The selection holds something that is neither a name nor a tensor.
        ValueError: A name or pattern matches nothing, a tensor is none of a module's, or nothing is selected.
    """
    found = next((m for m in modules if isinstance(m, nn.Module)), None)
    if parameters is None:
        frozen = {n for n, p in found.named_parameters() if not p.requires_grad} if found is not None else set()
        chosen = set(names) - frozen
        if not chosen:
            raise ValueError("no parameter requires grad; name the weights on the sphere with parameters=")
    else:
        chosen = set()
        for entry in _entries(parameters):
            if isinstance(entry, Tensor):
                chosen.add(_name_of(entry, found))
            elif isinstance(entry, str):
                matching = [entry] if entry in names else [name for name in names if fnmatchcase(name, entry)]
                if not matching:
                    raise ValueError(f"{entry!r} matches no weight; there are {_some(names)}")
                chosen.update(matching)
            else:
                raise TypeError(f"parameters holds {type(entry).__name__}; give names, glob patterns or tensors")
        if not chosen:
            raise ValueError("parameters is empty; give at least one name, or None for all weights")
        if missing := sorted(chosen - set(names)):
            raise ValueError(f"{missing[0]!r} is selected but is no weight of the points; they have {_some(names)}")
    return tuple(name for name in names if name in chosen)


def _entries(parameters: Parameters) -> list[Any]:
    if isinstance(parameters, str | Tensor):
        return [parameters]
    if isinstance(parameters, Mapping):
        if not {"names", "params"} & set(parameters):
            raise ValueError(f"a parameter group has 'names' or 'params'; this one has {_some(sorted(parameters))}")
        return list(parameters["names"] if "names" in parameters else parameters["params"])
    return list(parameters or ())


def _name_of(tensor: Tensor, model: nn.Module | None) -> str:
    if model is None:
        raise ValueError("a weight was selected as a tensor and no point is a module that has it; select it by name")
    for name, parameter in model.named_parameters():
        if parameter is tensor:
            return name
    raise ValueError(f"a selected tensor of shape {tuple(tensor.shape)} is no parameter of the model")


def check_matching(a: Mapping[str, Tensor], b: Mapping[str, Tensor], what: str = "b") -> None:
    """Refuse points with different names or shapes (ValueError)."""
    for missing, where in ((set(a) - set(b), what), (set(b) - set(a), "the first point")):
        if missing:
            raise ValueError(f"{sorted(missing)[0]!r} is missing in {where}; points must have the same tensors")
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ValueError(
                f"{name!r} is {tuple(tensor.shape)} in the first point and {tuple(b[name].shape)} in {what}"
            )


def check_finite(point: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are NaN or infinite (ValueError)."""
    for name, tensor in point.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name!r} of {what} holds NaN or infinite numbers; there is no path from or to it")


def of_model(model: nn.Module, point: Point, what: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of a point's parameters and buffers as ``model`` names them; buffers the point lacks are the model's.

    A list has one tensor for each parameter of the model, or for each that requires grad (frozen ones are then the
    model's).

    Raises:
        TypeError: The point is none, or a parameter has another kind of numbers.
        ValueError: A parameter is missing, unknown, misshapen, NaN or infinite.
    """
    parameters = dict(model.named_parameters())
    own = {name: p.detach() for name, p in parameters.items()}
    if isinstance(point, Sequence | Tensor) and not isinstance(point, Mapping):
        given = list(tensors_of(point).values())
        for names in ([*own], [n for n, p in parameters.items() if p.requires_grad]):
            if len(names) == len(given):
                named = {**own, **dict(zip(names, given, strict=True))}
                break
        else:
            raise ValueError(f"{what} has {len(given)} tensors; the model has {len(own)} parameters")
    else:
        everything = {**own, **dict(model.named_buffers())}
        named = matched_names(tensors_of(point), everything)
        known = set(everything) | set(model.state_dict(keep_vars=True))
        if unknown := sorted(set(named) - known):
            raise ValueError(f"{unknown[0]!r} of {what} is unknown to the model; it has {_some([*own])}")
        if missing := sorted(set(own) - set(named)):
            raise ValueError(f"{what} lacks the model's parameter {missing[0]!r}")
    state = {n: named.get(n, t.detach()) for n, t in {**own, **dict(model.named_buffers())}.items()}
    for name, tensor in [*own.items(), *model.named_buffers()]:
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name!r} is {tuple(state[name].shape)} in {what} and {tuple(tensor.shape)} in the model")
    copies = {n: t.detach().to(device=r.device, dtype=r.dtype, copy=True) for n, t, r in _beside(state, model)}
    mine = {name: copies[name] for name in own}
    check_finite(mine, what)
    return mine, {name: copies[name] for name in copies if name not in own}


def _beside(state: Mapping[str, Tensor], model: nn.Module) -> Iterable[tuple[str, Tensor, Tensor]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, state[name], tensor


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
