"""The charts of the follow-ups: whole space against sphere, minima of the periods, sharpness at jumps."""

from __future__ import annotations

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import Axis, Chart, Heat, Line, Mark, Panel, Points, Rule, Scale
from onsphere.lab.experiments.periods.charts import CROSS
from onsphere.lab.experiments.periods.result import PeriodsResult
from onsphere.lab.experiments.periods.words import setting_name

__all__ = ["ensemble_chart", "minima_chart", "sharpness_chart", "sphere_chart"]


def sphere_chart(result: PeriodsResult) -> Chart | None:
    """Minibatch loss over the ELR: fixed on the sphere, measured in the whole space; None without a comparison."""
    settings = [(row.lr, row.weight_decay) for row in result.comparison if row.elr is not None]
    if not settings:
        return None
    marks: list[Mark] = []
    for setting, look in series_looks(settings, width=1.4).items():
        name = setting_name(*setting)
        own = [(r.elr, r.loss, r.seed) for r in result.sphere if (r.lr, r.weight_decay) == setting and r.loss]
        elrs = sorted({elr for elr, _, _ in own})
        means = [float(np.exp(np.mean([np.log(loss) for elr, loss, _ in own if elr == level]))) for level in elrs]
        hover = f"{name}<br>sphere · seed {{seed}} · ELR {{x:.3g}} · loss {{y:.3g}}"
        rings = look.but(marker="circle", size=6, hollow=True)
        columns = {"seed": [seed for _, _, seed in own]}
        losses = [loss for _, loss, _ in own]
        marks += [
            Points([elr for elr, _, _ in own], losses, rings, hover, columns, entry=name, listed=False),
            Line(elrs, means, look, entry=name),
        ]
    runs = [r for r in result.runs if r.mean_elr is not None and r.loss]
    marks.append(
        Points(
            [r.mean_elr for r in runs],
            [r.loss for r in runs],
            CROSS.but(size=9),
            "whole space · {setting} · seed {seed}<br>ELR {x:.3g} · loss {y:.3g}",
            {"setting": [setting_name(r.lr, r.weight_decay) for r in runs], "seed": [r.seed for r in runs]},
            entry="whole space",
        )
    )
    return Chart(
        id="sphere-chart",
        title="The same on the sphere",
        x=Axis("effective learning rate (ELR)", log=True),
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


def minima_chart(result: PeriodsResult) -> Chart | None:
    """Angles and disagreement between the minima of one run, as two maps; None without minima."""
    if not result.minima:
        return None
    angles: list[Mark] = []
    disagreements: list[Mark] = []
    said = "minima at steps {x} and {y}<br>"
    for frame, one in enumerate(result.minima):
        steps, percents = [str(step) for step in one.steps], 100 * np.array(one.disagreement)
        hover = f"{said}angle {{z:.2f}} rad"
        angles.append(Heat(steps, steps, one.angles, Scale("rad"), hover=hover, frame=frame))
        hover = f"{said}{{z:.1f}} % of test images differ"
        disagreements.append(Heat(steps, steps, percents, Scale("%"), hover=hover, frame=frame))
    axis = Axis("step of minimum")
    return Chart(
        id="minima-chart",
        title="Minima of different periods",
        x=axis,
        panels=[Panel(axis, angles, title="angle"), Panel(axis, disagreements, title="disagreement")],
        caption=(
            "Weights at the loss minimum of each period, against each other: the angle between the scale-invariant "
            "weights (orthogonal: 1.57) and the fraction of test images that they label differently."
        ),
        label="Angles and disagreement between the minima of different periods",
        frames=[f"{setting_name(m.lr, m.weight_decay)} · seed {m.seed}" for m in result.minima],
        frame_name="run",
        height=760,
        size=(5.4, 8.0),
    )


def ensemble_chart(result: PeriodsResult) -> Chart | None:
    """Test error of ensembles of the last m minima, one line a run; None without minima."""
    if not result.minima:
        return None
    looks = series_looks(((m.lr, m.weight_decay) for m in result.minima), width=1.4, marker="circle", size=5)
    most = max(len(one.ensemble_error) for one in result.minima)
    return Chart(
        id="ensemble-chart",
        title="Ensembles of minima",
        x=Axis("members: minima of the last m periods", ticks={float(m): str(m) for m in range(1, most + 1)}),
        panels=[
            Panel(
                Axis("test error of the ensemble (%)", holds=(0.0,)),
                [
                    Line(
                        range(1, len(one.ensemble_error) + 1),
                        [100 * error for error in one.ensemble_error],
                        looks[one.lr, one.weight_decay],
                        f"seed {one.seed} · last {{x}} minima · test error {{y:.2f}} %",
                        entry=setting_name(one.lr, one.weight_decay),
                    )
                    for one in result.minima
                ],
            )
        ],
        caption="Averaged predictions of the minima of a run's last m periods; one line a run.",
        label="Test error of ensembles of minima",
        height=380,
    )


def sharpness_chart(result: PeriodsResult) -> Chart | None:
    """ELR times sharpness against steps to the jump, one line a jump, with the threshold; None without any."""
    rows = result.sharpness
    if not rows:
        return None
    looks = series_looks(((row.lr, row.weight_decay) for row in rows), width=1.4, marker="circle", size=5)
    marks: list[Mark] = []
    for row in rows:
        look, name = looks[row.lr, row.weight_decay], setting_name(row.lr, row.weight_decay)
        for steps, values, ring, what in (
            (row.steps, row.elr_times_sharpness, False, "before the jump"),
            (row.control_steps, row.control, True, "midway since the jump before"),
        ):
            before = [step - row.jump for step in steps]
            hover = f"jump at step {row.jump}, {{x}} steps · {what} · {{y:.3g}}"
            marks.append(Line(before, values, look.but(hollow=ring), hover, entry=name, listed=not ring))
    threshold = rows[0].threshold
    return Chart(
        id="sharpness-chart",
        title="Sharpness at jumps",
        x=Axis("steps to the jump"),
        panels=[
            Panel(Axis("ELR · sharpness", log=True), marks, rules=[Rule(threshold, f"threshold {threshold:g}")]),
        ],
        caption=(
            "Sharpness: top Hessian eigenvalue of the training-mode loss on the unit sphere, so that ELR · sharpness = "
            "lr · λmax without momentum. Dots: before the first jumps of each setting's first seed; rings: midway "
            "since the jump before. Gradient descent is unstable above the dashed line."
        ),
        label="ELR times sharpness before jumps and between them",
        height=400,
    )
