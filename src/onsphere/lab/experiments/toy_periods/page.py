"""The page of the periods toy: the answer, the course with its jumps, the loop of a period, the law around the run."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

from onsphere.lab.experiments.toy_periods.charts import course_chart, law_chart, loop_chart
from onsphere.lab.experiments.toy_periods.figures import figures_of
from onsphere.lab.experiments.toy_periods.result import STRONG, ToyPeriodsResult
from onsphere.lab.experiments.toy_periods.spec import ToyPeriodsSpec
from onsphere.lab.experiments.toy_periods.view import trace
from onsphere.lab.report.page import Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run
from onsphere.lab.toy import page

_TITLE = "The periods of the pairs toy"

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


def write_page(run: Run, result: ToyPeriodsResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; ``trace.parquet`` holds its course.
        result: Its result.

    Returns:
        The page.
    """
    whole, name = trace(run), subtitle(result)
    loop, law = loop_chart(result, whole), law_chart(result)
    sections = [Section("course", "Course of training", [course_chart(result, whole)])]
    if loop is not None:
        sections.append(Section("loop", "One period as a loop", [loop]))
    if result.jumps:
        sections.append(Section("jumps", "All jumps", [_jumps(result)]))
    if law is not None:
        title = "The law around this run" if result.spec["floor"] else "With a floor there are periods"
        sections.append(Section("law", title, [law, _law(result)]))
    return page.write(
        run,
        result,
        ToyPeriodsSpec,
        title=_TITLE,
        subtitle=name,
        answer=answer(result),
        summary=[
            f"{result.steps} steps",
            counted(len(result.jumps), "jump"),
            f"lr · wd = {format_number(result.spec['lr'] * result.spec['weight_decay'])}",
            format_duration(result.seconds),
        ],
        sections=sections,
        measurements=_MEASUREMENTS,
        runs=1 + len(result.law),
        figures=figures_of(result, whole, _TITLE, name),
    )


def subtitle(result: ToyPeriodsResult) -> str:
    """What was simulated, in a line."""
    spec = result.spec
    alphas = ", ".join(format_number(alpha) for alpha in spec["alphas"])
    floor = f"floor {format_number(spec['floor'])}" if spec["floor"] else "no floor"
    return (
        f"F = Σ αᵢ xᵢ²/(xᵢ² + yᵢ²) with weight decay · α = {alphas} · lr {format_number(spec['lr'])}, weight decay "
        f"{format_number(spec['weight_decay'])}, {floor}"
    )


def answer(result: ToyPeriodsResult) -> list[str]:
    """What was found, in one sentence, and what happens in a period."""
    if result.outcome == "instability":
        return _instability(result)
    if result.period is None:
        return [
            f"No period was seen: {counted(len(result.jumps), 'jump')} in {result.steps} steps.",
            "Give more steps, or a larger product of lr and weight decay.",
        ]
    peak, drop = (median(getattr(jump, name) for jump in result.jumps) for name in ("elr", "drop"))
    second = (
        f"Before a jump the ELR stands at {format_number(peak / result.threshold)} / A, above the threshold 1/A = "
        f"{format_number(result.threshold)}; the jump divides it by {format_number(drop)} (medians)."
    )
    return [f"A period takes {format_number(result.period, 4)} steps{_against_law(result)}.", second]


def _against_law(result: ToyPeriodsResult) -> str:
    if result.predicted_period is None or result.period is None:
        return "; without a floor there is no law to compare with: how far x fell by itself decides"
    off = 100 * (result.period / result.predicted_period - 1)
    side = "less" if off < 0 else "more"
    words = f", {format_number(abs(off), 2)} % {side} than the law's {format_number(result.predicted_period, 4)}"
    strength = result.spec["lr"] * result.spec["weight_decay"] * math.log(1 / result.spec["floor"])
    if strength > STRONG:
        words += (
            f"; jumps are strong here (lr · wd · ln(1/floor) = {format_number(strength)}, above {STRONG:g}), so "
            "periods scatter below the law"
        )
    return words


def _instability(result: ToyPeriodsResult) -> list[str]:
    start, end = (value / math.log(10) for value in result.log_radius)
    before = f" after {counted(len(result.jumps), 'jump')}" if result.jumps else ""
    return [
        f"There are no periods: at step {result.vanished}{before} x became exactly 0, and the norm decays for ever.",
        f"Without a gradient weight decay alone acts: the norm fell from {_power(start)} to {_power(end)} in "
        f"{result.steps} steps. A floor, which stands for rounding or noise, is what makes the loss come back.",
    ]


def _power(exponent: float) -> str:
    """10^exponent as a number, also where it is too small for a float."""
    return format_number(10**exponent) if abs(exponent) < 300 else f"1e{exponent:.0f}"


def _jumps(result: ToyPeriodsResult) -> Table:
    columns = [
        ("step", "where the ELR peaked"),
        ("period", "steps since the jump before"),
        ("ELR", "at the peak"),
        ("ELR after", "the smallest before the next jump"),
        ("drop", "the first over the second"),
    ]
    periods = [None, *result.periods]
    rows: list[list[Cell | str]] = [
        [
            Cell(str(jump.step), jump.step),
            Cell(format_number(period), math.nan if period is None else period),
            *(Cell(format_number(value, 4), value) for value in (jump.elr, jump.trough_elr, jump.drop)),
        ]
        for jump, period in zip(result.jumps, periods, strict=True)
    ]
    caption = "One row a jump. Click a heading to sort."
    return Table(columns, rows, caption=caption, sortable=True, numeric=frozenset(range(5)))


def _law(result: ToyPeriodsResult) -> Table | Text:
    columns = [
        ("weight decay", ""),
        ("floor", ""),
        ("jumps", "counted after the burn-in"),
        ("period", "median distance of consecutive jumps, steps"),
        ("law", "√(2 ln(1/floor) / (lr wd))"),
        ("off (%)", "measured against law"),
        ("lr · wd · ln(1/floor)", f"above {STRONG:g} jumps are so strong that periods scatter below the law"),
    ]
    rows: list[list[Cell | str]] = []
    for row in result.law:
        off = math.nan if row.period is None else 100 * (row.period / row.predicted_period - 1)
        values = (row.weight_decay, row.floor, row.jumps, row.period, row.predicted_period, off, row.strength)
        rows.append(
            [
                Cell(format_number(v, 4 if i in (3, 4) else 3), math.nan if v is None else v)
                for i, v in enumerate(values)
            ]
        )
    caption = f"lr {format_number(result.spec['lr'])}; floors and weight decays around those of the run."
    return Table(columns, rows, caption=caption, sortable=True, numeric=frozenset(range(7)))
