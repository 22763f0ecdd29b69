"""The charts: gas law, entropies with Maxwell's slopes, maps of free energies, temperatures, courses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onsphere.lab.chart.looks import elr_looks, series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Heat, Line, Mark, Marker, Panel, Points, Rule, Scale
from onsphere.lab.experiments.thermo.result import NAMES, EnergyMap, Setting, Temperature, ThermoResult
from onsphere.lab.intervals import Interval
from onsphere.lab.report.words import format_number

__all__ = ["curve_chart", "entropy_chart", "gas_chart", "map_chart", "temperature_chart"]

_MARKERS: dict[str, Marker] = {
    "fixed_elr": "circle",
    "fixed_lr": "diamond",
    "sphere": "square",
    "under": "circle",
    "over": "square",
}
_RATES = {"fixed_lr": "lr"}


def gas_chart(result: ThermoResult) -> Chart:
    """P V against the temperature, and norm or pressure over what the law gives."""
    d = result.rows[0].dimension
    heats = sorted(one.temperature.mean for one in result.settings if math.isfinite(one.temperature.mean))
    work: list[Mark] = [Line(heats, [(d - 1) * t / 2 for t in heats], INKED, entry="law")]
    off: list[Mark] = []
    for name, look in series_looks(one.population for one in result.settings).items():
        own, dots = result.of(name), look.but(marker=_MARKERS[name], size=8)
        at, said = [one.temperature.mean for one in own], [*map(_said, own)]
        volumes = [one.pressure.mean * one.radius.mean**2 / 2 for one in own]
        work.append(Points(at, volumes, dots, said, entry=NAMES[name]))
        ratios, bars = [100 * (one.ratio.mean - 1) for one in own], [100 * _half(one.ratio) for one in own]
        off.append(Points(at, ratios, dots, said, error=bars, entry=NAMES[name]))
    return Chart(
        id="gas-chart",
        title="A network in its stationary state as an ideal gas",
        x=Axis("temperature T (from the noise at fixed weights)", log=True),
        panels=[
            Panel(Axis("p V", log=True), work),
            Panel(Axis("off the law (%)"), off, rules=[Rule(0)], height=0.8),
        ],
        height=640,
        caption=(
            "Top: p V over (d − 1) T / 2. Bottom: the norm, on the sphere the pressure, over what the law gives, less "
            "one; bars are 95 % intervals over seeds."
        ),
        label="Pressure times volume, and deviations from the laws, against the temperature",
    )


def entropy_chart(result: ThermoResult) -> Chart:
    """Entropies along lines of one temperature, with the slopes that Maxwell's relations give."""
    d, panels = result.rows[0].dimension, []
    for name in dict.fromkeys(one.population for one in result.relations):
        own, marks = result.of(name), list[Mark]()
        by_lr = name == "fixed_lr"

        def heat(one: Setting, by_lr: bool = by_lr) -> float:
            return float(f"{one.rate * one.weight_decay if by_lr else one.rate:.6g}")

        slope = (d - 1) / 4 if by_lr else -(d - 1) / 2
        for key, look in elr_looks(map(heat, own)).items():
            same = [one for one in own if heat(one) == key]
            x = [one.rate / one.weight_decay if by_lr else one.weight_decay for one in same]
            y, entry = [one.entropy.mean for one in same], f"{'lr · wd' if by_lr else 'ELR'} {format_number(key)}"
            middle = np.mean(y) - slope * np.mean(np.log(x))
            law = [float(middle + slope * np.log(value)) for value in sorted(x)]
            marks.append(Line(sorted(x), law, look, entry=entry, listed=False))
            bars = [_half(one.entropy) for one in same]
            dots = look.but(marker=_MARKERS[name], size=8)
            marks.append(Points(x, y, dots, [*map(_said, same)], error=bars, entry=entry))
        places = sorted({one.rate / one.weight_decay if by_lr else one.weight_decay for one in own})
        named = {place: format_number(place) for place in places}
        axis = Axis("lr / weight decay" if by_lr else "weight decay", log=True, ticks=named)
        panels.append(Panel(Axis("entropy S (nats, up to a constant)"), marks, x=axis, title=NAMES[name]))
    return Chart(
        id="entropy-chart",
        title="Entropy along lines of one temperature",
        x=panels[0].x or Axis(""),
        panels=panels,
        columns=len(panels),
        height=460,
        caption=(
            "Lines have the slope that Maxwell's relation gives and go through the mean of their points. Bars are 95 % "
            "intervals over seeds and hold the differences between seeds, which slopes within a seed do not."
        ),
        note="Lines: slopes by Maxwell's relations.",
        label="Entropy against weight decay, and against the ratio of learning rate and weight decay",
    )


