"""Charts of how flat it is after the drop."""

from __future__ import annotations

from onsphere.lab.chart.spec import Axis, Chart, Panel
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
