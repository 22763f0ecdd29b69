"""The page of the periods toy: the course with its jumps, one period as a loop, the law around the run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.toys import period_law
from onsphere.lab.chart.looks import series_looks
from onsphere.lab.chart.spec import Axis, Chart, Line, Look, Mark, Panel, Points, Rule, Scale
from onsphere.lab.chart.theme import GREY, OKABE_ITO
from onsphere.lab.experiments.toy_periods.result import STRONG, LawRow, ToyPeriodsResult, subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run
from onsphere.lab.store.files import read_table

__all__ = ["printed", "report"]

Array = NDArray[np.float64]

_TITLE = "The periods of the pairs toy"
_RED = Look(OKABE_ITO["vermillion"])
_JUMPS = (
    "While the ELR is below the threshold the loss falls, the gradient vanishes and weight decay shrinks the norm; "
    "above it the loss grows again, until a few large steps throw the norm up and the ELR down: a jump."
)
_FOR_EVER = (
    "The loss falls until x is exactly zero. From then on there is no gradient at any ELR: the norm shrinks and the "
    "ELR grows without bound."
)
_MEASUREMENTS = (
    ("loss", "F = Σ αᵢ xᵢ² / (xᵢ² + yᵢ²); no batches, no noise"),
    ("ELR", "lr / norm², the norm that of all pairs together"),
    ("effective gradient norm", "norm of the gradient at the unit sphere: norm · ‖∇F‖"),
    ("jump", "a peak of the ELR followed by a fall of more than a factor 1.25; none is counted in the burn-in"),
    ("period", "steps from one jump to the next; the median where one number is given"),
    ("law", "√(2 ln(1/floor) / (lr · weight decay)), to leading order; an upper bound"),
    ("threshold", "1/A with A = Σ αᵢ: the ELR above which the minimum, reached with equalised pairs, is unstable"),
    ("floor", "|xᵢ| is kept at least this large relative to the pair's norm; stands for rounding or noise"),
)


def _off(row: LawRow) -> float | None:
    return None if row.period is None else 100 * (row.period / row.predicted_period - 1)


_LAW = (
    Column("weight decay", "weight_decay"),
    Column("floor", "floor"),
    Column("jumps", "jumps", "counted after the burn-in"),
    Column("period", "period", "median distance of consecutive jumps, steps", digits=4),
    Column("law", "predicted_period", "√(2 ln(1/floor) / (lr wd))", digits=4),
    Column("off (%)", _off, "measured against law"),
    Column(
        "lr · wd · ln(1/floor)",
        "strength",
        f"above {STRONG:g} jumps are so strong that periods scatter below the law",
    ),
)
_JUMP = (
    Column("step", lambda row: row[0].step, "where the ELR peaked"),
    Column("period", lambda row: row[1], "steps since the jump before"),
    Column("ELR", lambda row: row[0].elr, "at the peak", digits=4),
    Column("ELR after", lambda row: row[0].trough_elr, "the smallest before the next jump", digits=4),
    Column("drop", lambda row: row[0].drop, "the first over the second", digits=4),
)


def report(run: Run, result: ToyPeriodsResult) -> Report:
    """What is to be read about the periods; ``trace.parquet`` holds the course of the run."""
    trace, spec = read_table(run.table_path("trace")), result.spec
    sections = [Section("course", "Course of training", [_course_chart(result, trace)])]
    if len(result.jumps) > 1:
        sections.append(Section("loop", "One period as a loop", [_loop_chart(result, trace)]))
    if result.jumps:
        jumps = zip(result.jumps, [None, *result.periods], strict=True)
        sections.append(Section("jumps", "All jumps", [table(jumps, _JUMP, f"One row a jump. {SORT}")]))
    if result.law:
        title = "The law around this run" if spec.floor else "With a floor there are periods"
        caption = f"lr {format_number(spec.lr)}; floors and weight decays around those of the run."
        sections.append(Section("law", title, [_law_chart(result), table(result.law, _LAW, caption)]))
    return Report(
        title=_TITLE,
        subtitle=subtitle(result),
        summary=[
            f"{result.steps} steps",
            counted(len(result.jumps), "jump"),
            f"lr · wd = {format_number(spec.lr * spec.weight_decay)}",
        ],
        sections=sections,
        measured=_MEASUREMENTS,
    )


def printed(result: ToyPeriodsResult) -> list[Table | str]:
    """The law's neighbourhood as a table."""
    return [table(result.law, [Column("lr", "lr"), *_LAW[:-1]])] if result.law else []


