"""The charts of the periods: the course with its jumps, the loop of a period, the law; sphere, minima, sharpness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onsphere.dynamics import default_delta
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Heat, Line, Look, Mark, Panel, Points, Rule, Scale
from onsphere.lab.chart.theme import GREY, OKABE_ITO
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun, summaries
from onsphere.lab.experiments.periods.words import setting_name
from onsphere.lab.population.course import Array, Course, thinned
from onsphere.lab.report.words import format_number

BINS = 500  # of steps; each keeps its lowest and its highest value
_CROSS = INKED.but(marker="plus", size=11)
_DOTTED = INKED.but(width=1.2, dash="dot")
_ELR = Axis("effective learning rate (ELR)", log=True)
_RED = Look(OKABE_ITO["vermillion"])


@dataclass(frozen=True, eq=False)
class Drawn:
    """One run that is drawn.

    Attributes:
        run: The numbers of the run.
        course: The course of the run.
        evaluation_steps: Steps of the evaluations.
        test_error: Test error at these steps, fraction.
        noisy: Whether gradients are those of minibatches.
    """

    run: PeriodsRun
    course: Course
    evaluation_steps: Array
    test_error: Array
    noisy: bool

    @property
    def period(self) -> tuple[int, int] | None:
        """The last whole period, from jump to jump; None with fewer than two jumps."""
        return (self.run.jumps[-2], self.run.jumps[-1]) if len(self.run.jumps) > 1 else None

    def loop(self, first: int, last: int) -> tuple[Array, Array, Array]:
        """Steps, ELR and effective gradient norm between two steps; noisy gradients as geometric means over τ/30."""
        width = 2 * round(self.course.tau / 60) + 1 if self.noisy else 1
        logs = np.log(np.maximum(self.course.gradient, 1e-300))
        smooth = np.convolve(np.pad(logs, width // 2, mode="edge"), np.ones(width) / width, "valid")
        steps = np.arange(first, last + 1, dtype=np.float64)
        return steps, self.course.elr[first : last + 1], np.exp(smooth[first : last + 1])


def course_chart(shown: Sequence[Drawn]) -> Chart:
    """Loss, ELR with its jumps, 1 - cos with δ and the equilibrium's value, norm and test error against steps."""
    looks = series_looks(sorted({one.run.seed for one in shown}), width=1.0)
    marks: dict[str, list[Mark]] = {"loss": [], "ELR": [], "1 − cos": [], "norm": []}
    errors: list[Mark] = []
    frames, common = _frames(shown, "course")
    for one in shown:
        course, run, seed = one.course, one.run, f"seed {one.run.seed}"
        look = looks[run.seed]
        place: dict[str, Any] = {"seed": run.seed, "frame": frames.index(one.run.setting)}
        for title, values in zip(marks, (course.loss, course.elr, course.cosine_distance, course.radius), strict=True):
            if values is not None:
                hover = f"{seed} · step {{x}} · {title} {{y:.3g}}"
                marks[title].append(Line(*thinned(values, BINS), look, hover, entry=seed, **place))
        jump, hover = _RED.but(marker="down", size=7), f"{seed} · jump at step {{x}} · ELR {{y:.3g}}"
        marks["ELR"].append(Points(run.jumps, course.elr[run.jumps], jump, hover, entry="jump", **place))
        hover = f"{seed} · step {{x}} · test error {{y:.1f}} %"
        dots = look.but(marker="circle", size=4)
        steps, percents = one.evaluation_steps[1:], 100 * one.test_error[1:]
        errors.append(Line(steps, percents, dots, hover, entry=seed, listed=False, **place))
    for frame, setting in enumerate(frames):
        for title, mark in _levels(next(one for one in shown if one.run.setting == setting), frame):
            marks[title].append(mark)
    return Chart(
        id="course-chart",
        title="Course of training",
        x=Axis("step", holds=(0.0, float(max(len(one.course.loss) for one in shown)))),
        panels=[
            *(Panel(Axis(title, log=True), own) for title, own in marks.items()),
            Panel(Axis("test error (%)", holds=(0.0,)), errors),
        ],
        caption=(
            "While the loss is low gradients are small, weight decay shrinks the norm and the ELR climbs; at a jump "
            "(triangles) loss and gradients shoot up, throw the norm up and the ELR down. A step above δ counts as a "
            "δ-jump; the dotted line is 1 − cos of every step at a constant equilibrium, lr · wd. Curves are thinned "
            "so that the lowest and the highest reading of each stretch stay."
        ),
        label="Loss, ELR, cosine distance of steps, norm and test error against steps, jumps marked",
        height=900,
        size=(7.0, 7.6),
        **common,
    )


