"""Matplotlib figures without pyplot: one style, one size of type, files that come out the same every time.

Every figure of a report is made inside `style()` (a local rc context: nothing global changes) and written by
`save_figure` as PNG for slides and as SVG for papers. The SVG holds no date and takes its ids from a fixed
salt, so the same result gives the same bytes on the same machine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from onsphere.lab.report.words import format_number
from onsphere.lab.store.files import atomic

from .theme import INK

DPI = 200

_TICKS = {"labelsize": 8, "color": "#555555", "labelcolor": INK, "major.width": 0.7, "minor.width": 0.4}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs everywhere
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in _TICKS.items()},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "onsphere",
    "path.simplify": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Use the reports' matplotlib style inside a ``with`` block, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of `width` x `height` inches on an Agg canvas, with the constrained layout."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure made inside `style()` as ``stem.png`` and ``stem.svg``, and return both; their folder is made."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    with style():
        _freeze_layout(figure)
        with atomic(png) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": "onsphere"})
        with atomic(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": "onsphere"})
    return png, svg


def _freeze_layout(figure: Figure) -> None:
    """Lay the figure out once and round the result.

    The layout solver's last bits differ from call to call, and the SVG's clip paths are named after them.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, 5), round(bottom, 5), round(width, 5), round(height, 5)))


def figure_title(figure: Figure, title: str, subtitle: str) -> None:
    """Put a left-aligned title and a fainter subtitle above the panels; dollar signs stay dollar signs."""
    letters = int(figure.get_figwidth() * 15.5)  # at this size of type, so that a long title breaks instead of leaving
    lines = [line for part in (title, *subtitle.split("\n")) for line in textwrap.wrap(part, letters)]
    heading = figure.suptitle("\n".join(lines), x=0.008, ha="left", fontsize=9)
    heading.set_parse_math(False)
    heading.set_linespacing(1.35)


def panel_letter(axes: Axes, letter: str, title: str) -> None:
    """Head a panel with its bold letter and what it shows, aligned with the axis."""
    axes.set_title(f"({letter}) {title}", loc="left", fontsize=9, pad=6)


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make the x or y axis logarithmic with a few readable ticks; call once for each, after the data are drawn."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    log_ticks(axes.xaxis if which == "x" else axes.yaxis)


def log_ticks(axis: Axis) -> None:
    """A few readable ticks for a logarithmic axis, by the length of its range."""
    low, high = sorted(axis.get_view_interval())
    if high < 4 * low:
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    elif high < 50 * low:
        # Less than two decades: a tick per power of ten would leave one label, so 1-2-5 steps are named too.
        number_ticks(axis)
    else:
        axis.set_major_locator(LogLocator(base=10, numticks=9))
    axis.set_minor_formatter(NullFormatter())


def number_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, .., written as plain numbers."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    axis.set_minor_formatter(NullFormatter())
