"""From measured runs to what they say: laws, settings, Maxwell relations, maps of free energies, temperatures.

Source: Sadrtdinov et al. 2025 (ideal gas; free energy); the formulas are those of :mod:`onsphere.dynamics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics import (
    GasState,
    free_energy_table,
    maxwell_residuals,
    pressure,
    stationary_radius,
    temperature,
    temperature_interval,
    total_entropy,
)
from onsphere.lab.experiments.thermo.measure import Measured
from onsphere.lab.experiments.thermo.result import (
    CurvePoint,
    EnergyMap,
    PowerLaw,
    Relation,
    Setting,
    Temperature,
    ThermoRow,
)
from onsphere.lab.experiments.thermo.spec import Protocol
from onsphere.lab.intervals import Interval, interval
from onsphere.lab.population import Copy

__all__ = ["DRIFT", "curves", "drifted", "energy_map", "powers", "relation", "row_of", "settings_of", "temperatures"]

Array = NDArray[np.float64]
#: Share of the loss that may come or go within the window of a stationary state.
DRIFT = 0.05
_AVERAGED = ("temperature", "energy", "radius", "pressure", "ratio", "gas_law", "signal_to_noise", "entropy", "bound")


def row_of(population: str, copy: Copy, found: Measured, train_error: float) -> ThermoRow:
    """One run with what the laws of its protocol say: T, and norm or pressure, from the noise at fixed weights."""
    window, d = found.windows[-1], found.dimension
    protocol: Protocol = population if population in ("fixed_elr", "fixed_lr") else "sphere"  # type: ignore[assignment]
    trace, signal = found.noise.trace, math.sqrt(max(found.noise.square, 0.0))
    rates = {"lr" if protocol == "fixed_lr" else "elr": copy.lr}
    decay = {"weight_decay": copy.weight_decay}
    nan = float("nan")
    heat = raw = predicted = nan
    measured = window.pressure if protocol == "sphere" else window.radius
    if math.isfinite(trace) and trace > 0:
        given = rates | (decay if protocol == "fixed_lr" else {})
        raw = temperature(protocol, dimension=d, noise_trace=trace, **given)
        heat = temperature(protocol, dimension=d, noise_trace=trace, gradient_norm=signal, **given)
        if protocol == "sphere":
            predicted = pressure(d, heat, window.radius)
        elif protocol == "fixed_lr" or copy.lr**2 * (trace + signal**2) < 1:
            predicted = stationary_radius(protocol, noise_trace=trace, gradient_norm=signal, **rates, **decay)
    force = window.pressure if protocol == "sphere" else copy.weight_decay
    entropy, bound = (
        total_entropy(d, value, math.exp(window.log_radius)) if math.isfinite(value) else nan
        for value in (window.entropy, window.bound)
    )
    return ThermoRow(
        population=population,
        rate=copy.lr,
        weight_decay=copy.weight_decay,
        seed=copy.seed,
        dimension=d,
        energy=window.energy,
        energy_drift=found.drift,
        radius=window.radius,
        elr=window.elr,
        pressure=force,
        moment=window.moment,
        noise_trace=trace,
        squared_gradient=found.noise.square,
        signal_to_noise=signal / math.sqrt(trace) if trace > 0 else nan,
        temperature=heat,
        raw_temperature=raw,
        predicted=predicted,
        ratio=measured / predicted,
        gas_law=force * window.radius**2 / ((d - 1) * heat) - 1,
        entropy=entropy,
        bound=bound,
        effective_dimension=window.effective_dimension,
        growth=window.growth,
        train_error=train_error,
    )


def drifted(rows: Sequence[ThermoRow]) -> bool:
    """Whether the loss of the runs of one setting still moves within the window, in the mean over seeds."""
    return not abs(_column(rows, "energy_drift").mean()) <= DRIFT * _column(rows, "energy").mean()


def settings_of(rows: Sequence[ThermoRow]) -> list[Setting]:
    """The rows put together by setting, in their order."""
    found = []
    for key in dict.fromkeys((row.population, row.rate, row.weight_decay) for row in rows):
        own = [row for row in rows if (row.population, row.rate, row.weight_decay) == key]
        means: dict[str, Any] = {
            name: interval([getattr(row, name) for row in own]) for name in (*_AVERAGED, "effective_dimension")
        }
        found.append(Setting(*key, **means))
    return found


def relation(protocol: Protocol, rows: Sequence[ThermoRow]) -> Relation | None:
    """The Maxwell relation of a protocol whose norm is free, regressed in every seed; None where it is not told."""
    slopes: dict[str, list[float]] = {"entropy": [], "bound": []}
    fits, name, expected = [], "", math.nan
    for own in _by_seed(rows):
        rate, decay, d = _column(own, "rate"), _column(own, "weight_decay"), own[0].dimension
        rates: dict[str, Any] = {"lr" if protocol == "fixed_lr" else "elr": rate, "weight_decay": decay}
        for which, found in slopes.items():
            values = _column(own, which)
            if not np.isfinite(values).all():
                found.append(math.nan)
                continue
            try:
                test = maxwell_residuals(protocol, dimension=d, entropy=values, **rates)
            except ValueError:  # too few settings, or none at the same temperature
                return None
            found.append(test.slope)
            name, expected = test.name, test.expected
        fits.append(_r_squared(np.log(rate), np.log(decay), _column(own, "entropy")))
    if not name:
        return None
    return Relation(protocol, name, expected, interval(slopes["entropy"]), interval(slopes["bound"]), interval(fits))


def _r_squared(x: Array, y: Array, values: Array) -> float:
    """R² of the best quadratic function of two logarithms; NaN where there are no more settings than coefficients."""
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    rank = int(np.linalg.matrix_rank(design))
    if not np.isfinite(values).all() or len(values) <= rank:
        return math.nan
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(1 - (rest**2).sum() / ((values - values.mean()) ** 2).sum())


def energy_map(population: str, rows: Sequence[ThermoRow]) -> EnergyMap:
    """Whether every measured state is the one of least free energy at its own temperature and pressure."""
    fixed = population not in ("fixed_elr", "fixed_lr")
    excesses: dict[str, list[Array]] = {"entropy": [], "bound": []}
    for own in _by_seed(rows):
        for which, found in excesses.items():
            state = GasState(
                dimension=own[0].dimension,
                temperature=_column(own, "temperature"),
                pressure=_column(own, "pressure"),
                volume=_column(own, "radius") ** 2 / 2,
                energy=_column(own, "energy"),
                entropy=_column(own, which),
            )
            table = free_energy_table(state, fixed_volume=fixed)
            found.append((table - np.diag(table)[:, None]) / np.asarray(state.temperature)[:, None])
    first = next(iter(_by_seed(rows)))
    n = len(first)

    def each(way: Callable[[Interval], float], which: str = "entropy") -> list[list[float]]:
        return [[way(interval([e[i, j] for e in excesses[which]])) for j in range(n)] for i in range(n)]

    return EnergyMap(
        population=population,
        potential="F" if fixed else "G",
        settings=[(row.rate, row.weight_decay) for row in first],
        excess=each(lambda one: one.mean),
        low=each(lambda one: one.low),
        high=each(lambda one: one.high),
        bound_excess=each(lambda one: one.mean, "bound"),
    )


def temperatures(population: str, rows: Sequence[ThermoRow]) -> list[Temperature]:
    """The interval of temperatures of every ELR: from means over seeds, and how often it exists in single seeds."""
    seeds = [sorted(own, key=lambda row: row.rate) for own in _by_seed(rows)]
    energy = np.mean([_column(own, "energy") for own in seeds], axis=0)
    means = {w: np.mean([_column(own, w) for own in seeds], axis=0) for w in ("entropy", "bound", "growth")}
    ends = {which: _interval_of(energy, means[which]) for which in ("entropy", "bound")}
    exist = [_interval_of(_column(own, "energy"), _column(own, "entropy")) for own in seeds]
    step, gaps = float(np.mean(np.abs(np.diff(means["entropy"])))), np.abs(np.diff(energy))
    found = []
    for i, row in enumerate(seeds[0]):
        own = [runs[i] for runs in seeds]
        still = abs(_column(own, "energy_drift").mean()) < gaps[max(i - 1, 0) : i + 1].min() / 2
        found.append(
            Temperature(
                population=population,
                elr=row.rate,
                low=float(ends["entropy"][0][i]),
                high=float(ends["entropy"][1][i]),
                bound_low=float(ends["bound"][0][i]),
                bound_high=float(ends["bound"][1][i]),
                exists=sum(bool(low[i] <= high[i]) for low, high in exist),
                law=interval([one.temperature for one in own]),
                signal_to_noise=interval([one.signal_to_noise for one in own]),
                energy=interval([one.energy for one in own]),
                stationary=bool(still and means["growth"][i] < step),
            )
        )
    return found


def _interval_of(energy: Array, entropy: Array) -> tuple[Array, Array]:
    """Lower and upper temperatures; all NaN where an energy or an entropy is not known."""
    if not (np.isfinite(energy).all() and np.isfinite(entropy).all()):
        return np.full_like(energy, np.nan), np.full_like(energy, np.nan)
    found = temperature_interval(energy, entropy)
    return found.low, found.high


def powers(population: str, rows: Sequence[ThermoRow]) -> list[PowerLaw]:
    """T ~ ELR^power, by the geometric middle of the intervals that are bounded on both sides, and by the noise."""
    exponents: dict[str, list[float]] = {"slopes": [], "noise": []}
    counts: dict[str, list[int]] = {"slopes": [], "noise": []}
    for own in _by_seed(rows):
        rates, energy = _column(own, "rate"), _column(own, "energy")
        low, high = _interval_of(energy, _column(own, "entropy"))
        with np.errstate(invalid="ignore"):
            middle = np.where((low > 0) & (high > 0) & np.isfinite(high), np.sqrt(low * high), np.nan)
        for by, heat in (("slopes", middle), ("noise", _column(own, "temperature"))):
            good = np.isfinite(heat) & (heat > 0)
            counts[by].append(int(good.sum()))
            fit = np.polyfit(np.log(rates[good]), np.log(heat[good]), 1)[0] if good.sum() > 1 else math.nan
            exponents[by].append(float(fit))
    return [PowerLaw(population, by, interval(exponents[by]), min(counts[by])) for by in exponents]


def curves(population: str, runs: Sequence[tuple[Copy, Measured]]) -> list[CurvePoint]:
    """Energy and entropy of all windows of all ELRs, means over seeds."""
    found = []
    for elr in dict.fromkeys(copy.lr for copy, _ in runs):
        own = [one.windows for copy, one in runs if copy.lr == elr]
        for same in zip(*own, strict=True):
            energy, entropy = (float(np.mean([getattr(w, n) for w in same])) for n in ("energy", "entropy"))
            found.append(CurvePoint(population, elr, same[0].end, energy, entropy))
    return found


def _by_seed(rows: Sequence[ThermoRow]) -> list[list[ThermoRow]]:
    return [[row for row in rows if row.seed == seed] for seed in sorted({row.seed for row in rows})]


def _column(rows: Sequence[ThermoRow], name: str) -> Array:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)
