"""Settings beside one another: the law of the periods, and the sphere."""

from __future__ import annotations

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Mark, Panel, Points, Rule
from onsphere.lab.experiments.periods.charts.course import ELR
from onsphere.lab.experiments.periods.result import PeriodsResult, summaries
from onsphere.lab.experiments.periods.words import setting_name
from onsphere.lab.report.words import format_number

_CROSS = INKED.but(marker="plus", size=11)


def law_chart(result: PeriodsResult) -> Chart | None:
    """Period of every run over lr · wd, with 1/(2 lr · wd) and what the norm recurrence says; None without periods."""
    settings = [s for s in summaries(result.runs) if s.median("period") is not None]
    if not settings:
        return None
    marks: list[Mark] = []
    by, called = ("width", "width {}") if settings[0].width else ("lr", "lr {}")
    values = sorted({getattr(s, by) for s in settings})
    for value, look in series_looks(values, marker="circle", size=8).items():
        runs = [run for s in settings if getattr(s, by) == value for run in s.runs if run.period is not None]
        name = called.format(format_number(value))
        columns = {"wd": [format_number(run.weight_decay) for run in runs], "seed": [run.seed for run in runs]}
        hover = f"{name} · wd {{wd}} · seed {{seed}}<br>period {{y}} steps"
        products = [run.lr * run.weight_decay for run in runs]
        marks.append(Points(products, [run.period for run in runs], look, hover, columns, entry=name))
    products = [s.product for s in settings]
    grid = np.geomspace(min(products) / 1.6, max(products) * 1.6, 40)
    marks += [
        Line(grid, 1 / (2 * grid), INKED.but(width=1.4), entry="τ = 1/(2 lr · wd)"),
        Points(
            products,
            [s.median("predicted_recovery") for s in settings],
            _CROSS,
            "norm recurrence without gradients: {y:.4g} steps",
            entry="recurrence",
        ),
    ]
    return Chart(
        id="law-chart",
        title="Period over lr · weight decay",
        x=Axis("lr · weight decay", log=True),
        panels=[Panel(Axis("period (steps)", log=True), marks)],
        caption=(
            "Dots: median distance of consecutive jumps, one a run. Line: τ, in which decay alone raises the ELR by "
            "the factor e. Crosses: what the norm recurrence says without gradients, for the ELRs at which jumps began "
            "and ended. At one width runs of equal lr · wd have equal periods, whatever their lr."
        ),
        label="Periods over the product of learning rate and weight decay",
        height=440,
    )


def width_chart(result: PeriodsResult) -> Chart | None:
    """Period in units of τ and mean ELR of every run over the width; None with one width."""
    settings = [s for s in summaries(result.runs) if s.width]
    if not settings:
        return None
    quantities = (("period_tau", "period (τ)"), ("mean_elr", "mean ELR"), ("test_error", "test error (%)"))
    marks: dict[str, list[Mark]] = {name: [] for name, _ in quantities}
    for setting, look in series_looks((s.setting for s in settings), marker="circle", size=7).items():
        own, called = [s for s in settings if s.setting == setting], setting_name(*setting)
        for name, title in quantities:
            runs = [run for s in own for run in s.runs if getattr(run, name) is not None]
            said, seeds = f"{called} · width {{x}} · seed {{seed}}<br>{title} {{y:.3g}}", [run.seed for run in runs]
            percent = 100 if name == "test_error" else 1
            heights = [percent * getattr(run, name) for run in runs]
            widths = [float(run.width or 0) for run in runs]
            middle = [(float(s.width or 0), s.median(name)) for s in sorted(own, key=lambda s: s.width or 0)]
            known = [(w, percent * value) for w, value in middle if value is not None]
            marks[name] += [
                Points(widths, heights, look, said, {"seed": seeds}, entry=called),
                Line([w for w, _ in known], [v for _, v in known], look.but(marker=""), entry=called, listed=False),
            ]
    ticks = {float(s.width or 0): str(s.width) for s in settings}
    return Chart(
        id="width-chart",
        title="Over the width",
        x=Axis("width", log=True, ticks=ticks),
        panels=[
            Panel(Axis("period / τ", holds=(0.0, 1.0)), marks["period_tau"], rules=[Rule(1.0, "τ")]),
            Panel(Axis("mean ELR", log=True), marks["mean_elr"]),
            Panel(Axis("test error (%)", holds=(0.0,)), marks["test_error"]),
        ],
        caption=(
            "One dot a run, lines through medians over seeds. Left: median period over τ = 1/(2 lr · wd), in which "
            "decay alone raises the ELR by the factor e. Middle: geometric mean of the ELR after 3 τ. Right: test "
            "error at the end."
        ),
        label="Period, effective learning rate and test error over the width of the network",
        columns=3,
        height=380,
    )


def sphere_chart(result: PeriodsResult) -> Chart | None:
    """Minibatch loss over the ELR: fixed on the sphere, measured in the whole space; None without a comparison."""
    settings = [row.setting for row in result.comparison if row.elr is not None]
    if not settings:
        return None
    marks: list[Mark] = []
    for setting, look in series_looks(settings, width=1.4).items():
        name = setting_name(*setting)
        own = [r for r in result.sphere if r.setting == setting and r.loss]
        elrs = sorted({r.elr for r in own})
        means = [float(np.exp(np.mean([np.log(r.loss) for r in own if r.loss and r.elr == elr]))) for elr in elrs]
        hover = f"{name}<br>sphere · seed {{seed}} · ELR {{x:.3g}} · loss {{y:.3g}}"
        rings, seeds = look.but(marker="circle", size=6, hollow=True), {"seed": [r.seed for r in own]}
        ends = ([r.elr for r in own], [r.loss for r in own])
        marks += [Points(*ends, rings, hover, seeds, entry=name, listed=False), Line(elrs, means, look, entry=name)]
    runs = [r for r in result.runs if r.mean_elr is not None and r.loss]
    marks.append(
        Points(
            [r.mean_elr for r in runs],
            [r.loss for r in runs],
            _CROSS.but(size=9),
            "whole space · {setting} · seed {seed}<br>ELR {x:.3g} · loss {y:.3g}",
            {"setting": [setting_name(*r.setting) for r in runs], "seed": [r.seed for r in runs]},
            entry="whole space",
        )
    )
    return Chart(
        id="sphere-chart",
        title="The same on the sphere",
        x=ELR,
        panels=[Panel(Axis("minibatch loss", log=True), marks)],
        caption=(
            "Rings and lines: mean minibatch loss at fixed ELR on the sphere, seeds and their geometric mean. Crosses: "
            "training in the whole space, at its mean ELR. At equilibrium crosses lie on the lines; a periodic run "
            "wanders over ELRs, and its mean loss is that of its spikes."
        ),
        label="Loss over ELR on the sphere and in the whole space",
        legend="sphere, beside",
        height=440,
    )
