"""Which parameters may be rescaled without changing the function, as parameter groups for an optimiser.

A tensor w is scale-invariant if ``f(c w) = f(w)`` for every c > 0, and a set of tensors is jointly so if
scaling all of them by the same c leaves f: the tensors that write one residual stream, or a norm's weight
and bias. Such tensors live on a sphere: only their common direction matters, and their learning rate counts
relative to their norm,

    elr = lr / radius**2,        radius**2 = sum of ‖w‖² over the tensors.

The test is numerical, on an exact copy (``onsphere.probing``). Each trainable tensor is doubled alone. What
changes the output is then searched for tensors that are invariant together: for any smooth projection g of
the output, a jointly invariant set S has ``sum over i in S of <∂g/∂w_i, w_i> = 0`` (Euler's identity for
degree 0), so the set is a 0/1 vector in the null space of the matrix of these products over random
projections; the one holding most parameters is found by integer programming and certified by actually
rescaling it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from onsphere.probing import Probe, SymmetryError, untouched_random_state

__all__ = ["INVARIANT_BELOW", "SymmetryError", "scale_deviations", "sphere_groups"]

logger = logging.getLogger("onsphere")

#: A relative change of the output below this, after a doubling in float64, counts as none. Clear cases
#: lie below 1e-9 (invariant; mostly exactly 0) or above 1e-6.
INVARIANT_BELOW = 1e-8

_SPARE_PROJECTIONS = 8
_MAX_SEARCH_SECONDS = 20.0


def sphere_groups(model: nn.Module, *inputs: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """Parameter groups for ``torch.optim``: the scale-invariant tensors on one joint sphere, then the rest.

    Call it as the model is called, ``sphere_groups(model, batch)``; 8 to 64 examples are enough. It costs
    about two forward passes per trainable tensor, and one backward pass for each that is not invariant
    alone. The model, its buffers, gradients, flags, hooks and all random states stay as they are; hooks are
    not run.

    A tensor the output does not depend on at all (a bias ahead of a batch norm, a layer never called)
    belongs to the rest: it is invariant to more than its scale, and would only add to the radius.

    Args:
        model: any module. Frozen parameters (``requires_grad`` False) appear nowhere, tied ones once.
        *inputs: positional arguments of one call; tensors, nests of tensors, anything the model takes.
        **kwargs: keyword arguments of the same call.

    Returns:
        One or two dictionaries. First ``{"params": [...], "names": [...], "sphere": "joint"}``; the
        optimiser takes the joint norm it finds as the radius, or add ``"radius"``. Then, if there are other
        trainable parameters, ``{"params": [...], "names": [...], "sphere": None}``.

    Raises:
        SymmetryError: if no trainable parameter is scale-invariant, the forward pass fails or is not
            deterministic, or the output shows nothing (no floating-point tensor, zeros, not finite).
    """
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs)
        everything = range(len(probe.names))
        deviations = [probe.change([i]) for i in everything]
        alone = [i for i in everything if deviations[i] < INVARIANT_BELOW]
        matters = [i for i in alone if probe.change_when_replaced(i) >= INVARIANT_BELOW]
        others = [i for i in everything if i not in set(alone)]
        on_sphere = set(matters) | set(_joint(probe, matters, others))
    if not on_sphere:
        closest = min(everything, key=lambda i: (i in alone, deviations[i]))
        raise SymmetryError(
            f"none of the {len(probe.names)} trainable parameters is scale-invariant (doubling "
            f"{probe.names[closest]!r} changes the output by a relative {deviations[closest]:.1e}, and "
            f"invariant means below {INVARIANT_BELOW:g}). Put norm layers after the layers to train on a "
            "sphere, or call onsphere.make_scale_invariant(model) if it has some"
        )
    parameters = dict(model.named_parameters())
    sphere = [name for i, name in enumerate(probe.names) if i in on_sphere]
    rest = [name for i, name in enumerate(probe.names) if i not in on_sphere]
    groups: list[dict[str, Any]] = [{"params": [parameters[n] for n in sphere], "names": sphere, "sphere": "joint"}]
    if rest:
        groups.append({"params": [parameters[n] for n in rest], "names": rest, "sphere": None})
    return groups


def scale_deviations(model: nn.Module, *inputs: Any, **kwargs: Any) -> dict[str, float]:
    """How much doubling each trainable tensor changes the output, which :func:`sphere_groups` decides by.

    Args:
        model: any module; it stays as it is.
        *inputs: positional arguments of one call.
        **kwargs: keyword arguments of the same call.

    Returns:
        For each trainable tensor by name ``‖f(2w) - f(w)‖ / ‖f(w)‖``, dimensionless, on the exact float64
        copy that :mod:`onsphere.probing` describes. Below :data:`INVARIANT_BELOW` a tensor is
        scale-invariant by itself (or without any effect).

    Raises:
        SymmetryError: if the forward pass fails, is not deterministic or shows nothing.
    """
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs)
        return {name: probe.change([i]) for i, name in enumerate(probe.names)}


def _joint(probe: Probe, alone: Sequence[int], others: list[int]) -> list[int]:
    """Those of ``others`` that leave the output unchanged when scaled together, with all in ``alone``."""

    def certified(indices: Sequence[int]) -> bool:
        scaled = [*alone, *indices]
        return all(probe.change(scaled, factor) < INVARIANT_BELOW for factor in (2.0, 0.5))

    if not others:
        return []
    if certified(others):
        return others
    found = _largest_null_set(_radial_products(probe, others), [probe.parameters[i].numel() for i in others])
    joint = [others[i] for i in found]
    return joint if joint and certified(joint) else []


def _radial_products(probe: Probe, indices: Sequence[int]) -> torch.Tensor:
    """``<∂g/∂w_i, w_i>`` for random projections g of the output: [projections, tensors], float64."""
    parameters = [probe.parameters[i] for i in indices]
    rows = []
    try:
        with torch.enable_grad():
            outputs = [t for t in probe.outputs() if t.requires_grad]
            for _ in range(len(indices) + _SPARE_PROJECTIONS if outputs else 0):
                gradients = torch.autograd.grad(
                    outputs,
                    parameters,
                    [probe.noise(t) for t in outputs],
                    retain_graph=True,
                    allow_unused=True,
                )
                products = [
                    0.0 if g is None else float((g * p.detach()).sum())
                    for g, p in zip(gradients, parameters, strict=True)
                ]
                rows.append(products)
    except (RuntimeError, NotImplementedError) as error:
        logger.info("no search for jointly scale-invariant tensors: the model has no backward pass (%s)", error)
        rows = []
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(indices))


def _largest_null_set(products: torch.Tensor, sizes: Sequence[int]) -> list[int]:
    """The 0/1 vector in the null space of ``products`` that covers most parameters, as indices."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if products.numel() == 0 or not bool(torch.isfinite(products).all()):
        return []
    _, strengths, directions = torch.linalg.svd(products, full_matrices=False)
    constraints = _row_reduced(directions[strengths > 1e-9 * strengths[0]])
    if len(constraints) == len(sizes):
        return []
    weights = torch.tensor(sizes, dtype=torch.float64)
    solution = milp(
        (-weights / weights.sum()).numpy(),
        constraints=LinearConstraint(constraints.numpy(), 0.0, 0.0) if len(constraints) else None,
        integrality=1,
        bounds=Bounds(0, 1),
        options={"time_limit": _MAX_SEARCH_SECONDS},
    )
    return [] if solution.x is None else [i for i, chosen in enumerate(solution.x) if chosen > 0.5]


def _row_reduced(rows: torch.Tensor) -> torch.Tensor:
    """Gauss-Jordan with full pivoting, noise rounded off: scaling symmetries have small rational entries.

    The solver must see exact zeros and ones: given a dense orthonormal basis it has called a problem
    infeasible that the zero vector solves.
    """
    rows = rows.clone()
    for i in range(len(rows)):
        row, column = divmod(int(rows[i:].abs().argmax()), rows.shape[1])
        rows[[i, i + row]] = rows[[i + row, i]]
        rows[i] /= rows[i, column].clone()
        factors = rows[:, column].clone()
        factors[i] = 0
        rows -= factors[:, None] * rows[i]
    # 12 is a multiple of every denominator up to 4, more than sums and powers in networks give.
    rational = (12 * rows).round() / 12
    return torch.where((rows - rational).abs() < 1e-7, rational, rows)
