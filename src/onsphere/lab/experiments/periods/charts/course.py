"""The course of training with its jumps, and the loop of a period."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onsphere.dynamics import default_delta
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Look, Mark, Panel, Points, Scale
from onsphere.lab.chart.theme import GREY, OKABE_ITO
from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun, Place, round_name, summaries
from onsphere.lab.experiments.periods.words import setting_name
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import Array, Course, courses_of, thinned
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

#: Errors by evaluations and what their panels are called.
ERRORS = {
    "test_error": "test error (%)",
    "clean_error": "error on right labels (%)",
    "corrupted_error": "error on wrong labels (%)",
}
MOST_COURSES = 24  # on the page, over all settings
MOST_SEEDS = 5  # of a setting
BINS = 500  # of steps; each keeps its lowest and its highest value
ELR = Axis("effective learning rate (ELR)", log=True)
_DOTTED = INKED.but(width=1.2, dash="dot")
_ANGLES = (
    "A step above δ counts as a δ-jump; the dotted line is 1 − cos of every step at a constant equilibrium, lr · wd. "
)
_RED = Look(OKABE_ITO["vermillion"])


@dataclass(frozen=True, eq=False)
class Drawn:
    """One run that is drawn.

    Attributes:
        run: The numbers of the run.
        course: The course of the run.
        evaluation_steps: Steps of the evaluations.
        errors: Errors at these steps by the names of :data:`ERRORS`, fractions; those on training images with right and
            with wrong labels only where there are wrong ones.
        noisy: Whether gradients are those of minibatches.
    """

    run: PeriodsRun
    course: Course
    evaluation_steps: Array
    errors: Mapping[str, Array]
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


def drawn(run: Run, result: PeriodsResult) -> list[Drawn]:
    """The courses that are drawn: the first seeds of every setting, in the order of the result."""
    seeds = max(1, min(MOST_SEEDS, MOST_COURSES // len(summaries(result.runs))))
    wanted = {(*r.place, r.seed): i for i, r in enumerate(result.runs) if r.seed < seeds}
    noisy = result.spec.batch_size != "full"
    found: dict[int, Drawn] = {}
    rounds = [(width, run.shard_folders(round_name(width))) for width in result.spec.each_width or (None,)]
    for width, folder in ((width, folder) for width, folders in rounds for folder in folders):
        shard = ShardFolder(folder)
        keys = [(copy.lr, copy.weight_decay, width, copy.seed) for copy in shard.copies()]
        if wanted.keys().isdisjoint(keys):
            continue
        steps, values = shard.evaluated()
        errors = {name: values[name] for name in ERRORS if name in values}
        found |= {
            wanted[key]: Drawn(
                result.runs[wanted[key]],
                course,
                steps.astype(np.float64),
                {name: error[:, k] for name, error in errors.items()},
                noisy,
            )
            for k, (key, course) in enumerate(
                zip(keys, courses_of(shard, result.engine.invariant, result.spec.smooth), strict=True)
            )
            if key in wanted
        }
    return [found[place] for place in sorted(found)]


def course_chart(shown: Sequence[Drawn]) -> Chart:
    """Loss, ELR with its jumps, 1 - cos with δ and the equilibrium's value, norm and test error against steps."""
    looks = series_looks(sorted({one.run.seed for one in shown}), width=1.0)
    marks: dict[str, list[Mark]] = {"loss": [], "ELR": [], "1 − cos": [], "norm": []}
    errors: dict[str, list[Mark]] = {name: [] for name in ERRORS}
    frames, common = frames_of(shown, "course")
    for one in shown:
        course, run, seed = one.course, one.run, f"seed {one.run.seed}"
        look = looks[run.seed]
        place: dict[str, Any] = {"seed": run.seed, "frame": frames.index(one.run.place)}
        for title, values in zip(marks, (course.loss, course.elr, course.cosine_distance, course.radius), strict=True):
            if values is not None:
                hover = f"{seed} · step {{x}} · {title} {{y:.3g}}"
                marks[title].append(Line(*thinned(values, BINS), look, hover, entry=seed, **place))
        jump, hover = _RED.but(marker="down", size=7), f"{seed} · jump at step {{x}} · ELR {{y:.3g}}"
        marks["ELR"].append(Points(run.jumps, course.elr[run.jumps], jump, hover, entry="jump", **place))
        dots = look.but(marker="circle", size=4)
        for name, values in one.errors.items():
            hover = f"{seed} · step {{x}} · {ERRORS[name].removesuffix(' (%)')} {{y:.1f}} %"
            steps, percents = one.evaluation_steps[1:], 100 * values[1:]
            errors[name].append(Line(steps, percents, dots, hover, entry=seed, listed=False, **place))
    for frame, setting in enumerate(frames):
        for title, mark in _levels(next(one for one in shown if one.run.place == setting), frame):
            marks[title].append(mark)
    apart = sum(bool(own) for own in errors.values()) - 1
    return Chart(
        id="course-chart",
        title="Course of training",
        x=Axis("step", holds=(0.0, float(max(len(one.course.loss) for one in shown)))),
        panels=[
            *(Panel(Axis(title, log=True), own) for title, own in marks.items() if own),
            *(Panel(Axis(ERRORS[name], holds=(0.0,)), own) for name, own in errors.items() if own),
        ],
        caption=(
            "While the loss is low gradients are small, weight decay shrinks the norm and the ELR climbs; at a jump "
            "(triangles) loss and gradients shoot up, throw the norm up and the ELR down. "
            + _ANGLES * bool(marks["1 − cos"])
            + "Curves are thinned so that the lowest and the highest reading of each stretch stay."
        ),
        label="Loss, ELR, cosine distance of steps, norm and test error against steps, jumps marked",
        height=900 + 150 * apart,
        size=(7.0, 7.6 + 1.3 * apart),
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
    frames, common = frames_of(with_period, "loop")
    marks = [mark for one in with_period for mark in _loop(one, frames.index(one.run.place))]
    return Chart(
        id="loop-chart",
        title="One period as a loop",
        x=ELR,
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


def frames_of(shown: Sequence[Drawn], file: str) -> tuple[list[Place], dict[str, Any]]:
    """The settings in their order, and what a chart with a frame for each has: its names, seeds and figures."""
    settings = list(dict.fromkeys(one.run.place for one in shown))
    first = next((one for one in shown if one.run.behaviour == "periodic"), shown[0])
    return settings, {
        "seeds": sorted({one.run.seed for one in shown}),
        "seed": first.run.seed,
        "others": False,
        "frames": [setting_name(*setting) for setting in settings],
        "frame_name": "setting",
        "frame": settings.index(first.run.place),
        "prints": [
            (f"{file}-lr{lr:g}-wd{decay:g}" + (f"-width{width}" if width else ""), i)
            for i, (lr, decay, width) in enumerate(settings)
        ],
    }
