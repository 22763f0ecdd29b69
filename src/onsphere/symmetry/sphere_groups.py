"""Scale-invariant parameters as parameter groups for an optimiser: one joint sphere, one a group, or one a row.

Tensors that may be multiplied by a common number without changing the function live on a sphere: only their common
direction matters, and their learning rate counts relative to their norm,

    elr = lr / radius**2,        radius**2 = sum of ‖w‖² over the tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from onsphere.functional.untouched import untouched_random_state
from onsphere.groups import Only, check_only, is_counted, sphere_group
from onsphere.symmetry.blocks import find_blocks, labels_of
from onsphere.symmetry.find import INVARIANT_BELOW, Analysis
from onsphere.symmetry.mapping import Spheres, block_groups, check_spheres, not_invariant_alone
from onsphere.symmetry.probe import Probe, SymmetryError

__all__ = ["scale_deviations", "sphere_groups"]

#: Where eps makes a difference of more than the one to the output, a group is no sphere; below the other it is.
_BROKEN, _WHOLE = 1e-2, 1e-3
#: Doublings after which no eps is left.
_FAR = 40


def sphere_groups(
    model: nn.Module,
    *inputs: Any,
    spheres: Spheres = "joint",
    only: Only = None,
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
            invariant tensors. ``blocks``: a sphere for each block of the tensors whose slices are all in blocks (heads
            ahead of a q/k norm, experts, channel groups), and a joint one for the other invariant tensors.
        only: Which of the scale-invariant tensors go on spheres: ``"weights"``, those of at least two dimensions
            (convolutions and matrices), which the papers' code counts; a glob of names, or several; None: all. The
            others go to the rest. It decides the ELR, lr / radius², since gains of one add their number to the
            radius². What is picked must be scale-invariant without the others.
        output: Picks what to look at from the model's output; by default every floating-point tensor in it, but those
            of a cache for generation.
        **kwargs: Keyword arguments of the same call.

    Returns:
        Dictionaries ``{"params": [...], "names": [...], "sphere": "joint"}`` (or ``"rows"``, ``"blocks"``); the
        optimiser takes the norm it finds as the radius, or add ``"radius"``. Last, if there are other
        trainable parameters, ``{"params": [...], "names": [...], "sphere": None}``.

    Warns:
        UserWarning: The eps of the model's norms has already broken the invariance of some groups at their present
            norms (it makes a difference of more than a hundredth to the output); it says from which norm on that is
            less than a thousandth.

    Raises:
        SymmetryError: If no trainable parameter is scale-invariant, the forward pass fails or is not
            deterministic, or the output shows nothing (no floating-point tensor, zeros, not finite); if ``only`` picks
            none of the scale-invariant tensors, or a part of some that are so only together.
        TypeError: ``only`` is neither a string nor several.
        ValueError: ``spheres`` is something else.

    Source: the scale-invariant parameters as the published code counts them, Lobacheva, Kodryan et al., NeurIPS 2021,
        and Kodryan et al., NeurIPS 2022 (``only="weights"``).

    Example:
        >>> layers = nn.Linear(6, 8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2)
        >>> groups = onsphere.sphere_groups(nn.Sequential(*layers), torch.randn(16, 6))
        >>> [(group["sphere"], group["names"]) for group in groups]
        [('joint', ['0.weight']), (None, ['2.weight', '2.bias'])]
    """
    check_spheres(spheres)
    check_only(only)
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs, output=output)
        analysis = Analysis(probe, rows=spheres == "rows")
        if not analysis.sphere:
            raise SymmetryError(_nothing_found(probe))
        if only is not None:
            _restrict(analysis, only, whole=spheres == "groups")
        sphere = analysis.sphere
        analysis.certify(dict.fromkeys(sphere, 1))
        parts: list[tuple[str, Sequence[int]]]
        covered: dict[int, tuple[int, tuple[int, ...]]] = {}
        if spheres == "groups":
            parts = [("joint", indices) for indices in analysis.groups]
            for _, indices in parts:
                analysis.certify(dict.fromkeys(indices, 1))
        elif spheres == "blocks":
            found, _ = find_blocks(probe)
            for i in sphere:
                own = found.get(probe.names[i], ())
                labels = labels_of(own, probe.parameters[i].shape[own[0].dim]) if own else None
                if labels is not None:
                    covered[i] = (own[0].dim, labels)
            others = [i for i in sphere if i not in covered]
            parts = [("joint", others)] if others else []
        else:
            row_invariant = set(analysis.row_invariant())
            rows = [i for i in sphere if i in row_invariant]
            others = [i for i in sphere if i not in row_invariant]
            parts = [(kind, indices) for kind, indices in (("rows", rows), ("joint", others)) if indices]
        names, arguments = probe.names, probe.arguments
        del probe, analysis.probe
        message = _broken_by_eps(model, *arguments, output, analysis)
    if message:
        warnings.warn(message, stacklevel=2)
    parameters = dict(model.named_parameters())
    rest = [i for i in range(len(names)) if i not in set(sphere)]
    extra = block_groups([(name, parameters[name]) for name in names], covered)
    return extra + [
        sphere_group({names[i]: parameters[names[i]] for i in indices}, kind)
        for kind, indices in [*parts, *([(None, rest)] if rest else [])]
    ]


