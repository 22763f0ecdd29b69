"""Which regime a run is in and why; where convergence ends and divergence begins, and where to look next.

With Q4 the last quarter of training and Q3 the quarter before; losses and angles are those of the minibatches in
training mode, the training error is that of the evaluations in Q4 (all training examples, their batch statistics):

    divergence            mean angular update over Q4 > 1.2 rad: each step is nearly a jump to an orthogonal direction;
                          with momentum, whose steps stay near one another, training error > 0.9 of that of guessing
    convergence           not that, and training error < 1 % (it interpolates) or Q4 loss / Q3 loss < 0.93 (it falls)
    chaotic_equilibrium   neither: the loss has levelled off above zero

The angular rule needs no loss scale and separates runs by a wide margin (the claims ``regimes.*``, docs/claims.md).

A run is *below* the convergence boundary if it converges, and below the divergence boundary if it does not diverge.
Near the first boundary runs are metastable and seeds disagree, so a bracket never claims more than was seen:

    low    the largest effective learning rate at and under which every run is below the boundary
    high   the smallest effective learning rate at and over which every run is above it

The convergence boundary counts as resolved only if some run interpolates: a network that cannot fit its data is merely
slow at small effective learning rates, and its boundary would move with the number of steps. For the same reason a run
whose loss still falls counts as below only where a run of its seed at a larger effective learning rate interpolates:
then it is merely slow. Otherwise, where a run of its seed at a smaller one has levelled off at no higher loss, its fall
is a swing about a level, and it is labelled by that (:func:`settled`). What is left may yet level off; it is
*unsettled*, counts for neither side, and stays inside the bracket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

from onsphere.lab.population import Readings
from onsphere.lab.result import Real

Regime = Literal["convergence", "chaotic_equilibrium", "divergence"]
REGIMES: tuple[Regime, ...] = ("convergence", "chaotic_equilibrium", "divergence")

BoundaryName = Literal["convergence", "divergence"]
NAMES: tuple[BoundaryName, ...] = ("convergence", "divergence")
VERBS: dict[BoundaryName, str] = {"convergence": "convergence ends", "divergence": "divergence begins"}

ORTHOGONAL_STEP = 1.2  # radians
INTERPOLATES = 0.01  # fraction of training examples
GUESSING = 0.9  # of the error of guessing
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
    def still_falls(self) -> bool:
        """Whether it is labelled convergence by its falling loss alone."""
        return self.regime == "convergence" and not self.interpolates

    @property
    def relative_loss(self) -> float:
        """Final loss over that at initialisation; NaN if that is not positive."""
        return self.loss / self.loss_at_init if self.loss_at_init > 0 else float("nan")


C = TypeVar("C", bound=Cell)


@dataclass(frozen=True)
class MapCell(Cell):
    """A run of a map, with what is not measured in every one; None where it was not.

    Attributes:
        clean_error: Mean error of the evaluations in Q4 on the training examples whose labels are right.
        corrupted_error: The same on those whose labels are wrong, by the wrong labels: 1 - their memorised share.
        clean_loss: Mean loss of these evaluations on the former.
        corrupted_loss: The same on the latter.
        converged_step: The first number of steps after which the mean minibatch loss over the last epoch's worth of
            steps is below ``--converged-loss``; None: after no step.
        running_test_error: Test error at the last step by the running batch statistics of training.
    """

    clean_error: float | None = None
    corrupted_error: float | None = None
    clean_loss: float | None = None
    corrupted_loss: float | None = None
    converged_step: int | None = None
    running_test_error: float | None = None


def classify(
    *, angular_update: float | None, train_error: float, trend: float, finite: bool, classes: int = 0
) -> tuple[Regime, str]:
    """Label a run by the rules above.

    Args:
        angular_update: Mean angle per step over the last quarter, radians; None with momentum.
        train_error: Mean training error of the evaluations in the last quarter, fraction.
        trend: Mean loss over the last quarter divided by that over the quarter before.
        finite: Whether the run stayed finite.
        classes: Number of classes, where the angular update is None.

    Returns:
        The label and the reason in words.
    """
    if not finite:
        return "divergence", "became non-finite"
    guessing = GUESSING * (1 - 1 / classes) if angular_update is None else math.inf
    if train_error > guessing:
        return "divergence", f"guesses: training error {100 * train_error:.2g} % > {100 * guessing:.2g} %"
    if angular_update is not None and angular_update > ORTHOGONAL_STEP:
        return "divergence", f"angular update {angular_update:.2f} rad > {ORTHOGONAL_STEP}"
    if train_error < INTERPOLATES:
        return "convergence", f"interpolates: training error {100 * train_error:.2g} % < {100 * INTERPOLATES:g} %"
    if trend < STILL_FALLS:
        return "convergence", f"loss still falls: Q4/Q3 {trend:.2f} < {STILL_FALLS}"
    return (
        "chaotic_equilibrium",
        f"levelled off: Q4/Q3 {trend:.2f}, training error {100 * train_error:.2g} %"
        + (f", angular update {angular_update:.2g} rad" if angular_update is not None else ""),
    )


def summarise(
    readings: Readings,
    evaluations: tuple[np.ndarray, np.ndarray],
    elrs: np.ndarray,
    seeds: np.ndarray,
    round_number: int,
    classes: int = 0,
) -> list[Cell]:
    """One :class:`Cell` for each copy of a shard.

    Args:
        readings: Readings of the whole run, T steps.
        evaluations: Steps [E], first 0; and train loss, train error, test loss, test error, [E, K, 4].
        elrs: Effective learning rates, [K].
        seeds: Indices of the seeds, [K].
        round_number: 0 for the grid.
        classes: Number of classes of runs with momentum, which are labelled by their error; 0 of others.
    """
    steps = len(readings.values)
    last, before = slice(steps - steps // 4, None), slice(steps - 2 * (steps // 4), steps - steps // 4)
    loss, gradient, angle = readings.loss, readings.effective_gradient_norm, readings.angular_update(elrs)
    evaluation_steps, values_there = evaluations
    late = values_there[evaluation_steps > steps - steps // 4]
    finite = np.isfinite(readings.values).all(axis=(0, 2))
    cells = []
    for k in range(loss.shape[1]):
        level, error, update = finite_mean(loss[last, k]), finite_mean(late[:, k, 1]), finite_mean(angle[last, k])
        trend, alive = level / finite_mean(loss[before, k]), bool(finite[k])
        told = None if classes else update
        regime, reason = classify(angular_update=told, train_error=error, trend=trend, finite=alive, classes=classes)
        cells.append(
            Cell(
                elr=float(elrs[k]),
                seed=int(seeds[k]),
                regime=regime,
                reason=reason,
                loss=level,
                train_loss=finite_mean(late[:, k, 0]),
                loss_at_init=float(values_there[0, k, 0]),
                train_error=error,
                test_error=float(values_there[-1, k, 3]),
                angular_update=update,
                trend=trend,
                gradient_norm=finite_mean(gradient[last, k]),
                finite=alive,
                round=round_number,
            )
        )
    return cells


def first_below(losses: np.ndarray, level: float, window: int) -> int | None:
    """The first number of steps after which the mean of the last ``window`` losses [T] is below a level, if any."""
    width = min(window, len(losses))
    means = np.convolve(losses.astype(np.float64), np.full(width, 1 / width), mode="valid")
    below = np.flatnonzero(means < level)
    return int(below[0]) + width if len(below) else None


def finite_mean(values: np.ndarray) -> float:
    """The mean of what is finite; NaN if nothing is."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else math.nan


