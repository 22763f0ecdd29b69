"""What a *sphere group* is: a torch param group that says which sphere its tensors are on.

    {"params": [...], "sphere": "joint", ...}    all tensors share one norm
    {"params": [...], "sphere": "rows", ...}     every slice along dimension 0 has a norm of its own
    {"params": [...], "sphere": "columns", ...}  every slice along dimension 1 has a norm of its own
    {"params": [...], "sphere": "blocks", "blocks": [...], "dim": 0 or 1, ...}
                                                 slices along a dimension with equal labels share a norm
    {"params": [...]}                            an ordinary group

with the optional keys ``radius`` (else the present norm) and ``names`` (for messages). :func:`onsphere.sphere_groups`
makes such groups, the optimisers step them and the monitor reads them; what all three must agree about is here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import Tensor

from onsphere.radii import as_radius, check_range, check_real, checked_slices, measure_radius
from onsphere.sharding import Slices, agree
from onsphere.spheres import Sphere

__all__ = [
    "KINDS",
    "Only",
    "check_only",
    "given_names",
    "is_counted",
    "listed_params",
    "matches",
    "parameter_names",
    "same_slices",
    "settle_radius",
    "slices_of",
    "sphere_group",
    "sphere_kind",
]

#: What a group's ``sphere`` may say; an ordinary group has None or no such key.
KINDS = ("joint", "rows", "columns", "blocks")

#: Which tensors count: "weights" (at least two dimensions: convolutions and matrices, as the papers' code counts), or
#: those whose names match a glob or one of several; None: all.
Only: TypeAlias = str | Sequence[str] | None


def sphere_group(parameters: Mapping[str, Tensor], kind: str | None) -> dict[str, Any]:
    """A param group of tensors with names.

    Args:
        parameters: The tensors by name, in the order wanted.
        kind: One of :data:`KINDS`, or None for an ordinary group.

    Returns:
        The group ``{"params": [...], "names": [...], "sphere": kind}``, as torch optimisers take it.
    """
    return {"params": list(parameters.values()), "names": list(parameters), "sphere": kind}


def listed_params(params: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The tensors of a param group's ``params``, which torch lets be a single one."""
    return [params] if isinstance(params, Tensor) else list(params)


def matches(name: str, select: str | Sequence[str]) -> bool:
    """Whether a name matches one of the globs."""
    return any(fnmatchcase(name, pattern) for pattern in ([select] if isinstance(select, str) else select))


def is_counted(name: str, tensor: Tensor, only: Only) -> bool:
    """Whether a tensor is among those that :data:`Only` names."""
    return only is None or (tensor.dim() >= 2 if only == "weights" else matches(name, only))


def check_only(only: object) -> None:
    """Refuse what is none of :data:`Only` (TypeError), and no globs at all (ValueError)."""
    if only is None or (isinstance(only, str) and only):
        return
    if not isinstance(only, str | Sequence) or not all(isinstance(pattern, str) for pattern in only):
        raise TypeError(f'only is {only!r}; it must be "weights", a glob of tensor names, several of them, or None')
    if not only:
        raise ValueError(f'only is {only!r}, which names no tensor; give "weights", globs of tensor names, or None')


def sphere_kind(group: Mapping[str, Any]) -> str | None:
    """Which spheres a param group's tensors are on.

    Args:
        group: A param group of an optimiser.

    Returns:
        One of :data:`KINDS`, or ``None`` for an ordinary group.

    Raises:
        ValueError: It is something else.
    """
    kind = group.get("sphere")
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f'a param group has "sphere": {kind!r}; it must be "joint" (its tensors share one norm), "rows" (every '
            'slice along dimension 0 has its own), "columns" (along dimension 1), "blocks" (those of equal labels in '
            '"blocks" share one) or None (an ordinary group)'
        )
    return kind


def slices_of(group: Mapping[str, Any], *, check: bool = False) -> Slices:
    """Which slices of a sphere group's tensors share a norm.

    Args:
        group: A sphere group with a list of ``params``.
        check: Whether to see that the labels of blocks fit the tensors, which takes time.

    Returns:
        The slices that share norms, in the form that spheres and steps take.

    Raises:
        ValueError: Blocks without labels, or labels that do not fit.
    """
    kind = group["sphere"]
    if kind != "blocks":
        return _SLICES[kind]
    labels, dim = group.get("blocks"), group.get("dim", 0)
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        raise ValueError(
            f'a group with "sphere": "blocks" has "blocks": {labels!r}; give a list with one tuple of labels for each '
            "parameter, one label for each slice along dim"
        )
    if check:
        return checked_slices(group["params"], rows=True, dim=dim, blocks=labels)
    return Slices(True, dim, tuple(map(tuple, labels)))


_SLICES = {"joint": Slices(), "rows": Slices(True), "columns": Slices(True, 1)}


def same_slices(group: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two groups say the same of the slices of as many tensors."""
    if sphere_kind(group) is None or sphere_kind(other) is None:
        return sphere_kind(group) == sphere_kind(other)
    return group["sphere"] == other["sphere"] and slices_of(group) == slices_of(other)


def given_names(group: Mapping[str, Any]) -> list[str] | None:
    """The names of a group's parameters, from ``names`` or torch's ``param_names``; None without one for each."""
    params, names = group["params"], group.get("names") or group.get("param_names")
    if isinstance(params, Tensor) or not isinstance(names, Sequence) or len(names) != len(params):
        return None
    return [str(name) for name in names]


def parameter_names(group: Mapping[str, Any]) -> list[str]:
    """What to call each parameter of a group in a message: its name where the group has ``names``."""
    names = given_names(group)
    if names is not None:
        return [f"parameter {name!r}" for name in names]
    return [f"parameter {i} of its group (shape {tuple(p.shape)})" for i, p in enumerate(group["params"])]


def settle_radius(group: Mapping[str, Any], radius: object = None) -> float | list[Tensor]:
    """Find the radius of a sphere group and put its tensors there.

    Args:
        group: A sphere group with a list of ``params``.
        radius: What the user asked for; ``None`` means the present norm.

    Returns:
        A float, or for slices that have different radii a list with one float64 tensor ``[R]`` for each parameter.

    Raises:
        TypeError: A parameter does not hold real floating-point numbers.
        ValueError: The group is empty, a norm is zero or not finite, or the radius does not fit.
    """
    params = group["params"]
    if not params:
        raise ValueError("a sphere group has no parameters; give it at least one, or leave the group out")
    names = parameter_names(group)
    for name, p in zip(names, params, strict=True):
        check_real(p, name)
    slices = slices_of(group, check=True)
    notes = [f"{name} {tuple(p.shape)} ({group['sphere']})" for name, p in zip(names, params, strict=True)]
    notes.append(f"radius {radius if not slices.rows or radius is None else 'given'}")
    if slices.labels is not None:
        notes.append(f"blocks of slices along dimension {slices.dim}: {zlib.crc32(repr(slices.labels).encode())}")
    agree("a sphere group", params, notes)
    views = slices.views(params)
    rows = slices.pools(views)
    present = measure_radius(views, names, rows=rows, slices=group["sphere"])
    if radius is None:
        check_range(present, params)
        return present
    wanted = as_radius(radius, views, rows=rows)
    if rows or wanted != present:
        Sphere(params, rows=slices.rows, dim=slices.dim, blocks=slices.labels).project_(wanted)
    return wanted
