"""Any torch optimiser, kept on spheres: after each of its steps the weights are scaled back to their radius.

    x <- optimiser's step(x);   x <- rho x / ||x||

It works through the hooks that every ``torch.optim.Optimizer`` has, so closures, schedulers, gradient scalers and
checkpoints go on as before, and :func:`release` takes it off again. What it does not do is change the optimiser: its
momentum buffers are not projected onto the tangent space, and weight decay inside it only rescales the step
(by 1 / (1 - lr decay), the rest is undone). :class:`onsphere.SphereSGD` has neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from onsphere.optim._foreach import project_
from onsphere.optim._groups import parameter_names, settle_radius, sphere_kind
from onsphere.optim._sphere_sgd import SphereSGD
from onsphere.spheres import as_radius

# Where the radii are in the optimiser's state_dict.
STATE_KEY = "spheres"

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


def keep_on_sphere(optimizer: AnyOptimizer, groups: Iterable[Mapping[str, Any]]) -> AnyOptimizer:
    """Project the weights back onto their spheres after each step of an optimiser.

    The radii are recorded now, from the present norms or from the groups' ``radius``, in which case the weights are put
    there. They are in ``optimizer.state_dict()["spheres"]`` and come back with ``load_state_dict``; a checkpoint
    without them leaves the radii as they are. Copies of the optimiser (``copy.deepcopy``, ``pickle``) do not
    inherit hooks, as always in torch: keep the copy as well.

    Args:
        optimizer: Any ``torch.optim.Optimizer`` except :class:`SphereSGD`, which is on its spheres already.
        groups: Sphere groups, as ``onsphere.sphere_groups(model, batch)`` returns them; groups without ``sphere`` are
            ignored. They need not be the optimiser's own groups, but their parameters must be among its parameters.

    Returns:
        The same optimiser.

    Raises:
        TypeError: ``optimizer`` is not a torch optimiser, or a parameter does not hold real floating-point numbers.
        ValueError: It is kept already, no group has a sphere, a parameter is unknown to the optimiser or on two
            spheres, or the weights have no direction (zero or non-finite norm).

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = torch.optim.AdamW([weight], lr=1e-2)
        >>> optimizer = keep_on_sphere(optimizer, [{"params": [weight], "sphere": "joint"}])
        >>> optimizer.state_dict()["spheres"]
        [5.0]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"keep_on_sphere was given a {type(optimizer).__name__}; give it a torch.optim.Optimizer")
    if isinstance(optimizer, SphereSGD):
        raise ValueError("SphereSGD keeps its weights on their spheres by itself; use it as it is")
    if optimizer in _KEPT:
        raise ValueError("this optimizer is kept on spheres already; call onsphere.release(optimizer) first")
    chosen = [_as_list(group) for group in groups if sphere_kind(group) is not None]
    if not chosen:
        raise ValueError(
            "no group has a sphere, so there is nothing to keep; pass onsphere.sphere_groups(model, batch) or "
            '[{"params": weights, "sphere": "joint"}]'
        )
    _check_parameters(optimizer, chosen)
    spheres = [
        _Kept(group["params"], settle_radius(group, group.get("radius")), group["sphere"] == "rows") for group in chosen
    ]
    _KEPT[optimizer] = _Keeper(optimizer, spheres)
    return optimizer


def release(optimizer: Optimizer) -> None:
    """Undo :func:`keep_on_sphere`: the weights stay where they are and move freely from now on.

    Args:
        optimizer: An optimiser that is kept.

    Raises:
        ValueError: It is not kept.
    """
    keeper = _KEPT.pop(optimizer, None) if isinstance(optimizer, Optimizer) else None
    if keeper is None:
        raise ValueError("this optimizer is not kept on spheres: keep_on_sphere was not called, or release already was")
    keeper.detach()


class _Kept(NamedTuple):
    """The tensors of one sphere group and where they belong."""

    params: list[Tensor]
    radius: float | list[Tensor]
    rows: bool


class _Keeper:
    """The hooks of one kept optimiser. It refers to the weights, not to the optimiser."""

    def __init__(self, optimizer: Optimizer, spheres: list[_Kept]) -> None:
        self.spheres = spheres
        self._loading: list[_Kept] | None = None
        self._handles: list[RemovableHandle] = [
            optimizer.register_step_post_hook(self._project),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._read),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _project(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        for params, radius, rows in self.spheres:
            project_(params, radius, rows=rows)

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return state_dict | {STATE_KEY: [kept.radius for kept in self.spheres]}

    def _read(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        # Checked before torch loads anything, taken over only once it has: a bad checkpoint changes nothing.
        self._loading = None
        if STATE_KEY in state_dict:
            radii = state_dict[STATE_KEY]
            if len(radii) != len(self.spheres):
                raise ValueError(
                    f"the loaded state has {len(radii)} spheres, this optimizer is kept on {len(self.spheres)}; keep "
                    "it with the groups that the saved one had"
                )
            self._loading = [
                kept._replace(radius=as_radius(radius, kept.params, rows=kept.rows))
                for kept, radius in zip(self.spheres, radii, strict=True)
            ]
        return {name: value for name, value in state_dict.items() if name != STATE_KEY}

    def _load(self, optimizer: Optimizer) -> None:
        self.spheres = self._loading or self.spheres
        self._loading = None


_KEPT: WeakKeyDictionary[Optimizer, _Keeper] = WeakKeyDictionary()


def _as_list(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the group whose ``params`` is a list."""
    params = group["params"]
    return dict(group) | {"params": [params] if isinstance(params, Tensor) else list(params)}


def _check_parameters(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
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
