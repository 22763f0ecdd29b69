"""The charts: losses after a change, memory, the plane of levels, wandering, what lies between, the random walk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onsphere.lab.chart.looks import STEP_ZERO, elr_looks
from onsphere.lab.chart.spec import Axis, Band, Chart, Line, Look, Mark, Panel, Points, Rule
from onsphere.lab.chart.theme import OKABE_ITO
from onsphere.lab.experiments.stabilise.analyse import Array, Curve, student
from onsphere.lab.experiments.stabilise.result import Distance, StabiliseResult
from onsphere.lab.report.words import format_number

_DIRECTIONS = {
    "up": ("ELR raised", Look(OKABE_ITO["vermillion"], "#E8743B", width=2, marker="circle", size=6)),
    "down": ("ELR lowered", Look(OKABE_ITO["blue"], OKABE_ITO["sky"], width=2, marker="circle", size=6)),
}
_SINCE = Axis("steps since the change of the ELR (the first point: step 0)", log=True)


def levels_chart(result: StabiliseResult, curves: Sequence[Curve]) -> Chart:
    """Loss against steps since the change, one colour an ELR after it, one line a pair."""
    looks, marks = elr_looks(result.spec.elrs), []
    for curve in curves:
        stays = curve.before == curve.after
        look = looks[curve.after].but(width=5, opacity=0.35) if stays else looks[curve.after].but(width=1.5)
        told = f"{format_number(curve.before)} → {format_number(curve.after)}<br>step {{step:.0f}} · loss {{y:.3g}}"
        steps, columns = np.maximum(curve.steps, STEP_ZERO), {"step": curve.steps}
        marks.append(Line(steps, curve.loss, look, told, columns, entry=_elr(curve.after), listed=stays))
    return Chart(
        id="levels-chart",
        title="Loss after a change of the ELR",
        legend="after the change",
        x=_SINCE,
        panels=[Panel(Axis("minibatch loss"), marks)],
        caption=(
            "Thin lines: runs whose ELR was changed; broad lines: runs that had this ELR from the start. Means over "
            "seeds and over bins of steps that double in width."
        ),
        label="Loss against steps since the change of the effective learning rate",
        note="thin: after a change of the ELR; broad: this ELR from the start",
    )


def memory_chart(result: StabiliseResult) -> Chart:
    """The share of the difference that is left against steps since the change."""
    marks: list[Mark] = []
    for direction, (name, look) in _DIRECTIONS.items():
        rows = [row for row in result.memory_course if row.direction == direction]
        if not rows:
            continue
        steps = [max(STEP_ZERO, row.middle) for row in rows]
        left, error = (100 * np.array([getattr(row, name) for row in rows]) for name in ("memory", "error"))
        told = f"{name}<br>step {{step:.0f}} · {{y:.1f}} % left"
        marks += [
            Band(steps, left - 2 * error, left + 2 * error, look, entry=name, listed=False),
            Line(steps, left, look, told, {"step": [row.middle for row in rows]}, entry=name),
        ]
    return Chart(
        id="memory-chart",
        title="What is remembered of the former ELR",
        x=_SINCE,
        panels=[Panel(Axis("difference that is left (%)"), marks, rules=[Rule(0, "nothing is remembered")])],
        caption=(
            "How much of the difference in log loss between two levels is left, over all pairs of ELRs; bands: two "
            "standard errors over seeds."
        ),
        label="Memory of the former effective learning rate against steps",
    )


def plane_chart(result: StabiliseResult) -> Chart:
    """Effective gradient norm against loss: the spot of every ELR, and where changed runs ended."""
    looks, marks = elr_looks(result.spec.elrs), list[Mark]()
    for stay in result.chaotic:
        name, look = _elr(stay.elr), looks[stay.elr]
        came = [row for row in result.levels if row.after == stay.elr]
        disc, cross = look.but(marker="circle", size=26, opacity=0.3), look.but(marker="cross", size=8)
        spot, start = "<br>loss {x:.4g} · gradient {y:.4g}", f"{name} from the start"
        x, y = [row.loss for row in came], [row.gradient_norm for row in came]
        told, columns = f"{{before}} → {format_number(stay.elr)}", {"before": [format_number(r.before) for r in came]}
        marks += [
            Points([stay.loss], [stay.gradient_norm], disc, start + spot, entry=name),
            Points(x, y, cross, told + spot, columns, entry=name, listed=False),
        ]
    return Chart(
        id="plane-chart",
        title="Where runs end in the plane of loss and gradient",
        legend="after the change",
        x=Axis("minibatch loss"),
        panels=[Panel(Axis("effective gradient norm"), marks)],
        caption="Discs: runs that had the ELR from the start. Crosses: runs that came from another one.",
        label="Effective gradient norm against loss, one spot an effective learning rate",
        note="discs: this ELR from the start; crosses: from another one",
    )


def wander_chart(result: StabiliseResult) -> Chart:
    """Angle to the start of the stationary phase against steps, with the random walk of the same steps."""
    marks: list[Mark] = []
    for elr, look in elr_looks(stay.elr for stay in result.chaotic).items():
        lags, angle, error, walk = _by_lag([row for row in result.distances if row.elr == elr and row.lag], "angle")
        name, walked = _elr(elr), np.arccos(np.clip(walk, -1, 1))
        told, solid = f"{name}<br>{{x}} steps · {{y:.3g}} rad", look.but(width=2, marker="circle", size=5)
        marks += [
            Line(lags, angle, solid, told, error=2 * error, entry=name),
            Line(lags, walked, look.but(width=1.2, dash="dot"), f"random walk, {told}", entry=name, listed=False),
        ]
    return Chart(
        id="wander-chart",
        title="How far runs wander",
        x=Axis("steps since the start of the stationary phase", log=True),
        panels=[Panel(Axis("angle to the start (rad)", holds=(0,)), marks, rules=[Rule(math.pi / 2, "orthogonal")])],
        caption=(
            "Solid: measured, means over seeds with two standard errors. Dotted: a random walk with the same angular "
            "updates. Steps in the chaotic equilibrium undo one another, so runs get nowhere near as far."
        ),
        label="Angle to the start of the stationary phase against steps",
        note="dotted: random walk with the same steps",
        file="wandering",
    )


def ways_chart(result: StabiliseResult) -> Chart:
    """Loss in the middle of the great circle from the start, relative to its ends, against its length."""
    marks = []
    for elr, look in elr_looks(stay.elr for stay in result.stays).items():
        own, chaotic = [way for way in result.ways if way.elr == elr], elr in result.spec.elrs
        x, y = [way.angle for way in own], [way.middle for way in own]
        point = look.but(marker="circle" if chaotic else "square", hollow=not chaotic)
        told = f"{_elr(elr)} · {{lag}} steps, barrier {{barrier}}<br>{{x:.3g}} rad · {{y:+.3g}}"
        columns = {"lag": [way.lag for way in own], "barrier": [format_number(way.barrier) for way in own]}
        marks.append(Points(x, y, point, told, columns, entry=_elr(elr)))
    valley = Rule(0, "above: a ridge; below: a valley")
    return Chart(
        id="ways-chart",
        title="What lies between the start and later weights",
        x=Axis("angle between start and later weights (rad)"),
        panels=[Panel(Axis("loss in the middle minus mean of the ends"), marks, rules=[valley])],
        caption=(
            "One point a run and time: the training loss in the middle of the great circle between the weights at the "
            "start of the stationary phase and later ones. Squares: ELRs of the divergence."
        ),
        label="Loss in the middle of the path to the start against its length",
        note="squares: ELRs of the divergence",
    )


def walk_chart(result: StabiliseResult) -> Chart:
    """Cosine to the start in the divergence against steps, with the random walk's."""
    marks: list[Mark] = []
    for elr, look in elr_looks(stay.elr for stay in result.diverged).items():
        lags, cosine, error, walk = _by_lag([row for row in result.distances if row.elr == elr], "cosine")
        name, columns = _elr(elr), {"lag": lags}
        dotted, walked = look.but(width=1.4, dash="dot"), f"random walk, {name} · {{lag}} steps · {{y:.3g}}"
        point, told = look.but(marker="circle"), f"{name} · {{lag}} steps · {{y:+.3f}}"
        marks += [
            Line(lags + 1, walk, dotted, walked, columns, entry=name, listed=False),
            Points(lags + 1, cosine, point, told, columns, error=2 * error, entry=name),
        ]
    return Chart(
        id="walk-chart",
        title="The divergence against a random walk",
        x=Axis("1 + steps since the start", log=True),
        panels=[Panel(Axis("cosine to the start"), marks, rules=[Rule(0)])],
        caption=(
            "Points: measured, means over seeds with two standard errors. Dotted: the product of the cosines of all "
            "angular updates, (1 + s²)^(-t/2) with effective steps s."
        ),
        label="Cosine to the start in the divergence against the random walk",
        note="dotted: random walk with the same steps",
    )


def _elr(elr: float) -> str:
    return f"ELR {format_number(elr)}"


def _by_lag(rows: Sequence[Distance], name: str) -> tuple[Array, Array, Array, Array]:
    """Lags, and at each the mean over seeds of a field, its standard error and the walk's mean cosine."""
    lags = sorted({row.lag for row in rows})
    at = [[row for row in rows if row.lag == lag] for lag in lags]
    values = np.array([student([getattr(row, name) for row in group]) for group in at])
    walk = [np.mean([row.walk_cosine for row in group]) for group in at]
    return np.array(lags), values[:, 0], values[:, 1], np.array(walk)
