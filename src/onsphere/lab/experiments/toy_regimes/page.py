"""The page of the regimes toy: loss over its closed form, a walk through the ELRs, the course at a few, all rows."""

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
from onsphere.lab.experiments.toy_regimes.result import MOST_PAIRS, RegimesRow, ToyRegimesResult, subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

__all__ = ["courses", "movie_chart", "printed", "report"]

Array = NDArray[np.float64]

_TITLE = "The regimes of the pairs toy"
_MEASURED = Look(OKABE_ITO["blue"], OKABE_ITO["sky"], marker="circle")
_RED = OKABE_ITO["vermillion"]
_LEAST = 1e-9  # of the loss at random: lower end of loss axes
_MOST_FRAMES = 60  # of the slider; more ELRs are thinned
_SHOWN = (0.5, 1.1, 2.0, 20.0)  # multiples of the threshold, side by side
_ELR = Axis("effective learning rate (ELR)", log=True)
_STEP = Axis("step + 1", log=True)

_MEASUREMENTS = (
    ("loss", "F = Σ αᵢ xᵢ² / (xᵢ² + yᵢ²), all pairs together on the unit sphere; no batches, no noise"),
    ("mean loss", "F averaged over the last half of the steps, then over seeds (starting directions)"),
    ("law", "0 up to the threshold, (A − 1/ELR) / 2 above; exact on the balanced 2-cycle, ELR A up to about 1.7"),
    ("threshold", "1/A with A = Σ αᵢ: 2 over the sharpness of the flattest minimum"),
    ("individual ELR", "ELR / rᵢ² with rᵢ² = xᵢ² + yᵢ²; their inverses add up to 1/ELR. A pair converges below 1/αᵢ"),
    ("loss at random", "A/2, the mean of F over uniformly random directions"),
    ("converged", "mean loss of every seed below 1e-6 of that at random; it sinks on to 1e-200, where squares end"),
)


def report(run: Run, result: ToyRegimesResult) -> Report:
    """What is to be read about the regimes; ``course.parquet`` holds the course of the simulations."""
    found, rows, seeds = courses(run, result), result.rows, result.spec.seeds
    ends = f"from {format_number(rows[0].elr)} to {format_number(rows[-1].elr)}"
    return Report(
        title=_TITLE,
        subtitle=subtitle(result),
        summary=[counted(len(rows) * seeds, "run"), f"{counted(len(rows), 'ELR')} {ends}", counted(seeds, "seed")],
        sections=[
            Section("loss", "Loss over its law", [_loss_chart(result)]),
            Section("movie", "Through the ELRs", [movie_chart(result, found), _course_chart(result, found)]),
            Section("rows", "All ELRs", [_table(result)]),
        ],
        measured=_MEASUREMENTS,
    )


def printed(result: ToyRegimesResult) -> list[Table | str]:
    """The rows as a table."""
    columns = [
        Column("ELR", "elr", digits=4),
        Column("ELR A", "relative_elr", digits=4),
        Column("mean loss", "loss", digits=5),
        Column("range over seeds", lambda row: f"{row.loss_low:.4g} to {row.loss_high:.4g}", kind="tight"),
        Column("predicted", "predicted_loss", digits=5),
        Column("loss / random", lambda row: row.loss / row.loss_at_random, digits=4),
    ]
    return [table(result.rows, columns)]


def _table(result: ToyRegimesResult) -> Table:
    def individual(row: RegimesRow) -> str:
        relative = [alpha * own for alpha, own in zip(result.alphas, row.individual_elrs, strict=True)]
        if len(relative) > MOST_PAIRS:
            return f"{format_number(min(relative))} to {format_number(max(relative))}"
        return " · ".join(map(format_number, relative))

    columns = [
        Column("ELR", "elr", "effective learning rate of the joint sphere", digits=4),
        Column("ELR A", "relative_elr", "in units of the threshold", digits=4),
        Column("mean loss", "loss", "over the last half of the steps and all seeds", digits=4),
        Column("lowest", "loss_low", "the smallest mean of a seed", digits=4),
        Column("highest", "loss_high", "the largest mean of a seed", digits=4),
        Column("law", "predicted_loss", "0 up to the threshold, (A − 1/ELR)/2 above", digits=4),
        Column(
            "off (%)",
            lambda row: round(_off(row), 6),
            "measured minus law, in percent of the loss at random directions",
            digits=2,
        ),
        Column("/ random", lambda row: row.loss / row.loss_at_random, "over the loss at random directions"),
        Column("converged", lambda row: "yes" if row.converged else "no", "in every seed", kind="tight"),
        Column(
            "αᵢ ELRᵢ", individual, "individual ELRs over the pairs' thresholds, means of the last half", kind="tight"
        ),
    ]
    return table(result.rows, columns, "One row an ELR. Click a heading to sort, click again to turn the order around.")


def _off(row: RegimesRow) -> float:
    return 100 * (row.loss - row.predicted_loss) / row.loss_at_random


