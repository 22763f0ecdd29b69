"""A sphere group that an optimiser is kept on: its tensors, and where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onsphere.radii import as_radius

__all__ = ["Kept"]


@dataclass
class Kept:
    """The tensors of one sphere group and where they belong.

    Attributes:
        params: The tensors that share the sphere, or whose rows have one each.
        radius: Radius of the joint sphere, or of every row a float for all or a tensor ``[R]`` for each tensor.
        rows: Whether every slice along dimension 0 has a sphere of its own.
    """

    params: list[Tensor]
    radius: float | list[Tensor]
    rows: bool

    def radii(self, i: int) -> list[float]:
        """The radius, or the radii, of one tensor as plain numbers."""
        return [self.radius] if isinstance(self.radius, float) else self.radius[i].flatten().tolist()

    def with_radii(self, found: Sequence[Sequence[float] | None]) -> float | list[Tensor]:
        """The radius of a checkpoint, checked: one list of numbers for each tensor; None leaves it as it is."""
        if not self.rows:
            given = {tuple(one) for one in found if one is not None}
            if not given:
                return self.radius
            radius = given.pop()
            if given or len(radius) != 1:
                raise ValueError(
                    f"the loaded state has the radii {list(found)} for the tensors of one sphere; keep "
                    "the optimizer with the groups that the saved one had"
                )
            return as_radius(radius[0], self.params, rows=False)
        lists = [self.radii(i) if one is None else list(one) for i, one in enumerate(found)]
        if isinstance(self.radius, float) and len({tuple(one) for one in lists}) == 1 and len(lists[0]) == 1:
            return as_radius(lists[0][0], self.params, rows=True)
        sizes = [p.shape[0] if p.dim() > 1 else 1 for p in self.params]
        spread = [one * size if len(one) == 1 else one for one, size in zip(lists, sizes, strict=True)]
        return as_radius([torch.tensor(one, dtype=torch.float64) for one in spread], self.params, rows=True)
