"""What is asked about the zone of high sharpness: the fields of ``onsphere landscape zones`` with their bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from onsphere.lab.options import DataOptions, EngineOptions, ModelOptions, Options, Rates, TrainingOptions

Elrs = Annotated[Rates, Field(min_length=1, max_length=16)]
MOST_CONTINUATIONS = 2000


class PathOptions(Options):
    """Which paths are followed, where others branch off, how long."""

    path_elrs: Elrs = (5e-4, 2e-3)
    """Effective learning rates of the paths, comma separated; continuations branch off those of the first."""
    elrs: Elrs = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
    """Effective learning rates of the continuations, comma separated."""
    seeds: Annotated[int, Field(ge=1)] = 2
    """Paths at each ELR: initial weights, frozen head and batch order differ."""
    checkpoints: Annotated[int, Field(ge=2, le=64)] = 8
    """Steps of a path from which it is continued: 0, and evenly spaced in log up to --steps."""
    readings: Annotated[int, Field(ge=2, le=256)] = 24
    """About how many steps of a path at which sharpness is measured, evenly spaced in log."""
    continue_steps: Annotated[int, Field(ge=8)] = 256
    """Training steps of each continuation."""
    examples: Annotated[int, Field(ge=2)] = 2048
    """Training images, at most, on which sharpness is measured."""


class ZonesSpec(EngineOptions, PathOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    train: Annotated[int, Field(ge=2)] | None = 512
    """Number of training images, or all."""
    steps: Annotated[int, Field(ge=8)] = 1024
    """Training steps of a path up to its last checkpoint."""
    batch_size: Annotated[int, Field(ge=2)] | Literal["full"] = "full"  # type: ignore[assignment]
    """Images per step, or full: every step sees all of them, and 2 / ELR is the threshold of gradient descent."""

    @model_validator(mode="after")
    def _consistent(self) -> ZonesSpec:
        count = len(self.elrs) * self.seeds * self.checkpoints
        if count > MOST_CONTINUATIONS:
            raise ValueError(
                f"--seeds: {self.seeds} is not allowed with {len(self.elrs)} ELRs and {self.checkpoints} checkpoints: "
                f"{count} continuations are too many; at most {MOST_CONTINUATIONS} together"
            )
        return self

    def branches(self) -> list[int]:
        """Steps of a path from which it is continued, ascending: 0, then evenly spaced in log, about from 2 on."""
        first = min(2, self.steps)
        count = self.checkpoints - 1
        if count == 1:
            return [0, self.steps]
        ratio = (self.steps / first) ** (1 / (count - 1))
        return sorted({0} | {round(first * ratio**i) for i in range(count)})

    def reading_steps(self) -> list[int]:
        """Steps of a path at which its sharpness is measured, ascending, those of :meth:`branches` among them."""
        ratio = self.steps ** (1 / (self.readings - 1))
        return sorted({0, self.steps, *self.branches()} | {round(ratio**i) for i in range(self.readings)})
