"""What a monitor reads: tensors by name, the groups they form, and which optimiser steps them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from onsphere.functional.wrappers import plain_name
from onsphere.groups import Only, check_only, given_names, is_counted, listed_params, matches, sphere_kind
from onsphere.monitor.forces import Rule, rule_of
from onsphere.monitor.titles import common_pattern
from onsphere.optim.keep import GROUP_KEY
from onsphere.sharding import check_parts

__all__ = ["Group", "Watched", "frozen_norms", "watch"]


#: Names of matrices at the ends of a network: a batch moves some rows of an embedding alone, and a head has a scale.
_END = re.compile(r"embed|wte|wpe|head|classifier|readout|logits|(^|\.)(emb|fc|output)\.", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """Some tensors that are read as one vector.

    Attributes:
        name: ``sphere``, ``sphere 2``, ``rest``, ``all``, ``total``, or a tensor's name.
        title: What findings call it: the name that was given, or what its tensors' names have in common.
        sphere: ``joint``, ``rows`` or None.
        members: For each optimiser, by number, the numbers of its watched tensors.
        settings: The optimiser's number, and the place of the param group with most of the weights among those watched.
        param_groups: In how many param groups its tensors are.
    """

    name: str
    title: str
    sphere: str | None
    members: Mapping[int, Sequence[int]]
    settings: tuple[int, int]
    param_groups: int = 1


@dataclass(frozen=True)
class Watched:
    """Everything that a monitor reads.

    Attributes:
        tensors: For each optimiser the tensors that are read.
        names: The tensors' names, for each optimiser.
        param_groups: For each optimiser the indices of the param groups that these are in.
        places: For each optimiser and tensor the place of its param group among these.
        rules: For each optimiser and param group how weight decay and eps act.
        groups: The groups, without ``total``.
        total: All sphere groups together, if there are several.
        ends: Names of embeddings and heads, by their module or their name.
        by_tensor: Each tensor as a group of its own.
    """

    tensors: list[list[Tensor]]
    names: list[list[str]]
    param_groups: list[list[int]]
    places: list[list[int]]
    rules: list[list[Rule]]
    groups: list[Group]
    total: Group | None
    by_tensor: list[Group]
    ends: frozenset[str]

    def held(self, optimizers: Sequence[Optimizer]) -> set[str]:
        """Names of the groups of which every tensor is kept on a sphere now, by SphereSGD or ``keep_on_sphere``."""
        kept = set[int]()
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            own = group["params"]
            radii = group.get(GROUP_KEY) or [group.get("radius") if sphere_kind(group) else None] * len(own)
            kept |= {id(p) for p, radius in zip(own, radii, strict=False) if radius not in (None, [])}
        return {
            group.name
            for group in self.groups
            if all(id(self.tensors[k][i]) in kept for k, indices in group.members.items() for i in indices)
        }

    def notes(self) -> list[str]:
        """What has to be the same on all processes, a line for each tensor."""
        found = []
        for group in self.groups:
            for k, indices in group.members.items():
                for i in indices:
                    tensor, name = self.tensors[k][i], self.names[k][i]
                    found.append(f"{name} {tuple(tensor.shape)} of optimiser {k} in {group.name}")
        return found


def watch(
    optimizers: Sequence[Optimizer],
    groups: Iterable[Mapping[str, Any]] | None,
    select: str | Sequence[str],
    model: nn.Module | None,
    only: Only = None,
) -> Watched:
    """Settle what is read.

    Args:
        optimizers: All that step the tensors.
        groups: Param groups, as ``onsphere.sphere_groups(model, batch)`` returns them; None: the optimisers' own.
        select: Globs of tensor names.
        model: The module whose names the tensors get; None: those of the groups or optimisers.
        only: Which tensors of sphere groups stay in them; the others are read with the rest.

    Returns:
        Tensors and groups; a group without selected tensors is left out.

    Raises:
        TypeError: A tensor does not hold real floating-point numbers, or is split in a way that is not understood.
        ValueError: A tensor is not stepped by any of the optimisers, or by two, or is in two groups, or nothing is
            selected, or ``only`` leaves nothing on spheres or splits one that an optimiser keeps.
    """
    check_only(only)
    home = _homes(optimizers)
    given = _default_groups(optimizers) if groups is None else [dict(group) for group in groups]
    called = _names(optimizers, given, model)
    if only is not None:
        given = _only(given, called, optimizers, only)
    tensors: list[list[Tensor]] = [[] for _ in optimizers]
    names: list[list[str]] = [[] for _ in optimizers]
    numbered: list[tuple[str, str | None, list[Tensor]]] = []
    told: list[str | None] = []
    count: dict[str, int] = {}
    seen: set[int] = set()
    for group in given:
        kind, params = sphere_kind(group), listed_params(group["params"])
        base = "sphere" if kind else str(group.get("_name", "rest"))
        count[base] = count.get(base, 0) + 1
        _check(params, called, home, seen, optimizers)
        chosen = [p for p in params if p.numel() and matches(called[id(p)], select)]
        if chosen:
            numbered.append((base if count[base] == 1 else f"{base} {count[base]}", kind, chosen))
            told.append(group.get("name"))
        for p in chosen:
            tensors[home[id(p)][0]].append(p)
            names[home[id(p)][0]].append(called[id(p)])
    if not numbered:
        some = ", ".join(list(called.values())[:8])
        raise ValueError(
            f"select={select!r} matches none of the tensors' names; there are {some}" + ", ..." * (len(called) > 8)
        )
    param_groups = [sorted({home[id(p)][1] for p in ts}) for ts in tensors]
    places = [[own.index(home[id(p)][1]) for p in ts] for ts, own in zip(tensors, param_groups, strict=True)]
    rules = [
        [rule_of(one, one.param_groups[j]) for j in own] for one, own in zip(optimizers, param_groups, strict=True)
    ]
    titles = _titles(numbered, told, called)
    place = {id(p): (k, i) for k, ts in enumerate(tensors) for i, p in enumerate(ts)}

    def grouped(name: str, title: str, kind: str | None, params: Sequence[Tensor]) -> Group:
        members: dict[int, list[int]] = {}
        weight: dict[tuple[int, int], int] = {}
        for p in params:
            k, i = place[id(p)]
            members.setdefault(k, []).append(i)
            at = (k, param_groups[k].index(home[id(p)][1]))
            weight[at] = weight.get(at, 0) + p.numel()
        return Group(name, title, kind, members, max(weight, key=lambda at: weight[at]), len(weight))

    spheres = [params for _, kind, params in numbered if kind]
    return Watched(
        tensors,
        names,
        param_groups,
        places,
        rules,
        [grouped(name, title, kind, ps) for (name, kind, ps), title in zip(numbered, titles, strict=True)],
        grouped("total", "total", "joint", [p for params in spheres for p in params]) if len(spheres) > 1 else None,
        [grouped(called[id(p)], called[id(p)], kind, [p]) for _, kind, params in numbered for p in params],
        frozenset(name for own in names for name in own if name in _embeddings(model) or _END.search(name)),
    )


def _embeddings(model: nn.Module | None) -> set[str]:
    """Names of the parameters of a model's embedding layers."""
    modules = {} if model is None else dict(model.named_modules())
    return {
        plain_name(f"{name}.weight".lstrip("."))
        for name, module in modules.items()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }


