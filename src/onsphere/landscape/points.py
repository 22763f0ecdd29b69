"""Points of weight space: what counts as one, and which of its tensors count as weights.

A point is a module, a state dict (name -> tensor), a list of tensors or one tensor. Its *weights* are its
floating-point and complex tensors but the running statistics of batch norms (``running_mean``, ``running_var``), which
follow from weights and data and are re-estimated at every point rather than interpolated. A complex number is a point
of the plane: it moves, is measured and averaged as two real ones. The weights that lie on the joint sphere are selected
by the rules of :mod:`onsphere.functional.selection`. Names may have in them what torch.compile and data parallelism
put there (``_orig_mod.``, ``module.``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from onsphere.functional.selection import Selection, select_among
from onsphere.functional.wrappers import matched_names, unwrapped
from onsphere.products import squared_norm

__all__ = [
    "Parameters",
    "Point",
    "check_finite",
    "check_matching",
    "double",
    "is_number",
    "norm_of",
    "of_model",
    "real",
    "select",
    "weights",
]

#: A point of weight space.
Point: TypeAlias = nn.Module | Mapping[str, Tensor] | Sequence[Tensor] | Tensor

#: Which weights (:mod:`onsphere.functional.selection`).
Parameters: TypeAlias = Selection

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_number(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers that can move: floating-point or complex ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def double(tensor: Tensor) -> Tensor:
    """A tensor in double precision, complex if it is complex."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def real(tensor: Tensor) -> Tensor:
    """A view of real numbers: of a complex tensor its real and imaginary parts, in a last dimension of two."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def norm_of(tensors: Iterable[Tensor]) -> float:
    """The joint norm, in float64."""
    return float(squared_norm(real(double(tensor)) for tensor in tensors).sqrt())


def tensors_of(point: Point) -> dict[str, Tensor]:
    """Every tensor of a point by name, detached; those of lists are named "0", "1", ..."""
    if isinstance(point, nn.Module):
        point = unwrapped(point)
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
        return {name: p.detach() for name, p in unwrapped(point).named_parameters() if is_number(p)}
    return {n: t for n, t in tensors_of(point).items() if is_number(t) and not is_statistic(n)}


def select(parameters: Parameters, named: Mapping[str, Tensor], *points: object) -> tuple[str, ...]:
    """The selected names, in the order of ``named``.

    Args:
        parameters: Names, patterns, tensors, a group, or None for all.
        named: The weights there are to select from.
        *points: The first that is a module says which weights are trainable, and what a given tensor is called.

    Raises:
        TypeError: As :func:`onsphere.functional.selection.select_parameters`, but any weights can be selected.
        ValueError: Nothing is selected, or a name, pattern or tensor matches nothing.
    """
    model = next((unwrapped(point) for point in points if isinstance(point, nn.Module)), None)
    if model is None:
        return select_among(named, parameters)
    own = matched_names(named, dict(model.named_parameters()))
    chosen = set(select_among(own, parameters, model))
    return tuple(given for given, name in zip(named, own, strict=True) if name in chosen)


def check_matching(a: Mapping[str, Tensor], b: Mapping[str, Tensor], what: str = "b") -> None:
    """Refuse points with different names or shapes (ValueError), or kinds of numbers (TypeError)."""
    for missing, where in ((set(a) - set(b), what), (set(b) - set(a), "the first point")):
        if missing:
            raise ValueError(f"{sorted(missing)[0]!r} is missing in {where}; points must have the same tensors")
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ValueError(
                f"{name!r} is {tuple(tensor.shape)} in the first point and {tuple(b[name].shape)} in {what}"
            )
        if tensor.is_complex() != b[name].is_complex():
            raise TypeError(f"{name!r} is {tensor.dtype} in the first point and {b[name].dtype} in {what}")


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
    model = unwrapped(model)
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
        if state[name].is_complex() and not tensor.is_complex():
            raise TypeError(f"{name!r} is complex in {what} and {tensor.dtype} in the model; they must be of one kind")
    copies = {n: t.detach().to(device=r.device, dtype=r.dtype, copy=True) for n, t, r in _beside(state, model)}
    mine = {name: copies[name] for name in own}
    check_finite(mine, what)
    return mine, {name: copies[name] for name in copies if name not in own}


def _beside(state: Mapping[str, Tensor], model: nn.Module) -> Iterable[tuple[str, Tensor, Tensor]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, state[name], tensor


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
