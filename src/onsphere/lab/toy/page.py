"""What the pages of the toys share: the frame around their charts, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from onsphere import __version__
from onsphere.lab.chart.style import save_figure, style
from onsphere.lab.config import to_command, to_toml
from onsphere.lab.old_result import ExperimentResult
from onsphere.lab.options import Options
from onsphere.lab.report.page import Page, Section
from onsphere.lab.report.sections import cost_section, measured_section, repeat_section
from onsphere.lab.store import Run

_UNITS = "Angles are in radians, times in steps; log is the natural logarithm."


def write(
    run: Run,
    result: ExperimentResult,
    spec: type[Options],
    *,
    title: str,
    subtitle: str,
    answer: Sequence[str],
    summary: Sequence[str],
    sections: Sequence[Section],
    measurements: Sequence[tuple[str, str]],
    runs: int,
    figures: Mapping[str, Callable[[], Figure]],
) -> Path:
    """Write ``report.html`` and ``figures/``.

    Args:
        run: Where to.
        result: What was found.
        spec: The model of ``result.spec``, which knows the defaults.
        title: Heading of the page.
        subtitle: What was simulated, one line.
        answer: What was found, one sentence and its explanation.
        summary: Short facts.
        sections: The parts that belong to this toy alone.
        measurements: Name and definition of every quantity.
        runs: How many simulations there were.
        figures: Makes each figure of ``figures/NAME.{png,svg}``, inside the reports' style.

    Returns:
        The page.
    """
    with style():
        drawn = {name: draw() for name, draw in figures.items()}
    for name, figure in drawn.items():
        save_figure(figure, run.folder / "figures" / name)
    given = {name: value for name, value in result.spec.items() if value is not None}
    page = Page(
        title=title,
        subtitle=subtitle,
        answer=answer,
        summary=summary,
        sections=[
            *sections,
            measured_section(("quantity", "what it is"), measurements, note=_UNITS),
            cost_section(result.seconds, runs, result.engine, _environment(run)),
            repeat_section(to_command(result.command, spec, result.spec), to_toml(given)),
        ],
        footer=f"Made by onsphere {__version__}. The figures folder beside this page holds its charts as PNG and SVG.",
        data=result.to_dict() | {"version": __version__},
    )
    return page.write(run.folder / "report.html")


def _environment(run: Run) -> dict[str, Any]:
    environment: dict[str, Any] = run.manifest["environment"]
    return environment
