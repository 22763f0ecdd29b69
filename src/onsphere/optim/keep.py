"""Any torch optimiser, kept on spheres: after each of its steps the weights are scaled back to their radius.

    x <- optimiser's step(x);   x <- rho x / ||x||

or turned by exactly lr radians, braked, or held to a least step (:mod:`onsphere.optim.policies`). It works through the
hooks that every ``torch.optim.Optimizer`` has, so closures, schedulers, gradient scalers and checkpoints go on as
before, and :func:`release` takes it off again. What it does not do is change the optimiser: its momentum buffers are
not projected onto the tangent space, and weight decay inside it only rescales the step (by 1 / (1 - lr decay), the
rest is undone). :class:`onsphere.SphereSGD` has neither.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from onsphere.groups import listed_params, parameter_names, settle_radius, slices_of, sphere_kind
from onsphere.optim.decay import is_corrected, uncorrect_decay
from onsphere.optim.hooks import StepHooks
from onsphere.optim.inplace import project_
from onsphere.optim.kept import Kept
from onsphere.optim.optimizer import SphereSGD
from onsphere.optim.policies import Brake, Floor
from onsphere.optim.spread import project_spread_
from onsphere.optim.steering import LABEL_KEY, Steering
from onsphere.optim.wrappers import torch_optimizers
from onsphere.sharding import check_current, is_spread

#: Where the radii are: in every param group, a list for each parameter; and, sphere by sphere, in the state_dict.
GROUP_KEY, STATE_KEY = "sphere_radii", "spheres"

AnyOptimizer = TypeVar("AnyOptimizer")


def keep_on_sphere(
    optimizer: AnyOptimizer,
    groups: Iterable[Mapping[str, Any]],
    *,
    angle: bool = False,
    tangent: bool = False,
    policy: Brake | Floor | None = None,
) -> AnyOptimizer:
    """Project the weights back onto their spheres after each step of an optimiser, or of several.

    With ``angle`` the optimiser says in which direction, and ``lr`` says how far: every sphere turns by exactly ``lr``
    radians a step along the great circle on which the update sets out. For the step itself the optimiser is given a
    learning rate of 1, so that rounding does not decide the direction of small updates, and ``lr`` stands in its param
    groups again when the step ends. Weight decay that only shrinks the weights (AdamW's, Muon's, SGD's) does nothing
    then. Tensors on no sphere are stepped with their group's ``lr`` as ever: give them a group of their own.

    The radii are recorded now, from the present norms or from the groups' ``radius``, in which case the weights are put
    there. They are in the optimiser's ``param_groups`` (``"sphere_radii"``: for each parameter a list with the radius
    of its sphere, or those of its rows, empty without a sphere), so that every way of saving an optimiser saves them,
    and in ``optimizer.state_dict()["spheres"]``. They come back with ``load_state_dict``; a checkpoint without them
    leaves the radii as they are, so keep first and load then. Copies of the optimiser (``copy.deepcopy``, ``pickle``)
    do not inherit hooks, as always in torch: keep the copy as well. A step inside a step (``super().step()``) is part
    of it.

    float16 and bfloat16 weights are scaled in float32 and rounded so that the norm comes out right. A sphere whose norm
    is not finite is left as the optimiser left it. Parameters may be DTensors (FSDP2, tensor parallelism): norms are
    those of the whole tensors, by one all-reduce a mesh and step, in which every rank takes part.

    Args:
        optimizer: Any ``torch.optim.Optimizer`` except :class:`SphereSGD`, which is on its spheres already; one that
            Accelerate or Lightning has wrapped; or a list of optimisers that together step the groups (Muon for
            matrices, AdamW for the rest). A sphere is projected after every step of each optimiser that has a tensor
            on it.
        groups: Sphere groups, as ``onsphere.sphere_groups(model, batch)`` returns them; groups without ``sphere`` are
            ignored. They need not be the optimiser's own groups, but their parameters must be among its parameters.
        angle: Whether ``lr`` is the angle of a step, in radians.
        tangent: Whether gradients are projected onto the tangent space of their sphere before the optimiser sees them,
            which keeps its buffers free of radial parts where the function is not scale-invariant.
        policy: What becomes of updates instead of the projection: :class:`onsphere.optim.Brake` or
            :class:`onsphere.optim.Floor`, under which norms are free.

    Returns:
        The optimiser, wrapper or list that was given.

    Raises:
        TypeError: ``optimizer`` is not a torch optimiser, or a parameter does not hold real floating-point numbers or
            is a ``Partial`` DTensor, or with ``angle`` is narrower than float32.
        ValueError: It is kept already, no group has a sphere, a parameter is unknown to the optimiser or on two
            spheres, the weights have no direction (zero or non-finite norm), another rank has other groups of
            sharded tensors, ``angle`` and ``policy`` are both given, or ``angle`` with an optimiser whose direction
            depends on its lr (LBFGS, Rprop, ASGD), a sphere that two optimisers step, or a param group in which some
            tensors are on spheres and others are not.
        RuntimeError: Another rank of the mesh of sharded tensors has made no such group in two minutes.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.AdamW([weight], lr=1e-2)
        >>> optimizer = keep_on_sphere(optimizer, [{"params": [weight], "sphere": "joint"}])
        >>> optimizer.state_dict()["spheres"], optimizer.param_groups[0]["sphere_radii"]
        ([5.0], [[5.0]])

    Source: the projection is that of Kodryan et al., NeurIPS 2022; see :mod:`onsphere.optim.policies` for the others.
    """
    optimizers = torch_optimizers(optimizer, "keep_on_sphere")
    for one in optimizers:
        if isinstance(one, SphereSGD):
            raise ValueError("SphereSGD keeps its weights on their spheres by itself; use it as it is")
        if one in _KEPT:
            raise ValueError("this optimizer is kept on spheres already; call onsphere.release(optimizer) first")
    chosen = [_as_list(group) for group in groups if sphere_kind(group) is not None]
    if not chosen:
        raise ValueError(
            "no group has a sphere, so there is nothing to keep; pass onsphere.sphere_groups(model, batch) or "
            '[{"params": weights, "sphere": "joint"}]'
        )
    _check_parameters(optimizers, chosen)
    spheres = [Kept(group["params"], settle_radius(group, group.get("radius")), slices_of(group)) for group in chosen]
    steering = Steering(optimizers, spheres, angle=angle, tangent=tangent, policy=policy)
    keeper = _Keeper(optimizers, spheres, steering)
    _KEPT.update({one: keeper for one in optimizers})
    return optimizer


def release(optimizer: object) -> None:
    """Undo :func:`keep_on_sphere` and :func:`correct_decay`: weights stay where they are and move freely from now on.

    Args:
        optimizer: An optimiser that is kept, or a list of them. Those that were kept together are released together.

    Raises:
        TypeError: Something is not an optimiser.
        ValueError: One of them is neither kept nor corrected.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> optimizer = onsphere.keep_on_sphere(optimizer, [{"params": [weight], "sphere": "joint"}])
        >>> onsphere.release(optimizer)
        >>> weight.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()
        >>> weight.detach()
        tensor([2., 4.])
    """
    optimizers = torch_optimizers(optimizer, "release")
    if not all(one in _KEPT or is_corrected(one) for one in optimizers):
        raise ValueError("this optimizer is not kept on spheres: keep_on_sphere was not called, or release already was")
    for one in optimizers:
        uncorrect_decay(one)
        if one in _KEPT:
            _KEPT[one].detach()


class _Keeper:
    """The hooks of optimisers that are kept together. It refers to the weights, not to the optimisers."""

    def __init__(self, optimizers: Sequence[Optimizer], spheres: list[Kept], steering: Steering) -> None:
        self.spheres, self._steering = spheres, steering
        self._place = {id(p): (kept, i) for kept in spheres for i, p in enumerate(kept.params)}
        self._optimizers = [weakref.ref(one) for one in optimizers]
        self._loading: list[tuple[Kept, float | list[Tensor]]] = []
        self._hooks = [
            StepHooks(one, self._begin if steering.label else None, self._end, opaque=True) for one in optimizers
        ]
        self._handles = [
            handle
            for one in optimizers
            for handle in (
                one.register_state_dict_pre_hook(steering.restore),  # an exception may have ended the last step
                one.register_state_dict_post_hook(self._save),
                one.register_load_state_dict_pre_hook(self._read),
                one.register_load_state_dict_post_hook(self._load),
            )
        ]
        self._record()

    def detach(self) -> None:
        for hooks in self._hooks:
            hooks.remove()
        for handle in self._handles:
            handle.remove()
        for optimizer in filter(None, (reference() for reference in self._optimizers)):
            _KEPT.pop(optimizer, None)
            for group in optimizer.param_groups:
                group.pop(GROUP_KEY, None)
                group.pop(LABEL_KEY, None)

    def _of(self, optimizer: Optimizer) -> list[Kept]:
        """The spheres that an optimiser has a tensor on."""
        if len(self._optimizers) == 1:
            return self.spheres
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [kept for kept in self.spheres if any(id(p) in mine for p in kept.params)]

    def _record(self) -> None:
        """Write the radii into the param groups. New lists: a state_dict may hold the old ones."""
        for optimizer in filter(None, (reference() for reference in self._optimizers)):
            for group in optimizer.param_groups:
                places = [self._place.get(id(p)) for p in group["params"]]
                group[GROUP_KEY] = [[] if place is None else place[0].radii(place[1]) for place in places]
                if self._steering.label:
                    group[LABEL_KEY] = self._steering.label

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        return self._steering.begin(optimizer, self._of(optimizer), args, kwargs)

    @torch.no_grad()
    def _end(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        mine = self._of(optimizer)
        for kept in mine:
            for i, p in enumerate(kept.params):
                if p.grad is None:
                    check_current(p, f"parameter {i} on a sphere")
        if not self._steering.end(optimizer, mine):
            self._project(mine)

    def _project(self, spheres: Sequence[Kept]) -> None:
        spread = []
        for kept in spheres:
            views, rows = kept.views()
            if any(map(is_spread, views)):
                spread.append((views, kept.radius, rows))
            else:
                project_(views, kept.radius, rows=rows)
        if spread:
            project_spread_(spread)

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return state_dict | {STATE_KEY: [kept.radius for kept in self._of(optimizer)]}

    def _read(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        # Checked before torch loads anything, taken over only once it has: a bad checkpoint changes nothing.
        spheres = self._of(optimizer)
        self._steering.check(state_dict.get("param_groups", []))
        if STATE_KEY in state_dict:
            radii = state_dict[STATE_KEY]
            if len(radii) != len(spheres):
                raise ValueError(
                    f"the loaded state has {len(radii)} spheres, this optimizer is kept on {len(spheres)}; keep "
                    "it with the groups that the saved one had"
                )
            self._loading = [(kept, kept.checked(radius)) for kept, radius in zip(spheres, radii, strict=True)]
        else:
            saved = _saved_radii(optimizer, state_dict.get("param_groups", []))
            self._loading = [(kept, kept.with_radii([saved.get(id(p)) for p in kept.params])) for kept in spheres]
        return {name: value for name, value in state_dict.items() if name != STATE_KEY}

    def _load(self, optimizer: Optimizer) -> None:
        for kept, radius in self._loading:
            kept.radius = radius
        self._loading = []
        self._record()


_KEPT: WeakKeyDictionary[Optimizer, _Keeper] = WeakKeyDictionary()


def _saved_radii(optimizer: Optimizer, saved: Sequence[Mapping[str, Any]]) -> dict[int, list[float]]:
    """What the param groups of a checkpoint say of each parameter, by its id; nothing of those they do not mention."""
    found: dict[int, list[float]] = {}
    if len(saved) != len(optimizer.param_groups):
        return found  # torch refuses such a checkpoint
    for i, (old, new) in enumerate(zip(optimizer.param_groups, saved, strict=True)):
        radii = new.get(GROUP_KEY)
        if radii is None:
            continue
        if not isinstance(radii, Sequence) or len(radii) != len(old["params"]):
            raise ValueError(
                f"group {i} of the loaded state has the radii {radii!r} for {len(old['params'])} parameters; keep the "
                "optimizer with the groups that the saved one had"
            )
        found |= {id(p): list(one) for p, one in zip(old["params"], radii, strict=True) if len(one)}
    return found


def _as_list(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the group whose ``params`` is a list."""
    params = group["params"]
    return dict(group) | {"params": listed_params(params)}


def _check_parameters(optimizers: Sequence[Optimizer], groups: list[dict[str, Any]]) -> None:
    known = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    seen: set[int] = set()
    for group in groups:
        names = parameter_names(group)
        unknown = [n for n, p in zip(names, group["params"], strict=True) if id(p) not in known]
        if unknown:
            raise ValueError(
                f"the optimizer does not have {', '.join(unknown)}; make it from the same model, or leave these out of "
                "the groups"
            )
        twice = [n for n, p in zip(names, group["params"], strict=True) if id(p) in seen]
        if twice or len({id(p) for p in group["params"]}) != len(names):
            raise ValueError(f"{', '.join(twice) or 'a parameter'} is given more than once; a tensor is on one sphere")
        seen.update(id(p) for p in group["params"])
