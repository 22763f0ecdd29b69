"""The charts of the periods toy: the course with its jumps, one period as a loop, the law around the run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.toys import period_law
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import Axis, Chart, Line, Look, Mark, Panel, Points, Rule, Scale
from onsphere.lab.chart.theme import GREY, OKABE_ITO
from onsphere.lab.experiments.toy_periods.result import STRONG, LawRow, ToyPeriodsResult
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

__all__ = ["Course", "course_chart", "law_chart", "loop_chart", "trace"]

Array = NDArray[np.float64]

_TITLE = "The periods of the pairs toy"
_RUN = Look(OKABE_ITO["blue"], OKABE_ITO["sky"], width=1.4)
_JUMP = Look(OKABE_ITO["vermillion"], marker="down", size=8)

_JUMPS = (
    "While the ELR is below the threshold the loss falls, the gradient vanishes and weight decay shrinks the norm; "
    "above it the loss grows again, until a few large steps throw the norm up and the ELR down: a jump."
)
_FOR_EVER = (
    "The loss falls until x is exactly zero. From then on there is no gradient at any ELR: the norm shrinks and the "
    "ELR grows without bound."
)


@dataclass(frozen=True, eq=False)
class Course:
    """The course of the run, each [T].

    Attributes:
        steps: Numbers of the steps.
        elr: Effective learning rate lr / norm².
        radius: The norm; 0 where it is too small for a float.
        loss: The loss F of all pairs.
        gradient: Norm of the gradient at the unit sphere.
    """

    steps: Array
    elr: Array
    radius: Array
    loss: Array
    gradient: Array

    def between(self, first: int, last: int) -> Course:
        """The part from one step to another, both included."""
        here = (self.steps >= first) & (self.steps <= last)
        return Course(self.steps[here], self.elr[here], self.radius[here], self.loss[here], self.gradient[here])


def trace(run: Run) -> Course:
    """The course, read back from the run's folder."""
    table = {name: column.astype(np.float64) for name, column in read_table(run.table_path("trace")).items()}
    radius = np.asarray(np.exp(table["log_radius"]))
    return Course(table["step"], table["elr"], radius, table["loss"], table["effective_gradient_norm"])


def course_chart(result: ToyPeriodsResult, course: Course) -> Chart:
    """ELR with its jumps and the threshold, loss, norm, against steps."""
    jumps = Points(
        [jump.step for jump in result.jumps],
        [jump.elr for jump in result.jumps],
        _JUMP,
        [
            f"jump at step {jump.step} · ELR {jump.elr:.3g}, falls to {format_number(jump.trough_elr)}"
            for jump in result.jumps
        ],
        entry="jump",
    )
    counted = result.burn_in and result.outcome == "periods"
    dotted = Look(GREY, width=1.2, dash="dot")
    return Chart(
        id="course-chart",
        file="course",
        title=_TITLE,
        x=Axis("step", range=(0, float(course.steps[-1]))),
        panels=[
            Panel(
                Axis("ELR", log=True),
                [_curve(course, course.elr, "ELR", entry="run"), *([jumps] if result.jumps else [])],
                rules=[Rule(result.threshold, f"threshold 1/A = {format_number(result.threshold)}")],
            ),
            Panel(Axis("loss", log=True), [_curve(course, course.loss, "loss")]),
            Panel(Axis("norm", log=True), [_curve(course, course.radius, "norm")]),
        ],
        rules=[Rule(result.burn_in, "jumps are counted from here", along="x", look=dotted)] if counted else [],
        height=760,
        caption=_FOR_EVER if result.outcome == "instability" else _JUMPS,
        label="ELR, loss and norm against steps, jumps marked",
    )


def _curve(course: Course, values: Array, what: str, entry: str = "") -> Line:
    return Line(course.steps, _positive(values), _RUN, f"step {{x:.0f}} · {what} {{y:.3g}}", entry=entry)


def loop_chart(result: ToyPeriodsResult, course: Course) -> Chart | None:
    """Effective gradient norm against ELR through the last whole period, log-log; None without one."""
    if len(result.jumps) < 2:
        return None
    period = course.between(result.jumps[-2].step, result.jumps[-1].step)
    rest = course.between(result.jumps[0].step, int(course.steps[-1]))
    since = period.steps - period.steps[0]
    marks: list[Mark] = [
        Line(rest.elr, _positive(rest.gradient), Look(GREY, width=0.6, opacity=0.5), entry="all periods"),
        Line(
            period.elr,
            _positive(period.gradient),
            Look(GREY, width=1, marker="circle", size=5),
            "{since:.0f} steps after the jump<br>ELR {x:.3g} · effective gradient {y:.3g}",
            columns={"since": since},
            values=since,
            scale=Scale("steps after the jump"),
            entry="one period",
        ),
        Points(
            period.elr[:1], period.gradient[:1], Look(OKABE_ITO["vermillion"], marker="star", size=11), entry="jump"
        ),
    ]
    threshold = Rule(result.threshold, f"threshold 1/A = {format_number(result.threshold)}", along="x")
    return Chart(
        id="loop-chart",
        file="loop",
        title=_TITLE,
        x=Axis("effective learning rate (ELR)", log=True),
        panels=[Panel(Axis("effective gradient norm", log=True), marks)],
        rules=[threshold],
        height=520,
        caption=(
            "A period is a closed loop, run through from the star: the ELR falls within a few steps; then the gradient "
            "vanishes down to the floor, while the ELR climbs; past the threshold the gradient grows back."
        ),
        label="Effective gradient norm against ELR through one period",
    )


def law_chart(result: ToyPeriodsResult) -> Chart | None:
    """Measured periods over the floor, with the law, one colour a weight decay; None without neighbours."""
    if not result.law:
        return None
    marks: list[Mark] = []
    for decay, look in series_looks(sorted({row.weight_decay for row in result.law})).items():
        rows = [row for row in result.law if row.weight_decay == decay]
        name = f"lr · wd = {format_number(rows[0].lr * decay)}"
        measured = [row for row in rows if row.period is not None]
        floors = np.geomspace(max(row.floor for row in rows) ** 0.8, min(row.floor for row in rows), 60)
        law = np.asarray(period_law(rows[0].lr, decay, floors))
        strong = tuple(row.strength > STRONG for row in measured)
        marks.append(Line(floors, law, look, entry=name))
        marks.append(
            Points(
                [row.floor for row in measured],
                [row.period for row in measured],
                look.but(marker="circle", size=9, hollow=strong),
                [_told(name, row) for row in measured],
                entry=name,
                listed=False,
            )
        )
    return Chart(
        id="law-chart",
        file="law",
        title=_TITLE,
        legend="line: law",
        x=Axis("floor of |x| / norm", log=True, reverse=True),
        panels=[Panel(Axis("period (steps)", holds=(0,)), marks)],
        note="Line: law. Hollow: strong jumps, where periods scatter below it.",
        height=440,
        caption=(
            "Dots: median distance of consecutive jumps. Lines: √(2 ln(1/floor) / (lr · wd)). Hollow where "
            f"lr · wd · ln(1/floor) exceeds {STRONG:g}: jumps are so strong there that periods scatter below the law."
        ),
        label="Periods over the floor with their law",
    )


def _told(name: str, row: LawRow) -> str:
    law = f"law {format_number(row.predicted_period, 4)} · {row.jumps} jumps"
    return f"{name} · floor {row.floor:.3g}<br>period {row.period:g} · {law}"


def _positive(values: Array) -> Array:
    """Zeros as gaps: a logarithmic axis has no place for them."""
    return np.where(values > 0, values, np.nan)
