"""What is asked about the stationary state: the fields of ``onsphere landscape stabilise`` with defaults and bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from onsphere.lab.options import AscendingRates, DataOptions, EngineOptions, ModelOptions, Options, TrainingOptions

#: Steps before and after the change: windows of half of them must still hold a few quarters of readings.
LEAST = 32


class ChangeOptions(Options):
    """Which effective learning rates, when they change, how often all is repeated."""

    elrs: Annotated[AscendingRates, Field(min_length=2, max_length=8)] = (0.013, 0.02, 0.03, 0.05)
    """Effective learning rates of the chaotic equilibrium, comma separated; each is changed into every other."""
    divergence_elrs: Annotated[AscendingRates, Field(min_length=1, max_length=8)] = (0.1, 0.4)
    """Effective learning rates of the divergence, comma separated; compared with a random walk."""
    change: Annotated[int, Field(ge=LEAST)] | None = None
    """Step after which the ELR changes and from which wandering is measured (default: half of --steps)."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs of each kind: initial weights, frozen head and batch order differ."""
    points: Annotated[int, Field(ge=3)] = 11
    """Points of a path on which a barrier is measured, its ends included."""


class StabiliseSpec(EngineOptions, TrainingOptions, ChangeOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    steps: Annotated[int, Field(ge=2 * LEAST)] = 2000
    """Training steps of each copy."""

    @model_validator(mode="after")
    def _consistent(self) -> StabiliseSpec:
        if self.change_used > self.steps - LEAST:
            raise ValueError(
                f"--change: {self.change_used} is not allowed: must be at most {self.steps - LEAST}, so that "
                f"{LEAST} of --steps, which is {self.steps}, come after it"
            )
        both = sorted(set(self.elrs) & set(self.divergence_elrs))
        if both:
            raise ValueError(f"--divergence-elrs: {both[0]:g} is not allowed: it is one of --elrs")
        return self

    @property
    def change_used(self) -> int:
        """The step after which the ELR changes."""
        return self.change if self.change is not None else self.steps // 2

    def changes(self) -> list[tuple[float, float]]:
        """Every pair (ELR before, ELR after) of different ones."""
        return [(before, after) for after in self.elrs for before in self.elrs if before != after]

    def lags(self) -> list[int]:
        """Steps after the change at which weights are kept: 0, 1, 2, 3, 4, 6, 8, 12, .. and the last one."""
        last, found, power = self.steps - self.change_used, {0}, 1
        while power <= last:
            found |= {power, 3 * power // 2}
            power *= 2
        return sorted(lag for lag in found | {last} if lag <= last)
