"""The page of the thermodynamics of a network, and its tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onsphere.lab.experiments.thermo.charts import (
    curve_chart,
    entropy_chart,
    gas_chart,
    map_chart,
    temperature_chart,
)
from onsphere.lab.experiments.thermo.result import NAMES, EnergyMap, ThermoResult
from onsphere.lab.experiments.thermo.spec import SMALL
from onsphere.lab.experiments.thermo.words import trust
from onsphere.lab.frame import Report
from onsphere.lab.intervals import Interval
from onsphere.lab.report.page import Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_interval, format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_MEASUREMENTS = (
    ("batches", "drawn anew in every step from all training images, with replacement"),
    ("fixed ELR", "the norm is free: every step has the lr ELR · r², and weight decay is added to the gradient"),
    ("energy U", "mean minibatch loss over the last window, batch statistics of the batch"),
    ("norm r", "root mean square over the window; law: r² = T (d − 1) / wd"),
    ("TrΣ, |∇L|²", "of the effective gradient at fixed weights of the window, on batches that training never saw"),
    (
        "temperature T",
        "ELR (TrΣ + |∇L|²) / (2 (d − 1)); at a fixed lr √(lr wd (TrΣ + |∇L|²) / 2) / (d − 1). |∇L|² is the correction "
        "for steps of finite size",
    ),
    ("pressure p", "the weight decay; on the sphere (‖x'‖ − r) / (ELR r³), x' a step before its projection"),
    ("gas law", "p V / ((d − 1) T / 2) − 1 with V = r² / 2"),
    (
        "entropy S",
        "of the directions, from the chords to the nearest quarter of the window, plus (d − 1) ⟨ln r⟩; "
        "up to a constant of d and the number of samples. In many dimensions chords tell how wide a cloud is, not how "
        "flat: differences between clouds of one shape are right, levels are not known",
    ),
    (
        "bound",
        "what S cannot exceed: Gaussian of the same variances along axes that the other half of the samples gave, no "
        "constant left. It shares no assumption about the shape with S",
    ),
    ("effective dimension", "(tr C)² / tr C² of the covariance of the directions; d − 1 for a round cloud"),
    ("growth", "entropy of the window less the mean of its halves, at equal numbers of samples: 0 if nothing drifts"),
    ("Maxwell slope", "one regression a seed: the slope across settings of one temperature beside a quadratic in ln T"),
    ("intervals", "95 % by Student's t over seeds"),
)


def _interval(name: str, digits: int = 3, scale: float = 1) -> Callable[[Any], Cell]:
    """What shows a mean with half the width of its interval."""

    def shown(row: Any) -> Cell:
        one: Interval = getattr(row, name)
        if not math.isfinite(one.mean):
            return Cell(MISSING, math.nan)
        half, value = scale * (one.high - one.low) / 2, scale * one.mean
        behind = f" ± {format_number(half, 2)}" if half > 1e-9 * abs(value) else ""
        return Cell(f"{format_number(value, digits)}{behind}", value)

    return shown


def _bracket(low: float, high: float) -> Cell:
    """An interval of temperatures; a lower end of 0 and an upper one that is not finite are none."""
    if low > high:
        return Cell("none", math.nan)
    ends = (low if low > 0 else None, high if math.isfinite(high) else None)
    return Cell(format_interval(*ends), ends[0] or ends[1])


_KEYS = (
    Column("fixed", lambda row: NAMES[row.population], kind="tight"),
    Column("rate", "rate", "the lr at a fixed lr, otherwise the ELR"),
    Column("wd", lambda row: row.weight_decay or None, "weight decay"),
)
_SETTINGS = (
    *_KEYS,
    Column("T", _interval("temperature"), "temperature from the noise at fixed weights"),
    Column("U", _interval("energy"), "mean minibatch loss"),
    Column("r", _interval("radius"), "root mean square of the norm"),
    Column("p", _interval("pressure"), "weight decay; measured on the sphere"),
    Column("over law", _interval("ratio", 4), "norm, on the sphere pressure, over what the law gives"),
    Column("p V off (%)", _interval("gas_law", 2, 100), "against (d − 1) T / 2"),
    Column("S", _interval("entropy", 4), "nats, up to a constant; intervals hold differences between seeds"),
    Column("bound", _interval("bound", 4), "what S cannot exceed, nats"),
    Column("eff. dim.", _interval("effective_dimension", 2), "of the cloud of directions"),
)
_RELATIONS = (
    Column("protocol", lambda row: NAMES[row.population], kind="tight"),
    Column("relation", "name", kind="tight"),
    Column("expected", "expected", digits=4),
    Column("measured", _interval("slope", 4), "from entropies by neighbours, 95 % interval"),
    Column("by bounds", _interval("bound_slope", 4), "the same from the bounds"),
    Column("R²", lambda row: Cell(f"{row.fit.mean:.4f}"), "of a quadratic function of both logarithms"),
)
_TEMPERATURES = (
    Column("network", lambda row: NAMES[row.population], kind="tight"),
    Column("ELR", "elr"),
    Column("U", _interval("energy")),
    Column(
        "T by slopes",
        lambda row: _bracket(row.low, row.high),
        "from the largest slope of U over S towards states of lower S to the smallest towards higher S",
    ),
    Column("by bounds", lambda row: _bracket(row.bound_low, row.bound_high), "the same from the bounds"),
    Column("seeds", "exists", "in how many single seeds the interval is not empty"),
    Column("T by noise", _interval("law"), "ELR (TrΣ + |∇L|²) / (2 (d − 1))"),
    Column("signal / noise", _interval("signal_to_noise"), "|∇L| / √TrΣ at fixed weights"),
    Column(
        "stationary",
        lambda row: "yes" if row.stationary else "no",
        "whether loss and entropy move less within the window than between ELRs",
        kind="text",
    ),
)
_RUNS = (
    *_KEYS,
    Column("seed", "seed"),
    Column("U", "energy", digits=4),
    Column("drift", "energy_drift", "mean loss of the window's second half less that of the first", digits=2),
    Column("r", "radius", digits=4),
    Column("TrΣ", "noise_trace"),
    Column("|∇L|²", "squared_gradient"),
    Column("along the steps", "moment", "mean squared effective gradient of the steps: TrΣ + |∇L|²"),
    Column("T", "temperature"),
    Column("over law", "ratio", digits=4),
    Column("S", "entropy", digits=4),
    Column("growth", "growth", "nats", digits=2),
    Column("train err (%)", "train_error", kind="percent"),
)


def report(run: Run, result: ThermoResult) -> Report:
    """What is to be read about the thermodynamics."""
    spec = result.spec
    caution = Text(trust(result), tone="warning")
    maps = [part for one in result.maps if len(one.settings) > 1 for part in (map_chart(one), _map_table(one))]
    if spec.study == "gas":
        title = "A network as an ideal gas"
        relations = table(result.relations, _RELATIONS, "One regression a seed.", sortable=False)
        sections = [Section("gas", "Norm and pressure", [gas_chart(result)])]
        if result.relations:
            sections.append(Section("maxwell", "Entropy", [entropy_chart(result), relations, caution]))
        else:
            sections.append(Section("maxwell", "Entropy", [caution]))
        sections += [Section("maps", "Free energies", maps)] if maps else []
        sections.append(Section("settings", "All settings", [table(result.settings, _SETTINGS)]))
    else:
        title = "Training as minimisation of a free energy"
        heats = table(result.temperatures, _TEMPERATURES)
        sections = [
            Section("temperature", "Temperatures", [temperature_chart(result), heats, caution]),
            Section("curves", "Along training", [curve_chart(result, name) for name in spec.populations()]),
            Section("maps", "Free energies", maps),
        ]
    sections.append(Section("runs", "All runs", [table(result.rows, _RUNS)], folded=True))
    dimensions = " and ".join(str(d) for d in dict.fromkeys(row.dimension for row in result.rows))
    return Report(
        title=title,
        subtitle=f"{subtitle(spec, widths=SMALL)} · d = {dimensions}",
        summary=[counted(len(result.rows), "run"), counted(len(result.settings), "setting"), f"{spec.seeds} seeds"],
        sections=sections,
        measured=_MEASUREMENTS,
        note="Times are in steps, temperatures in units of the loss, entropies in nats.",
    )


def printed(result: ThermoResult) -> list[Table | str]:
    """The settings as a table; relations or temperatures."""
    if result.spec.study == "free-energy":
        return [table(result.temperatures, _TEMPERATURES)]
    relations = [table(result.relations, _RELATIONS)] if result.relations else []
    return [table(result.settings, _SETTINGS[:8]), *relations]


def _map_table(one: EnergyMap) -> Text:
    better, worse, open_ = one.counts()
    return Text(
        f"Of {better + worse + open_} comparisons {better} find the own state better, {worse} not; "
        f"{open_} are not decided: zero lies in the interval over seeds, or entropies by neighbours and bounds "
        "disagree about the sign.",
        tone="note",
    )
