"""The result of the thermodynamics toy: one row a setting, the Maxwell relations, and how well the laws hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onsphere.lab.experiments.toy_thermo.spec import ToyThermoSpec
from onsphere.lab.report.words import format_number, rough_percent
from onsphere.lab.result import Rows, ToyResult

#: What each protocol is called in prose.
NAMES = {"fixed_elr": "fixed ELR", "fixed_lr": "fixed lr", "sphere": "fixed sphere"}
_CLOSE = 0.05  # within it the laws are said to hold


@dataclass(frozen=True)
class ThermoRow:
    """One setting: measured, and as the laws predict. Errors are standard errors from the spread over copies.

    Attributes:
        protocol: What was held fixed: "fixed_elr", "fixed_lr" or "sphere".
        elr: Effective learning rate; for "fixed_lr" the mean of lr / r².
        lr: Learning rate; otherwise the mean of elr r².
        weight_decay: Weight decay; 0 on the sphere.
        temperature: T by the protocol's law.
        energy: Internal energy U, the mean loss.
        energy_error: Standard error of the energy.
        predicted_energy: Energy of the von Mises-Fisher law at T.
        radius: Root mean square of the norm r; as given on the sphere.
        radius_error: Standard error of the radius.
        predicted_radius: By the protocol's law.
        corrected_radius: The same with the discrete correction, which adds |grad L|² to the noise.
        pressure: The weight decay; on the sphere measured from how much a step lengthens the weights.
        pressure_error: Standard error of the pressure.
        predicted_pressure: T (d - 1) / r²; the weight decay itself off the sphere.
        corrected_pressure: The same with the discrete correction.
        entropy: S of the weights, nats.
        entropy_error: Standard error of the entropy.
        predicted_entropy: Entropy of the von Mises-Fisher law at T, plus (d - 1) ln r.
        gas_law: p V / ((d - 1) T / 2) - 1 with V = r² / 2.
        burn_in: Steps before recording began.
        steps: Steps that were recorded.
    """

    protocol: str
    elr: float
    lr: float
    weight_decay: float
    temperature: float
    energy: float
    energy_error: float
    predicted_energy: float
    radius: float
    radius_error: float
    predicted_radius: float
    corrected_radius: float
    pressure: float
    pressure_error: float
    predicted_pressure: float
    corrected_pressure: float
    entropy: float
    entropy_error: float
    predicted_entropy: float
    gas_law: float
    burn_in: int
    steps: int

    @property
    def rate(self) -> float:
        """What distinguishes the protocol's curves: the lr of "fixed_lr", otherwise the ELR."""
        return self.lr if self.protocol == "fixed_lr" else self.elr

    @property
    def knob(self) -> float:
        """What moves along a curve: the radius on the sphere, otherwise the weight decay."""
        return self.radius if self.protocol == "sphere" else self.weight_decay


@dataclass(frozen=True)
class MaxwellRow:
    """One Maxwell relation on the measured entropies.

    Attributes:
        protocol: What was held fixed.
        name: The derivative, such as "dS/dln wd".
        slope: The derivative's measured value.
        error: Standard error of the slope.
        expected: What the relation says.
        residual: The slope less what is expected.
        relative_residual: The residual over the expected value's size.
        points: How many settings it is from.
    """

    protocol: str
    name: str
    slope: float
    error: float
    expected: float
    residual: float
    relative_residual: float
    points: int


@dataclass(frozen=True, repr=False, kw_only=True)
class ToyThermoResult(ToyResult):
    """What :func:`onsphere.lab.toy_thermo` returns.

    Attributes:
        rows: One a setting, by protocol.
        maxwell: One a protocol whose settings tell the slope (several weight decays, or radii).
    """

    command: ClassVar[str] = "toy thermo"
    rows_field: ClassVar[str] = "rows"

    spec: ToyThermoSpec
    rows: Rows[ThermoRow]
    maxwell: list[MaxwellRow]

    def __repr__(self) -> str:
        asked = f"{len(self.rows)} settings, {self.seconds:.1f} s"
        return f"ToyThermoResult: {asked}\n  {describe(self)}\n  page: {self.report}"


def _farthest(result: ToyThermoResult, name: str, law: str = "predicted") -> float:
    """The largest relative distance of a measured quantity from its law, or from the corrected one."""
    return max(abs(float(getattr(row, name)) / float(getattr(row, f"{law}_{name}")) - 1) for row in result.rows)


def describe(result: ToyThermoResult) -> str:
    """The result in one line."""
    laws = "; ".join(
        f"{name} within {100 * _farthest(result, name):.2g} %" for name in ("energy", "radius", "pressure")
    )
    slopes = ", ".join(f"{row.slope:.3f} for {row.expected:g}" for row in result.maxwell)
    return laws + (f"; Maxwell slopes {slopes}" if slopes else "")


def subtitle(result: ToyThermoResult) -> str:
    """What was simulated, in a line."""
    spec = result.spec
    return f"d = {spec.dimension} weights · σ = {format_number(spec.sigma)} · loss 1 + ⟨μ, x⟩ / ‖x‖"


def answer(result: ToyThermoResult) -> list[str]:
    """How well the laws hold, in one sentence, and what the rest comes from."""
    quantities = {"internal energy": "energy", "norm": "radius", "pressure": "pressure"}
    far = {said: _farthest(result, name) for said, name in quantities.items()}
    if result.maxwell:
        far["Maxwell slopes"] = max(abs(row.relative_residual) for row in result.maxwell)
    verb = "behaves like an ideal gas" if max(far.values()) <= _CLOSE else "is an ideal gas only roughly here"
    parts = [f"{said} within {rough_percent(share)}" for said, share in far.items()]
    radius, pressure = (rough_percent(_farthest(result, name, "corrected")) for name in ("radius", "pressure"))
    return [
        f"Training with isotropic noise {verb}: {', '.join(parts)} of their laws.",
        "The laws are of small steps. With the discrete correction, which adds the squared gradient norm to the noise, "
        f"the norm agrees within {radius} and the pressure within {pressure}.",
    ]
