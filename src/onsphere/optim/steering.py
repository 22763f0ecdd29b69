"""What :func:`onsphere.keep_on_sphere` does around a step besides projecting: turns, policies, tangent gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from onsphere.groups import parameter_names
from onsphere.optim.kept import Kept
from onsphere.optim.policies import Brake, Floor
from onsphere.optim.steer import Steered, brake_, floor_, project_gradients_, steered, turn_
from onsphere.rounding import FULL
from onsphere.sharding import part

__all__ = ["LABEL_KEY", "Steering"]

#: Where param groups say what is done besides projecting.
LABEL_KEY = "sphere_policy"
#: Optimisers of torch whose direction depends on their learning rate.
_NO_DIRECTION = (LBFGS, torch.optim.Rprop, torch.optim.ASGD)


class Steering:
    """What is done around a step of optimisers that are kept on spheres.

    Args:
        optimizers: The optimisers that are kept together.
        spheres: The sphere groups that they are kept on.
        angle: Whether every sphere turns by lr radians.
        tangent: Whether gradients are projected before the optimiser sees them.
        policy: What becomes of updates instead of the projection.

    Raises:
        TypeError: ``policy`` is none, or ``angle`` with weights that are narrower than float32.
        ValueError: What was asked for does not go together, or not with these optimisers.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        spheres: Sequence[Kept],
        *,
        angle: bool,
        tangent: bool,
        policy: Brake | Floor | None,
    ) -> None:
        if policy is not None and not isinstance(policy, (Brake, Floor)):
            raise TypeError(f"policy is {policy!r}; it must be onsphere.optim.Brake, onsphere.optim.Floor or None")
        if angle and policy is not None:
            raise ValueError(f"angle=True fixes the whole step and leaves {policy} nothing to do; give one of them")
        if angle:
            _check_angle(optimizers, spheres)
        self.angle, self.tangent, self.policy = angle, tangent, policy
        named = [name for name, on in (("angle", angle), ("tangent", tangent)) if on]
        self.label = " ".join([*named, *([] if policy is None else [repr(policy)])])
        self._before: WeakKeyDictionary[Optimizer, list[list[Tensor]]] = WeakKeyDictionary()
        self._rates: WeakKeyDictionary[Optimizer, list[float | Tensor]] = WeakKeyDictionary()
        self._on_spheres = {id(p) for kept in spheres for p in kept.params}

    def begin(self, optimizer: Optimizer, spheres: Sequence[Kept], args: Any, kwargs: Any) -> Any:
        """Before a step; what it returns is what torch's pre-hook returns, the step's arguments if they change."""
        self.restore(optimizer)  # an exception may have ended the last step
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        wrapped = None
        if self.tangent and callable(closure):
            wrapped = _projecting(closure, spheres)
        elif self.tangent:
            project_gradients_([(kept.params, kept.slices) for kept in spheres])
        if self.angle or self.policy is not None:
            self._remember(optimizer, spheres)
        if self.angle:
            self._take_rates(optimizer)
        if wrapped is None:
            return None
        return ((args[0], wrapped, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": wrapped})

    def end(self, optimizer: Optimizer, spheres: Sequence[Kept]) -> bool:
        """After a step; whether that was all, and nothing is to be projected."""
        self.restore(optimizer)
        before = self._before.get(optimizer)
        if before is None or not (self.angle or self.policy is not None):
            return False
        moved: list[Steered] = []
        for kept, held in zip(spheres, before, strict=True):
            lr = self._rate(optimizer, kept) if self.angle else 0.0
            views, rows = kept.views()
            moved += steered(views, kept.slices.views(held), kept.radius, rows=rows, lr=lr)
        if isinstance(self.policy, Brake):
            brake_(moved, self.policy)
        elif isinstance(self.policy, Floor):
            floor_(moved, self.policy)
        else:
            turn_(moved)
        return True

    def restore(self, optimizer: Optimizer) -> None:
        """Put the learning rates back that the step was not given; one that somebody has set since stays."""
        rates = self._rates.pop(optimizer, None)
        for group, lr in zip(self._turned(optimizer), rates or [], strict=False):
            if isinstance(lr, Tensor):
                group["lr"].copy_(lr)
            elif group["lr"] == 1.0:
                group["lr"] = lr

    def check(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a checkpoint of an optimiser that was kept in another way (ValueError).

        Args:
            saved: The param groups of the checkpoint; those that were kept on no sphere say nothing.
        """
        for group in saved:
            if "sphere_radii" in group and group.get(LABEL_KEY, "") != self.label:
                was, now = (
                    f"with {label}" if label else "by projection" for label in (group.get(LABEL_KEY), self.label)
                )
                raise ValueError(
                    f"the loaded optimizer was kept {was} and this one is kept {now}, where lr means another thing; "
                    "keep it in the same way, or make a new optimizer"
                )

    def _turned(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """The param groups that are on spheres."""
        groups = optimizer.param_groups
        return [g for g in groups if any(id(p) in self._on_spheres for p in g["params"])]

    def _take_rates(self, optimizer: Optimizer) -> None:
        groups = self._turned(optimizer)
        rates = [lr.detach().clone() if isinstance(lr, Tensor) else lr for lr in (g["lr"] for g in groups)]
        self._rates[optimizer] = rates
        for group in groups:
            if isinstance(group["lr"], Tensor):
                with torch.no_grad():
                    group["lr"].fill_(1.0)
            else:
                group["lr"] = 1.0

    def _rate(self, optimizer: Optimizer, kept: Kept) -> float | Tensor:
        """The one learning rate of a sphere."""
        ids = {id(p) for p in kept.params}
        rates = [g["lr"] for g in optimizer.param_groups if any(id(p) in ids for p in g["params"])]
        if not all(lr is rates[0] or lr == rates[0] for lr in rates):
            raise ValueError(
                f"the tensors of one sphere have the learning rates {sorted(map(float, rates))}; a sphere turns by "
                "one angle"
            )
        return rates[0] if isinstance(rates[0], Tensor) else float(rates[0])

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, spheres: Sequence[Kept]) -> None:
        """Keep what the weights are before the step, in the memory of the last step where that fits."""
        held = self._before.setdefault(optimizer, [])
        held += [[] for _ in range(len(spheres) - len(held))]
        for kept, copies in zip(spheres, held, strict=True):
            parts = [part(p) for p in kept.params]
            if len(copies) == len(parts) and all(_fits(c, p) for c, p in zip(copies, parts, strict=True)):
                torch._foreach_copy_(copies, parts)
            else:
                copies[:] = [p.detach().clone() for p in parts]


def _fits(copy: Tensor, tensor: Tensor) -> bool:
    return copy.shape == tensor.shape and copy.dtype == tensor.dtype and copy.device == tensor.device


def _projecting(closure: Callable[..., Any], spheres: Sequence[Kept]) -> Callable[..., Any]:
    """A closure after whose every evaluation gradients are tangent."""

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        result = closure(*args, **kwargs)
        project_gradients_([(kept.params, kept.slices) for kept in spheres])
        return result

    return evaluate


def _check_angle(optimizers: Sequence[Optimizer], spheres: Sequence[Kept]) -> None:
    for one in optimizers:
        if isinstance(one, _NO_DIRECTION):
            raise ValueError(
                f"the direction of {type(one).__name__}'s update depends on its lr, which angle=True takes as the "
                "angle; use another optimizer, or no angle"
            )
    for kept in spheres:
        narrow = next((p for p in kept.params if p.dtype not in FULL), None)
        if narrow is not None:
            raise TypeError(
                f"angle=True needs float32 or float64 weights, and one of them is {str(narrow.dtype)[6:]}, which "
                "rounds away small angles; keep the weights in float32 and compute under autocast"
            )
    placed = {id(p): k for k, kept in enumerate(spheres) for p in kept.params}
    steppers: dict[int, set[int]] = {}
    for n, one in enumerate(optimizers):
        for group in one.param_groups:
            on = [id(p) in placed for p in group["params"]]
            if any(on) and not all(on):
                free = next(name for name, yes in zip(parameter_names(group), on, strict=True) if not yes)
                raise ValueError(
                    f"{free} is on no sphere and in a param group with tensors that are: with angle=True lr is their "
                    "angle; put it into a param group of its own"
                )
            for p in group["params"]:
                if id(p) in placed:
                    steppers.setdefault(placed[id(p)], set()).add(n)
    if any(len(found) > 1 for found in steppers.values()):
        raise ValueError(
            "two optimizers step one sphere, and with angle=True each would turn it; give each its own spheres"
        )
