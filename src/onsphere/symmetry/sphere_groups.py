"""Scale-invariant parameters as parameter groups for an optimiser: one joint sphere, one a group, or one a row.

Tensors that may be multiplied by a common number without changing the function live on a sphere: only their common
direction matters, and their learning rate counts relative to their norm,

    elr = lr / radius**2,        radius**2 = sum of ‖w‖² over the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from onsphere.functional.untouched import untouched_random_state
from onsphere.symmetry.find import INVARIANT_BELOW, Analysis
from onsphere.symmetry.probe import Probe, SymmetryError

__all__ = ["Spheres", "scale_deviations", "sphere_groups"]

Spheres = Literal["joint", "groups", "rows"]


def sphere_groups(
    model: nn.Module,
    *inputs: Any,
    spheres: Spheres = "joint",
    output: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """Parameter groups for ``torch.optim``: the scale-invariant tensors on spheres, then the rest.

    Call it as the model is called, ``sphere_groups(model, batch)``; 8 to 64 examples are enough. The search is that of
    :func:`onsphere.find_symmetries`; what it looks at and leaves alone is said there.

    A tensor the output does not depend on at all (a bias ahead of a batch norm, a layer never called)
    belongs to the rest: it is invariant to more than its scale, and would only add to the radius.

    Args:
        model: Any module. Frozen parameters (``requires_grad`` False) appear nowhere, tied ones once.
        *inputs: Positional arguments of one call; tensors, nests of tensors, anything the model takes.
        spheres: ``joint``: one sphere over all scale-invariant tensors, the papers' choice. ``groups``: a sphere for
            each group that cannot be split, so that every group keeps its own norm. ``rows``: a sphere for each row of
            the tensors that are invariant row by row (filters ahead of a batch norm), and a joint one for the other
            invariant tensors.
        output: Picks what to look at from the model's output; by default every floating-point tensor in it.
        **kwargs: Keyword arguments of the same call.

    Returns:
        Dictionaries ``{"params": [...], "names": [...], "sphere": "joint"}`` (or ``"rows"``); the
        optimiser takes the norm it finds as the radius, or add ``"radius"``. Last, if there are other
        trainable parameters, ``{"params": [...], "names": [...], "sphere": None}``.

    Raises:
        SymmetryError: If no trainable parameter is scale-invariant, the forward pass fails or is not
            deterministic, or the output shows nothing (no floating-point tensor, zeros, not finite).
        ValueError: ``spheres`` is something else.
    """
    if spheres not in get_args(Spheres):
        raise ValueError(f"spheres is {spheres!r}; it must be one of {', '.join(get_args(Spheres))}")
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs, output=output)
        analysis = Analysis(probe, rows=spheres == "rows")
        sphere = analysis.sphere
        if not sphere:
            raise SymmetryError(_nothing_found(probe))
        analysis.certify(dict.fromkeys(sphere, 1))
        parts: list[tuple[str, Sequence[int]]]
        if spheres == "groups":
            parts = [("joint", indices) for indices in analysis.groups]
            for _, indices in parts:
                analysis.certify(dict.fromkeys(indices, 1))
        else:
            row_invariant = set(analysis.row_invariant())
            rows = [i for i in sphere if i in row_invariant]
            others = [i for i in sphere if i not in row_invariant]
            parts = [(kind, indices) for kind, indices in (("rows", rows), ("joint", others)) if indices]
        names = probe.names
    parameters = dict(model.named_parameters())
    rest = [i for i in range(len(names)) if i not in set(sphere)]
    return [
        {"params": [parameters[names[i]] for i in indices], "names": [names[i] for i in indices], "sphere": kind}
        for kind, indices in [*parts, *([(None, rest)] if rest else [])]
    ]


def scale_deviations(model: nn.Module, *inputs: Any, **kwargs: Any) -> dict[str, float]:
    """How much doubling each trainable tensor alone changes the output.

    Args:
        model: Any module; it stays as it is.
        *inputs: Positional arguments of one call.
        **kwargs: Keyword arguments of the same call.

    Returns:
        For each trainable tensor by name ``‖f(2w) - f(w)‖ / ‖f(w)‖``, dimensionless, on the exact float64
        copy that :mod:`onsphere.symmetry.probe` describes. Below :data:`INVARIANT_BELOW` a tensor is
        scale-invariant by itself (or without any effect).

    Raises:
        SymmetryError: If the forward pass fails, is not deterministic or shows nothing.
    """
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs)
        return {name: probe.change_by({i: 2.0}) for i, name in enumerate(probe.names)}


def _nothing_found(probe: Probe) -> str:
    deviations = [probe.change_by({i: 2.0}) for i in range(len(probe.names))]
    closest = min(range(len(deviations)), key=lambda i: (deviations[i] < INVARIANT_BELOW, deviations[i]))
    return (
        f"none of the {len(probe.names)} trainable parameters is scale-invariant (doubling "
        f"{probe.names[closest]!r} changes the output by a relative {deviations[closest]:.1e}, and "
        f"invariant means below {INVARIANT_BELOW:g}). Put norm layers after the layers to train on a "
        "sphere, or call onsphere.make_scale_invariant(model) if it has some"
    )
