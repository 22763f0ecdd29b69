"""The page of the periods toy: the answer, the course with its jumps, the loop of a period, the law around the run."""

from __future__ import annotations

from onsphere.lab.experiments.toy_periods.charts import course_chart, law_chart, loop_chart, trace
from onsphere.lab.experiments.toy_periods.result import STRONG, LawRow, ToyPeriodsResult
from onsphere.lab.experiments.toy_periods.words import subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

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


def report(run: Run, result: ToyPeriodsResult) -> Report:
    """What is to be read about the periods; ``trace.parquet`` holds the course of the run."""
    whole, spec = trace(run), result.spec
    loop, law = loop_chart(result, whole), law_chart(result)
    sections = [Section("course", "Course of training", [course_chart(result, whole)])]
    if loop is not None:
        sections.append(Section("loop", "One period as a loop", [loop]))
    if result.jumps:
        sections.append(Section("jumps", "All jumps", [_jumps(result)]))
    if law is not None:
        title = "The law around this run" if spec.floor else "With a floor there are periods"
        caption = f"lr {format_number(spec.lr)}; floors and weight decays around those of the run."
        sections.append(Section("law", title, [law, table(result.law, _LAW, caption)]))
    return Report(
        title="The periods of the pairs toy",
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


def _jumps(result: ToyPeriodsResult) -> Table:
    columns = [
        Column("step", lambda row: row[0].step, "where the ELR peaked"),
        Column("period", lambda row: row[1], "steps since the jump before"),
        Column("ELR", lambda row: row[0].elr, "at the peak", digits=4),
        Column("ELR after", lambda row: row[0].trough_elr, "the smallest before the next jump", digits=4),
        Column("drop", lambda row: row[0].drop, "the first over the second", digits=4),
    ]
    rows = zip(result.jumps, [None, *result.periods], strict=True)
    return table(rows, columns, "One row a jump. Click a heading to sort.")
