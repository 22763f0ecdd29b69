"""States of the gas that training on the sphere is: their free energies, and at which temperatures they minimise them.

    F = U - T S          least at a given temperature and volume
    G = U - T S + p V    least at a given temperature and pressure

U is the mean loss, T and p follow from the hyper-parameters (:mod:`onsphere.dynamics.thermodynamics`), V = r² / 2, and
S is the entropy of the weights at their norm r.

Source: Sadrtdinov et al. 2025 (ideal gas; free energy).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, numbers, plain, positive
from onsphere.dynamics._protocols import Protocol, given, only
from onsphere.dynamics.thermodynamics import pressure, temperature, total_entropy

__all__ = ["GasState", "TemperatureInterval", "free_energy_table", "gas_state", "temperature_interval"]


@dataclass(frozen=True)
class GasState:
    """One stationary state, or several: each quantity is a float or an array, all of one shape.

    Attributes:
        dimension: d, the number of scale-invariant parameters.
        temperature: T, in units of the loss.
        pressure: p, in units of weight decay (loss per squared norm).
        volume: V = r² / 2 of the norm r.
        energy: U, the mean loss.
        entropy: S of the weights at their norm, nats.
    """

    dimension: int
    temperature: Any
    pressure: Any
    volume: Any
    energy: Any
    entropy: Any

    @property
    def radius(self) -> Any:
        """R = sqrt(2 V)."""
        return plain(np.sqrt(2 * np.asarray(self.volume)))

    @property
    def gas_law_residual(self) -> Any:
        """P V / ((d - 1) T / 2) - 1: zero for an ideal gas."""
        work = np.asarray(self.pressure) * self.volume
        return plain(work / ((self.dimension - 1) * np.asarray(self.temperature) / 2) - 1)

    @property
    def helmholtz(self) -> Any:
        """F = U - T S."""
        return plain(np.asarray(self.energy) - np.asarray(self.temperature) * self.entropy)

    @property
    def gibbs(self) -> Any:
        """G = U - T S + p V."""
        return plain(np.asarray(self.helmholtz) + np.asarray(self.pressure) * self.volume)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the derived ones included; of several states the columns of a table (``pandas.DataFrame``)."""
        names = [field.name for field in fields(self)] + ["radius", "gas_law_residual", "helmholtz", "gibbs"]
        values = {name: getattr(self, name) for name in names}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    def __repr__(self) -> str:
        shown = {"T": self.temperature, "p": self.pressure, "V": self.volume, "U": self.energy, "S": self.entropy}
        with np.printoptions(precision=4, threshold=8):
            values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items())
        return f"GasState(dimension={self.dimension}, {values})"


def gas_state(
    protocol: Protocol,
    *,
    dimension: int,
    noise_trace: Numbers,
    energy: Numbers,
    sphere_entropy: Numbers,
    radius: Numbers,
    elr: Numbers | None = None,
    lr: Numbers | None = None,
    weight_decay: Numbers | None = None,
    measured_pressure: Numbers | None = None,
    gradient_norm: Numbers = 0.0,
) -> GasState:
    """The thermodynamic state of a run from what was measured on it.

    Args:
        protocol: What was held fixed.
        dimension: Dimension d of the weights, at least 2.
        noise_trace: TrSigma > 0, of the gradient on the unit sphere.
        energy: Mean loss U of the run.
        sphere_entropy: Entropy of the directions, nats (:func:`onsphere.dynamics.entropy.sphere_entropy`).
        radius: Norm r of the weights, measured.
        elr: Effective learning rate, for "fixed_elr" and "sphere".
        lr: Learning rate, for "fixed_lr".
        weight_decay: For "fixed_elr" and "fixed_lr": it is the pressure.
        measured_pressure: For "sphere", by :func:`growth_pressure`. None takes T (d - 1) / r², which makes the gas law
            hold by construction.
        gradient_norm: |grad L| on the unit sphere, for the discrete correction.

    Returns:
        The state, its quantities broadcast to one shape.

    Raises:
        ValueError: As :func:`temperature`.
    """
    heat = temperature(
        protocol,
        dimension=dimension,
        noise_trace=noise_trace,
        elr=elr,
        lr=lr,
        weight_decay=weight_decay if protocol == "fixed_lr" else None,
        gradient_norm=gradient_norm,
    )
    r = positive("radius", radius)
    if protocol == "sphere":
        only(protocol, weight_decay=weight_decay)
        force = pressure(dimension, heat, r) if measured_pressure is None else numbers("pressure", measured_pressure)
    else:
        only(protocol, measured_pressure=measured_pressure)
        force = positive("weight_decay", given(protocol, weight_decay=weight_decay))
    entropy = total_entropy(dimension, sphere_entropy, r)
    quantities = np.broadcast_arrays(heat, force, r**2 / 2, numbers("energy", energy), entropy)
    return GasState(int(dimension), *(plain(quantity.copy()) for quantity in quantities))


