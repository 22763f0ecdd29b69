"""The loss as a function of parameters, with those of the sphere found where none are named."""

from __future__ import annotations

from typing import Any

from torch import nn

from onsphere.functional import loss
from onsphere.functional.batches import Forward
from onsphere.symmetry.joint import joint_sphere

__all__ = ["Functional"]


class Functional(loss.Functional):
    """A model's loss as a function of some of its parameters.

    As :class:`onsphere.functional.loss.Functional`; with ``sphere`` and no ``parameters`` these are all that are
    scale-invariant, found by :func:`onsphere.sphere_groups` from the first batch.
    """

    def _sphere_of(self, model: nn.Module, inputs: Any, forward: Forward | None) -> tuple[str, ...]:
        return joint_sphere(model, inputs, forward=forward, examples=self.examples[0])
