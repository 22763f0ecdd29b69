"""Which regime a run is in, and why.

With Q4 the last quarter of training and Q3 the quarter before; losses and angles are those of the minibatches in
training mode, the training error is that of the evaluations in Q4 (all training examples, their batch statistics):

    divergence            mean angular update over Q4 > 1.2 rad: each step is nearly a jump to an orthogonal direction
    convergence           not that, and training error < 1 % (it interpolates) or Q4 loss / Q3 loss < 0.93 (it falls)
    chaotic_equilibrium   neither: the loss has levelled off above zero

The angular rule needs no loss scale and separates runs by a wide margin (``tests/science/test_regimes.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onsphere.lab.population import Readings
from onsphere.lab.result import Real

Regime = Literal["convergence", "chaotic_equilibrium", "divergence"]
REGIMES: tuple[Regime, ...] = ("convergence", "chaotic_equilibrium", "divergence")

ORTHOGONAL_STEP = 1.2  # radians
INTERPOLATES = 0.01  # fraction of training examples
STILL_FALLS = 0.93


@dataclass(frozen=True)
class Cell:
    """One run: one effective learning rate, one seed.

    Attributes:
        elr: Effective learning rate of the run.
        seed: Index of the seed.
        regime: The label of the run.
        reason: Which rule gave the label, with the numbers.
        loss: Mean minibatch loss over Q4, batch statistics of the minibatch.
        train_loss: Mean training loss of the evaluations in Q4: all training examples, batch statistics over them.
        loss_at_init: The same at step 0.
        train_error: Mean training error of the evaluations in Q4, like ``train_loss``.
        test_error: Error on the test set at the last step, batch statistics re-estimated over the training set.
        angular_update: Mean angle per step over Q4, radians.
        trend: Mean loss over Q4 divided by mean loss over Q3.
        gradient_norm: Mean effective norm of the stochastic gradient over Q4.
        finite: False if the run became non-finite; its other numbers are then from its finite part.
        round: 0 for the grid, then the refinement round that added it.
    """

    elr: float
    seed: int
    regime: Regime
    reason: str
    loss: Real
    train_loss: Real
    loss_at_init: Real
    train_error: Real
    test_error: Real
    angular_update: Real
    trend: Real
    gradient_norm: Real
    finite: bool
    round: int

    @property
    def interpolates(self) -> bool:
        """Whether it fits the training set (training error below 1 %)."""
        return self.finite and self.train_error < INTERPOLATES

    @property
    def relative_loss(self) -> float:
        """Final loss over that at initialisation; NaN if that is not positive."""
        return self.loss / self.loss_at_init if self.loss_at_init > 0 else float("nan")


def classify(*, angular_update: float, train_error: float, trend: float, finite: bool) -> tuple[Regime, str]:
    """Label a run by the rules above.

    Args:
        angular_update: Mean angle per step over the last quarter, radians.
        train_error: Mean training error of the evaluations in the last quarter, fraction.
        trend: Mean loss over the last quarter divided by that over the quarter before.
        finite: Whether the run stayed finite.

    Returns:
        The label and the reason in words.
    """
    if not finite:
        return "divergence", "became non-finite"
    if angular_update > ORTHOGONAL_STEP:
        return "divergence", f"angular update {angular_update:.2f} rad > {ORTHOGONAL_STEP}"
    if train_error < INTERPOLATES:
        return (
            "convergence",
            f"interpolates: training error {100 * train_error:.2g} % < {100 * INTERPOLATES:g} %",
        )
    if trend < STILL_FALLS:
        return "convergence", f"loss still falls: Q4/Q3 {trend:.2f} < {STILL_FALLS}"
    return (
        "chaotic_equilibrium",
        f"levelled off: Q4/Q3 {trend:.2f}, training error {100 * train_error:.2g} %, "
        f"angular update {angular_update:.2g} rad",
    )


def summarise(
    readings: Readings,
    evaluations: tuple[np.ndarray, np.ndarray],
    elrs: np.ndarray,
    seeds: np.ndarray,
    round_number: int,
) -> list[Cell]:
    """One :class:`Cell` for each copy of a shard.

    Args:
        readings: Readings of the whole run, T steps.
        evaluations: Steps [E], first 0; and train loss, train error, test loss, test error, [E, K, 4].
        elrs: Effective learning rates, [K].
        seeds: Indices of the seeds, [K].
        round_number: 0 for the grid.
    """
    steps = len(readings.values)
    last, before = slice(steps - steps // 4, None), slice(steps - 2 * (steps // 4), steps - steps // 4)
    loss = readings.loss
    evaluation_steps, values_there = evaluations
    late = values_there[evaluation_steps > steps - steps // 4]
    angle, gradient = readings.angular_update(elrs), readings.effective_gradient_norm
    finite = np.isfinite(readings.values).all(axis=(0, 2))
    cells = []
    for k in range(loss.shape[1]):
        values = {
            "angular_update": _mean(angle[last, k]),
            "train_error": _mean(late[:, k, 1]),
            "trend": _mean(loss[last, k]) / _mean(loss[before, k]),
            "finite": bool(finite[k]),
        }
        regime, reason = classify(**values)  # type: ignore[arg-type]
        cells.append(
            Cell(
                elr=float(elrs[k]),
                seed=int(seeds[k]),
                regime=regime,
                reason=reason,
                loss=_mean(loss[last, k]),
                train_loss=_mean(late[:, k, 0]),
                loss_at_init=float(values_there[0, k, 0]),
                test_error=float(values_there[-1, k, 3]),
                gradient_norm=_mean(gradient[last, k]),
                round=round_number,
                **values,  # type: ignore[arg-type]
            )
        )
    return cells


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")
