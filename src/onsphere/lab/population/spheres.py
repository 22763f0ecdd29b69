"""Which spheres the trained tensors of a copy are on, and one step on all of them at fixed effective learning rates.

    joint    one sphere of all of them                      radius² = ‖w‖²,   lr = ELR radius²
    groups   a sphere for every scale-invariant group i     radius_i²,        lr_i = ELR radius_i²
    rows     a sphere for every slice along dimension 0     all of one norm,  lr = ELR radius², radius² their sum
    free     tensors on no sphere, with an lr of their own

    v <- momentum v + g;   w <- w - lr v;   then every sphere is rescaled to its radius

so that momentum is that of :class:`torch.optim.SGD`: its buffer is not projected. Source: Kodryan et al., NeurIPS 2022,
and its published code (the joint sphere, every filter at one norm, an lr of their own for parameters that are not
scale-invariant).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from onsphere.optim import sgd
from onsphere.optim.updates import projected
from onsphere.products import row_inner, squared_norm

ROUNDING = 1e-5  # relative distance of a norm from the sphere's radius that rounding explains

Kind = Literal["joint", "groups", "rows"]


@dataclass(frozen=True)
class Spheres:
    """The spheres of the trained tensors of a network.

    Attributes:
        kind: ``joint``, ``groups`` or ``rows``, as above.
        groups: Names of the tensors of each sphere; used by ``groups`` alone.
        free: Names of the trained tensors that are on no sphere: the last ones among the trained.
        free_lr: Their learning rate, constant along the run.
    """

    kind: Kind = "joint"
    groups: tuple[tuple[str, ...], ...] = ()
    free: tuple[str, ...] = ()
    free_lr: float = 0.0

    def invariant(self, trained: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the trained tensors that are on spheres."""
        return trained[: len(trained) - len(self.free)]

    def parts(self, invariant: tuple[str, ...]) -> list[list[int]]:
        """The tensors that are rescaled together, as indices; with ``rows`` all of them, row by row."""
        if self.kind != "groups":
            return [list(range(len(invariant)))]
        return [[invariant.index(name) for name in group] for group in self.groups]

    def placed(
        self, params: Sequence[Tensor], trained: tuple[str, ...], radius: float | None
    ) -> tuple[list[Tensor], Tensor]:
        """Copies put on their spheres.

        Args:
            params: Trained tensors, each [K, ...].
            trained: Name of each of these tensors, in order.
            radius: Norm on the joint sphere, of every group, or of all rows together; None keeps each copy's own.

        Returns:
            The tensors, and the radii: float64 [K], with ``groups`` [K, groups].
        """
        parts = self.parts(self.invariant(trained))
        new = list(params)
        norms = torch.stack([vmap(squared_norm)([params[i] for i in part]).sqrt() for part in parts], dim=1)
        wanted = norms if radius is None else torch.full_like(norms, radius)
        for number, part in enumerate(parts):
            for i in part:
                tensor, one = params[i], wanted[:, number]
                if self.kind == "rows":
                    one = one / math.sqrt(sum(_rows(params[j][0]) for j in part))
                    norm = vmap(_row_norms)(tensor)
                else:
                    norm = _over(norms[:, number], tensor)
                new[i] = tensor * _unless_there(_over(one, tensor), norm).to(tensor.dtype)
        return new, wanted if self.kind == "groups" else wanted[:, 0]


def spheres_step(
    spheres: Spheres,
    trained: tuple[str, ...],
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    *,
    lr: Tensor,
    radius: Tensor,
    momentum: Tensor,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """One step of one copy.

    Args:
        spheres: On which spheres the tensors are.
        trained: Names of the tensors.
        params: Values of these tensors before the step.
        grads: One gradient for each.
        buffers: One momentum buffer for each, starting at zero, or an empty list to do without.
        lr: Effective learning rate, 0-d.
        radius: Radius, 0-d, or of every group [groups].
        momentum: Factor of the buffers, 0-d.

    Returns:
        New tensors, new buffers, a number that is finite if and only if the step is, and the angle, in radians, by
        which the step turned all tensors on spheres together.
    """
    parts = spheres.parts(spheres.invariant(trained))
    free = list(range(len(params) - len(spheres.free), len(params)))
    new, new_buffers, sizes = list(params), list(buffers), []
    for number, part in enumerate([*parts, *([free] if free else [])]):
        on = number < len(parts)
        rho = radius[number] if on and spheres.kind == "groups" else radius
        rate = lr * rho * rho if on else spheres.free_lr
        own = [buffers[i] for i in part] if buffers else []
        moved, own = sgd([params[i] for i in part], [grads[i] for i in part], own, lr=rate, momentum=momentum)
        if on and spheres.kind == "rows":
            moved, size = projected(moved, rho / math.sqrt(sum(map(_rows, moved))), rows=True)
        elif on:
            moved, size = projected(moved, rho)
        else:
            size = squared_norm(moved)
        sizes.append(size)
        for i, value in zip(part, moved, strict=True):
            new[i] = value
        for i, value in zip(part, own, strict=False):
            new_buffers[i] = value
    count = len(params) - len(free)
    return new, new_buffers, torch.stack(sizes).sum(), _angle(params[:count], new[:count])


def _angle(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """The angle between two points of one norm, by Kahan's formula; 0-d float64."""
    pairs = [(x.double(), y.double()) for x, y in zip(before, after, strict=True)]
    far, near = squared_norm([x - y for x, y in pairs]), squared_norm([x + y for x, y in pairs])
    return 2 * torch.atan2(far.sqrt(), near.sqrt())


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() > 1 else 1


def _row_norms(tensor: Tensor) -> Tensor:
    """Norms of the rows, [R, 1, ...], or of a tensor that is one row, 0-d; float64."""
    return row_inner(tensor, tensor).sqrt()


def _over(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *([1] * (like.dim() - 1)))


def _unless_there(wanted: Tensor, norm: Tensor) -> Tensor:
    """Factor from a norm to the one wanted; 1 where it is that but for rounding: continued runs stay the same bits."""
    return torch.where((norm / wanted - 1).abs() < ROUNDING, 1.0, wanted / norm)
