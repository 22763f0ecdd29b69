"""The printed figures of the course of training: overview and phase diagram.

After Kodryan et al., "Training Scale-Invariant Neural Networks on the Sphere Can Happen in Three Regimes"
(NeurIPS 2022): training loss, test error and mean effective gradient norm against steps, and the phase
diagram of gradient norm against loss. Curves are thinned by means over bins of steps
(`smoothing.binned_mean`).
"""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onsphere.lab.chart.style import (
    INK,
    REGIME_MARKERS,
    add_elr_colorbar,
    figure_title,
    log_axis,
    new_figure,
    panel_letter,
    regime_handle,
)
from onsphere.lab.chart.theme import REGIME_NAMES, elr_colours

from .regimes_view import Curve, RegimesView
from .smoothing import binned_mean

__all__ = ["gradient_norm_ceiling", "overview", "phase_diagram"]

_OVERVIEW_BINS, _PHASE_BINS = 60, 22


def gradient_norm_ceiling(view: RegimesView) -> float:
    """Upper end of gradient-norm axes: a hundred times the largest binned value outside divergence.

    In divergence the gradient norm is set by batch norm's eps and may reach 1e8; shown whole, it would press
    everything of interest into one line.
    """

    def largest(curves: list[Curve]) -> float:
        tops = [binned_mean(c.steps, c.gradient_norm, bins=_OVERVIEW_BINS)[1] for c in curves]
        return max((float(top.max()) for top in tops if top.size), default=1.0)

    calm = [curve for curve in view.curves if curve.regime != "divergence"]
    overall = largest(list(view.curves))
    return min(overall * 1.5, 100 * largest(calm)) if calm else overall * 1.5


def overview(view: RegimesView) -> Figure:
    """Three panels against steps: training loss, test error, mean effective gradient norm; one line per ELR.

    The first seed is drawn boldly, the others as thin lines behind it. Call inside `figures.style()`.
    """
    figure = new_figure(9.4, 3.35)
    figure_title(figure, view.title, _overview_subtitle(view))
    panels: Any = figure.subplots(1, 3)
    loss, error, gradient = panels
    elrs = [curve.elr for curve in view.curves]
    colours = elr_colours(elrs)
    first = view.curve_seeds[0]
    for curve in sorted(view.curves, key=lambda curve: (curve.seed == first, -curve.elr)):
        bold = curve.seed == first
        look: dict[str, Any] = {
            "color": colours[float(curve.elr)],
            "linewidth": 1.25 if bold else 0.5,
            "alpha": 1.0 if bold else 0.22,
            "zorder": 3 if bold else 2,
        }
        loss.plot(*binned_mean(curve.steps, curve.loss, bins=_OVERVIEW_BINS), **look)
        gradient.plot(*binned_mean(curve.steps, curve.gradient_norm, bins=_OVERVIEW_BINS), **look)
        steps, errors = binned_mean(curve.evaluation_steps, curve.test_error, bins=_OVERVIEW_BINS, geometric=False)
        error.plot(steps, 100 * errors, **look)
    if math.isfinite(view.loss_at_init):
        loss.axhline(view.loss_at_init, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
        # At the top rather than on its line, where divergent curves run.
        loss.annotate(
            "- - loss at initialisation (random guess)",
            (0.985, 0.985),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7.5,
        )
    for axes, letter, title, label in (
        (loss, "a", "training loss", "training loss (mean of minibatches)"),
        (error, "b", "test error", "test error (%)"),
        (gradient, "c", "gradient norm", "mean effective gradient norm"),
    ):
        panel_letter(axes, letter, title)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
    log_axis(loss, "y")
    loss.set_ylim(top=loss.get_ylim()[1] * 1.9)
    error.set_ylim(bottom=0)
    _cap_gradient_axis(gradient, view)
    add_elr_colorbar(figure, list(panels), elrs)
    return figure


def phase_diagram(view: RegimesView) -> Figure:
    """Training loss against mean effective gradient norm, log-log; one curve per ELR, a star at its start.

    Shows the first seed; bins are equal in log steps, since runs move fastest at the beginning.
    """
    figure = new_figure(5.6, 4.3)
    first = view.curve_seeds[0]
    figure_title(
        figure,
        view.title,
        f"{view.subtitle}\nphase diagram, seed {first}; ★ start, ends at the regime's marker",
    )
    axes: Any = figure.subplots()
    curves = sorted((curve for curve in view.curves if curve.seed == first), key=lambda curve: -curve.elr)
    colours = elr_colours(curve.elr for curve in view.curves)
    shown = set()
    for curve in curves:
        _, loss, norm = binned_mean(curve.steps, curve.loss, curve.gradient_norm, bins=_PHASE_BINS, spacing="log")
        if not loss.size:
            continue
        colour = colours[float(curve.elr)]
        axes.plot(loss, norm, color=colour, linewidth=1.3, zorder=2)
        axes.plot(
            loss[0],
            norm[0],
            marker="*",
            markersize=9,
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=4,
        )
        end = {"markersize": 5, "color": colour, "markeredgecolor": INK, "markeredgewidth": 0.6}
        axes.plot(loss[-1], norm[-1], marker=REGIME_MARKERS[curve.regime], zorder=3, **end)
        shown.add(curve.regime)
    axes.set_xlabel("training loss (mean of minibatches)")
    axes.set_ylabel("mean effective gradient norm")
    log_axis(axes, "x")
    _cap_gradient_axis(axes, view)
    handles = [
        regime_handle(regime, "white", edge=INK, label=f"end in {REGIME_NAMES[regime]}")
        for regime in REGIME_MARKERS
        if regime in shown
    ]
    axes.legend(handles=handles, loc="best", handletextpad=0.3)
    add_elr_colorbar(figure, axes, [curve.elr for curve in view.curves])
    return figure


def _overview_subtitle(view: RegimesView) -> str:
    first, *others = view.curve_seeds
    seeds = f"seed {first}" + (f", thin: {len(others)} more" if others else "")
    return f"{view.subtitle} · {seeds}" if view.subtitle else seeds


def _cap_gradient_axis(axes: Axes, view: RegimesView) -> None:
    log_axis(axes, "y")
    low, high = axes.get_ylim()
    ceiling = gradient_norm_ceiling(view)
    if high > 3 * ceiling:
        axes.set_ylim(low, ceiling)
        axes.annotate(
            "↑ divergent runs above",
            (0.98, 0.985),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7.5,
        )
