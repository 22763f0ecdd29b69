"""What a diagnosis is made from: the readings of one group of tensors and what is known of its optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupHistory"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupHistory:
    """Readings of a group, oldest first; every array is ``[T]``, one entry a reading.

    Attributes:
        name: Name of the group.
        parameters: Numbers in its tensors.
        invariant: Whether the group is said to be scale-invariant.
        optimizer: Name of the optimiser's class; AdamW also for Adam with decoupled weight decay.
        steps: Step number of each reading.
        norm: ρ before the step.
        gradient_norm: ‖g‖ of the gradient that the step used.
        effective_step: ‖tangent part of the update‖ / ρ.
        angular_update: Angle of the update, radians.
        noether_residual: |<w, g>| / (‖w‖ ‖g‖).
        lr: Learning rate of the step.
        weight_decay: Weight decay of the step.
        momentum: Heavy-ball momentum, 0 if none.
        betas: Adam's or Lion's, or None.
        tensors: Angular update of every selected tensor, by name.
        broken: Readings in which a weight, gradient or update is not finite; None: as far as norms show it.
        damaged: Names of the tensors in which something is not finite at the first such reading.
        frozen: Names of the tensors that had no gradient, or a gradient of zero, at every one of the latest readings.
        title: What findings call the group; "": its name.
        shrunk: The fraction of the weights that weight decay takes in each step; None: not known.
        vectors: Names of its tensors of at most one dimension: gains and biases, which turn as they like.
        ends: Names of embeddings and heads.
        held: Whether an optimiser keeps the group on its sphere.
        share: The share of a gradient that enters the momentum, 1 - dampening.
        eps: What Adam adds to the root of its second moment; 0: another rule, or not known.
        frozen_norms: Names of norm layers whose statistics are frozen while the model trains.
        rule: ``space`` if the update is lr times the gradient, ``sphere`` if it is that times ρ²; None: neither, or
            unknown.
        resolution: Distance of 1 to the next number in the coarsest dtype of its tensors; 0: not known.
    """

    name: str
    parameters: int
    invariant: bool
    optimizer: str
    steps: NDArray[np.int64]
    norm: Array
    gradient_norm: Array
    effective_step: Array
    angular_update: Array
    noether_residual: Array
    lr: Array
    weight_decay: Array
    momentum: float = 0.0
    betas: tuple[float, float] | None = None
    tensors: Mapping[str, Array] = field(default_factory=dict)
    broken: NDArray[np.bool_] | None = None
    damaged: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_norms: tuple[str, ...] = ()
    rule: str | None = None
    resolution: float = 0.0
    title: str = ""
    shrunk: Array | None = None
    vectors: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    held: bool = False
    share: float = 1.0
    eps: float = 0.0

    @property
    def said(self) -> str:
        """What findings call the group."""
        return self.title or self.name

    @property
    def non_finite(self) -> NDArray[np.bool_]:
        """Readings in which a weight, gradient or update is not finite."""
        if self.broken is not None:
            return self.broken
        return ~np.asarray(np.isfinite(self.norm) & np.isfinite(self.gradient_norm))

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Readings that can be judged: all is finite and the norm positive."""
        return np.asarray(
            np.isfinite(self.norm)
            & (self.norm > 0)
            & np.isfinite(self.gradient_norm)
            & np.isfinite(self.angular_update)
        )

    @property
    def effective_gradient(self) -> Array:
        """ρ ‖g‖, the gradient's norm at the unit sphere."""
        return np.asarray(self.norm * self.gradient_norm)

    @property
    def every(self) -> int:
        """Steps between two readings."""
        return int(np.median(np.diff(self.steps))) if len(self.steps) > 1 else 1

    @property
    def on_sphere(self) -> bool:
        """Whether the norm is held: it moves by less than one part in 10⁴ over all readings.

        On spheres that an optimiser keeps, by no more than the weights' dtype resolves.
        """
        norm = self.norm[self.finite]
        room = max(1e-4, self.resolution) if self.held else 1e-4
        return len(norm) > 1 and float(norm.max() / norm.min() - 1) < room

    @property
    def still(self) -> bool:
        """Whether no tensor of the group had a gradient at the latest readings."""
        return bool(self.frozen) and len(self.frozen) == len(self.tensors)
