"""Spheres by choice: param groups whose norms are held, whether or not the function depends on them.

Practice fixes norms of hidden matrices although few of them are scale-invariant (Hyperball, magnitude-direction
decoupling). Which tensors those are is seen in the forward pass (:mod:`onsphere.roles.roles`), and what each fixed norm
means is counted from the scaling symmetries (:mod:`onsphere.symmetry.constraints`):

    exact        the function does not depend on it
    gauge        it does, but other free tensors can make up for any change of it
    constraint   with all the others fixed, it takes a degree of freedom from the function
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from onsphere.functional.untouched import untouched_random_state
from onsphere.groups import matches, sphere_group
from onsphere.results import frame
from onsphere.roles.roles import RoleName, Roles, find_roles
from onsphere.symmetry import Symmetries, SymmetryError, find_symmetries
from onsphere.symmetry.blocks import labels_of
from onsphere.symmetry.constraints import Constraints
from onsphere.symmetry.find import INVARIANT_BELOW
from onsphere.symmetry.mapping import block_groups
from onsphere.symmetry.probe import Probe

__all__ = ["Kind", "NormGroups", "NormRow", "norm_groups"]

#: A sphere for the whole tensor, one for each row (slice along dimension 0), each column (slice along dimension 1), or
#: each block of slices that is scale-invariant by itself.
Kind = Literal["tensor", "rows", "columns", "blocks"]
_KINDS = ("tensor", "rows", "columns", "blocks")

_MATRICES: tuple[RoleName, ...] = ("hidden matrix", "filter bank")
_EMBEDDINGS: tuple[RoleName, ...] = ("embedding", "embedding and head", "head")
_VECTORS: tuple[RoleName, ...] = ("gain", "bias")


@dataclass(frozen=True)
class NormRow:
    """What one tensor is for, its sphere and what that means.

    Attributes:
        name: Name of the parameter in the model.
        shape: Its size in each dimension.
        role: What it is for.
        sphere: "tensor", "rows", "columns", "blocks", or None where its norm is free.
        status: "exact", "gauge" or "constraint"; "not known" for rows or columns of which only their common norm can be
            judged, and for what no rescaling makes up for in a model with gains of the form 1 + w, which may do so
            otherwise; None where its norm is free.
    """

    name: str
    shape: tuple[int, ...]
    role: RoleName
    sphere: str | None
    status: str | None


class NormGroups(list[dict[str, Any]]):
    """Param groups as torch optimisers take them, and what holding their norms means.

    Attributes:
        rows: One a tensor, in registration order.
        constraints: What the fixed norms take from the function: their count, and a sentence for each.
        roles: What every tensor is for, with remarks where a name says otherwise.
        certificate: Relative change of the output (float64) when all norms but the constraints were changed at random
            and other rescalings made up for it, at most 1e-8; None with symmetries that were given.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rows: Sequence[NormRow],
        constraints: Constraints | None,
        roles: Roles,
        certificate: float | None,
    ) -> None:
        super().__init__(groups)
        self.rows, self.constraints = tuple(rows), constraints
        self.roles, self.certificate = roles, certificate

    def to_dict(self) -> dict[str, Any]:
        """Rows, constraints and certificate as plain values."""
        fixed = None if self.constraints is None else self.constraints.to_dict()
        return {"rows": [asdict(row) for row in self.rows], "constraints": fixed, "certificate": self.certificate}

    def to_frame(self) -> Any:
        """One row a tensor, as a pandas data frame (ImportError without pandas)."""
        return frame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        on = [row for row in self.rows if row.sphere]
        counts = [f"{n} {s}" for s in ("exact", "gauge", "constraint", "not known") if (n := _count(on, s))]
        lines = [f"NormGroups: {len(on)} of {len(self.rows)} tensors on spheres ({', '.join(counts) or 'none'})"]
        shifted = [row.name for row in self.roles.rows if "offset" in row.uses]
        if self.constraints is not None:
            most = "at most " if shifted and self.constraints.count else ""
            lines[0] += f", {most}{self.constraints.count} degrees of freedom fixed"
        table = [(row.name, row.role, row.sphere or "-", row.status or "") for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        if shifted:
            more = f" and {len(shifted) - 1} more" if shifted[1:] else ""
            lines.append(
                f"  {shifted[0]}{more}: gains of the form 1 + w, which scaling w does not scale; they may make up for "
                "norms in ways that are not counted"
            )
        else:
            lines += [f"  {sentence}" for sentence in (self.constraints.sentences if self.constraints else ())]
        lines += [f"  {row.remark}" for row in self.roles.rows if row.remark]
        return "\n".join(lines)


def norm_groups(
    model: nn.Module,
    *inputs: Any,
    matrices: Kind | None = "tensor",
    embeddings: Kind | None = None,
    vectors: Kind | None = None,
    overrides: Mapping[str, Kind | None] | None = None,
    symmetries: Symmetries | None = None,
    output: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> NormGroups:
    """Param groups with spheres that are chosen by the roles of tensors, and what each fixed norm means.

    They go where groups go: into a torch optimiser and ``keep_on_sphere(optimizer, groups, angle=True)``, which turns
    every sphere by lr radians a step, or into ``SphereSGD``.

    Args:
        model: Any module; it stays as it is. Frozen parameters appear nowhere, tied ones once.
        *inputs: Positional arguments of one call; 8 to 64 examples are enough.
        matrices: Spheres of hidden matrices and filter banks: ``tensor``, one for each tensor; ``rows``, one for each
            row; ``columns``, one for each column; ``blocks``, one for each block (head, expert, channel group) of the
            tensors that consist of blocks, and one for each other tensor; None: none.
        embeddings: The same for embeddings and heads.
        vectors: The same for gains and biases.
        overrides: Globs of names and the kind (or None) that these tensors get, whatever their role; the last that
            matches counts. Routers are on spheres only so: their norm is the temperature of a choice.
        symmetries: What :func:`onsphere.find_symmetries` found for the model, or for a small twin with the same names,
            where a search on the model itself would take too long.
        output: Picks what counts as the model's output.
        **kwargs: Keyword arguments of the same call.

    Returns:
        The groups: one for each sphere that is a tensor, one for all tensors with spheres of rows, and last the tensors
        whose norms are free. Printing them shows a table, and a sentence for each constraint.

    Raises:
        ValueError: A kind is none of these; a pattern matches no tensor; a role is unclear and no pattern settles it; a
            tensor on a sphere is zero; the symmetries are of other tensors; the forward pass fails.
        SymmetryError: The search for symmetries fails.

    Source: Hyperball (arXiv 2606.16899) and decoupling (arXiv 2606.25971) for the choice; the count of constraints by
        the rank of the generators of scaling symmetries is ours.

    Example:
        >>> layers = nn.Linear(6, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> groups = norm_groups(nn.Sequential(*layers), torch.randn(16, 6))
        >>> [(row.name, row.status) for row in groups.rows if row.sphere]
        [('0.weight', 'exact'), ('2.weight', 'gauge')]
    """
    choices = {"matrices": matrices, "embeddings": embeddings, "vectors": vectors, **(overrides or {})}
    for what, kind in choices.items():
        _check_kind(what, kind)
    roles = find_roles(model, *inputs, output=output, **kwargs)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by_role: dict[RoleName, Kind | None] = {}
    for some, kind in ((_MATRICES, matrices), (_EMBEDDINGS, embeddings), (_VECTORS, vectors)):
        by_role.update(dict.fromkeys(some, kind))
    kinds = _kinds(roles, by_role, overrides or {})
    _check_norms(parameters, kinds)
    on = {name: kind for name, kind in kinds.items() if kind is not None}
    if not on:
        rows = [NormRow(r.name, r.shape, r.role, None, None) for r in roles.rows]
        return NormGroups([sphere_group(parameters, None)], rows, None, roles, None)
    found = symmetries
    if found is None:
        by_rows = any(kind == "rows" and parameters[name].dim() > 1 for name, kind in on.items())
        by_blocks, options = "blocks" in on.values(), dict(kwargs)
        found = find_symmetries(
            model, *inputs, output=output, rows=by_rows, blocks=by_blocks, unused="ignore", **options
        )
    unknown = [name for name in parameters if name not in found.names]
    if unknown:
        raise ValueError(
            f"the symmetries given do not have {unknown[0]}; give those of this model, or of a twin with the same "
            "names, or none"
        )
    blocks = _blocks(found, parameters, on)
    for name in [name for name, kind in on.items() if kind == "blocks" and name not in blocks]:
        on[name] = kinds[name] = "tensor"
    constraints, status = _counted(found, parameters, on)
    if any("offset" in row.uses for row in roles.rows):
        status = {name: "not known" if said == "constraint" else said for name, said in status.items()}
    certificate = None
    if symmetries is None:
        certificate = _certified(model, inputs, kwargs, output, found, constraints)
    rows = [NormRow(r.name, r.shape, r.role, kinds[r.name], status.get(r.name)) for r in roles.rows]
    return NormGroups(_groups(parameters, kinds, blocks), rows, constraints, roles, certificate)


def _count(rows: Sequence[NormRow], status: str) -> int:
    return sum(row.status == status for row in rows)


def _check_kind(what: str, kind: object) -> None:
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"{what} is {kind!r}; it must be 'tensor', 'rows', 'columns', 'blocks' or None")


def _kinds(
    roles: Roles, by_role: Mapping[RoleName, Kind | None], overrides: Mapping[str, Kind | None]
) -> dict[str, Kind | None]:
    """The kind of sphere of every tensor."""
    names = [row.name for row in roles.rows]
    for pattern in overrides:
        if not any(matches(name, pattern) for name in names):
            raise ValueError(f"overrides: {pattern!r} matches none of the model's trainable tensors")
    kinds: dict[str, Kind | None] = {}
    for row in roles.rows:
        chosen = [kind for pattern, kind in overrides.items() if matches(row.name, pattern)]
        if row.role == "unclear" and not chosen:
            raise ValueError(f"{row.remark}: say which sphere it is to have, overrides={{{row.name!r}: None}} for none")
        kinds[row.name] = chosen[-1] if chosen else by_role.get(row.role)
    return kinds


def _check_norms(parameters: Mapping[str, Tensor], kinds: Mapping[str, Kind | None]) -> None:
    for name, kind in kinds.items():
        p = parameters[name].detach()
        if kind is None:
            continue
        slices = p.transpose(0, 1) if kind == "columns" and p.dim() > 1 else p
        single = kind in ("rows", "columns") and p.dim() > 1
        norms = slices.double().reshape(len(slices), -1).norm(dim=1) if single else p.double().norm()
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            raise ValueError(
                f"{name} is zero or not finite{f' in a {kind[:-1]}' if single else ''}, so that it has no direction to "
                f"keep: leave it free with overrides={{{name!r}: None}}"
            )


def _counted(
    found: Symmetries, parameters: Mapping[str, Tensor], on: Mapping[str, Kind]
) -> tuple[Constraints, dict[str, str]]:
    """The constraints, and the status of every tensor on a sphere.

    Rows and columns that are not free one by one are counted by their common norm, which their norms fix as well; what
    else fixing each of them takes away is not known. Blocks are free one by one.
    """
    free = set(found.row_invariant or ())
    rows = {name for name, kind in on.items() if kind == "rows" and parameters[name].dim() > 1}
    columns = {name for name, kind in on.items() if kind == "columns" and parameters[name].dim() > 1}
    groups = [sphere_group({name: parameters[name]}, "rows" if name in rows & free else "joint") for name in on]
    constraints = found.constraints(groups)
    status: dict[str, str] = {norm.names[0]: norm.status for norm in constraints.norms}
    for name in (rows - free) | columns:
        if status[name] != "constraint":
            status[name] = "not known"
    return constraints, status


def _certified(
    model: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Callable[[Any], Any] | None,
    found: Symmetries,
    constraints: Constraints,
) -> float:
    """The change of the output when all norms but the constraints change and other tensors make up for it.

    Raises:
        SymmetryError: It is more than rounding.
    """
    columns = [found.names.index(norm.names[0]) for norm in constraints.norms]
    fixed = np.array([norm.status == "constraint" for norm in constraints.norms])
    wanted = np.where(fixed, 0.0, np.random.default_rng(0).uniform(-0.3, 0.3, len(columns)))
    amounts = np.linalg.lstsq(found.generators[:, columns].T, wanted, rcond=None)[0]
    logs = found.generators.T @ amounts
    with untouched_random_state(model), torch.inference_mode(False):
        probe = Probe(model, inputs, kwargs, output=output)
        change = probe.change_by({i: float(np.exp(x)) for i, x in enumerate(logs)})
    if not change < INVARIANT_BELOW or np.abs(logs[columns] - wanted).max(initial=0.0) > 1e-9:
        raise SymmetryError(
            f"norms that count as exact or gauge were changed and made up for, and the output changed by a relative "
            f"{change:.1e}: something in the model depends on the scale of a tensor in an unusual way"
        )
    return float(change)


def _blocks(
    found: Symmetries, parameters: Mapping[str, Tensor], on: Mapping[str, Kind]
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Dimension and labels of the tensors that are to be on spheres of blocks and consist of blocks."""
    wanted = [name for name, kind in on.items() if kind == "blocks"]
    if wanted and found.blocks is None:
        raise ValueError(
            f"{wanted[0]} is to have spheres of blocks, which the symmetries given were not searched for: give those "
            "of onsphere.find_symmetries(..., blocks=True), or none"
        )
    labelled, shapes = {}, dict(zip(found.names, found.shapes, strict=True))
    for name in wanted:
        own = (found.blocks or {}).get(name, ())
        if own and shapes[name] != tuple(parameters[name].shape):
            raise ValueError(
                f"{name} has the shape {tuple(parameters[name].shape)} here and {shapes[name]} in the symmetries given,"
                " so which slices are a block cannot be told: give symmetries of a twin of the same size"
            )
        labels = labels_of(own, parameters[name].shape[own[0].dim]) if own else None
        if labels is not None:
            labelled[name] = (own[0].dim, labels)
    return labelled


def _groups(
    parameters: Mapping[str, Tensor],
    kinds: Mapping[str, Kind | None],
    blocks: Mapping[str, tuple[int, tuple[int, ...]]],
) -> list[dict[str, Any]]:
    by_slices = {
        kind: {n: parameters[n] for n, own in kinds.items() if own == kind and parameters[n].dim() > 1}
        for kind in ("rows", "columns")
    }
    single = {n for own in by_slices.values() for n in own} | set(blocks)
    groups = [sphere_group({n: parameters[n]}, "joint") for n, kind in kinds.items() if kind and n not in single]
    groups += [sphere_group(own, kind) for kind, own in by_slices.items() if own]
    names = list(parameters)
    groups += block_groups(list(parameters.items()), {names.index(name): own for name, own in blocks.items()})
    rest = {n: parameters[n] for n, kind in kinds.items() if kind is None}
    return [*groups, *([sphere_group(rest, None)] if rest else [])]
