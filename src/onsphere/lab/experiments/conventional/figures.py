"""The printed figures of ordinary training beside the sphere: phase diagrams, loss against ELR, courses of the ELR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onsphere.lab.chart.style import REGIME_MARKERS, figure_title, log_axis, new_figure, panel_letter
from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.conventional.charts import LOOKS, calm_curves, calm_runs, colours_of
from onsphere.lab.experiments.conventional.result import ConventionalResult
from onsphere.lab.experiments.conventional.sphere_map import SphereMap
from onsphere.lab.experiments.conventional.view import NAMES, Curve, geometric_mean
from onsphere.lab.report.words import format_number

__all__ = ["figures_of"]


def figures_of(
    result: ConventionalResult, curves: Sequence[Curve], sphere: SphereMap | None, subtitle: str
) -> dict[str, Callable[[], Figure]]:
    """What to draw, by name: the first seed's phase diagrams and ELRs, and all runs against the ELR."""
    first = [curve for curve in curves if curve.seed == min(c.seed for c in curves)]
    found: dict[str, Callable[[], Figure]] = {
        "phase": partial(_phase, first, subtitle),
        "loss": partial(_loss, result, sphere, subtitle),
    }
    if any(curve.setup != "sphere" for curve in first):
        found["elr"] = partial(_elr, first, sphere, subtitle)
    return found


def _phase(curves: Sequence[Curve], subtitle: str) -> Figure:
    setups = list(dict.fromkeys(curve.setup for curve in curves))
    figure = new_figure(3.0 * len(setups) + 0.4, 3.6)
    figure_title(figure, "Phase diagrams, first seed", f"{subtitle}\nstar: start; numbers: learning rates; colour: ELR")
    panels: Any = figure.subplots(1, len(setups), sharex=True, sharey=True, squeeze=False)[0]
    colours = colours_of(curves)
    for panel, letter, setup in zip(panels, "abc", setups, strict=False):
        for curve in (curve for curve in curves if curve.setup == setup and curve.steps.size):
            colour = colours[curve.setup, curve.lr, curve.seed]
            panel.plot(curve.loss, curve.gradient, color=colour, linewidth=1.0)
            panel.plot(curve.loss[0], curve.gradient[0], "*", color=colour, markersize=7)
            panel.plot(curve.loss[-1], curve.gradient[-1], REGIME_MARKERS[curve.regime], color=colour, markersize=4)
            place = (curve.loss[-1], curve.gradient[-1])
            panel.annotate(format_number(curve.lr, 2), place, (3, -7), textcoords="offset points", fontsize=6)
        panel_letter(panel, letter, NAMES[setup].replace(", ", ",\n"))
        panel.set_xlabel("training loss")
    panels[0].set_ylabel("effective gradient norm")
    for panel in panels:
        log_axis(panel, "x")
        log_axis(panel, "y")
    calm = calm_curves(curves)
    for values, limit in (
        (np.concatenate([curve.gradient for curve in calm]), panels[0].set_ylim),
        (np.concatenate([curve.loss for curve in calm]), panels[0].set_xlim),
    ):
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            limit(float(positive.min()) / 1.6, 1.6 * float(positive.max()))
    return figure


def _loss(result: ConventionalResult, sphere: SphereMap | None, subtitle: str) -> Figure:
    figure = new_figure(7.6, 3.6)
    figure_title(figure, "Against the effective learning rate", subtitle)
    panels: Any = figure.subplots(1, 2)
    for panel, letter, (quantity, name, scale) in zip(
        panels, "ab", (("loss", "training loss", 1.0), ("test_error", "test error (%)", 100.0)), strict=True
    ):
        for setup in result.setups:
            colour, _, _, marker = LOOKS[setup]
            runs = [run for run in result.of(setup) if run.elr and getattr(run, quantity) is not None]
            look: dict[str, Any] = {"color": colour, "markersize": 5, "markerfacecolor": "none", "linestyle": "none"}
            at = [run.elr for run in runs]
            panel.plot(at, [scale * getattr(run, quantity) for run in runs], marker=marker, label=NAMES[setup], **look)
            if setup == "sphere":
                grid = sorted({run.lr for run in runs})
                groups = [[getattr(run, quantity) for run in runs if run.lr == elr] for elr in grid]
                means = [geometric_mean(g) if quantity == "loss" else float(np.mean(g)) for g in groups]
                panel.plot(grid, [math.nan if v is None else scale * v for v in means], color=colour, linewidth=1.0)
        panel_letter(panel, letter, name)
        panel.set_xlabel("effective learning rate, last quarter")
        panel.set_ylabel(name)
        log_axis(panel, "x")
        calm = calm_runs(result)
        elrs = [run.elr for run in calm if run.elr]
        if elrs:
            panel.set_xlim(min(elrs) / 1.5, max(elrs) * 1.5)
        if quantity == "loss":
            log_axis(panel, "y")
            losses = [run.loss for run in calm if run.loss]
            if losses:
                panel.set_ylim(min(losses) / 1.5, max(losses) * 1.5)
        _bands(panel, sphere, "x")
    panels[0].legend(loc="upper left", fontsize=6.5)
    return figure


def _elr(curves: Sequence[Curve], sphere: SphereMap | None, subtitle: str) -> Figure:
    own = [curve for curve in curves if curve.setup != "sphere" and curve.elr.size]
    setups = list(dict.fromkeys(curve.setup for curve in own))
    figure = new_figure(3.6 * len(setups) + 0.4, 3.4)
    tints = ", ".join(f"{REGIME_NAMES[name]}" for name in dict.fromkeys(sphere.regimes)) if sphere else ""
    note = f"\ntints, from below: {tints}" if tints else ""
    figure_title(figure, "Effective learning rates, first seed", f"{subtitle}{note}")
    panels: Any = figure.subplots(1, len(setups), sharey=True, squeeze=False)[0]
    colours = colours_of(curves)
    for panel, letter, setup in zip(panels, "ab", setups, strict=False):
        for curve in (curve for curve in own if curve.setup == setup):
            colour = colours[curve.setup, curve.lr, curve.seed]
            panel.plot(curve.elr_steps, curve.elr, color=colour, linewidth=0.9)
            place = (curve.elr_steps[-1], curve.elr[-1])
            panel.annotate(format_number(curve.lr, 2), place, (2, -2), textcoords="offset points", fontsize=6)
        panel_letter(panel, letter, NAMES[setup])
        panel.set_xlabel("step")
        log_axis(panel, "y")
    values = np.concatenate([curve.elr[np.isfinite(curve.elr)] for curve in calm_curves(own)])
    if values.size:
        panels[0].set_ylim(float(values.min()) / 1.5, float(values.max()) * 1.5)
    for panel in panels:
        _bands(panel, sphere, "y")
    panels[0].set_ylabel("measured ELR")
    return figure


def _bands(panel: Any, sphere: SphereMap | None, axis: str) -> None:
    """Tints of the regimes along an ELR axis."""
    if sphere is None:
        return
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    for regime, start, end in sphere.bands():
        if start < high and end > low:
            span = panel.axvspan if axis == "x" else panel.axhspan
            span(max(start, low), min(end, high), color=REGIME_COLOURS[regime], alpha=0.1, linewidth=0)
    (panel.set_xlim if axis == "x" else panel.set_ylim)(low, high)
