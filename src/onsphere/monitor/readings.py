"""From sums over weights to readings in ELR terms: pure numpy, nothing is measured here.

For weights w (norm ρ) before a step, the gradient g that the step used, and the update D that was applied
(w after minus w before, whatever the optimiser did, projections included), with D_t its part orthogonal to w:

    effective gradient   ρ|g|                     what the gradient would be on the unit sphere
    ELR                  |D_t| / (ρ²|g|)          for SGD exactly lr / ρ²; for any other optimiser that of its update
    effective step       |D_t| / ρ
    angular update       atan2(|D_t|, ρ + <w,D>/ρ)
    decay pull           -<w,D> / ρ²              relative shrinking of the norm by the radial part: lr·wd for SGD
    gradient push        |D_t|² / (2ρ²)           relative growth of the norm by the tangent part
    decay                log(1 - d)               d: the fraction that weight decay takes (onsphere.monitor.forces)
    alignment            log(|1 - pull| / (1 - d))  the rest of the radial part: the update along the weights
    push                 log(1 + (|D_t| / (ρ (1 - pull)))²) / 2    growth by the tangent part: -log cos of the angle
    Noether residual     |<w,g>| / (|w||g|)       zero where the loss is scale-invariant in w

Decay, alignment and push add up to the change of log ρ exactly, to rounding; at equilibrium they balance.
Several tensors are one vector w: their sums add.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 3; Wan et al., Spherical Motion Dynamics; Kosson et al.,
Rotational Equilibrium; the ELR of an applied update is our definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "SETTINGS", "SUMS", "Store", "measure"]

Array = NDArray[np.float64]
#: Steps ``[n]``, sums ``[n, T, 5]``, settings ``[n, P, 5]``.
Block = tuple[NDArray[np.int64], Array, Array]

#: What is summed over the weights of a tensor, in this order.
SUMS = ("<w,w>", "<w,g>", "<g,g>", "<w,D>", "<D,D>")
#: What is read from the optimiser's param group, in this order.
SETTINGS = ("lr", "weight_decay", "momentum", "beta1", "beta2")
#: What is derived from the sums.
COLUMNS = (
    *("norm", "gradient_norm", "effective_gradient", "elr", "effective_step", "angular_update"),
    *("decay_pull", "gradient_push", "decay", "alignment", "push", "noether_residual"),
)


def measure(sums: Array, shrunk: Array | float = 0.0) -> dict[str, Array]:
    """The readings that follow from sums over a tensor's numbers.

    Args:
        sums: ``[T, 5]`` in the order of :data:`SUMS`: one row a reading.
        shrunk: The fraction of the weights that decay takes in the step, ``[T]`` or one number.

    Returns:
        An array ``[T]`` for each of :data:`COLUMNS` (norms, dimensionless ratios, radians), and ``finite``: whether
        weights, gradient and update are. Where the gradient or the norm is zero, ratios to it are NaN; that alone
        makes no reading non-finite.

    Source: see the module.
    """
    sums = np.asarray(sums, dtype=np.float64)
    ww, wg, gg, wd, dd = np.moveaxis(sums, -1, 0)
    with np.errstate(all="ignore"):
        norm, gradient = np.sqrt(ww), np.sqrt(gg)
        tangent = np.sqrt(np.maximum(dd - wd * wd / ww, 0.0))
        along = np.abs(1 + wd / ww)
        decay = np.broadcast_to(np.log1p(-np.asarray(shrunk, dtype=np.float64)), ww.shape)
        read = {
            "norm": norm,
            "gradient_norm": gradient,
            "effective_gradient": norm * gradient,
            "elr": tangent / (ww * gradient),
            "effective_step": tangent / norm,
            "angular_update": np.arctan2(tangent, norm + wd / norm),
            "decay_pull": -wd / ww,
            "gradient_push": tangent * tangent / (2 * ww),
            "decay": decay,
            "alignment": np.log(along) - decay,
            "push": np.log1p((tangent / (norm * along)) ** 2) / 2,
            "noether_residual": np.abs(wg) / (norm * gradient),
        }
    for name in ("elr", "noether_residual"):
        read[name] = np.where(np.isfinite(read[name]), read[name], np.nan)
    return read | {"finite": np.isfinite(sums).all(axis=-1)}


class Store:
    """The readings of one optimiser on the host: the latest ``keep`` of them.

    Args:
        keep: How many readings are kept.
        tensors: Number of tensors T.
        groups: Number of param groups P.

    Attributes:
        dropped: How many were forgotten to make room.
    """

    def __init__(self, keep: int, tensors: int, groups: int) -> None:
        self.keep, self.dropped = keep, 0
        self._blocks: list[Block] = [
            (np.zeros(0, dtype=np.int64), np.zeros((0, tensors, len(SUMS))), np.zeros((0, groups, len(SETTINGS))))
        ]

    def append(self, block: Block) -> None:
        """Add readings: steps ``[n]``, sums ``[n, T, 5]``, settings ``[n, P, 5]``."""
        self._blocks.append(block)
        if sum(len(steps) for steps, _, _ in self._blocks) > self.keep:
            self._join()

    def arrays(self) -> Block:
        """Steps ``[n]``, sums ``[n, T, 5]`` and settings ``[n, P, 5]``; not to be changed."""
        self._join()
        return self._blocks[0]

    def replace(self, block: Block, dropped: int) -> None:
        """Forget everything and keep these instead."""
        self._blocks, self.dropped = [block], dropped

    def _join(self) -> None:
        excess = max(sum(len(steps) for steps, _, _ in self._blocks) - self.keep, 0)
        if len(self._blocks) > 1 or excess:
            steps, sums, settings = (np.concatenate(parts)[excess:].copy() for parts in zip(*self._blocks, strict=True))
            self._blocks = [(steps, sums, settings)]
            self.dropped += excess
