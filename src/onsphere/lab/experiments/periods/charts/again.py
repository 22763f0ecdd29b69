"""What training once more showed: a fixed norm, the minima of different periods, the sharpness at jumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Heat, Line, Look, Mark, Panel, Rule, Scale
from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.periods.charts.course import BINS, Drawn, frames_of
from onsphere.lab.experiments.periods.result import PeriodsResult
from onsphere.lab.experiments.periods.words import setting_name
from onsphere.lab.population.course import Array, thinned
from onsphere.lab.report.words import format_number

Key = tuple[float, float, int]  # lr, weight decay, seed


def fixed_chart(shown: Sequence[Drawn], fixed: Mapping[Key, Array]) -> Chart | None:
    """Minibatch loss with the norm free and with it fixed at the checkpoint's; None without the latter.

    Args:
        shown: The runs whose norm is free.
        fixed: The losses [T] of those whose norm is fixed, by lr, weight decay, seed.
    """
    pairs = [one for one in shown if one.run.key in fixed]
    if not pairs:
        return None
    frames, common = frames_of(pairs, "fixed")
    free, held = Look(OKABE_ITO["vermillion"], width=1.0), INKED.but(width=1.0)
    marks: list[Mark] = []
    for one in pairs:
        for name, loss, look in (("norm free", one.course.loss, free), ("norm fixed", fixed[one.run.key], held)):
            said = f"seed {one.run.seed} · step {{x}} · {name} · loss {{y:.3g}}"
            place: dict[str, Any] = {"seed": one.run.seed, "frame": frames.index(one.run.place)}
            marks.append(Line(*thinned(loss, BINS), look, said, entry=name, **place))
    return Chart(
        id="fixed-chart",
        title="With the norm fixed",
        x=Axis("step since the checkpoint"),
        panels=[Panel(Axis("minibatch loss", log=True), marks)],
        caption=(
            "The same networks and batches from the same checkpoint on: with weight decay in the whole space, and with "
            "the norm put back to the checkpoint's after every step, at the ELR that this fixes."
        ),
        label="Minibatch loss after the checkpoint with the norm free and fixed",
        height=420,
        **common,
    )


def minima_chart(result: PeriodsResult) -> Chart | None:
    """Angles and disagreement between the minima of one run, as two maps; None without minima."""
    if not result.minima:
        return None
    angles, disagreements = list[Mark](), list[Mark]()
    for frame, one in enumerate(result.minima):
        steps, percents = [str(step) for step in one.steps], 100 * np.array(one.disagreement)
        said = "minima at steps {x} and {y}<br>"
        hovers = (said + "angle {z:.2f} rad", said + "{z:.1f} % of test images differ")
        angles.append(Heat(steps, steps, one.angles, Scale("rad"), hover=hovers[0], frame=frame))
        disagreements.append(Heat(steps, steps, percents, Scale("%"), hover=hovers[1], frame=frame))
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
        frames=[f"{setting_name(*m.setting)} · seed {m.seed}" for m in result.minima],
        frame_name="run",
        height=760,
        size=(5.4, 8.0),
    )


def ensemble_chart(result: PeriodsResult) -> Chart | None:
    """Test error of ensembles of the last m minima, one line a run; None without minima."""
    if not result.minima:
        return None
    looks = series_looks((m.setting for m in result.minima), width=1.4, marker="circle", size=5)
    lines = [
        Line(
            range(1, len(one.ensemble_error) + 1),
            [100 * error for error in one.ensemble_error],
            looks[one.setting],
            f"seed {one.seed} · last {{x}} minima · test error {{y:.2f}} %",
            entry=setting_name(*one.setting),
        )
        for one in result.minima
    ]
    ticks = {float(m): str(m) for m in range(1, max(len(line.x) for line in lines) + 1)}
    return Chart(
        id="ensemble-chart",
        title="Ensembles of minima",
        x=Axis("members: minima of the last m periods", ticks=ticks),
        panels=[Panel(Axis("test error of the ensemble (%)", holds=(0.0,)), lines)],
        caption="Averaged predictions of the minima of a run's last m periods; one line a run.",
        label="Test error of ensembles of minima",
        height=380,
    )


def sharpness_chart(result: PeriodsResult) -> Chart | None:
    """ELR times sharpness against steps to the jump, one line a jump, with the threshold; None without any."""
    rows = result.sharpness
    if not rows:
        return None
    looks = series_looks((row.setting for row in rows), width=1.4, marker="circle", size=5)
    marks: list[Mark] = []
    for row in rows:
        look, name = looks[row.setting], setting_name(*row.setting)
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
        panels=[Panel(Axis("ELR · sharpness", log=True), marks, rules=[Rule(threshold, f"threshold {threshold:g}")])],
        caption=(
            "Sharpness: top Hessian eigenvalue of the training-mode loss on the unit sphere, so that ELR · sharpness = "
            "lr · λmax without momentum. Dots: before the first jumps of each setting's first seed; rings: midway "
            "since the jump before. Gradient descent is unstable above the dashed line."
        ),
        label="ELR times sharpness before jumps and between them",
        height=400,
    )


def traces_chart(result: PeriodsResult) -> Chart | None:
    """Traces on the unit sphere against steps, Hessian and Gauss-Newton matrix; None without any."""
    if not result.traces:
        return None
    marks: dict[str, list[Mark]] = {"hessian": [], "ggn": []}
    looks = series_looks((row.setting for row in result.traces), width=1.4, marker="circle", size=5)
    for row in result.traces:
        look, name = looks[row.setting], setting_name(*row.setting)
        for kind, own in marks.items():
            errors = [format_number(error) for error in row.on_sphere(f"{kind}_error")]
            said = f"{name} · step {{x}}<br>norm² · trace {{y:.4g}} ± {{error}}"
            own.append(Line(row.steps, row.on_sphere(kind), look, said, {"error": errors}, entry=name))
    return Chart(
        id="traces-chart",
        title="Traces along training",
        x=Axis("step", holds=(0.0,)),
        panels=[
            Panel(Axis("norm² · trace"), marks["hessian"], title="Hessian"),
            Panel(Axis("norm² · trace", log=True), marks["ggn"], title="Gauss-Newton matrix"),
        ],
        caption=(
            "Traces on the unit sphere, norm² times those at the weights as they are, of the training-mode loss on a "
            "fixed batch; each setting's first seed. The Hessian's may be negative, the Gauss-Newton matrix's is not."
        ),
        label="Traces of the Hessian and of the Gauss-Newton matrix against steps",
        columns=2,
        height=400,
    )
