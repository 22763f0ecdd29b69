"""The charts of the regimes toy: loss over its closed form, a walk through the ELRs, the course at a few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.toys import pair_loss
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import INKED, Axis, Chart, Line, Look, Mark, Panel, Points, Rule
from onsphere.lab.chart.theme import GREY, OKABE_ITO
from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

__all__ = ["Course", "course_chart", "courses", "loss_chart", "movie_chart"]

Array = NDArray[np.float64]

_TITLE = "The regimes of the pairs toy"
_MEASURED = Look(OKABE_ITO["blue"], OKABE_ITO["sky"], marker="circle")
_RED = OKABE_ITO["vermillion"]
_LEAST = 1e-9  # of the loss at random: lower end of loss axes
_MOST_FRAMES = 60  # of the slider; more ELRs are thinned
_SHOWN = (0.5, 1.1, 2.0, 20.0)  # multiples of the threshold, side by side
_ELR = "effective learning rate (ELR)"


@dataclass(frozen=True, eq=False)
class Course:
    """The course of one run.

    Attributes:
        row: The row of its effective learning rate.
        steps: [T] numbers of the steps.
        loss: [T] loss before these steps.
        elrs: [T, n] individual ELRs of the pairs before these steps.
    """

    row: RegimesRow
    steps: Array
    loss: Array
    elrs: Array


def courses(run: Run, result: ToyRegimesResult, seed: int = 0) -> list[Course]:
    """The course of one seed at every effective learning rate, or at 60 of them spread over the whole range."""
    table = read_table(run.table_path("course"))
    chosen: Any = np.unique(np.linspace(0, len(result.rows) - 1, _MOST_FRAMES).round().astype(int))
    mine = {name: column[table["seed"] == seed] for name, column in table.items()}
    found = []
    for row in (result.rows[i] for i in chosen):
        here = mine["elr"] == row.elr
        elrs = np.stack([mine[f"elr_{i + 1}"][here] for i in range(len(result.alphas))], axis=-1)
        found.append(Course(row, mine["step"][here].astype(np.float64), mine["loss"][here], elrs))
    return found


def loss_chart(result: ToyRegimesResult) -> Chart:
    """Mean loss against the ELR over the closed form, and below it how far they are apart."""
    rows, elrs = result.rows, [row.elr for row in result.rows]
    at_random = rows[0].loss_at_random
    apart = [100 * (row.loss - row.predicted_loss) / at_random for row in rows]
    said = [_said(row) for row in rows]
    measured = Points(
        elrs,
        [row.loss for row in rows],
        _MEASURED,
        said,
        error=[row.loss_high - row.loss for row in rows],
        error_down=[row.loss - row.loss_low for row in rows],
        entry="mean over steps and seeds",
    )
    return Chart(
        id="loss-chart",
        file="loss",
        title=_TITLE,
        legend="loss",
        x=Axis(_ELR, log=True, also=("ELR A", sum(result.alphas))),
        panels=[
            Panel(
                Axis("mean loss", holds=(-0.04 * at_random, 1.12 * at_random)),
                [_law(result), measured],
                rules=[Rule(at_random, f"random directions: A/2 = {format_number(at_random)}", at="right")],
                height=2.4,
            ),
            Panel(
                Axis("measured − law<br>(% of random)", holds=(-0.1, 0.1)),
                [Points(elrs, apart, _MEASURED, said)],
                rules=[Rule(0)],
            ),
        ],
        rules=[Rule(result.threshold, f"threshold 1/A = {format_number(result.threshold)}", along="x")],
        height=560,
        size=(6.6, 4.6),
        note="bars: range over seeds",
        caption=(
            "A dot is the mean over the last half of the steps and over all seeds, its bar the range over seeds. The "
            "law is 0 up to the threshold and (A − 1/ELR)/2 above it."
        ),
        label="Mean loss against the effective learning rate with its closed form",
    )


def movie_chart(result: ToyRegimesResult, found: list[Course]) -> Chart:
    """Loss and individual ELRs against steps, one frame an ELR, and where on the law that frame is."""
    rows = [course.row for course in found]
    first = min(range(len(rows)), key=lambda i: abs(math.log(rows[i].relative_elr / 1.25)))  # the most can be seen
    places: list[Mark] = [
        Points([row.elr], [row.loss], Look(_RED, marker="diamond", size=12), entry="this frame", frame=frame)
        for frame, row in enumerate(rows)
    ]
    means = Points(
        [row.elr for row in rows],
        [row.loss for row in rows],
        Look(GREY, marker="circle", size=6),
        "ELR {x:.3g} · mean loss {y:.3g}<br>click to go there",
        entry="mean loss",
        pick=True,
    )
    return Chart(
        id="movie-chart",
        file="movie",
        title=_TITLE,
        x=Axis("step + 1", log=True),
        panels=[
            Panel(
                Axis("mean loss"),
                [_law(result), means, *places],
                x=Axis(_ELR, log=True),
                rules=[Rule(result.threshold, along="x")],
            ),
            _losses(found, framed=True),
            _individual(result, found, framed=True),
        ],
        frames=[
            f"ELR {format_number(row.elr, 4)} = {format_number(row.relative_elr, 4)} / A · "
            f"mean loss {format_number(row.loss)}, law {format_number(row.predicted_loss)}"
            for row in rows
        ],
        frame_name="ELR",
        frame=first,
        prints=[("movie", first)],
        height=880,
        caption=(
            "Top: where on the law the frame is. Middle: loss of seed 0; dotted, the mean by the law. Bottom: "
            "individual ELR of every pair, ELR / rᵢ²; dashed in its colour the threshold 1/α under which it converges. "
            "Below 1/A pairs that overshoot gain norm until all are under their thresholds; above, that is impossible."
        ),
        label="Loss and individual effective learning rates against steps, one frame for every ELR",
    )


def course_chart(result: ToyRegimesResult, found: list[Course]) -> Chart:
    """Loss and individual ELRs against steps at a few ELRs, side by side."""
    nearest = {min(range(len(found)), key=lambda i: abs(math.log(found[i].row.relative_elr / c))) for c in _SHOWN}
    shown = [found[i] for i in sorted(nearest)]
    return Chart(
        id="course-chart",
        file="course",
        title=_TITLE,
        x=Axis("step + 1", log=True),
        panels=[
            *(_losses([one], title=f"ELR = {format_number(one.row.relative_elr)} / A") for one in shown),
            *(_individual(result, [one], beside=found) for one in shown),
        ],
        columns=len(shown),
        share_y=True,
        caption=(
            "The same at a few ELRs side by side: at half the threshold, just above it, at twice and at twenty times "
            "it (the nearest that were run); seed 0."
        ),
        label="Loss and individual effective learning rates against steps at a few ELRs",
    )


def _losses(found: list[Course], *, framed: bool = False, title: str = "") -> Panel:
    """The loss of every course, dotted the mean by the law."""
    at_random = found[0].row.loss_at_random
    marks: list[Mark] = []
    for number, course in enumerate(found):
        frame, x, law = number if framed else None, course.steps + 1, course.row.predicted_loss
        loss = np.maximum(course.loss, 0.1 * _LEAST * at_random)
        said = "step + 1 = {x:.0f} · loss {y:.3g}"
        marks.append(Line(x, loss, Look(INKED.colour, INKED.dark, width=1.4), said, entry="loss", frame=frame))
        if law > 0:
            dotted = Look(_RED, width=2, dash="dot")
            told = f"law: {format_number(law)}"
            marks.append(Line(x[[0, -1]], [law, law], dotted, [told, told], entry="law", listed=False, frame=frame))
    axis = Axis("loss", log=True, range=(_LEAST * at_random, 4 * at_random), over="↓ converged runs below")
    return Panel(axis, marks, title=title)


def _individual(
    result: ToyRegimesResult, found: list[Course], *, framed: bool = False, beside: Sequence[Course] = ()
) -> Panel:
    """The individual ELR of every pair, dashed the threshold under which it converges; one axis for all `beside`."""
    looks = series_looks(range(len(result.alphas)))
    marks: list[Mark] = []
    for number, course in enumerate(found):
        frame, x = number if framed else None, course.steps + 1
        for i, alpha in enumerate(result.alphas):
            name = f"α = {format_number(alpha)}"
            said, told = (
                f"{name}<br>step + 1 = {{x:.0f}} · individual ELR {{y:.3g}}",
                f"threshold 1/α = {1 / alpha:.3g}",
            )
            marks.append(Line(x, course.elrs[:, i], looks[i].but(width=1.6), said, entry=name, frame=frame))
            dashed = looks[i].but(width=1.2, dash="dash")
            ends = (x[[0, -1]], [1 / alpha] * 2)
            marks.append(Line(*ends, dashed, [told, told], entry=name, listed=False, frame=frame))
    elrs = np.concatenate([course.elrs.ravel() for course in beside or found])
    low = min(*(1 / alpha for alpha in result.alphas), float(elrs.min())) / 1.3
    # a tenth, reached in swings at the largest ELRs, may leave the panel
    high = 2 * float(np.quantile(elrs, 0.9))
    return Panel(Axis("individual ELR", log=True, range=(low, high), over="↑ swings above"), marks)


def _law(result: ToyRegimesResult) -> Line:
    """The closed form over the range of effective learning rates, its corner among the points."""
    elrs = np.geomspace(result.rows[0].elr / 1.1, result.rows[-1].elr * 1.1, 400)
    elrs = np.sort(np.append(elrs, result.threshold))
    return Line(elrs, np.asarray(pair_loss(result.alphas, elrs)), INKED, entry="law")


def _said(row: RegimesRow) -> str:
    lines = [
        f"<b>ELR {format_number(row.elr, 4)}</b> · ELR A = {format_number(row.relative_elr, 4)}",
        f"loss {format_number(row.loss, 4)} (seeds {format_number(row.loss_low)} to {format_number(row.loss_high)})",
        f"law {format_number(row.predicted_loss, 4)} · random {format_number(row.loss_at_random)}",
    ]
    return "<br>".join(lines)
