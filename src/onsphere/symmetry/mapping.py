"""The tensors of another model by name: groups of a search on a twin, and groups whose tensors were replaced.

A search runs the model whole and in float64. Where that cannot be (a model spread over processes, too large, or without
weights yet), a twin is searched instead, and names say which tensor is which. A tensor missed would leave its sphere
without a word, so both sides must have the same trainable tensors, and any difference is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from onsphere.functional.wrappers import matched_names
from onsphere.groups import Only, check_only, given_names, is_counted, sphere_group
from onsphere.symmetry.blocks import labels_of
from onsphere.symmetry.probe import SymmetryError

if TYPE_CHECKING:
    from onsphere.symmetry.result import Symmetries

__all__ = ["Spheres", "block_groups", "check_spheres", "groups_of", "not_invariant_alone", "regroup"]

Spheres = Literal["joint", "groups", "rows", "blocks"]

#: How many names an error lists.
_LISTED = 5


def check_spheres(spheres: object) -> None:
    """Refuse what is none of :data:`Spheres` (ValueError)."""
    if spheres not in get_args(Spheres):
        raise ValueError(f"spheres is {spheres!r}; it must be one of {', '.join(get_args(Spheres))}")


def not_invariant_alone(
    groups: Sequence[Sequence[str]], picked: Sequence[str], only: Only, *, invariant: bool
) -> str | None:
    """Why some of the scale-invariant tensors are on no sphere without the others, in a sentence.

    Args:
        groups: The groups that cannot be split.
        picked: The tensors that ``only`` picks.
        only: What was asked for.
        invariant: Whether it is known that these may be rescaled together, whatever groups they are from.

    Returns:
        The sentence; None where all is well.
    """
    if not picked:
        names = [name for group in groups for name in group]
        return f"only={only!r} picks none of the {len(names)} scale-invariant tensors ({_some(names)})"
    chosen = set(picked)
    cut = next((group for group in groups if chosen & set(group) and not set(group) <= chosen), None)
    if cut is None or invariant:
        return None
    inside, outside = ([name for name in cut if (name in chosen) == is_in] for is_in in (True, False))
    return (
        f"only={only!r} picks {_some(inside)} without {_some(outside)}, and these are scale-invariant only together: "
        "pick all of them or none"
    )


def groups_of(found: Symmetries, model: nn.Module, spheres: Spheres, only: Only = None) -> list[dict[str, Any]]:
    """What :meth:`onsphere.Symmetries.groups_for` returns, and raises.

    Args:
        found: The symmetries of a twin.
        model: The model that the groups are for.
        spheres: One of :data:`Spheres`: which tensors share a norm.
        only: Which of the scale-invariant tensors are on spheres.

    Returns:
        Param groups, each in the order in which the model registers its parameters.
    """
    check_spheres(spheres)
    check_only(only)
    if spheres == "rows" and found.row_invariant is None:
        raise ValueError("spheres='rows' needs a search of rows: onsphere.find_symmetries(twin, batch, rows=True)")
    if spheres == "blocks" and found.blocks is None:
        raise ValueError(
            "spheres='blocks' needs a search of blocks: onsphere.find_symmetries(twin, batch, blocks=True)"
        )
    if not found.groups:
        raise SymmetryError("the search found no scale-invariant tensor, so there is no sphere to put one on")
    named = dict(model.named_parameters())
    tensors = _matched(found.names, model)
    _check_same(found, tensors, named)
    position = {id(p): i for i, p in enumerate(named.values())}
    at = {name: position[id(p)] for name, p in tensors.items()}
    picked = [name for name in found.invariant if is_counted(name, tensors[name], only)]
    if only is not None:
        problem = not_invariant_alone(
            found.groups, picked, only, invariant=spheres != "groups" and _spanned(found, picked)
        )
        if problem:
            raise SymmetryError(problem)
    sphere = sorted(at[name] for name in picked)
    groups = sorted(sorted(at[name] for name in group) for group in found.groups if set(group) <= set(picked))
    parts: list[tuple[str | None, Sequence[int]]] = [("joint", sphere)]
    if spheres == "groups":
        parts = [("joint", group) for group in groups]
    elif spheres == "rows":
        rows = _rows(found, tensors)
        single = [at[name] for name in rows if name in set(picked)]
        parts = [("rows", sorted(single)), ("joint", [i for i in sphere if i not in set(single)])]
    items = list(named.items())
    extra: list[dict[str, Any]] = []
    if spheres == "blocks":
        covered = {at[name]: own for name, own in _labels(found, tensors).items() if name in set(picked)}
        extra = block_groups(items, covered)
        parts = [("joint", [i for i in sphere if i not in covered])]
    trainable = [i for i, p in enumerate(named.values()) if p.requires_grad]
    parts.append((None, [i for i in trainable if i not in set(sphere)]))
    return [*extra, *(sphere_group(dict(items[i] for i in indices), kind) for kind, indices in parts if indices)]


def block_groups(
    items: Sequence[tuple[str, Tensor]], covered: Mapping[int, tuple[int, tuple[int, ...]]]
) -> list[dict[str, Any]]:
    """Groups of spheres of blocks.

    Args:
        items: All parameters with their names.
        covered: For the number of each parameter that is on spheres of blocks their dimension and its labels.

    Returns:
        A group for each dimension along which there are blocks.
    """
    groups = []
    for dim in (0, 1):
        own = sorted(i for i, (along, _) in covered.items() if along == dim)
        if own:
            labels = [covered[i][1] for i in own]
            groups.append(sphere_group(dict(items[i] for i in own), "blocks") | {"blocks": labels, "dim": dim})
    return groups


def _labels(found: Symmetries, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Dimension and labels of the tensors whose slices are all in blocks."""
    shapes, labels = dict(zip(found.names, found.shapes, strict=True)), {}
    for name, blocks in (found.blocks or {}).items():
        dim = blocks[0].dim
        own = labels_of(blocks, shapes[name][dim])
        if own is None:
            continue
        if tensors[name].shape[dim] != len(own):
            raise ValueError(
                f"{name} has {tensors[name].shape[dim]} slices along dimension {dim} in the model and {len(own)} in "
                "the search, so which of them are a block cannot be told: search a twin of the same size there"
            )
        labels[name] = (dim, own)
    return labels


