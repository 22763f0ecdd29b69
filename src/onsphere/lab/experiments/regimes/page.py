"""The page of a regime map: the boundaries, the map, the course of training, the phase diagram, all runs."""

from __future__ import annotations

import math
from typing import Any

from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.regimes.along import layers_chart, noise_chart, statistics_chart
from onsphere.lab.experiments.regimes.charts import Course, courses, map_chart, overview_chart, phase_chart, steps_chart
from onsphere.lab.experiments.regimes.classify import NAMES, VERBS, Boundary, BoundaryName, Bracket
from onsphere.lab.experiments.regimes.result import RegimesResult
from onsphere.lab.experiments.regimes.words import UNITS, measured, setting, unresolved
from onsphere.lab.frame import Report
from onsphere.lab.report import page as blocks
from onsphere.lab.report.page import Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_interval, format_number
from onsphere.lab.store import Run

_BOUNDARIES = {"convergence": "end of convergence", "divergence": "onset of divergence"}

_RUNS = (
    Column("ELR", "elr", "effective learning rate"),
    Column("seed", "seed"),
    Column(
        "regime",
        lambda cell: blocks.Cell(REGIME_NAMES[cell.regime], colour=REGIME_COLOURS[cell.regime], hint=cell.reason),
        kind="tight",
    ),
    Column("loss", "loss", "training loss over the last quarter, train-mode batch statistics"),
    Column("loss / init", "relative_loss", "the same divided by the loss at initialisation"),
    Column("train (%)", "train_error", "training error in percent", kind="percent"),
    Column("test (%)", "test_error", "test error in percent", kind="percent"),
    Column("angle (rad)", "angular_update", "angular update in radians per step"),
    Column("trend", "trend", "loss of the last quarter divided by that of the quarter before"),
    Column("gradient", "gradient_norm", "mean effective gradient norm"),
    Column("converged", "converged_step", "steps to a mean loss of an epoch below --converged-loss", digits=6),
    Column("finite", lambda cell: "yes" if cell.finite else "no", "whether the run stayed finite", kind="tight"),
    Column("round", "round", "0: the grid; 1 and more: refinement of a boundary"),
    Column("why this label", "reason", kind="text"),
)


def report(run: Run, result: RegimesResult) -> Report:
    """What is to be read about a map; the shards of the run hold the courses."""
    return report_of(result, courses(run, result.cells))


def report_of(result: RegimesResult, shown: list[Course]) -> Report:
    """What is to be read about a map whose courses have been read."""
    cells, elrs = result.cells, result.elrs
    refined, broken = sum(cell.round > 0 for cell in cells), sum(not cell.finite for cell in cells)
    facts = [
        counted(len(cells), "run") + (f", {refined} of them refinements" if refined else ""),
        f"{counted(len(elrs), 'ELR')} from {format_number(elrs[0])} to {format_number(elrs[-1])}",
        counted(len(result.seeds), "seed"),
    ]
    runs = table(cells, _RUNS, "One row a run. Click a heading to sort, click again to turn the order around.")
    return Report(
        title="The three regimes on the sphere",
        subtitle=" · ".join(part for part in (subtitle(result.spec), setting(result.spec)) if part),
        summary=facts + ([f"{counted(broken, 'run')} became non-finite"] if broken else []),
        sections=[
            Section("map", "Map of the regimes", [map_chart(result)]),
            Section("boundaries", "Boundaries", _boundaries(result)),
            Section("overview", "Course of training", [overview_chart(result, shown)]),
            Section("phase", "Phase diagram", [phase_chart(shown)]),
            *_where_there_is(result, shown),
            Section("runs", "All runs", [runs]),
        ],
        measured=measured(result.spec),
        note=UNITS,
    )


def _where_there_is(result: RegimesResult, shown: list[Course]) -> list[Section]:
    """The sections of what not every map has."""
    charts = {
        "steps": ("Steps to convergence", steps_chart(result)),
        "layers": ("Single layers", layers_chart(shown) if result.spec.spheres == "joint" else None),
        "noise": ("Right and wrong labels", noise_chart(shown)),
        "statistics": ("Running statistics", statistics_chart(shown)),
    }
    return [Section(id, title, [chart]) for id, (title, chart) in charts.items() if chart is not None]


def printed(result: RegimesResult) -> list[Table | str]:
    """The grid as a table, means over seeds, and both boundaries."""
    grid = {elr: [cell for cell in result.cells if cell.elr == elr and cell.round == 0] for elr in result.elrs}
    counts = dict(result.counts(rounds=1))

    def regimes(elr: float) -> str:
        return ", ".join(f"{count} {REGIME_NAMES[regime]}" for regime, count in counts[elr].items() if count)

    def mean(name: str) -> Any:
        return lambda elr: sum(getattr(cell, name) for cell in grid[elr]) / len(grid[elr])

    columns = [
        Column("ELR", lambda elr: blocks.Cell(f"{elr:.2e}", elr)),
        Column("seeds in regime", regimes, kind="tight"),
        Column("loss", mean("loss")),
        Column("train err %", mean("train_error"), kind="percent"),
        Column("test err %", mean("test_error"), kind="percent"),
        Column("angle (rad)", mean("angular_update"), digits=2),
    ]
    ends = [f"{VERBS[name] + ':':<20}{boundary}" for name, boundary in result.boundaries.items()]
    return [table(counts, columns), "", *ends]


def _boundaries(result: RegimesResult) -> list[Text | Table]:
    named = {_BOUNDARIES[name]: result.boundaries[name] for name in NAMES}
    columns = [
        Column("boundary", str, kind="tight"),
        Column("ELR, all seeds", lambda name: _ends(named[name]), _ALL_SEEDS, kind="tight"),
        Column("spread over seeds", lambda name: _spread(named[name]), _SPREAD, kind="text"),
        Column("status", lambda name: "resolved" if named[name].resolved else "not resolved", kind="tight"),
        Column("why", lambda name: named[name].reason, kind="text"),
    ]
    both = table(named, columns, "The two boundaries as brackets of effective learning rates.", sortable=False)
    own = {name: {one.seed: one for one in result.boundaries[name].per_seed} for name in NAMES}

    def of_seed(name: BoundaryName) -> Column:
        return Column(f"{_BOUNDARIES[name]} (ELR)", lambda seed: _ends(own[name][seed]), kind="tight")

    columns = [Column("seed", str, kind="tight"), *map(of_seed, NAMES)]
    by_seed = table(own["convergence"], columns, "Each seed by itself.", sortable=False)
    warnings = [Text(said, tone="warning") for said in unresolved(result)]
    return [*warnings, both, *([by_seed] if own["convergence"] else [])]


_ALL_SEEDS = "in every seed the boundary lies in this bracket"
_SPREAD = "smallest and largest geometric middle of the seeds' own brackets"


def _ends(bracket: Boundary | Bracket) -> str:
    return format_interval(bracket.low, bracket.high)


def _spread(boundary: Boundary) -> str:
    """Between which ELRs the middles of the seeds' own brackets lie."""
    ends = [(one.low, one.high) for one in boundary.per_seed]
    middles = [math.sqrt(low * high) for low, high in ends if low is not None and high is not None]
    if not middles:
        return "no seed has both ends"
    low, high, seeds = min(middles), max(middles), counted(len(middles), "seed")
    if low == high:
        return f"none: {format_number(low)} ({seeds})"
    return f"{format_number(low)} – {format_number(high)}, a factor of {format_number(high / low)} ({seeds})"
