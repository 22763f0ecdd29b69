"""The printed map of the three regimes: what became of every run, over its effective learning rate.

Three panels share the logarithmic ELR axis: final training loss relative to initialisation, training and test
error, angular update in radians per step. A ribbon above names the regimes and carries the boundaries'
numbers.
"""

from __future__ import annotations

import math
import textwrap
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from onsphere.lab.chart.style import INK, REGIME_MARKERS, figure_title, log_axis, new_figure, regime_handle
from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES

from .regimes_view import Boundary, RegimesView, cell_value
from .words import format_interval, format_number

__all__ = ["regime_map"]

_MAP_AXES_INCHES = 6.2  # width of the map's panels, to judge which words fit


def regime_map(view: RegimesView) -> Figure:
    """Draw final loss, errors and angular update over the ELR, with regimes and boundaries.

    A dot is a run, a line the median over seeds. Certain regions are tinted and named; brackets are hatched
    and carry their numbers; what is not resolved stays white, and the reason is printed below. Call inside
    `figures.style()`.
    """
    notes = _unresolved_notes(view)
    figure = new_figure(7.0, 6.5 + 0.16 * sum(note.count("\n") + 1 for note in notes))
    figure_title(figure, view.title, view.subtitle)
    panels: Any = figure.subplots(4, 1, sharex=True, height_ratios=[0.36, 1, 1, 1])
    ribbon, loss, error, angle = panels
    loss.set_xlim(view.elr_range)
    for axes in (loss, error, angle):
        _shade(axes, view)
    _draw_ribbon(ribbon, view)

    _dots(loss, view, "loss", relative_to="loss_at_init")
    loss.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    loss.annotate(
        "as at initialisation",
        (0.008, 1),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7.5,
    )
    loss.set_ylabel("final training loss\n/ loss at initialisation")
    log_axis(loss, "y")
    loss.set_ylim(top=max(loss.get_ylim()[1], 2.5))

    _dots(error, view, "train_error", scale=100, hollow=True)
    _dots(error, view, "test_error", scale=100)
    error.set_ylabel("error (%)")
    error.set_ylim(-4, 104)

    _dots(angle, view, "angular_update")
    angle.axhline(view.divergence_angle, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    rule = f"{format_number(view.divergence_angle)} rad: divergence above"
    angle.annotate(
        rule,
        (0.008, view.divergence_angle),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7.5,
    )
    angle.set_ylabel("angular update\n(rad per step)")
    log_axis(angle, "y")
    angle.set_ylim(top=max(angle.get_ylim()[1], 4))

    angle.set_xlabel("effective learning rate (ELR)")
    log_axis(angle, "x")
    _mark_non_finite(loss, view)
    _map_legends(loss, error, view)
    figure.align_ylabels([loss, error, angle])
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=8, color=INK, x=0.01, ha="left").set_parse_math(False)
    return figure


def _shade(axes: Axes, view: RegimesView) -> None:
    for region in view.regions():
        axes.axvspan(region.left, region.right, color=REGIME_COLOURS[region.regime], alpha=0.13, linewidth=0, zorder=0)
    for bracket in view.brackets():
        _bracket_span(axes, bracket)


def _bracket_span(axes: Axes, bracket: Boundary) -> None:
    assert bracket.low is not None and bracket.high is not None
    axes.axvspan(
        bracket.low,
        bracket.high,
        facecolor="#9a9a9a" if bracket.resolved else "none",
        edgecolor="#555555",
        alpha=0.35,
        hatch="////",
        linewidth=0 if bracket.resolved else 1.0,
        linestyle="-" if bracket.resolved else "--",
        zorder=0.5,
    )


def _draw_ribbon(axes: Axes, view: RegimesView) -> None:
    """Name the regimes on a strip above the panels and write each bracket's numbers over it."""
    axes.set_ylim(0, 1)
    axes.axis("off")
    left, right = view.elr_range
    inches = _MAP_AXES_INCHES / math.log(right / left)

    def block(start: float, stop: float, **look: Any) -> None:
        axes.add_patch(Rectangle((start, 0), stop - start, 0.52, transform=axes.transData, **look))

    for region in view.regions():
        block(region.left, region.right, color=REGIME_COLOURS[region.regime], alpha=0.45, linewidth=0)
        _fitted_text(axes, region.left, region.right, REGIME_NAMES[region.regime], inches, weight="bold")
    for start, stop in view.gaps():
        block(start, stop, facecolor="none", edgecolor="#888888", linestyle="--", linewidth=0.8)
        _fitted_text(axes, start, stop, "not resolved", inches, style="italic")
    brackets = view.brackets()
    centres = [math.sqrt(float(b.low or 0) * float(b.high or 0)) for b in brackets]
    close = len(centres) == 2 and abs(math.log(centres[1] / centres[0])) * inches < 1.35
    for bracket, centre in zip(brackets, centres, strict=True):
        if bracket.resolved:
            assert bracket.low is not None and bracket.high is not None
            block(
                bracket.low,
                bracket.high,
                facecolor="#9a9a9a",
                edgecolor="#555555",
                alpha=0.35,
                hatch="////",
                linewidth=0,
            )
        at = "center" if not close else ("right" if centre == min(centres) else "left")
        text = format_interval(bracket.low, bracket.high) + ("" if bracket.resolved else " ?")
        axes.annotate(text, (centre, 0.66), xycoords="data", ha=at, va="bottom", fontsize=8)


