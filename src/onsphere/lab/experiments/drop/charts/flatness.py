"""Charts of how flat it is after the drop, over the start and at matched train loss, and of norms before it."""

from __future__ import annotations

import numpy as np

from onsphere.lab.chart.looks import elr_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Marker, Panel, Points
from onsphere.lab.experiments.drop.charts.parts import curve_of, looks_of, rules_of, spans_of, x_axis
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.report.words import format_number


def after_chart(result: DropResult) -> Chart:
    """Stochastic gradient norm after the drop against the start; the top eigenvalue below it if it was measured.

    There has to be a scale-invariant weight (:attr:`DropResult.angled`).
    """
    looks, panels = looks_of(result), []
    wanted = {"gradient_norm": ("stochastic gradient norm", "gradient norm")}
    if result.sharp:
        wanted["sharpness"] = ("top eigenvalue on the sphere", "sharpness")
    for quantity, (title, short) in wanted.items():
        told = f"from {{x:.3g}} to %s<br>{short} {{y:.3g}}"
        marks = [curve_of(result, end, quantity, looks[end], told % format_number(end)) for end in result.ends]
        panels.append(Panel(Axis(title, log=True), marks))
    more = " Below: top eigenvalue of the training-mode Hessian on the unit sphere at the end." if result.sharp else ""
    return Chart(
        "after-chart",
        "After the drop",
        x_axis(result),
        panels,
        (
            "Mean effective norm of the stochastic gradient over the last quarter of the steps after the drop; mean "
            f"over seeds, bars one standard error. Lower is flatter where training losses are alike (see above).{more}"
        ),
        f"Stochastic gradient norm after the drop against the {result.spec.rate_name} before it",
        rules=rules_of(result),
        spans=spans_of(result),
        height=640 if result.sharp else 400,
    )


def at_loss_chart(result: DropResult) -> Chart:
    """Test error over sharpness at matched train loss, one point a start and final rate; there has to be one."""
    rate, looks = result.spec.rate, elr_looks(result.starts, size=10)
    markers: list[Marker] = ["circle", "diamond", "square", "triangle", "down", "star", "cross", "plus"]
    marks = list[Points]()
    for end, marker in zip(result.ends, markers, strict=False):
        for cell in (cell for cell in result.at_loss_cells if cell.end == end):
            told = f"from {format_number(cell.start)} to {format_number(end)}<br>sharpness {{x:.3g}}<br>"
            point = Points(
                [cell.sharpness],
                [100 * cell.test_error],
                looks[cell.start].but(marker=marker),
                told + "test error {y:.2f} %",
                error=[100 * cell.test_error_se],
                error_x=[cell.sharpness_se],
                entry=f"from {format_number(cell.start)}",
            )
            marks.append(point)
    keys = [(f"to {format_number(end)}", INKED.but(marker=m)) for end, m in zip(result.ends, markers, strict=False)]
    return Chart(
        "at-loss-chart",
        f"At a train loss of {format_number(result.spec.matched_loss)}",
        Axis("top eigenvalue on the sphere", log=True),
        [Panel(Axis("test error (%)"), marks)],
        (
            "Every continuation at the step after the drop where its train loss is the same: test error over the top "
            "eigenvalue of the training-mode Hessian on the unit sphere. Means over seeds (of the eigenvalue the "
            f"geometric one), bars one standard error; colours are {rate}s before the drop, shapes those after it: "
            + ", ".join(f"{shape} {name}" for (name, _), shape in zip(keys, markers, strict=False))
            + "."
        ),
        "Test error over sharpness at matched train loss",
        keys=keys,
        height=480,
    )


def norms_chart(result: DropResult) -> Chart:
    """Histograms of the norms of groups of weights before the drop, one curve a start; they have to be measured."""
    edges = np.array(result.norm_edges)
    middles, rate = np.sqrt(edges[1:] * edges[:-1]).tolist(), result.spec.rate
    looks = elr_looks(result.starts, width=1.8)
    marks = []
    for one in result.norms:
        name = "at initialisation" if one.start is None else f"{rate} {format_number(one.start)}"
        look = INKED.but(dash="dash") if one.start is None else looks[one.start]
        shares = [100 * count / sum(one.counts) for count in one.counts]
        told = f"{name}<br>norm about {{x:.3g}}<br>{{y:.1f}} % of the groups"
        marks.append(Line(middles, shares, look, told, entry=name))
    return Chart(
        "norms-chart",
        "Norms of groups of weights before the drop",
        Axis("norm of a group / joint norm", log=True),
        [Panel(Axis("share of the groups (%)", holds=(0.0,)), marks)],
        (
            "Histograms of the norms of all groups of weights that can be rescaled by themselves (rows of tensors "
            "ahead of a batch norm, otherwise tensors) over their joint norm, at the end of training before the drop, "
            "all seeds together. Dashed: the initial weights."
        ),
        "Histograms of the norms of groups of weights before the drop, one curve for each start",
        height=440,
    )