def map_chart(one: EnergyMap) -> Chart:
    """Free energy of every state at the hyper-parameters of every other, less that of the state that was measured."""
    names = [_setting(one, i) for i in range(len(one.settings))]
    excess = np.array(one.excess, dtype=np.float64)
    shade = np.sign(excess) * np.log10(1 + np.abs(excess))
    reach = float(np.nanmax(np.abs(shade), initial=1.0))
    labels = [[f"{value:.0f}" if math.isfinite(value) else "" for value in row] for row in excess]
    letters = [chr(ord("a") + i % 26) * (1 + i // 26) for i in range(len(names))]
    many = len(names) > 6
    heat = Heat(
        letters if many else names,
        [f"{letter}: {name}" for letter, name in zip(letters, names, strict=True)] if many else names,
        shade,
        Scale("± log10 (1 + nats)", -reach, reach),
        labels=labels,
        hover="state of {x} at the settings {y}",
    )
    key = _RATES.get(one.population, "ELR") + (", wd" if one.settings[0][1] else "")
    return Chart(
        id=f"map-{one.population.replace('_', '-')}-chart",
        title=f"Free energy {one.potential}: {NAMES[one.population]}",
        x=Axis(f"state measured at ({key})"),
        panels=[Panel(Axis(f"hyper-parameters ({key})"), [heat])],
        caption=(
            f"({one.potential} of the state in the column − {one.potential} of the state in the row) / T at the "
            "hyper-parameters of the row, nats, mean over seeds: positive where the row's own state is the better one."
        ),
        label=f"Map of the free energy {one.potential}",
        height=420 if len(names) < 6 else 560,
    )


def temperature_chart(result: ThermoResult) -> Chart:
    """Temperature intervals and the law, signal-to-noise ratio and energy over the ELR."""
    heat, ratio, energy = list[Mark](), list[Mark](), list[Mark]()
    for name, look in series_looks(result.spec.populations()).items():
        own, dots = [one for one in result.temperatures if one.population == name], look.but(marker=_MARKERS[name])
        elrs, said = [one.elr for one in own], [*map(_interval_said, own)]
        heat.append(
            Line(elrs, [one.law.mean for one in own], look.but(dash="dash"), said, entry=f"{NAMES[name]}, noise")
        )
        shown = [one for one in own if one.low > 0 and 0 < one.high < math.inf]
        middle = [math.sqrt(one.low * one.high) for one in shown]
        tops = [max(one.low, one.high, m) - m for one, m in zip(shown, middle, strict=True)]
        bottoms = [m - min(one.low, one.high, m) for one, m in zip(shown, middle, strict=True)]
        hollow = tuple(not (one.low <= one.high and one.stationary) for one in shown)
        at = [one.elr for one in shown]
        entry = f"{NAMES[name]}, slopes"
        said = [*map(_interval_said, shown)]
        if shown:
            heat.append(Points(at, middle, dots.but(hollow=hollow), said, error=tops, error_down=bottoms, entry=entry))
        for marks, which in ((ratio, "signal_to_noise"), (energy, "energy")):
            values: list[Interval] = [getattr(one, which) for one in own]
            bars = [_half(one) for one in values]
            marks.append(Line(elrs, [one.mean for one in values], dots, error=bars, entry=NAMES[name], listed=False))
    return Chart(
        id="temperature-chart",
        title="Temperature over the effective learning rate",
        x=Axis("effective learning rate (ELR)", log=True),
        panels=[
            Panel(Axis("temperature T", log=True), heat),
            Panel(Axis("signal-to-noise ratio"), ratio, height=0.7),
            Panel(Axis("energy U (loss)", log=True), energy, height=0.7),
        ],
        height=860,
        caption=(
            "Top: bars from the largest slope of energy over entropy towards states of lower entropy to the smallest "
            "one towards higher; hollow where the two are the wrong way around or the weights still drift. Dashed: "
            "ELR (TrΣ + |∇L|²) / (2 (d − 1)). Below: |∇L| / √TrΣ at fixed weights, and the loss. Bars: 95 % intervals."
        ),
        label="Temperatures, signal-to-noise ratios and energies against the effective learning rate",
        note="Hollow: no such temperature, or not stationary.",
    )


def curve_chart(result: ThermoResult, name: str) -> Chart:
    """Energy and entropy along the training of one network."""
    energy, entropy = list[Mark](), list[Mark]()
    for elr, look in elr_looks(result.spec.elrs_used, marker="circle", size=5).items():
        own = [one for one in result.curves if (one.population, one.elr) == (name, elr)]
        steps, entry = [one.end for one in own], f"ELR {format_number(elr)}"
        for marks, which in ((energy, "energy"), (entropy, "entropy")):
            told = f"{entry}<br>window up to step {{x}} · {{y:.4g}}"
            marks.append(Line(steps, [getattr(one, which) for one in own], look, told, entry=entry))
    return Chart(
        id=f"curves-{name}-chart",
        title=f"Energy and entropy along training: {NAMES[name]}",
        x=Axis("last step of the window"),
        panels=[
            Panel(Axis("energy U (loss)", log=True), energy),
            Panel(Axis("entropy S (nats, up to a constant)"), entropy),
        ],
        height=520,
        caption="Means over seeds, one point a window.",
        label=f"Energy and entropy against steps, {NAMES[name]}",
    )


def _half(one: Interval) -> float:
    return (one.high - one.low) / 2


def _setting(one: EnergyMap, index: int) -> str:
    rate, decay = one.settings[index]
    return f"{format_number(rate)}, {format_number(decay)}" if decay else format_number(rate)


def _said(one: Setting) -> str:
    rate = f"{_RATES.get(one.population, 'ELR')} {format_number(one.rate)}"
    decay = f" · weight decay {format_number(one.weight_decay)}" if one.weight_decay else ""
    lines = [f"<b>{NAMES[one.population]}</b> · {rate}{decay}"]
    for name, word in (
        ("temperature", "T"),
        ("energy", "U"),
        ("radius", "r"),
        ("pressure", "p"),
        ("ratio", "over law"),
    ):
        lines.append(f"{word} {format_number(getattr(one, name).mean, 4)}")
    return "<br>".join(lines)


def _interval_said(one: Temperature) -> str:
    ends: Sequence[str] = [format_number(end) for end in (one.low, one.high, one.bound_low, one.bound_high)]
    return (
        f"<b>{NAMES[one.population]}</b> · ELR {format_number(one.elr)}<br>T {ends[0]} to {ends[1]} · by bounds "
        f"{ends[2]} to {ends[3]}<br>noise {format_number(one.law.mean)} · exists in {one.exists} seeds"
    )
