"""A sphere group that an optimiser is kept on: its tensors, and where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onsphere.radii import as_radius
from onsphere.sharding import Slices, SomeRows

__all__ = ["Kept"]


@dataclass
class Kept:
    """The tensors of one sphere group and where they belong.

    Attributes:
        params: The tensors that share the sphere, or whose rows have one each.
        radius: Radius of the joint sphere, or of every row a float for all or a tensor ``[R]`` for each tensor.
        slices: Which slices have spheres of their own.
    """

    params: list[Tensor]
    radius: float | list[Tensor]
    slices: Slices

    def views(self) -> tuple[list[Tensor], SomeRows]:
        """The tensors, turned so that slices are rows, and how these share norms."""
        views = self.slices.views(self.params)
        return views, self.slices.pools(views)

    def checked(self, radius: object) -> float | list[Tensor]:
        """A radius that was given, in the form of :attr:`radius` (ValueError where it does not fit)."""
        views, rows = self.views()
        return as_radius(radius, views, rows=rows)

    def radii(self, i: int) -> list[float]:
        """The radius, or the radii, of one tensor as plain numbers."""
        return [self.radius] if isinstance(self.radius, float) else self.radius[i].flatten().tolist()

    def with_radii(self, found: Sequence[Sequence[float] | None]) -> float | list[Tensor]:
        """The radius of a checkpoint, checked: one list of numbers for each tensor; None leaves it as it is."""
        if not self.slices.rows:
            given = {tuple(one) for one in found if one is not None}
            if not given:
                return self.radius
            radius = given.pop()
            if given or len(radius) != 1:
                raise ValueError(
                    f"the loaded state has the radii {list(found)} for the tensors of one sphere; keep "
                    "the optimizer with the groups that the saved one had"
                )
            return self.checked(radius[0])
        lists = [self.radii(i) if one is None else list(one) for i, one in enumerate(found)]
        if isinstance(self.radius, float) and len({tuple(one) for one in lists}) == 1 and len(lists[0]) == 1:
            return self.checked(lists[0][0])
        sizes = self.slices.sizes(self.params)
        spread = [one * size if len(one) == 1 else one for one, size in zip(lists, sizes, strict=True)]
        return self.checked([torch.tensor(one, dtype=torch.float64) for one in spread])