@dataclass(frozen=True, eq=False)
class _Course:
    """One run by its row: places [T] of its steps on their axis, losses [T], and ELRs of its pairs [T, n]."""

    row: RegimesRow
    x: Array
    loss: Array
    elrs: Array


def courses(run: Run, result: ToyRegimesResult) -> list[_Course]:
    """The course of seed 0 at every effective learning rate, or at 60 of them spread over the whole range."""
    table = read_table(run.table_path("course"))
    chosen: Any = np.unique(np.linspace(0, len(result.rows) - 1, _MOST_FRAMES).round().astype(int))
    found = []
    for row in (result.rows[i] for i in chosen):
        own = {name: column[(table["seed"] == 0) & (table["elr"] == row.elr)] for name, column in table.items()}
        elrs = np.stack([own[f"elr_{i + 1}"] for i in range(len(result.alphas))], axis=-1)
        found.append(_Course(row, own["step"].astype(np.float64) + 1, own["loss"], elrs))
    return found


def _loss_chart(result: ToyRegimesResult) -> Chart:
    """Mean loss against the ELR over the closed form, and below it how far they are apart."""
    rows, elrs, said = result.rows, [row.elr for row in result.rows], [_said(row) for row in result.rows]
    at_random = rows[0].loss_at_random
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
        title=_TITLE,
        legend="loss",
        x=Axis(_ELR.title, log=True, also=("ELR A", sum(result.alphas))),
        panels=[
            Panel(
                Axis("mean loss", holds=(-0.04 * at_random, 1.12 * at_random)),
                [_law(result), measured],
                rules=[Rule(at_random, f"random directions: A/2 = {format_number(at_random)}", at="right")],
                height=2.4,
            ),
            Panel(
                Axis("measured − law<br>(% of random)", holds=(-0.1, 0.1)),
                [Points(elrs, [_off(row) for row in rows], _MEASURED, said)],
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


def movie_chart(result: ToyRegimesResult, found: list[_Course]) -> Chart:
    """Loss and individual ELRs against steps, one frame an ELR, and where on the law that frame is."""
    rows = [course.row for course in found]
    first = _nearest(found, 1.25)  # the most can be seen
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
    law = Panel(Axis("mean loss"), [_law(result), means, *places], x=_ELR, rules=[Rule(result.threshold, along="x")])
    return Chart(
        id="movie-chart",
        title=_TITLE,
        x=_STEP,
        panels=[law, _losses(found, framed=True), _individual(result, found, framed=True)],
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


def _course_chart(result: ToyRegimesResult, found: list[_Course]) -> Chart:
    """Loss and individual ELRs against steps at a few ELRs, side by side."""
    shown = [found[i] for i in sorted({_nearest(found, multiple) for multiple in _SHOWN})]
    return Chart(
        id="course-chart",
        title=_TITLE,
        x=_STEP,
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


def _nearest(found: list[_Course], multiple: float) -> int:
    """Which course is nearest to a multiple of the threshold, on a logarithmic scale."""
    return min(range(len(found)), key=lambda i: abs(math.log(found[i].row.relative_elr / multiple)))


def _losses(found: list[_Course], *, framed: bool = False, title: str = "") -> Panel:
    """The loss of every course, dotted the mean by the law."""
    at_random = found[0].row.loss_at_random
    marks: list[Mark] = []
    for number, course in enumerate(found):
        frame, law = number if framed else None, course.row.predicted_loss
        loss = np.maximum(course.loss, 0.1 * _LEAST * at_random)
        said = "step + 1 = {x:.0f} · loss {y:.3g}"
        marks.append(Line(course.x, loss, INKED.but(width=1.4), said, entry="loss", frame=frame))
        if law > 0:
            dotted, told = Look(_RED, width=2, dash="dot"), [f"law: {format_number(law)}"] * 2
            marks.append(Line(course.x[[0, -1]], [law, law], dotted, told, entry="law", listed=False, frame=frame))
    axis = Axis("loss", log=True, range=(_LEAST * at_random, 4 * at_random), over="↓ converged runs below")
    return Panel(axis, marks, title=title)


def _individual(
    result: ToyRegimesResult, found: list[_Course], *, framed: bool = False, beside: Sequence[_Course] = ()
) -> Panel:
    """The individual ELR of every pair, dashed the threshold under which it converges; one axis for all `beside`."""
    looks = series_looks(range(len(result.alphas)))
    marks: list[Mark] = []
    for number, course in enumerate(found):
        frame = number if framed else None
        for i, alpha in enumerate(result.alphas):
            look, name = looks[i].but(width=1.6), f"α = {format_number(alpha)}"
            said = f"{name}<br>step + 1 = {{x:.0f}} · individual ELR {{y:.3g}}"
            marks.append(Line(course.x, course.elrs[:, i], look, said, entry=name, frame=frame))
            dashed, told = look.but(width=1.2, dash="dash"), [f"threshold 1/α = {1 / alpha:.3g}"] * 2
            ends = (course.x[[0, -1]], [1 / alpha] * 2)
            marks.append(Line(*ends, dashed, told, entry=name, listed=False, frame=frame))
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
