"""What the runs on the sphere say about an effective learning rate: its regime, and the loss that belongs to it.

regime   the label of most seeds at the nearest ELR of the grid (on the logarithmic scale)
loss     geometric mean over seeds, interpolated between neighbouring ELRs on logarithmic scales
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.experiments.conventional.result import ConventionalRun
from onsphere.lab.experiments.regimes.classify import REGIMES, Regime

Array = NDArray[np.float64]


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
        regimes = tuple(max(REGIMES, key=count.__getitem__) for count in counts)
        return cls(elrs, regimes, tuple(_level(group) for group in groups))

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


def _level(runs: Sequence[ConventionalRun]) -> float:
    """Geometric mean loss of finite runs; NaN if one of them is not."""
    losses = [run.loss for run in runs if run.finite and run.loss]
    return float(np.exp(np.log(losses).mean())) if len(losses) == len(runs) else float("nan")