def _course_chart(result: ToyPeriodsResult, trace: dict[str, Array]) -> Chart:
    """ELR with its jumps and the threshold, loss, norm, against steps."""
    steps, jumps, look = trace["step"], result.jumps, Look(OKABE_ITO["blue"], OKABE_ITO["sky"], width=1.4)
    # the norm is 0 where it is too small for a float
    curves = {"ELR": trace["elr"], "loss": trace["loss"], "norm": np.exp(trace["log_radius"])}
    elr, loss, norm = (
        Line(steps, _positive(values), look, f"step {{x:.0f}} · {what} {{y:.3g}}", entry="run" if what == "ELR" else "")
        for what, values in curves.items()
    )
    peaks = Points(
        [jump.step for jump in jumps],
        [jump.elr for jump in jumps],
        _RED.but(marker="down", size=8),
        [f"jump at step {one.step} · ELR {one.elr:.3g}, falls to {format_number(one.trough_elr)}" for one in jumps],
        entry="jump",
    )
    start = Rule(result.burn_in, "jumps are counted from here", along="x", look=Look(GREY, width=1.2, dash="dot"))
    return Chart(
        id="course-chart",
        title=_TITLE,
        x=Axis("step", range=(0, float(steps[-1]))),
        panels=[
            Panel(Axis("ELR", log=True), [elr, *([peaks] if jumps else [])], rules=[_threshold(result)]),
            Panel(Axis("loss", log=True), [loss]),
            Panel(Axis("norm", log=True), [norm]),
        ],
        rules=[start] if result.burn_in and result.outcome == "periods" else [],
        height=760,
        caption=_FOR_EVER if result.outcome == "instability" else _JUMPS,
        label="ELR, loss and norm against steps, jumps marked",
    )


def _loop_chart(result: ToyPeriodsResult, trace: dict[str, Array]) -> Chart:
    """Effective gradient norm against ELR through the last whole period, log-log."""

    def part(first: float, last: float) -> list[Array]:
        here = (trace["step"] >= first) & (trace["step"] <= last)
        return [trace[name][here].astype(np.float64) for name in ("step", "elr", "effective_gradient_norm")]

    _, all_elrs, all_gradients = part(result.jumps[0].step, trace["step"][-1])
    steps, elr, gradient = part(result.jumps[-2].step, result.jumps[-1].step)
    since = steps - steps[0]
    marks: list[Mark] = [
        Line(all_elrs, _positive(all_gradients), Look(GREY, width=0.6, opacity=0.5), entry="all periods"),
        Line(
            elr,
            _positive(gradient),
            Look(GREY, width=1, marker="circle", size=5),
            "{since:.0f} steps after the jump<br>ELR {x:.3g} · effective gradient {y:.3g}",
            columns={"since": since},
            values=since,
            scale=Scale("steps after the jump"),
            entry="one period",
        ),
        Points(elr[:1], gradient[:1], _RED.but(marker="star", size=11), entry="jump"),
    ]
    return Chart(
        id="loop-chart",
        title=_TITLE,
        x=Axis("effective learning rate (ELR)", log=True),
        panels=[Panel(Axis("effective gradient norm", log=True), marks)],
        rules=[_threshold(result, along="x")],
        height=520,
        caption=(
            "A period is a closed loop, run through from the star: the ELR falls within a few steps; then the gradient "
            "vanishes down to the floor, while the ELR climbs; past the threshold the gradient grows back."
        ),
        label="Effective gradient norm against ELR through one period",
    )


def _threshold(result: ToyPeriodsResult, **place: Any) -> Rule:
    return Rule(result.threshold, f"threshold 1/A = {format_number(result.threshold)}", **place)


def _law_chart(result: ToyPeriodsResult) -> Chart:
    """Measured periods over the floor, with the law, one colour a weight decay."""
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
