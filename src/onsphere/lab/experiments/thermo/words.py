"""What was found, in sentences: how far the laws hold, what the entropies can be trusted for, the temperatures."""

from __future__ import annotations

import math

from onsphere.lab.experiments.thermo.analyse import DRIFT, drifted
from onsphere.lab.experiments.thermo.result import (
    NAMES,
    EnergyMap,
    PowerLaw,
    Relation,
    Setting,
    ThermoResult,
    ThermoRow,
)
from onsphere.lab.intervals import Interval
from onsphere.lab.report.words import format_number, format_range, rough_percent

__all__ = ["answer", "describe", "trust"]


def describe(result: ThermoResult) -> str:
    """The result in one line."""
    return answer(result)[0]


def answer(result: ThermoResult) -> list[str]:
    """The laws or the temperatures first, then what the entropies can be trusted for, then the free energies."""
    if result.spec.study == "gas":
        found = [_laws(result), *map(_slope, result.relations)]
    else:
        found = [*(_power(result, name) for name in result.spec.populations()), _signal(result)]
    return [*found, trust(result), *_maps(result), *_drifts(result)]


def _laws(result: ThermoResult) -> str:
    known = [one for one in result.settings if math.isfinite(one.ratio.mean)]
    if not known:
        return "No setting has a stationary state whose norm or pressure could be compared with the laws."
    held = sum(one.ratio.low <= 1 <= one.ratio.high for one in known)
    parts = []
    for name in dict.fromkeys(one.population for one in known):
        far = max(abs(one.ratio.mean - 1) for one in known if one.population == name)
        what = "pressure on the sphere" if name == "sphere" else f"norm at a {NAMES[name]}"
        parts.append(f"{what} within {rough_percent(far)}")
    return (
        f"Norm and pressure against the laws of an ideal gas, with the noise measured apart: {', '.join(parts)} (means "
        f"over {result.spec.seeds} seeds); the law is inside the 95 % interval in {held} of {len(known)} settings."
    )


def _slope(one: Relation) -> str:
    inside = one.slope.low <= one.expected <= one.slope.high
    fit = f"; a quadratic in both logarithms has R² = {one.fit.mean:.4f}" if math.isfinite(one.fit.mean) else ""
    return (
        f"Maxwell's relation at a {NAMES[one.population]}: {one.name} is {_range(one.slope, 1)} where "
        f"{one.expected:.1f} is expected, which the interval {'holds' if inside else 'does not hold'}{fit}."
    )


def _range(one: Interval, decimals: int = 2) -> str:
    if not math.isfinite(one.mean):
        return "not known"
    return f"{one.mean:.{decimals}f} ({one.low:.{decimals}f} to {one.high:.{decimals}f})"


def _power(result: ThermoResult, name: str) -> str:
    laws: dict[str, PowerLaw] = {one.by: one for one in result.powers if one.population == name}
    own = [one for one in result.temperatures if one.population == name]
    errors = [row.train_error for row in result.rows if (row.population, row.rate) == (name, own[0].elr)]
    parts = []
    for by, words in (("noise", "by the noise"), ("slopes", "by slopes of energy over entropy")):
        one = laws[by]
        if math.isfinite(one.power.mean):
            grown = "grows with the ELR" if one.power.low > 0 else "has no clear trend"
            parts.append(f"{words} it {grown}, as its power {_range(one.power)}")
        else:
            parts.append(f"{words} it has no power law, for want of ELRs with a temperature in every seed")
    misses = format_range(100 * error for error in errors)
    return (
        f"Temperature of the {NAMES[name]} network (training error {misses} % at the smallest ELR): {'; '.join(parts)}."
    )


def _signal(result: ThermoResult) -> str:
    def at(name: str, index: int) -> str:
        own = [one for one in result.temperatures if one.population == name]
        return f"{_range(own[index].signal_to_noise)} at ELR {format_number(own[index].elr)}"

    return (
        f"Signal-to-noise ratio of the gradient: under-parameterised {at('under', 0)} and {at('under', -1)}; "
        f"over-parameterised {at('over', 0)} and {at('over', -1)}."
    )


def trust(result: ThermoResult) -> str:
    """What the entropies of this run can be trusted for."""
    known = [row for row in result.rows if math.isfinite(row.effective_dimension)]
    if not known:
        return "Entropies: the weights do not stay in one half of the sphere, and nothing bounds them."
    shape = format_range(row.effective_dimension for row in known)
    dimensions = format_range(row.dimension - 1 for row in known)
    only = "Maxwell's relations compare states of one temperature, whose clouds have one shape, and need no more. "
    return (
        "What the entropies are good for: the clouds of weights have an effective dimension of "
        f"{shape} of {dimensions}, so that levels are not known and only differences are used; those between "
        "clouds of one shape are right. "
        f"{only if result.relations else ''}Between ELRs shapes differ: there a comparison counts only where a "
        "bound from the covariance says the same."
    )


def _maps(result: ThermoResult) -> list[str]:
    parts = [_map(one) for one in result.maps if len(one.settings) > 1]
    if not parts:
        return []
    return [f"Is every state the one of least free energy at its own settings? {'; '.join(parts)}."]


def _map(one: EnergyMap) -> str:
    better, worse, open_ = one.counts()
    return (
        f"{NAMES[one.population]} ({one.potential}): of {better + worse + open_} comparisons with another state "
        f"{better} say yes, {worse} no, {open_} are not decided"
    )


def _drifts(result: ThermoResult) -> list[str]:
    moved = [one for one in result.settings if drifted(_runs(result, one))]
    if not moved:
        return []
    names = ", ".join(f"{NAMES[one.population]} {format_number(one.rate)}" for one in moved[:6])
    more = f" and {len(moved) - 6} more" if len(moved) > 6 else ""
    return [
        f"Not stationary: the loss of {names}{more} changed by more than {100 * DRIFT:g} % within the last window "
        "(mean over seeds); more steps are needed there."
    ]


def _runs(result: ThermoResult, one: Setting) -> list[ThermoRow]:
    key = (one.population, one.rate, one.weight_decay)
    return [row for row in result.rows if (row.population, row.rate, row.weight_decay) == key]
