"""The result of a comparison of ordinary training with the sphere: one row a run, and what the sphere says of an ELR.

regime   the label of most seeds at the nearest ELR of the grid (on the logarithmic scale)
loss     geometric mean over seeds, interpolated between neighbouring ELRs on logarithmic scales
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import computed_field

from onsphere.lab.experiments.conventional.spec import SETUPS, ConventionalSpec, Setup
from onsphere.lab.experiments.regimes.classify import REGIMES, Regime
from onsphere.lab.intervals import geometric_mean
from onsphere.lab.result import Engine, Rows, TrainedResult

Array = NDArray[np.float64]
#: Relative difference of losses within which a run counts as close to the sphere.
CLOSE = 0.15


@dataclass(frozen=True)
class ConventionalRun:
    """One run. Q4 is its last quarter; losses are means over minibatches unless they say otherwise.

    Attributes:
        setup: "sphere", "invariant" or "all".
        lr: Learning rate; on the sphere the effective one.
        seed: The seed of the run.
        regime: The label of the run.
        reason: Which rule gave the label, with the numbers.
        finite: Whether it stayed finite; if not, numbers are from its finite part, or None.
        loss: Mean minibatch loss over Q4.
        train_loss: Loss on all training images, mean over the evaluations in Q4.
        train_error: Fraction of all training images, mean over the evaluations in Q4.
        test_error: Fraction of all test images, at the end.
        gradient_norm: Mean effective norm of the stochastic gradient of the scale-invariant weights over Q4.
        angular_update: Mean angle of a step over Q4, radians; None with momentum.
        elr: Effective learning rate over Q4, geometric mean; on the sphere the fixed one.
        lowest_elr: Lowest ELR of the whole run.
        highest_elr: Highest ELR of the whole run.
        sphere_regime: The regime that ``elr`` has on the sphere; None on the sphere itself or without it.
        sphere_loss: The loss that belongs to ``elr`` on the sphere; None outside its grid as well.
        shares: Share of the run's steps whose ELR has each regime on the sphere; None on the sphere or without it.
        trend: Mean minibatch loss over Q4 divided by that over the quarter before; None in runs of older versions.
    """

    setup: Setup
    lr: float
    seed: int
    regime: Regime
    reason: str
    finite: bool
    loss: float | None
    train_loss: float | None
    train_error: float | None
    test_error: float | None
    gradient_norm: float | None
    angular_update: float | None
    elr: float | None
    lowest_elr: float | None
    highest_elr: float | None
    sphere_regime: Regime | None
    sphere_loss: float | None
    shares: dict[str, float] | None
    trend: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float | None:
        """Loss over the sphere's loss at the same effective learning rate."""
        return self.loss / self.sphere_loss if self.loss is not None and self.sphere_loss else None


@dataclass(frozen=True)
class Distance:
    """How far the levelled-off runs of a set-up are from the sphere's loss at their effective learning rates.

    Attributes:
        setup: The set-up, "invariant" or "all".
        runs: Runs in chaotic equilibrium whose ELR lies in chaotic equilibrium on the sphere's grid.
        median: Median of loss over sphere's loss; None without runs.
        low: Smallest of these ratios; None without runs.
        high: Largest of these ratios; None without runs.
        close: Runs within :data:`CLOSE` of the sphere's loss.
    """

    setup: Setup
    runs: int
    median: float | None
    low: float | None
    high: float | None
    close: int


@dataclass(frozen=True)
class ConventionalEngine(Engine):
    """What executed the copies, and what ELR, norm and gradient are those of.

    Attributes:
        invariant: Names of the scale-invariant tensors of each set-up.
    """

    invariant: dict[Setup, list[str]]


