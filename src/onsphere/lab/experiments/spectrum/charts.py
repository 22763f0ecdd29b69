"""The charts of a spectrum: quantities against the ELR at both places, maps of barriers and angles between minima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.spec import Axis, Chart, Heat, Line, Look, Panel, Scale
from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.spectrum.result import PLACES, Place, SpectrumResult, values_of
from onsphere.lab.experiments.spectrum.words import place_name
from onsphere.lab.report.words import format_number

__all__ = ["angle_chart", "error_chart", "map_of", "means", "overview", "pairs_chart", "sharpness_chart"]

#: How the mean at a place of the runs looks.
LOOKS: Mapping[Place, Look] = {
    "matched": Look(OKABE_ITO["blue"], OKABE_ITO["sky"], width=2.6, marker="circle", size=8),
    "end": Look(OKABE_ITO["vermillion"], "#E8743B", width=2.6, dash="dash", marker="diamond", size=8),
}
GEOMETRIC = ("gradient_norm", "sharpness")  # on logarithmic axes, and averaged so
TITLES: Mapping[str, str] = {
    "gradient_norm": "mean gradient norm",
    "sharpness": "sharpness (top eigenvalue)",
    "test_loss": "test loss",
    "test_error": "test error (%)",
    "angle": "angle from init (rad)",
}


def sharpness_chart(result: SpectrumResult) -> Chart:
    """Gradient norm and sharpness against the ELR, at matched loss and at the end."""
    return _chart(
        result,
        GEOMETRIC,
        id="sharpness-chart",
        title="Gradient norm and sharpness",
        caption=(
            "Thin lines: seeds; bold: their geometric mean. Gradient norm: mean over minibatches of the effective "
            "gradient at fixed weights. Sharpness: top eigenvalue of the Hessian on the unit sphere. Both with batch "
            "statistics of training. At matched loss runs differ in their ELR and not in how far they have got."
        ),
        label="Gradient norm and sharpness against the effective learning rate",
    )


def error_chart(result: SpectrumResult) -> Chart:
    """Test loss and test error against the ELR, at matched loss and at the end."""
    return _chart(
        result,
        ("test_loss", "test_error"),
        id="test-chart",
        title="Test loss and test error",
        caption=(
            "Thin lines: seeds; bold: their mean. Batch statistics re-estimated over all training images. "
            "At the end train losses differ as well (table below)."
        ),
        label="Test loss and test error against the effective learning rate",
    )


def angle_chart(result: SpectrumResult) -> Chart:
    """Angle from the initial weights against the ELR."""
    return _chart(
        result,
        ("angle",),
        id="angle-chart",
        title="Distance travelled from the initial weights",
        caption="How far a run has travelled from its initial weights; unrelated weights are π/2 = 1.57 rad apart.",
        label="Angle from the initial weights against the effective learning rate",
    )


def overview(result: SpectrumResult) -> Chart:
    """All of these in one figure."""
    return _chart(
        result,
        ("gradient_norm", "sharpness", "angle", "test_loss", "test_error"),
        id="spectrum",
        title="The spectrum of minima",
        caption="",
        label="Gradient norm, sharpness, angle, test loss and test error against the effective learning rate",
    )


def _chart(result: SpectrumResult, quantities: Sequence[str], **said: Any) -> Chart:
    """A panel a quantity, each with both places of the runs."""
    elrs = result.elrs
    ticks = {elr: format_number(elr) for elr in elrs} if len(elrs) <= 6 else None
    return Chart(
        x=Axis("effective learning rate (ELR)", log=True, ticks=ticks),
        panels=[Panel(Axis(TITLES[name], log=name in GEOMETRIC), _lines(result, name)) for name in quantities],
        columns=min(len(quantities), 3),
        note="thin: seeds, bold: mean",
        **said,
    )


def _lines(result: SpectrumResult, quantity: str) -> list[Line]:
    scale = 100.0 if quantity == "test_error" else 1.0
    lines = []
    for place in PLACES:
        look, name = LOOKS[place], place_name(result, place)
        thin = look.but(width=0.8, size=4, dash="solid", opacity=0.45)
        told = f"ELR {{x:.3g}} · {TITLES[quantity]} {{y:.3g}} · {name}"
        for seed, points in values_of(result.runs, place, quantity).items():
            along, scaled = [elr for elr, _ in points], [scale * value for _, value in points]
            lines.append(Line(along, scaled, thin, f"seed {seed} · {told}", entry=name, listed=False))
        elrs, values = means(result, place, quantity)
        if elrs:
            lines.append(Line(elrs, [scale * value for value in values], look, f"mean · {told}", entry=name))
    return lines


def means(result: SpectrumResult, place: Place, quantity: str) -> tuple[Sequence[float], Sequence[float]]:
    """ELRs at which every seed has a value, and the means over seeds there, geometric for :data:`GEOMETRIC`."""
    table: dict[float, list[float]] = {}
    for points in values_of(result.runs, place, quantity).values():
        for elr, value in points:
            table.setdefault(elr, []).append(value)
    whole = {elr: v for elr, v in sorted(table.items()) if len(v) == len(result.seeds)}
    if quantity in GEOMETRIC:
        whole = {elr: v for elr, v in whole.items() if min(v) > 0}
        return list(whole), [float(np.exp(np.log(v).mean())) for v in whole.values()]
    return list(whole), [float(np.mean(v)) for v in whole.values()]


def map_of(result: SpectrumResult, quantity: str, seed: int | None) -> list[list[float | None]]:
    """A quantity of pairs of minima as a symmetric matrix over the ELRs; the mean over seeds if ``seed`` is None."""
    elrs = result.elrs
    table: list[list[list[float]]] = [[[] for _ in elrs] for _ in elrs]
    for pair in result.pairs:
        value = getattr(pair, quantity)
        if value is not None and seed in (None, pair.seed):
            i, j = elrs.index(pair.low), elrs.index(pair.high)
            table[i][j].append(value)
            table[j][i].append(value)
    # the diagonal is zero by definition
    return [
        [0.0 if i == j else float(np.mean(cell)) if cell else None for j, cell in enumerate(row)]
        for i, row in enumerate(table)
    ]


def pairs_chart(result: SpectrumResult) -> Chart:
    """Barriers and angles between the minima of different ELRs, as two maps; there has to be a pair."""
    names = [format_number(elr) for elr in result.elrs]
    seeds: list[int | None] = [None, *result.seeds] if len(result.seeds) > 1 else [result.seeds[0]]

    def maps(quantity: str, scale: Scale, digits: int, told: str, title: str) -> Panel:
        hover, marks = f"minima of ELR {{x}} and {{y}}<br>{told}", []
        for frame, seed in enumerate(seeds):
            matrix = map_of(result, quantity, seed)
            labels = [["" if v is None else f"{v:.{digits}f}" for v in row] for row in matrix]
            marks.append(Heat(names, names, matrix, scale, labels=labels, hover=hover, frame=frame))
        return Panel(Axis("ELR"), marks, title=title)

    barriers = [pair.loss_barrier for pair in result.pairs if pair.loss_barrier is not None]
    loss = Scale("loss", 0, max(barriers, default=0.0) or 1.0, reverse=True)
    angle = Scale("rad", 0, max(pair.angle for pair in result.pairs), reverse=True)
    return Chart(
        "pairs-chart",
        "Between the minima of different ELRs",
        Axis("ELR"),
        [
            maps("loss_barrier", loss, 3, "barrier {z:.4f} (train loss)", "barrier of the train loss"),
            maps("angle", angle, 2, "angle {z:.2f} rad", "angle (rad)"),
        ],
        (
            "Weights at the end of training from the same start at different ELRs. Barrier: how far the train loss "
            "rises on the great circle between two of them above the line between their losses, batch statistics "
            "re-estimated at every point. No barrier: they lie in one basin."
        ),
        "Barriers and angles between the minima of different effective learning rates",
        columns=2,
        frames=["mean over seeds" if seed is None else f"seed {seed}" for seed in seeds],
        frame_name="seed",
    )