BELOW: dict[BoundaryName, Callable[[Cell], bool]] = {
    "convergence": lambda cell: cell.regime == "convergence",
    "divergence": lambda cell: cell.regime != "divergence",
}


@dataclass(frozen=True)
class Bracket:
    """A boundary lies between ``low`` and ``high``; None where no run was on that side.

    Attributes:
        seed: Index of the seed.
        low: The largest effective learning rate at and under which every run of this seed is below the boundary.
        high: The smallest at and over which every run of this seed is above it.
    """

    seed: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Boundary:
    """One boundary over all seeds.

    Attributes:
        low: The largest effective learning rate at and under which every run of every seed is below the boundary.
        high: The smallest at and over which every run of every seed is above it.
        resolved: Whether both ends are known and mean what they say.
        reason: Why it is or is not, in words.
        per_seed: Each seed's own bracket.
    """

    low: float | None
    high: float | None
    resolved: bool
    reason: str
    per_seed: list[Bracket] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.resolved or self.low is None or self.high is None:
            return f"not resolved: {self.reason}"
        return f"{self.low:.2e} to {self.high:.2e}"


def unsettled(cells: Sequence[Cell]) -> list[Cell]:
    """Runs whose loss still falls, with no run of their seed at a larger effective learning rate that interpolates."""
    fits = [cell for cell in cells if cell.interpolates and cell.regime == "convergence"]
    last = {seed: max(cell.elr for cell in fits if cell.seed == seed) for seed in {cell.seed for cell in fits}}
    return [cell for cell in cells if cell.still_falls and cell.elr > last.get(cell.seed, -math.inf)]


