"""What is asked about the thermodynamics of a network: the fields of ``onsphere thermo`` with their bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from onsphere.lab.options import (
    AscendingRates,
    DataOptions,
    EngineOptions,
    ModelOptions,
    Options,
    TrainingOptions,
    Widths,
    different,
    list_text,
    split_list,
)

Protocol = Literal["fixed_elr", "fixed_lr", "sphere"]
Several = Annotated[AscendingRates, Field(min_length=1, max_length=16)]
MOST_RUNS = 2000

#: Widths of the small perceptron; it cannot fit noisy labels, so that training ends in a stationary state.
SMALL = (8, 8)
_ELRS = {"gas": (0.01, 0.02, 0.04), "free-energy": (1e-3, 2e-3, 4e-3, 8e-3, 0.016, 0.032)}
#: Windows of the run at whose end the entropy is measured, the last of which counts.
_WINDOWS = {"gas": 2, "free-energy": 4}


class ThermoOptions(Options):
    """Which study, which settings, what is measured."""

    study: Literal["gas", "free-energy"] = "gas"
    """gas: laws of the ideal gas under the protocols; free-energy: energy and entropy over the ELR on the sphere, of
    a network that cannot fit the data and of one that can."""
    protocols: Annotated[
        tuple[Protocol, ...],
        BeforeValidator(split_list),
        AfterValidator(different),
        Field(min_length=1),
        Parameter(negative="", show_default=list_text),
    ] = ("fixed_elr", "fixed_lr", "sphere")
    """What is held fixed in the study gas, comma separated: fixed_elr (free norm), fixed_lr, sphere (ELR and norm)."""
    elrs: Annotated[Several | None, Parameter(negative="", show_default=False)] = None
    """Effective learning rates of fixed_elr, sphere and free-energy, comma separated (default 0.01,0.02,0.04, for
    free-energy six from 1e-3 to 0.032)."""
    lrs: Several = (0.1, 0.2, 0.4)
    """Learning rates of fixed_lr, comma separated."""
    weight_decays: Several = (0.02, 0.04, 0.08)
    """Weight decays of fixed_elr and fixed_lr, comma separated."""
    over_widths: Widths = (48, 48)
    """Hidden widths of the network that can fit the data, in the study free-energy, comma separated."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """Runs at each setting: initial weights, frozen head and batches differ; intervals are over them."""
    samples: Annotated[int, Field(ge=16, le=100_000)] = 96
    """Weights whose entropy is measured, evenly spaced over the last window of the run."""
    windows: Annotated[int, Field(ge=1, le=64)] | None = None
    """Parts of equal length that the steps are divided into, the last of which is measured (default 2; free-energy,
    which shows every one, 4)."""
    gradients: Annotated[int, Field(ge=3)] = 8
    """Independent batches at each of 16 places of the last window, from which the gradient noise is measured."""


class ThermoSpec(EngineOptions, ThermoOptions, TrainingOptions, ModelOptions, DataOptions):
    """All that the experiment depends on; the same spec on the same machine and engine gives the same bits."""

    widths: Widths = None
    """Hidden widths of the mlp, comma separated (default 8,8; the network that cannot fit the data)."""
    steps: Annotated[int, Field(ge=8)] = 8000
    """Training steps of each copy."""
    evaluations: Annotated[int, Field(ge=1)] = 2
    """Evaluations on all training and test images along each run (one more is made at the start)."""

    @model_validator(mode="after")
    def _consistent(self) -> ThermoSpec:
        if self.samples * self.windows_used > self.steps:
            raise ValueError(
                f"--samples: {self.samples} is not allowed: so many in each of {self.windows_used} windows do not fit "
                f"into --steps, which is {self.steps}"
            )
        product = max(self.lrs) * max(self.weight_decays)
        if self.study == "gas" and "fixed_lr" in self.protocols and product >= 1:
            raise ValueError(
                f"--weight-decays: {max(self.weight_decays):g} is not allowed with an lr of {max(self.lrs):g}: their "
                "product must be below 1, since a step multiplies the weights by 1 - lr * weight decay"
            )
        if self.study == "free-energy" and len(self.elrs_used) < 3:
            raise ValueError(
                f"--elrs: {list_text(self.elrs_used)} is not allowed with --study free-energy: temperatures are slopes "
                "between settings; give three ELRs at least"
            )
        if self.study == "free-energy" and self.model != "mlp":
            raise ValueError(
                f"--model: {self.model!r} is not allowed with --study free-energy, which compares two mlps of --widths "
                "and --over-widths; take --study gas"
            )
        runs = self.seeds * sum(len(self.settings(name)) for name in self.populations())
        if runs > MOST_RUNS:
            raise ValueError(
                f"--seeds: {self.seeds} are too many with these settings: {runs} runs, at most {MOST_RUNS}"
            )
        return self

    @property
    def elrs_used(self) -> tuple[float, ...]:
        """The given ELRs, or the study's own."""
        return self.elrs if self.elrs is not None else _ELRS[self.study]

    @property
    def windows_used(self) -> int:
        """The given number of windows, or the study's own."""
        return self.windows if self.windows is not None else _WINDOWS[self.study]

    def populations(self) -> tuple[str, ...]:
        """What is trained: the protocols, each once, or the two networks."""
        return self.protocols if self.study == "gas" else ("under", "over")

    def settings(self, population: str) -> list[tuple[float, float]]:
        """(rate, weight decay) of a population's settings; the weight decay is 0 on the sphere."""
        if population not in ("fixed_elr", "fixed_lr"):
            return [(elr, 0.0) for elr in self.elrs_used]
        rates = self.lrs if population == "fixed_lr" else self.elrs_used
        return [(rate, decay) for rate in rates for decay in self.weight_decays]

    def window_steps(self) -> list[list[int]]:
        """Steps after which weights are kept, of each window that is measured, ascending; the last window is the last.

        In the study gas it is the only one.
        """
        ends = [round(self.steps * i / self.windows_used) for i in range(self.windows_used + 1)]
        if self.study == "gas":
            ends = ends[-2:]
        return [
            [low + round((high - low) * i / self.samples) for i in range(1, self.samples + 1)]
            for low, high in pairwise(ends)
        ]
