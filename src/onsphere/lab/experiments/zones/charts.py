"""The charts: sharpness along paths, the map of outcomes, courses of continuations, what 2 / ELR tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.chart.looks import STEP_ZERO, elr_looks
from onsphere.lab.chart.spec import Axis, Chart, Line, Look, Mark, Panel, Points, Rule
from onsphere.lab.chart.theme import GREY, INK, INK_ON_DARK, OKABE_ITO
from onsphere.lab.experiments.zones.result import OUTCOMES, RISE, THRESHOLD, Continuation, ZonesResult
from onsphere.lab.population.course import thinned
from onsphere.lab.report.words import format_number

__all__ = ["LOOKS", "Course", "course_chart", "map_chart", "path_chart", "threshold_chart"]

_BINS = 500  # of steps, at most, of which a curve shows the lowest and the highest loss

#: How each outcome looks.
LOOKS = {
    "at once": Look(OKABE_ITO["blue"], OKABE_ITO["sky"], marker="circle"),
    "up first": Look(OKABE_ITO["green"], "#1FC79A", marker="triangle"),
    "held": Look(OKABE_ITO["orange"], marker="square"),
    "leaves": Look(OKABE_ITO["vermillion"], "#E8743B", marker="x"),
}


@dataclass(frozen=True, eq=False)
class Course:
    """The loss [T] of a continuation of the first seed, or of the path itself (``elr`` None) over the same steps."""

    checkpoint: int
    elr: float | None
    loss: NDArray[np.float64]
    outcome: str = ""


def path_chart(result: ZonesResult) -> Chart:
    """Sharpness against steps of the paths, log-log, with 2 / ELR of the continuations."""
    elrs, marks = result.spec.path_elrs, []
    branches = {row.checkpoint for row in result.continuations}
    for elr, look in elr_looks(elrs, width=1.8, marker="circle").items():
        name = f"path of ELR {format_number(elr)}"
        for seed in range(result.spec.seeds):
            own = [point for point in result.path if (point.elr, point.seed) == (elr, seed)]
            hover = (
                f"{name}, seed {seed}<br>step {{step}} · sharpness {{y:.4g}}<br>"
                "loss {loss} · ELR · sharpness {product}"
            )
            columns: dict[str, Any] = {"step": [point.step for point in own]}
            columns |= {key: [format_number(getattr(point, key)) for point in own] for key in ("loss", "product")}
            x, y = [max(STEP_ZERO, point.step) for point in own], [point.sharpness for point in own]
            size = tuple(9 if elr == elrs[0] and point.step in branches else 4 for point in own)
            marks.append(Line(x, y, look.but(size=size), hover, columns, entry=name))
    values = [point.sharpness for point in result.path if point.sharpness > 0]
    shown = [e for e in sorted({*result.spec.elrs, *elrs}) if min(values) / 1.5 < THRESHOLD / e < max(values) * 1.5]
    dotted = Look(INK, INK_ON_DARK, width=0.8, dash="dot")
    rules = [Rule(THRESHOLD / e, f"2 / ELR for {format_number(e)}", look=dotted) for e in shown]
    return Chart(
        id="path-chart",
        title="Sharpness along the paths of training",
        x=Axis("step of the path (the first point: step 0)", log=True),
        panels=[Panel(Axis("sharpness on the unit sphere", log=True), marks, rules=rules)],
        caption=(
            "Top Hessian eigenvalue of the training-mode loss on the unit sphere, one line a seed. Gradient descent "
            "with an ELR is unstable above its dotted line. Large dots: where continuations branch off."
        ),
        label="Sharpness along the paths of training",
        file="zones",
    )


def map_chart(result: ZonesResult) -> Chart:
    """Outcome of every continuation over its checkpoint and ELR, with 2 / sharpness."""
    seeds, marks = result.spec.seeds, list[Mark]()
    for seed in range(seeds):
        own = sorted((point.step, point.sharpness) for point in result.main if point.seed == seed)
        places = [_place(step, seed, seeds) for step, _ in own]
        marks.append(
            Line(places, [THRESHOLD / s for _, s in own], Look(GREY, width=1.4), entry="2 / sharpness of the path")
        )
    for outcome, look in LOOKS.items():
        rows = [row for row in result.continuations if row.outcome == outcome]
        places = [_place(row.checkpoint, row.seed, seeds) for row in rows]
        marks.append(Points(places, [row.elr for row in rows], look.but(size=10), [*map(_told, rows)], entry=outcome))
    return Chart(
        id="map-chart",
        title="What becomes of continuations with other ELRs",
        x=Axis("step of the path where it is continued (the first: step 0)", log=True),
        panels=[Panel(Axis("ELR of the continuation", log=True), marks)],
        caption=(
            "At once: converges no higher than the path. Up first: the loss rises above 1.2 times where it began and "
            "comes back. Held: does not rise and stays above the path. Leaves: rises and stays above. Seeds are side "
            "by side."
        ),
        label="Outcome of continuations over checkpoint and effective learning rate",
        file="continuations",
    )


def course_chart(result: ZonesResult, courses: Sequence[Course]) -> Chart:
    """Losses of the continuations of the first seed, one frame a checkpoint, with the path in grey."""
    looks = elr_looks(result.spec.elrs)
    checkpoints = sorted({course.checkpoint for course in courses})
    marks = []
    for course in courses:
        name = "path" if course.elr is None else f"ELR {format_number(course.elr)}"
        marks.append(
            Line(
                *thinned(course.loss, _BINS),
                Look(GREY, width=4, opacity=0.6) if course.elr is None else looks[course.elr],
                f"{name} {course.outcome}<br>step {{x}} · loss {{y:.3g}}",
                entry=name,
                frame=checkpoints.index(course.checkpoint),
            )
        )
    middle = len(checkpoints) // 2
    return Chart(
        id="course-chart",
        title="Losses of the continuations",
        x=Axis("steps since the checkpoint"),
        panels=[Panel(Axis("loss", log=True), marks)],
        caption="Continuations of the first seed's path from one checkpoint, and the path itself over the same steps.",
        label="Losses of the continuations",
        frames=[f"step {checkpoint}" for checkpoint in checkpoints],
        frame_name="checkpoint",
        frame=middle,
        prints=[("courses", middle)],
    )


def threshold_chart(result: ZonesResult) -> Chart:
    """Highest loss over that of the beginning against ELR times sharpness there."""
    marks = []
    for outcome in OUTCOMES:
        rows = [row for row in result.continuations if row.outcome == outcome and math.isfinite(row.peak)]
        x, y = [row.product for row in rows], [row.peak for row in rows]
        marks.append(Points(x, y, LOOKS[outcome].but(size=8), [*map(_told, rows)], entry=outcome))
    return Chart(
        id="threshold-chart",
        title="What ELR times sharpness tells",
        x=Axis("ELR · sharpness where it begins", log=True),
        panels=[Panel(Axis("highest loss / loss where it begins", log=True), marks, rules=[Rule(RISE)])],
        rules=[Rule(THRESHOLD, "2: threshold of gradient descent", along="x")],
        caption="One point a continuation; above the horizontal line it counts as having gone up.",
        label="Rise of the loss against effective learning rate times sharpness",
    )


def _place(step: int, seed: int, seeds: int) -> float:
    """Where a step stands on the logarithmic axis, seeds side by side."""
    return float(max(STEP_ZERO, step) * 1.08 ** (seed - (seeds - 1) / 2))


def _told(row: Continuation) -> str:
    return (
        f"{row.outcome}: ELR {format_number(row.elr)} from step {row.checkpoint}, seed {row.seed}<br>"
        f"ELR · sharpness {format_number(row.product)} · loss {format_number(row.loss)}, at most "
        f"{format_number(row.peak)} times that, ends at {format_number(row.end)} (path {format_number(row.path_end)})"
    )