def settled(cells: Sequence[C]) -> list[C]:
    """The cells, those relabelled whose fall is a swing about a level.

    That is so where the same seed levels off at a smaller ELR and at no higher loss; a run that only looks level
    because it is slow ends above those that fall.
    """
    level = [cell for cell in cells if cell.regime != "convergence"]
    swings = {
        id(c)
        for c in unsettled(cells)
        if any(one.seed == c.seed and one.elr < c.elr and one.loss <= c.loss for one in level)
    }
    return [_relabelled(cell) if id(cell) in swings else cell for cell in cells]


def _relabelled(cell: C) -> C:
    reason = f"loss fell (Q4/Q3 {cell.trend:.2f}), but levels off at a smaller rate of this seed: a swing about a level"
    return replace(cell, regime="chaotic_equilibrium", reason=reason)


def bracket(cells: Sequence[Cell], name: BoundaryName) -> tuple[float | None, float | None]:
    """``low`` and ``high`` of a boundary over the given cells."""
    neither = {id(cell) for cell in unsettled(cells)} if name == "convergence" else set()
    elrs = [cell.elr for cell in cells]
    not_below = (cell.elr for cell in cells if id(cell) in neither or not BELOW[name](cell))
    not_above = (cell.elr for cell in cells if id(cell) in neither or BELOW[name](cell))
    first, last = min(not_below, default=math.inf), max(not_above, default=-math.inf)
    low = max((elr for elr in elrs if elr < first), default=None)
    return low, min((elr for elr in elrs if elr > last), default=None)


def find_boundaries(cells: Sequence[Cell]) -> dict[BoundaryName, Boundary]:
    """Both boundaries, over all seeds and for each."""
    cells = settled(cells)
    seeds = sorted({cell.seed for cell in cells})
    return {name: _boundary(cells, seeds, name) for name in NAMES}


def _boundary(cells: Sequence[Cell], seeds: list[int], name: BoundaryName) -> Boundary:
    per_seed = [Bracket(s, *bracket([c for c in cells if c.seed == s], name)) for s in seeds]
    low, high = bracket(cells, name)
    elrs = [cell.elr for cell in cells]
    if name == "convergence" and not any(cell.interpolates for cell in cells):
        reason = "no run interpolates (training error < 1 %), so convergence cannot be told from slowness; train longer"
        return Boundary(None, None, False, reason, [Bracket(s, None, None) for s in seeds])
    open_ones = len(unsettled(cells)) if name == "convergence" else 0
    still = f"runs that end with a falling loss above all of their seed that interpolate: {open_ones} of {len(cells)}"
    if open_ones and (low is None or high is None):
        return Boundary(low, high, False, f"{still}; train longer", per_seed)
    if low is None:
        reason = f"no effective learning rate is below it for every seed; lower --elr-min (now {min(elrs):.3g})"
        return Boundary(low, high, False, reason, per_seed)
    if high is None:
        reason = f"no effective learning rate is above it for every seed; raise --elr-max (now {max(elrs):.3g})"
        return Boundary(low, high, False, reason, per_seed)
    own = [b.high / b.low for b in per_seed if b.low is not None and b.high is not None]
    within = f" over all seeds, {min(own):.2g} to {max(own):.2g} within a seed" if own else ""
    inside = f"; {still}, counted for neither side" if open_ones else ""
    return Boundary(low, high, True, f"high/low {high / low:.2g}{within}{inside}", per_seed)


def next_cells(cells: Sequence[Cell], factor: float) -> list[tuple[float, int]]:
    """Which runs would narrow each seed's brackets: the geometric middle of every gap in which the label changes.

    Args:
        cells: All cells so far.
        factor: A gap with high / low at most this is narrow enough.

    Returns:
        Pairs (effective learning rate, seed), sorted, none of them in ``cells``.
    """
    wanted, cells = set(), settled(cells)
    # without a run that interpolates, the convergence boundary is not reported, so it is not worth refining
    names: tuple[BoundaryName, ...] = NAMES if any(cell.interpolates for cell in cells) else ("divergence",)
    for seed in {cell.seed for cell in cells}:
        ordered = sorted((c for c in cells if c.seed == seed), key=lambda cell: cell.elr)
        for name in names:
            low, high = bracket(ordered, name)
            for left, right in pairwise(ordered):
                # the outermost changes bound the bracket; changes between them are the metastable zone itself
                outermost = left.elr == low or right.elr == high
                if outermost and BELOW[name](left) != BELOW[name](right) and right.elr / left.elr > factor:
                    wanted.add((math.sqrt(left.elr * right.elr), seed))
    return sorted(wanted)