def _levels(one: Drawn, frame: int) -> Iterator[tuple[str, Line]]:
    """The equilibrium's ELR, δ and the equilibrium's 1 - cos, each with the title of its panel."""

    def level(name: str, value: float, look: Look = _DOTTED) -> Line:
        ends = [0.0, float(len(one.course.loss))]
        return Line(ends, [value, value], look, f"{name}: {format_number(value)}", entry=name, frame=frame)

    if one.run.predicted_elr is not None:
        yield "ELR", level("equilibrium ELR", one.run.predicted_elr)
    if one.course.cosine_distance is not None:
        yield "1 − cos", level("δ", float(default_delta(*one.run.setting)), _DOTTED.but(dash="dash"))
        yield "1 − cos", level("1 − cos = lr · wd", one.course.decay)


def loop_chart(shown: Sequence[Drawn]) -> Chart | None:
    """Effective gradient norm against ELR, log-log, the last whole period in colour; None without one."""
    with_period = [one for one in shown if one.period is not None]
    if not with_period:
        return None
    frames, common = _frames(with_period, "loop")
    marks = [mark for one in with_period for mark in _loop(one, frames.index(one.run.setting))]
    return Chart(
        id="loop-chart",
        title="One period as a loop",
        x=_ELR,
        panels=[Panel(Axis("effective gradient norm", log=True), marks)],
        caption=(
            "A period is a closed loop, run through from the star: at the jump the gradient is large and the ELR "
            "falls; then the gradient falls to its lowest while the ELR climbs, and grows back shortly before the "
            "next jump. Along the dotted line ELR times gradient is √(2 lr · wd), where decay and gradient balance: "
            "above it the norm grows, below it shrinks."
        ),
        label="Effective gradient norm against ELR, one period highlighted",
        height=520,
        **common,
    )


def _loop(one: Drawn, frame: int) -> list[Mark]:
    assert one.period is not None
    place: dict[str, Any] = {"seed": one.run.seed, "frame": frame}
    _, elr, gradient = one.loop(one.run.jumps[0], len(one.course.loss) - 1)
    every = max(1, len(elr) // 1500)
    steps, own_elr, own_gradient = (values[:: max(1, len(values) // 400)] for values in one.loop(*one.period))
    since = steps - steps[0]
    ends = np.array([elr.min(), elr.max()])
    grey = Look(GREY, width=0.6, opacity=0.5)
    return [
        Line(elr[::every], gradient[::every], grey, entry="all periods", **place),
        Line(ends, one.run.predicted_angular_update / ends, _DOTTED, entry="balance", **place),
        Line(
            own_elr,
            own_gradient,
            Look(GREY, width=1, marker="circle", size=5),
            "{since} steps after the jump<br>ELR {x:.3g} · effective gradient {y:.3g}",
            {"since": since},
            values=since,
            scale=Scale("steps after the jump"),
            entry="last period",
            **place,
        ),
        Points(own_elr[:1], own_gradient[:1], _RED.but(marker="star", size=11), entry="jump", **place),
    ]


def law_chart(result: PeriodsResult) -> Chart | None:
    """Period of every run over lr · wd, with 1/(2 lr · wd) and what the norm recurrence says; None without periods."""
    settings = [s for s in summaries(result.runs) if s.median("period") is not None]
    if not settings:
        return None
    marks: list[Mark] = []
    for lr, look in series_looks(sorted({s.lr for s in settings}), marker="circle", size=8).items():
        runs = [run for s in settings if s.lr == lr for run in s.runs if run.period is not None]
        name = f"lr {format_number(lr)}"
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
            "and ended. Runs of equal lr · wd have equal periods, whatever their lr."
        ),
        label="Periods over the product of learning rate and weight decay",
        height=440,
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
        x=_ELR,
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


def _frames(shown: Sequence[Drawn], file: str) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """The settings in their order, and what a chart with a frame for each has: its names, seeds and figures."""
    settings = list(dict.fromkeys(one.run.setting for one in shown))
    first = next((one for one in shown if one.run.behaviour == "periodic"), shown[0])
    return settings, {
        "seeds": sorted({one.run.seed for one in shown}),
        "seed": first.run.seed,
        "others": False,
        "frames": [setting_name(*setting) for setting in settings],
        "frame_name": "setting",
        "frame": settings.index(first.run.setting),
        "prints": [(f"{file}-lr{lr:g}-wd{decay:g}", i) for i, (lr, decay) in enumerate(settings)],
    }