def _titles(
    numbered: Sequence[tuple[str, str | None, Sequence[Tensor]]], told: Sequence[object], called: Mapping[int, str]
) -> list[str]:
    """What findings call the groups: the name given, ``sphere`` if there is one alone, else what names share."""
    count = {on: sum((kind is not None) == on for _, kind, _ in numbered) for on in (True, False)}
    found = []
    for (name, kind, params), given in zip(numbered, told, strict=True):
        if isinstance(given, str) and given:
            found.append(given)
        elif count[kind is not None] == 1:
            found.append(name)
        else:
            found.append(common_pattern([called[id(p)] for p in params]))
    again = {title for title in found if found.count(title) > 1}
    return [
        f"{title} ({name})" if title in again else title for title, (name, _, _) in zip(found, numbered, strict=True)
    ]


def frozen_norms(model: nn.Module | None) -> list[str]:
    """Names of the layers that normalise by running statistics while the rest of the model trains."""
    if model is None or not any(module.training for module in model.modules()):
        return []
    return [
        name
        for name, module in model.named_modules()
        if not module.training and isinstance(getattr(module, "running_var", None), Tensor)
    ]


def _homes(optimizers: Sequence[Optimizer]) -> dict[int, tuple[int, int]]:
    """Which optimiser and which of its param groups has a tensor."""
    home: dict[int, tuple[int, int]] = {}
    for k, optimizer in enumerate(optimizers):
        for j, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                if home.setdefault(id(p), (k, j))[0] != k:
                    raise ValueError(
                        f"a tensor of shape {tuple(p.shape)} is stepped by two of the optimizers; its updates can only "
                        "be told apart if one steps it"
                    )
    return home