def free_energy_table(state: GasState, *, fixed_volume: bool = False) -> Array:
    """The free energy of every state at every state's temperature and pressure: U_j - T_i S_j + p_i V_j.

    If the runs minimise their free energy, the smallest entry of each row is on the diagonal.

    Args:
        state: n states, its quantities arrays ``[n]``.
        fixed_volume: Without the p V term, the Helmholtz energy: for "sphere" at one radius.

    Returns:
        ``[n, n]``, hyper-parameters down, states across.
    """
    heat, force, volume, energy, entropy = (
        np.ravel(quantity)
        for quantity in (state.temperature, state.pressure, state.volume, state.energy, state.entropy)
    )
    table = energy - np.outer(heat, entropy)
    return np.asarray(table if fixed_volume else table + np.outer(force, volume))


@dataclass(frozen=True)
class TemperatureInterval:
    """The temperatures at which each measured point has the least U - T S among the points.

    Attributes:
        low: Lower ends ``[n]``, at least 0.
        high: Upper ends ``[n]``, infinity where no point has a higher entropy. ``high < low``: no such temperature.
    """

    low: Array
    high: Array

    @property
    def exists(self) -> Any:
        """Which points minimise U - T S at any temperature ``[n]``."""
        return self.low <= self.high

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "exists": self.exists.tolist()}


def temperature_interval(energies: Numbers, entropies: Numbers) -> TemperatureInterval:
    """The interval of temperatures at which each point minimises U - T S among all measured points.

    U_i - T S_i <= U_j - T S_j for all j bounds T by the slopes (U_i - U_j) / (S_i - S_j): from below by the points of
    lower entropy, from above by those of higher. Only differences of entropy enter, so a constant does no harm.

    Args:
        energies: U_i ``[n]``: mean losses.
        entropies: S_i ``[n]``, nats, up to a common constant.

    Returns:
        The interval of each point: its lower and upper temperature.

    Raises:
        ValueError: The two are empty, not of one length, or no vectors.

    Source:
        Sadrtdinov et al. 2025 (free energy).
    """
    u, s = numbers("energies", energies), numbers("entropies", entropies)
    if u.ndim != 1 or u.shape != s.shape:
        raise ValueError(
            f"energies and entropies have shapes {u.shape} and {s.shape}; they must be vectors of one length"
        )
    rise, gain = u[:, None] - u, s[:, None] - s
    slopes = np.divide(rise, gain, out=np.zeros_like(rise), where=gain != 0)
    low = np.where(gain > 0, slopes, 0.0).max(axis=1, initial=0.0)
    high = np.where(gain < 0, slopes, np.inf).min(axis=1)
    # at equal entropy the lower energy wins at every temperature
    high[((gain == 0) & (rise > 0)).any(axis=1)] = -np.inf
    return TemperatureInterval(low, high)
