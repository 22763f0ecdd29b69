"""The report of the three regimes: figures and one HTML page that opens with the answer.

`write_regimes_report` takes a `RegimesView` and writes ``report.html`` and
``figures/{overview,phase,map}.{png,svg}``. The sentences are derived from the boundaries alone: an unresolved
boundary is called that, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES

from .page import Cell, Page, Section, Table, Text
from .regimes_charts import overview_chart, phase_chart
from .regimes_figures import overview, phase_diagram
from .regimes_map_chart import map_chart
from .regimes_map_figure import regime_map
from .regimes_view import Boundary, Curve, RegimesView, number
from .sections import cost_section, counted, measured_section, repeat_section
from .words import format_duration, format_interval, format_number, format_percent

__all__ = ["Boundary", "Curve", "RegimesView", "answer", "regimes_page", "write_regimes_report"]

_RESOLVED = (
    "A bracket a – b says: in every seed the boundary lies between the ELRs a and b. It is resolved when "
    "runs on both sides of it were seen and their labels can be trusted; otherwise the report says what is "
    "missing."
)


_MEASURED = ("quantity", "what it is", "batch statistics")
_UNITS = "Losses are means over examples with the natural logarithm; angles are in radians."


def write_regimes_report(view: RegimesView, folder: Path) -> Path:
    """Write the figures and the page of a map of the three regimes.

    Args:
        view: What to show.
        folder: Where to; made if missing. Files of an earlier report are replaced.

    Returns:
        The path of ``report.html``; beside it lies ``figures/`` with overview, phase and map as PNG and SVG.

    Raises:
        OSError: If the folder cannot be written.
    """
    with style():
        drawn = {"overview": overview(view), "phase": phase_diagram(view), "map": regime_map(view)}
    for name, figure in drawn.items():
        save_figure(figure, folder / "figures" / name)
    return regimes_page(view).write(folder / "report.html")


def regimes_page(view: RegimesView) -> Page:
    """Assemble the page without writing it."""
    return Page(
        title=view.title,
        subtitle=view.subtitle,
        answer=answer(view),
        summary=_summary(view),
        sections=[
            Section("boundaries", "Boundaries", _boundaries(view)),
            Section("map", "Map of the regimes", [map_chart(view)]),
            Section("overview", "Course of training", [overview_chart(view)]),
            Section("phase", "Phase diagram", [phase_chart(view)]),
            Section("runs", "All runs", [_cells(view)]),
            measured_section(_MEASURED, view.measurements, note=_UNITS),
            cost_section(view.seconds, len(view.cells), view.engine, view.environment),
            repeat_section(view.command, view.toml),
        ],
        footer=(
            f"Made by onsphere {view.version}. The figures folder beside this page holds the three charts as "
            "PNG and SVG."
        ),
        data={"spec": view.spec, "boundaries": view.boundaries, "version": view.version},
    )


def answer(view: RegimesView) -> list[str]:
    """What was found, in two sentences or so, and what "resolved" means."""
    convergence, divergence = view.boundary("convergence"), view.boundary("divergence")
    if convergence.resolved and divergence.resolved:
        first = (
            f"Training converges up to an ELR of {format_interval(convergence.low, convergence.high)} and "
            f"diverges from {format_interval(divergence.low, divergence.high)}"
        )
        middle = any(region.regime == "chaotic_equilibrium" for region in view.regions())
        between = (
            "; in between it settles in a chaotic equilibrium."
            if middle
            else ", with no ELR in between that is chaotic in every seed."
        )
        return [first + between, _RESOLVED]
    return [f"{_end_of_convergence(convergence)} {_onset_of_divergence(divergence)}", _RESOLVED]


def _end_of_convergence(boundary: Boundary) -> str:
    if boundary.resolved:
        return f"Training converges up to an ELR of {format_interval(boundary.low, boundary.high)}."
    return f"Where convergence ends is not resolved{_what_is_known(boundary)}."


def _onset_of_divergence(boundary: Boundary) -> str:
    if boundary.resolved:
        return f"Training diverges from an ELR of {format_interval(boundary.low, boundary.high)}."
    return f"Where divergence begins is not resolved{_what_is_known(boundary)}."


def _what_is_known(boundary: Boundary) -> str:
    if boundary.low is None and boundary.high is None:
        return ""
    word = "perhaps" if boundary.low is not None and boundary.high is not None else "somewhere"
    return f" ({word} {format_interval(boundary.low, boundary.high)})"


def _summary(view: RegimesView) -> list[str]:
    refined = sum(int(cell["round"]) > 0 for cell in view.cells)
    broken = sum(not cell["finite"] for cell in view.cells)
    elrs = view.elrs
    facts = [
        f"{counted(len(view.cells), 'run')}" + (f", {refined} of them refinements" if refined else ""),
        f"{counted(len(elrs), 'ELR')} from {format_number(elrs[0])} to {format_number(elrs[-1])}",
        counted(len(view.seeds), "seed"),
        format_duration(view.seconds),
    ]
    return facts + ([f"{counted(broken, 'run')} became non-finite"] if broken else [])


def _boundaries(view: RegimesView) -> list[Text | Table]:
    convergence, divergence = view.boundary("convergence"), view.boundary("divergence")
    rows: list[list[Cell | str]] = []
    blocks: list[Text | Table] = []
    for name, boundary in (("end of convergence", convergence), ("onset of divergence", divergence)):
        if not boundary.resolved:
            blocks.append(Text(f"The {name} is not resolved: {boundary.reason}", tone="warning"))
        status = "resolved" if boundary.resolved else "not resolved"
        rows.append([name, format_interval(boundary.low, boundary.high), _spread(boundary), status, boundary.reason])
    columns = [
        ("boundary", ""),
        ("ELR, all seeds", "in every seed the boundary lies in this bracket"),
        (
            "spread over seeds",
            "smallest and largest geometric middle of the seeds' own brackets",
        ),
        ("status", ""),
        ("why", ""),
    ]
    caption = "The two boundaries as brackets of effective learning rates."
    blocks.append(Table(columns, rows, caption=caption, tight=frozenset({0, 1, 3})))
    by_seed: dict[int, dict[str, str]] = {}
    for boundary in (convergence, divergence):
        for entry in boundary.per_seed:
            by_seed.setdefault(int(entry["seed"]), {})[boundary.name] = format_interval(entry["low"], entry["high"])
    if by_seed:
        blocks.append(
            Table(
                [("seed", ""), ("end of convergence (ELR)", ""), ("onset of divergence (ELR)", "")],
                [
                    [str(seed), found.get("convergence", "not found"), found.get("divergence", "not found")]
                    for seed, found in sorted(by_seed.items())
                ],
                caption="Each seed by itself.",
                tight=frozenset({0, 1, 2}),
            )
        )
    return blocks


def _spread(boundary: Boundary) -> str:
    """Between which ELRs the middles of the seeds' own brackets lie."""
    middles = [
        math.sqrt(float(entry["low"]) * float(entry["high"]))
        for entry in boundary.per_seed
        if entry["low"] is not None and entry["high"] is not None
    ]
    if not middles:
        return "no seed has both ends"
    low, high = min(middles), max(middles)
    seeds = counted(len(middles), "seed")
    if low == high:
        return f"none: {format_number(low)} ({seeds})"
    factor = f"a factor of {format_number(high / low)} ({seeds})"
    return f"{format_number(low)} – {format_number(high)}, {factor}"