def _default_groups(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    spheres = [group for group in groups if sphere_kind(group) is not None]
    return spheres or [{"params": [p for group in groups for p in group["params"]], "_name": "all"}]


def _only(
    groups: Sequence[Mapping[str, Any]], called: Mapping[int, str], optimizers: Sequence[Optimizer], only: Only
) -> list[dict[str, Any]]:
    """The groups with what does not count on spheres moved into one ordinary group, the first if there is one."""
    counted = {
        id(p)
        for g in groups
        if sphere_kind(g)
        for p in listed_params(g["params"])
        if is_counted(called[id(p)], p, only)
    }
    if not counted:
        raise ValueError(f"only={only!r} leaves no tensor on a sphere; groups must have a sphere with such tensors")
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        own = {id(p) for p in group["params"]}
        if sphere_kind(group) == "joint" and own & counted and not own <= counted:
            raise ValueError(
                f"only={only!r} splits a sphere that an optimizer keeps, whose learning rate is that of all its "
                "tensors together; give onsphere.sphere_groups(model, batch, only=...) to the optimizer instead"
            )
    found = [
        dict(g) | {"params": [p for p in listed_params(g["params"]) if not sphere_kind(g) or id(p) in counted]}
        for g in groups
    ]
    moved = [p for g in groups if sphere_kind(g) for p in listed_params(g["params"]) if id(p) not in counted]
    for group in found:
        group.pop("names", None)  # they are known by now
    rest = next((group for group in found if not sphere_kind(group)), None)
    if rest is not None:
        rest["params"] = [*rest["params"], *moved]
    elif moved:
        found.append({"params": moved})
    return [group for group in found if group["params"]]


def _names(
    optimizers: Sequence[Optimizer], groups: Sequence[Mapping[str, Any]], model: nn.Module | None
) -> dict[int, str]:
    """A name for every tensor: the model's, else the groups' own, else the optimiser's, else ``param i``."""
    called: dict[int, str] = {}
    if model is not None:
        for name, p in model.named_parameters():
            called.setdefault(id(p), plain_name(name))
    for group in (*groups, *(group for optimizer in optimizers for group in optimizer.param_groups)):
        names = given_names(group)
        if names is not None:
            for p, name in zip(group["params"], names, strict=True):
                called.setdefault(id(p), name)
    everything = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    for i, p in enumerate(everything):
        called.setdefault(id(p), f"param {i}")
    return called


def _check(
    params: Sequence[Tensor],
    called: Mapping[int, str],
    home: Mapping[int, tuple[int, int]],
    seen: set[int],
    optimizers: Sequence[Optimizer],
) -> None:
    stepped = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
    for p in params:
        name = called.get(id(p), f"a tensor of shape {tuple(p.shape)}")
        if id(p) not in home:
            raise ValueError(
                f"{name} is not stepped by {stepped}; make optimizer and groups from the same model, or leave it out "
                "of the groups"
            )
        if id(p) in seen:
            raise ValueError(f"{name} is given more than once; a tensor is in one group")
        check_parts(p, name)
        if not p.is_floating_point():
            raise TypeError(
                f"{name} holds {p.dtype}; the monitor reads real floating-point numbers, leave it out of groups"
            )
        seen.add(id(p))