def _fitted_text(axes: Axes, start: float, stop: float, text: str, inches: float, **look: Any) -> None:
    """Write into a stretch of the ribbon: on one line if it fits, else broken, else smaller."""
    room = math.log(stop / start) * inches
    size = 8.5
    per_letter = 0.0088 * size
    if len(text) * per_letter > room and " " in text:
        text, size = text.replace(" ", "\n"), 7.5
    longest = max(len(line) for line in text.split("\n"))
    size = float(np.clip(room / longest / 0.0088, 5.5, size))
    axes.text(math.sqrt(start * stop), 0.26, text, ha="center", va="center", fontsize=size, linespacing=0.95, **look)


def _dots(
    axes: Axes,
    view: RegimesView,
    key: str,
    *,
    relative_to: str | None = None,
    scale: float = 1.0,
    hollow: bool = False,
) -> None:
    elrs, medians = view.median_over_seeds(key, relative_to=relative_to)
    dash: Any = (0, (3, 2)) if hollow else "-"
    axes.plot(elrs, [scale * m for m in medians], color="#444444", linewidth=1.1, linestyle=dash, zorder=3)
    for regime, marker in REGIME_MARKERS.items():
        cells = [cell for cell in view.cells if cell["regime"] == regime]
        colour = REGIME_COLOURS[regime]
        axes.plot(
            [float(cell["elr"]) for cell in cells],
            [scale * cell_value(cell, key, relative_to) for cell in cells],
            linestyle="none",
            marker=marker,
            markersize=4.2 if marker == "o" else 3.6,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "#333333",
            markeredgewidth=0.9 if hollow else 0.35,
            alpha=0.9,
            zorder=4,
        )


def _mark_non_finite(axes: Axes, view: RegimesView) -> None:
    broken = [float(cell["elr"]) for cell in view.cells if not cell["finite"]]
    if broken:
        axes.plot(
            broken,
            [0.965] * len(broken),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            color=INK,
            markersize=4.5,
            zorder=5,
        )


def _map_legends(loss: Axes, error: Axes, view: RegimesView) -> None:
    present = {cell["regime"] for cell in view.cells}
    handles = [
        regime_handle(r, REGIME_COLOURS[r], edge="#333333", label=REGIME_NAMES[r])
        for r in REGIME_MARKERS
        if r in present
    ]
    handles.append(Line2D([], [], color="#444444", linewidth=1.1, label="median over seeds"))
    if any(not cell["finite"] for cell in view.cells):
        handles.append(
            Line2D([], [], color=INK, linestyle="none", marker="x", markersize=4.5, label="run became non-finite")
        )
    _boxed_legend(loss, handles, "lower right")
    dashed: Any = (0, (3, 2))
    _boxed_legend(
        error,
        [
            Line2D([], [], color="#444444", marker="o", markersize=4.2, markerfacecolor="#777777", label="test"),
            Line2D(
                [],
                [],
                color="#444444",
                linestyle=dashed,
                marker="o",
                markersize=4.2,
                markerfacecolor="white",
                label="train",
            ),
        ],
        "upper left",
    )


def _boxed_legend(axes: Axes, handles: list[Line2D], where: Literal["lower right", "upper left"]) -> None:
    axes.legend(
        handles=handles,
        loc=where,
        frameon=True,
        framealpha=0.85,
        edgecolor="none",
        fontsize=7.5,
        handletextpad=0.4,
    )


def _unresolved_notes(view: RegimesView) -> list[str]:
    words = {"convergence": "End of convergence", "divergence": "Onset of divergence"}
    notes = []
    for name, what in words.items():
        boundary = view.boundary(name)  # type: ignore[arg-type]
        if not boundary.resolved:
            notes.append(textwrap.fill(f"{what} not resolved: {boundary.reason}", 108))
    return notes