def _restrict(analysis: Analysis, only: Only, *, whole: bool) -> None:
    """Take only some tensors for the sphere; ``whole``: only groups that cannot be split (SymmetryError)."""
    names, tensors = analysis.probe.names, analysis.probe.parameters
    picked = [i for i in analysis.sphere if is_counted(names[i], tensors[i], only)]
    groups = [[names[i] for i in group] for group in analysis.groups]
    invariant = not whole and analysis.symmetric(picked)
    problem = not_invariant_alone(groups, [names[i] for i in picked], only, invariant=invariant)
    if problem:
        raise SymmetryError(problem)
    analysis.restrict(picked)


def _broken_by_eps(
    model: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Callable[[Any], Any] | None,
    analysis: Analysis,
) -> str | None:
    """A sentence on the groups that the model's own eps keeps from being invariant at their present norms."""
    try:
        plain = Probe(model, inputs, kwargs, output=output, exact=False)
    except SymmetryError:
        return None
    far = 2.0**_FAR
    if plain.change_by(dict.fromkeys(analysis.sphere, far)) < _BROKEN / 2:  # as a rule none; then one look is enough
        return None
    groups = analysis.groups
    norms = [float(torch.stack([plain.parameters[i].detach().norm() for i in group]).norm()) for group in groups]
    among_these = [_difference(plain, group, 0) for group in groups]
    # Groups may hide one another (a branch that eps has silenced): each also among others that eps does not reach.
    with torch.no_grad():
        for i in analysis.sphere:
            plain.parameters[i].mul_(far)
    alone = [_difference(plain, group, -_FAR) for group in groups]
    broken, worst = [], 0.0
    for group, norm, *found in zip(groups, norms, among_these, alone, strict=True):
        change, factor = (max(values) for values in zip(*found, strict=True))
        if change > _BROKEN:
            worst = max(worst, change)
            more = f" with {len(group) - 1} others" if len(group) > 1 else ""
            broken.append(f"{plain.names[group[0]]}{more} (norm {norm:.3g}; {norm * factor:.3g} would do)")
    if not broken:
        return None
    return (
        f"at their present norms the model's eps breaks the scale invariance of {len(broken)} of {len(groups)} groups "
        f"on spheres, without it the output would be another by up to {100 * worst:.2g} %: {', '.join(broken)}; "
        "multiply their weights up to these norms before training, or lower the eps"
    )


def _difference(plain: Probe, group: Sequence[int], start: int) -> tuple[float, float]:
    """What eps makes of the output at 2^start times a group, and the least factor at which it is next to nothing."""
    exponents = [float(i in set(group)) for i in range(len(plain.names))]

    def left(doublings: float) -> float:
        return plain.change_between(exponents, start + doublings, start + _FAR)

    change = left(0)
    if change <= _BROKEN:
        return change, 1.0
    few, many = 0, _FAR  # too few, enough
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if left(middle) <= _WHOLE else (middle, many)
    # What eps changes falls with the square of the norm; to be seen, not believed.
    between = many + 0.5 * math.log2(max(left(many), 1e-300) / (0.99 * _WHOLE))
    return change, 2.0 ** (between if few < between < many and left(between) <= _WHOLE else many)


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