def regroup(groups: Iterable[Mapping[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The same param groups, with the tensors that a model has now under the names of theirs.

    ``torch.distributed.fsdp.fully_shard``, ``load_state_dict(..., assign=True)`` and, from the meta device,
    ``to_empty`` put new parameters into a model. Groups made before then hold tensors that nothing computes with: an
    optimiser of them gets no gradient and trains nothing, without an error. So make it from the regrouped ones.

    Args:
        groups: Param groups with ``names``, as :func:`onsphere.sphere_groups` returns them; those of an optimiser made
            from them, or one of ``named_parameters()`` (torch's ``param_names``), will do. They stay as they are.
        model: The model as it is now. What wrappers put into names (``module.``, ``_orig_mod.``) does not matter, nor
            does under which of its names a tied parameter is listed.

    Returns:
        New dictionaries in the same order, with all other entries (``sphere``, ``radius``, ``lr``, ...) as they were.
        ``names`` are the model's own.

    Raises:
        ValueError: A group has no name for each of its tensors; the model lacks a name, has another shape under it
            (``[R, ...]`` is the whole tensor's also where it is spread over processes) or one tensor under two.

    Example:
        >>> batch, model = torch.randn(16, 6), nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8))
        >>> groups = onsphere.sphere_groups(model, batch)
        >>> model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)
        <All keys matched successfully>
        >>> groups[0]["params"][0] is model[0].weight
        False
        >>> onsphere.regroup(groups, model)[0]["params"][0] is model[0].weight
        True
    """
    given = [dict(group) for group in groups]
    names = [given_names(group) for group in given]
    tensors = _matched([name for listed in names for name in listed or ()], model)
    own = {id(p): name for name, p in model.named_parameters()}
    seen: dict[int, str] = {}
    for i, (group, listed) in enumerate(zip(given, names, strict=True)):
        if listed is None:
            raise ValueError(
                f"param group {i} has no 'names', one for each of its params, to find them by; make groups with "
                "onsphere.sphere_groups, or anew from the model as it is now"
            )
        missing = [name for name in listed if name not in tensors]
        if missing:
            raise ValueError(f"the model has no parameter of the name of {_some(missing)}; it must be the groups' own")
        for name, old in zip(listed, group["params"], strict=True):
            new = tensors[name]
            if _shape(old) != _shape(new):
                raise ValueError(f"{name} has the shape {_shape(old)} in the groups and {_shape(new)} in the model")
            if id(new) in seen:
                raise ValueError(f"{seen[id(new)]} and {name} are one tensor in the model; a tensor is in one group")
            seen[id(new)] = name
        group["params"] = [tensors[name] for name in listed]
        group["names"] = [own[id(p)] for p in group["params"]]
    return given


def _matched(names: Sequence[str], model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters under the names wanted, as far as it has them under any of theirs."""
    own = dict(model.named_parameters(remove_duplicate=False))
    matched = matched_names({name: name for name in names}, own)
    return {name: own[known] for known, name in matched.items() if known in own}


def _check_same(found: Symmetries, tensors: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Refuse a model whose trainable tensors are not those of the search (ValueError)."""
    lazy = [name for name, p in named.items() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(f"the model has lazy parameters without a shape ({_some(lazy)}): run one forward pass first")
    invariant, taken = set(found.invariant), {id(p) for p in tensors.values()}
    unseen = [name for name, p in named.items() if p.requires_grad and id(p) not in taken]
    missing = [name for name in found.names if name not in tensors]
    frozen = [name for name, p in tensors.items() if not p.requires_grad]
    by_tensor: dict[int, list[str]] = {}
    for name, p in tensors.items():
        by_tensor.setdefault(id(p), []).append(name)
    tied = [" = ".join(names) for names in by_tensor.values() if len(names) > 1]
    wrong = [
        f"{what} {_some([name + ' (scale-invariant)' * (name in invariant) for name in names])}"
        for what, names in (
            ("the search has not seen the model's", unseen),
            ("the model lacks", missing),
            ("the model has frozen", frozen),
            ("the model has tied", tied),
        )
        if names
    ]
    if wrong:
        raise ValueError(
            f"the model's trainable parameters are not those of the search: {'; '.join(wrong)}. Search a twin that has "
            "the same layers, frozen and tied alike; only sizes may differ"
        )
    shapes = dict(zip(found.names, found.shapes, strict=True))
    other = [f"{name} {shapes[name]} and {_shape(p)}" for name, p in tensors.items() if p.dim() != len(shapes[name])]
    if other:
        raise ValueError(
            f"shapes have other numbers of dimensions in the search and in the model: {_some(other)}. Search a twin "
            "that has the same layers; only sizes may differ"
        )


def _spanned(found: Symmetries, names: Sequence[str]) -> bool:
    """Whether multiplying these tensors by one common number is a symmetry."""
    vector = np.array([float(name in set(names)) for name in found.names])
    weights = np.linalg.lstsq(found.generators.T, vector, rcond=None)[0]
    return bool(np.abs(weights @ found.generators - vector).max() < 1e-6)


def _rows(found: Symmetries, tensors: Mapping[str, Tensor]) -> list[str]:
    """The invariant tensors of which every row is on a sphere of its own; one row is a tensor like any other."""
    shapes = dict(zip(found.names, found.shapes, strict=True))
    unclear = [
        name for name in found.invariant if len(shapes[name]) > 1 and shapes[name][0] == 1 != tensors[name].shape[0]
    ]
    if unclear:
        raise ValueError(
            f"tensors of one row in the search have several in the model: {_some(unclear)}. Whether these can be "
            "rescaled one by one shows in a twin that has several too"
        )
    by_row = set(found.row_invariant or ())
    return [name for name in found.invariant if name in by_row and tensors[name].shape[0] > 1]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _some(names: Sequence[str]) -> str:
    """The first of them, and how many there are if that is not all."""
    more = f" and others, {len(names)} in all" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