def _cells(view: RegimesView) -> Table:
    columns = [
        ("ELR", "effective learning rate"),
        ("seed", ""),
        ("regime", ""),
        ("loss", "training loss over the last quarter, train-mode batch statistics"),
        ("loss / init", "the same divided by the loss at initialisation"),
        ("train (%)", "training error in percent"),
        ("test (%)", "test error in percent"),
        ("angle (rad)", "angular update in radians per step"),
        ("trend", "loss of the last quarter divided by that of the quarter before"),
        ("gradient", "mean effective gradient norm"),
        ("finite", "whether the run stayed finite"),
        ("round", "0: the grid; 1 and more: refinement of a boundary"),
        ("why this label", ""),
    ]
    rows = [_cell_row(cell) for cell in sorted(view.cells, key=lambda cell: (cell["elr"], cell["seed"]))]
    numeric = frozenset(i for i, (name, _) in enumerate(columns) if name not in ("regime", "finite", "why this label"))
    tight = frozenset(i for i, (name, _) in enumerate(columns) if name in ("regime", "finite"))
    caption = "One row a run. Click a heading to sort, click again to turn the order around."
    return Table(columns, rows, caption=caption, sortable=True, numeric=numeric, tight=tight)


def _cell_row(cell: Mapping[str, Any]) -> list[Cell | str]:
    def plain(value: object) -> Cell:
        return Cell(format_number(value), number(value))

    def percent(key: str) -> Cell:
        return Cell(format_percent(cell[key]), number(cell[key]))

    start = number(cell["loss_at_init"])
    regime, reason = cell["regime"], str(cell["reason"])
    return [
        plain(cell["elr"]),
        plain(cell["seed"]),
        Cell(REGIME_NAMES[regime], colour=REGIME_COLOURS[regime], hint=reason),
        plain(cell["loss"]),
        plain(number(cell["loss"]) / start if start > 0 else None),
        percent("train_error"),
        percent("test_error"),
        plain(cell["angular_update"]),
        plain(cell["trend"]),
        plain(cell["gradient_norm"]),
        "yes" if cell["finite"] else "no",
        plain(cell["round"]),
        reason,
    ]
