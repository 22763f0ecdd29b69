"""The printed figures of a spectrum: quantities against the ELR, and the map of barriers and angles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.experiments.spectrum.charts import PLACES, map_of, means, place_name, values_of
from onsphere.lab.experiments.spectrum.result import SpectrumResult
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]

_MARKERS = {"circle": "o", "diamond": "D"}
_DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (4, 2))}
_PANELS = (
    ("gradient_norm", "gradient norm", "mean gradient norm", 1, True),
    ("sharpness", "sharpness", "top eigenvalue", 1, True),
    ("angle", "distance travelled", "angle from init (rad)", 1, False),
    ("test_loss", "test loss", "test loss", 1, False),
    ("test_error", "test error", "test error (%)", 100, False),
)


def figures_of(result: SpectrumResult, subtitle: str) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name."""
    found: dict[str, Callable[[], Figure]] = {"spectrum": partial(_spectrum, result, subtitle)}
    if result.pairs:
        found["pairs"] = partial(_pairs, result, subtitle)
    return found


def _spectrum(result: SpectrumResult, subtitle: str) -> Figure:
    figure = new_figure(7.6, 5.0)
    figure_title(figure, "The spectrum of minima", subtitle)
    axes: Any = figure.subplots(2, 3).ravel()
    for panel, letter, (quantity, name, label, scale, log) in zip(axes, "abcde", _PANELS, strict=False):
        for where, (colour, _, symbol, dash) in PLACES.items():
            for seed in result.seeds:
                points = values_of(result, where, quantity, seed)
                panel.plot([x for x, _ in points], [scale * y for _, y in points], color=colour, lw=0.6, alpha=0.4)
            elrs, values = means(result, where, quantity, geometric=log)
            panel.plot(
                elrs,
                [scale * value for value in values],
                color=colour,
                linestyle=_DASHES[dash],
                marker=_MARKERS[symbol],
                markersize=3.5,
                linewidth=1.8,
                label=place_name(result, where),
            )
        panel_letter(panel, letter, name)
        panel.set_xlabel("effective learning rate (ELR)")
        panel.set_ylabel(label)
        log_axis(panel, "x")
        if log:
            log_axis(panel, "y")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[5].axis("off")
    axes[5].legend(handles, labels, loc="upper left", title="measured at\n(thin: seeds, bold: mean)", alignment="left")
    return figure


def _pairs(result: SpectrumResult, subtitle: str) -> Figure:
    figure = new_figure(7.6, 3.9)
    figure_title(figure, "Between the minima of different ELRs, means over seeds", subtitle)
    names = [format_number(elr) for elr in result.elrs]
    panels: Any = figure.subplots(1, 2)
    for panel, letter, quantity, name, digits in (
        (panels[0], "a", "loss_barrier", "barrier of the train loss", 3),
        (panels[1], "b", "angle", "angle (rad)", 2),
    ):
        matrix = np.array(map_of(result, quantity, None), dtype=np.float64)
        top = float(np.nanmax(matrix)) or 1.0
        image = panel.imshow(matrix, origin="lower", cmap="viridis_r", vmin=0, vmax=top)
        figure.colorbar(image, ax=panel, fraction=0.046)
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                colour = "white" if value > 0.6 * top else "#222222"
                panel.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=7)
        panel.set_xticks(range(len(names)), names)
        panel.set_yticks(range(len(names)), names)
        panel.set_xlabel("ELR")
        panel.set_ylabel("ELR")
        panel.grid(visible=False)
        panel_letter(panel, letter, name)
    return figure