@dataclass(frozen=True, repr=False, kw_only=True)
class ConventionalResult(TrainedResult):
    """What :func:`onsphere.lab.compare_conventional` returns.

    Attributes:
        distances: How far each set-up in the whole space is from the sphere.
        runs: One row a run, by set-up, learning rate, seed.
    """

    command: ClassVar[str] = "landscape conventional"
    rows_field: ClassVar[str] = "runs"

    spec: ConventionalSpec
    engine: ConventionalEngine
    distances: list[Distance]
    runs: Rows[ConventionalRun]

    def of(self, setup: Setup, lr: float | None = None) -> list[ConventionalRun]:
        """The runs of a set-up, or of one learning rate of it."""
        return [run for run in self.runs if run.setup == setup and lr in (None, run.lr)]

    @property
    def sphere_map(self) -> SphereMap | None:
        """What the runs on the sphere say; None without them."""
        own = self.of("sphere")
        return SphereMap.of(own) if own else None

    @property
    def setups(self) -> list[Setup]:
        """The set-ups that were run."""
        return [setup for setup in SETUPS if self.of(setup)]

    def __repr__(self) -> str:
        lines = [f"ConventionalResult: {len(self.runs)} runs, {self.seconds:.0f} s"]
        for one in self.distances:
            found = "none" if one.median is None else f"median {one.median:.3g} ({one.low:.3g} to {one.high:.3g})"
            lines.append(f"  {one.setup}: loss over the sphere's at equal ELR, {one.runs} runs: {found}")
        lines.append(f"  page: {self.report}")
        return "\n".join(lines)


def distance(setup: Setup, runs: Sequence[ConventionalRun]) -> Distance:
    """The distance of one set-up's runs from the sphere."""
    ratios = [
        run.ratio
        for run in runs
        if run.regime == run.sphere_regime == "chaotic_equilibrium" and run.ratio is not None and run.finite
    ]
    if not ratios:
        return Distance(setup, 0, None, None, None, 0)
    close = sum(max(ratio, 1 / ratio) <= 1 + CLOSE for ratio in ratios)
    return Distance(setup, len(ratios), float(np.median(ratios)), min(ratios), max(ratios), close)


@dataclass(frozen=True)
class SphereMap:
    """The sphere's answer by effective learning rate.

    Attributes:
        elrs: Effective learning rates of the grid, ascending.
        regimes: Most frequent label at each, of equally frequent ones the one of the smaller ELRs.
        losses: Geometric mean of the mean minibatch losses of the last quarter; NaN where a run is not finite.
    """

    elrs: tuple[float, ...]
    regimes: tuple[Regime, ...]
    losses: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[ConventionalRun]) -> SphereMap:
        """The map of the labelled runs on the sphere."""
        elrs = tuple(sorted({run.lr for run in runs}))
        groups = [[run for run in runs if run.lr == elr] for elr in elrs]
        counts = [Counter(run.regime for run in group) for group in groups]
        known = [[run.loss for run in group if run.finite and run.loss] for group in groups]
        levels = [geometric_mean(own) if len(own) == len(g) else np.nan for own, g in zip(known, groups, strict=True)]
        return cls(elrs, tuple(max(REGIMES, key=count.__getitem__) for count in counts), tuple(levels))

    @property
    def edges(self) -> list[float]:
        """ELRs halfway (on the logarithmic scale) between neighbours of the grid, where the nearest one changes."""
        logs = np.log(self.elrs)
        return [float(x) for x in np.exp((logs[1:] + logs[:-1]) / 2)]

    def bands(self) -> list[tuple[Regime, float, float]]:
        """Stretches of equal regime: label, lower and upper end; the first starts at 0, the last ends at infinity."""
        found: list[tuple[Regime, float, float]] = []
        ends = [0.0, *self.edges, float("inf")]
        for regime, low, high in zip(self.regimes, ends[:-1], ends[1:], strict=True):
            if found and found[-1][0] == regime:
                found[-1] = (regime, found[-1][1], high)
            else:
                found.append((regime, low, high))
        return found

    def regime(self, elr: float) -> Regime:
        """The regime that an effective learning rate has on the sphere."""
        return self.regimes[int(np.searchsorted(self.edges, elr))]

    def shares(self, elr: Array) -> dict[str, float]:
        """Share of steps [T] whose ELR lies in each regime."""
        index = np.searchsorted(self.edges, elr)
        labels = np.array(self.regimes)[index]
        return {regime: float(np.mean(labels == regime)) for regime in REGIMES}

    def loss(self, elr: float) -> float | None:
        """The loss that belongs to an effective learning rate; None outside the grid."""
        if not self.elrs[0] <= elr <= self.elrs[-1]:
            return None
        value = float(np.exp(np.interp(np.log(elr), np.log(self.elrs), np.log(self.losses))))
        return value if np.isfinite(value) else None
