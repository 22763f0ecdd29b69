"""How well the laws of an ideal gas hold, in sentences."""

from __future__ import annotations

from onsphere.lab.experiments.toy_thermo.result import ToyThermoResult, worst
from onsphere.lab.report.words import format_number, rough_percent

__all__ = ["answer", "subtitle"]

_CLOSE = 0.05  # within it the laws are said to hold


def subtitle(result: ToyThermoResult) -> str:
    """What was simulated, in a line."""
    spec = result.spec
    return f"d = {spec.dimension} weights · σ = {format_number(spec.sigma)} · loss 1 + ⟨μ, x⟩ / ‖x‖"


def answer(result: ToyThermoResult) -> list[str]:
    """How well the laws hold, in one sentence, and what the rest comes from."""
    far = {name: worst(result, name) for name in ("energy", "radius", "pressure")}
    slopes = max((abs(row.relative_residual) for row in result.maxwell), default=None)
    close = max(*far.values(), slopes or 0) <= _CLOSE
    verb = "behaves like an ideal gas" if close else "is an ideal gas only roughly here"
    parts = [
        f"internal energy within {rough_percent(far['energy'])}",
        f"norm within {rough_percent(far['radius'])}",
        f"pressure within {rough_percent(far['pressure'])}",
    ]
    if slopes is not None:
        parts.append(f"Maxwell slopes within {rough_percent(slopes)}")
    return [f"Training with isotropic noise {verb}: {', '.join(parts)} of their laws.", _correction(result)]


def _correction(result: ToyThermoResult) -> str:
    largest = {
        name: max(abs(getattr(row, name) / getattr(row, f"corrected_{name}") - 1) for row in result.rows)
        for name in ("radius", "pressure")
    }
    radius, pressure = (rough_percent(share) for share in largest.values())
    return (
        "The laws are of small steps. With the discrete correction, which adds the squared gradient norm to the noise, "
        f"the norm agrees within {radius} and the pressure within {pressure}."
    )
