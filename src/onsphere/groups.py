"""What a *sphere group* is: a torch param group that says which sphere its tensors are on.

    {"params": [...], "sphere": "joint", ...}    all tensors share one norm
    {"params": [...], "sphere": "rows", ...}     every slice along dimension 0 has a norm of its own
    {"params": [...]}                            an ordinary group

with the optional keys ``radius`` (else the present norm) and ``names`` (for messages).
:func:`onsphere.sphere_groups` makes such groups; the checks here are shared by everything that takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onsphere.spheres import Sphere, as_radius, check_range, measure_radius

KINDS = ("joint", "rows")
#: Wrappers around wrappers of an optimiser that are looked into.
_DEEPEST = 8


def unwrapped(optimizers: object, who: str) -> list[Optimizer]:
    """The torch optimisers themselves, out of the wrappers that Accelerate and Lightning put around them.

    Args:
        optimizers: An optimiser or such a wrapper, or a list or tuple of them.
        who: Who was given it, for the message.

    Returns:
        At least one optimiser, each once.

    Raises:
        TypeError: Something is not an optimiser, or the list is empty.
        ValueError: One is given twice.
    """
    given: list[Any] = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
    found: list[Optimizer] = []
    for inner in given:
        kind, depth = type(inner).__name__, 0
        while getattr(inner, "optimizer", None) is not None and depth < _DEEPEST:
            inner, depth = inner.optimizer, depth + 1
        if not isinstance(inner, Optimizer):
            kind = kind if not isinstance(optimizers, (list, tuple)) else f"{type(optimizers).__name__} with a {kind}"
            raise TypeError(f"{who} was given a {kind}; give it a torch.optim.Optimizer or a list of them")
        found.append(inner)
    if not found:
        raise TypeError(f"{who} was given no optimizer; give it at least one")
    if len({id(one) for one in found}) < len(found):
        raise ValueError("an optimizer is given twice; give each once")
    return found


def sphere_kind(group: Mapping[str, Any]) -> str | None:
    """The group's ``sphere``.

    Args:
        group: A param group.

    Returns:
        ``"joint"``, ``"rows"``, or ``None`` for an ordinary group.

    Raises:
        ValueError: It is something else.
    """
    kind = group.get("sphere")
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f'a param group has "sphere": {kind!r}; it must be "joint" (its tensors share one norm), "rows" (every '
            "slice along dimension 0 has its own) or None (an ordinary group)"
        )
    return kind


def parameter_names(group: Mapping[str, Any]) -> list[str]:
    """What to call each parameter of a group in a message: its name where the group has ``names``."""
    names = group.get("names") or group.get("param_names")
    params = group["params"]
    if isinstance(names, Sequence) and len(names) == len(params):
        return [f"parameter {name!r}" for name in names]
    return [f"parameter {i} of its group (shape {tuple(p.shape)})" for i, p in enumerate(params)]


def settle_radius(group: Mapping[str, Any], radius: object = None) -> float | list[Tensor]:
    """Find the radius of a sphere group and put its tensors there.

    Args:
        group: A sphere group with a list of ``params``.
        radius: What the user asked for; ``None`` means the present norm.

    Returns:
        A float, or for rows that have different radii a list with one float64 tensor ``[R]`` for each parameter.

    Raises:
        TypeError: A parameter does not hold real floating-point numbers.
        ValueError: The group is empty, a norm is zero or not finite, or the radius does not fit.
    """
    params, rows = group["params"], group["sphere"] == "rows"
    if not params:
        raise ValueError("a sphere group has no parameters; give it at least one, or leave the group out")
    present = measure_radius(params, parameter_names(group), rows=rows)
    if radius is None:
        check_range(present, params)
        return present
    wanted = as_radius(radius, params, rows=rows)
    if rows or wanted != present:
        Sphere(params, rows=rows).project_(wanted)
    return wanted
