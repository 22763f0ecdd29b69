"""Param groups for two optimisers: hidden matrices to one that knows matrices (Muon), all else to another (AdamW)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from onsphere.roles.roles import Roles, find_roles

__all__ = ["ParamGroups", "param_groups"]

#: Roles whose tensors are decayed: matrices of some kind. Gains and biases are not.
_DECAYED = ("hidden matrix", "filter bank", "router", "head", "embedding", "embedding and head")


class ParamGroups(NamedTuple):
    """What :func:`param_groups` returns.

    Attributes:
        muon: Groups for the optimiser of hidden matrices; empty if there are none.
        adamw: Groups for the other one.
    """

    muon: list[dict[str, Any]]
    adamw: list[dict[str, Any]]

    def __repr__(self) -> str:
        lines = ["ParamGroups"]
        for which, groups in zip(self._fields, self, strict=True):
            for group in groups:
                settings = ", ".join(f"{k} {v}" for k, v in group.items() if k not in ("params", "names"))
                lines.append(f"  {which}: {len(group['names'])} tensors{f' ({settings})' if settings else ''}")
                lines += [f"    {name}" for name in group["names"]]
        return "\n".join(lines)


def param_groups(
    model: nn.Module,
    *inputs: Any,
    muon: Mapping[str, Any] | None = None,
    adamw: Mapping[str, Any] | None = None,
    decay: float | None = None,
    output: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> ParamGroups:
    """Split a model's tensors between two optimisers by their roles, and put weight decay where it belongs.

    Hidden matrices of two dimensions, which orthogonalised updates are for, go to the first. Embeddings, heads,
    routers, gains, biases, and what is no single matrix (filter banks, stacks of experts) go to the second.

    Args:
        model: Any module; a copy of it runs once. Frozen parameters appear nowhere, tied ones once.
        *inputs: Positional arguments of one call.
        muon: Settings of the first optimiser's groups, such as ``{"lr": 0.02, "momentum": 0.95}``.
        adamw: Settings of the second's, such as ``{"lr": 3e-4}``.
        decay: Weight decay of matrices, filters and embeddings; gains and biases get 0. None leaves ``weight_decay`` to
            the settings and the optimisers' defaults, for all alike.
        output: Picks what counts as the model's output, which decides what the head is.
        **kwargs: Keyword arguments of the same call.

    Returns:
        The groups, with ``names``: ``torch.optim.Muon(groups.muon)`` and ``torch.optim.AdamW(groups.adamw)``.

    Raises:
        ValueError: A role is unclear; the settings hold ``params``, or ``weight_decay`` beside ``decay``; ``decay`` is
            negative; the forward pass fails.

    Source: Jordan et al. 2024 (Muon: hidden matrices alone); roles as in :func:`onsphere.roles.find_roles`.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = param_groups(model, torch.randn(3, 4), muon={"lr": 0.02}, adamw={"lr": 3e-4}, decay=0.1)
        >>> [group["names"] for group in found.adamw]
        [['4.weight'], ['0.bias', '2.bias', '4.bias']]
    """
    for name, settings in (("muon", muon), ("adamw", adamw)):
        if "params" in (settings or {}) or (decay is not None and "weight_decay" in (settings or {})):
            raise ValueError(f"{name} holds 'params', or 'weight_decay' beside decay=; leave it out")
    if decay is not None and not decay >= 0:
        raise ValueError(f"decay is {decay!r}; it must be a number of at least 0, or None")
    roles = find_roles(model, *inputs, output=output, **kwargs)
    unclear = [row.remark for row in roles.rows if row.role == "unclear"]
    if unclear:
        raise ValueError(f"{unclear[0]}: put it into a group by hand, and freeze it while the others are looked for")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    first = [row.name for row in roles.rows if row.role == "hidden matrix" and len(row.shape) == 2]
    rest = [name for name in parameters if name not in set(first)]
    return ParamGroups(
        _parts(parameters, first, roles, dict(muon or {}), decay),
        _parts(parameters, rest, roles, dict(adamw or {}), decay),
    )


def _parts(
    parameters: Mapping[str, Tensor], names: list[str], roles: Roles, settings: dict[str, Any], decay: float | None
) -> list[dict[str, Any]]:
    """One group, or with a decay one that is decayed and one that is not."""
    if decay is None:
        parts = [(names, settings)]
    else:
        decayed = [name for name in names if roles[name] in _DECAYED]
        others = [name for name in names if roles[name] not in _DECAYED]
        parts = [(decayed, settings | {"weight_decay": decay}), (others, settings | {"weight_decay": 0.0})]
    return [{"params": [parameters[n] for n in own], "names": list(own), **given} for own, given in parts if own]
