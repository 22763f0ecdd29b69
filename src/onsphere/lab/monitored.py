"""What a monitor read, on disk: its readings as parquet, and one self-contained page with charts and findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onsphere import __version__
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.page import block
from onsphere.lab.chart.spec import Axis, Chart, Line, Mark, Panel, literal
from onsphere.lab.report.page import Cell, Page, Section, Table, Text
from onsphere.lab.report.sections import counted, measured_section
from onsphere.lab.store.files import write_table

if TYPE_CHECKING:
    from onsphere.monitor import Monitor

_MOST_POINTS = 2000  # of a curve; every so many readings are drawn
_PANELS = (
    ("elr", "ELR"),
    ("norm", "norm"),
    ("effective_gradient", "effective gradient"),
    ("angular_update", "angular update (rad)"),
)
_FORCES = (("decay", "decay"), ("alignment", "alignment"), ("push", "push"))
_MEASUREMENTS = (
    ("norm", "ρ = ‖w‖ of the group before the step"),
    ("ELR", "‖D_t‖/(ρ²‖g‖), D_t the tangent part of the applied update, g the gradient; for SGD lr/ρ²"),
    ("effective gradient", "ρ‖g‖, the gradient's norm at the unit sphere"),
    ("angular update", "angle between the weights before and after the step, radians"),
    ("decay", "log(1 − d), d the fraction that weight decay takes; 0 where it goes through the optimiser's scaling"),
    ("alignment", "log of the rest of the step's radial part: the update along the weights"),
    ("push", "−log cos of the angular update: growth of the norm by the update across the weights"),
)


def write_readings(monitor: Monitor, path: str | Path, *, level: str = "group") -> Path:
    """Write a monitor's readings as a parquet file, one row a reading and group (or tensor).

    Args:
        monitor: The monitor; it is flushed.
        path: The file; its folder is made if missing.
        level: ``group`` for a row a group, ``tensor`` for a row a tensor.

    Returns:
        The path that was given.

    Raises:
        ValueError: Another level.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = monitor.readings(level)  # type: ignore[arg-type]
    write_table(path, {name: np.asarray(column) for name, column in columns.items()})
    return path


def monitor_page(monitor: Monitor, path: str | Path, *, title: str = "What the monitor saw") -> Path:
    """Write a monitor's findings and readings as one HTML page that needs no network.

    Args:
        monitor: The monitor; it is flushed.
        path: The file; its folder is made if missing.
        title: Heading of the page.

    Returns:
        The path that was given.

    Raises:
        ValueError: Nothing has been read yet.
    """
    readings, findings = monitor.readings(), monitor.diagnose()
    if not len(readings["step"]):
        raise ValueError("the monitor has no reading yet; train for a few steps first")
    titles = monitor.titles()
    steps = readings["step"]
    rows = [[Cell(f.kind), Cell(f.severity), Cell(f.message)] for f in findings]
    said = Table([("kind", ""), ("severity", ""), ("what", "")], rows, tight=frozenset({0, 1}))
    page = Page(
        title=title,
        subtitle=f"steps {int(steps.min())} to {int(steps.max())}",
        answer=[f.message for f in findings[:3]] or ["Nothing stands out."],
        summary=[counted(len(set(steps)), "reading"), counted(len(titles), "group")],
        sections=[
            Section("findings", "Findings", [said] if rows else [Text("There are none.")]),
            Section("readings", "Readings", [block(_chart(readings, titles))]),
            measured_section(("quantity", "what it is"), _MEASUREMENTS),
        ],
        footer=f"onsphere {__version__}",
    )
    return page.write(Path(path))


def _chart(readings: dict[str, Any], titles: dict[str, str]) -> Chart:
    marks: dict[str, list[Mark]] = {name: [] for name, _ in (*_PANELS, *_FORCES)}
    for group, look in series_looks(list(titles), width=1.3).items():
        of_group = np.flatnonzero(readings["group"] == group)
        shown = of_group[:: max(1, len(of_group) // _MOST_POINTS)]
        for name, label in (*_PANELS, *_FORCES):
            said = f"{literal(titles[group])}<br>step {{x}} · {label} {{y:.4g}}"
            first = name == _PANELS[0][0]
            line = Line(readings["step"][shown], readings[name][shown], look, said, entry=titles[group], listed=first)
            marks[name].append(line)
    panels = [Panel(Axis(label, log=True), marks[name]) for name, label in _PANELS]
    panels += [Panel(Axis(label, holds=(0.0,)), marks[name], height=0.6) for name, label in _FORCES]
    return Chart(
        id="readings-chart",
        title="What the monitor saw",
        x=Axis("step"),
        panels=panels,
        caption=(
            "Every reading of every group (thinned where there are many). Click a group in the legend to hide it. The "
            "last three panels are the forces: what decay, the update along the weights, and the update across them "
            "change log norm by in a step. They add up to its change."
        ),
        label="ELR, norm, effective gradient, angular update and the three forces of every group against steps",
        legend="group",
        height=1300,
    )
