"""The page of the regimes toy: the answer, the loss over its law, a walk through the ELRs, the rows."""

from __future__ import annotations

from onsphere.lab.experiments.toy_regimes.charts import course_chart, courses, loss_chart, movie_chart
from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult
from onsphere.lab.experiments.toy_regimes.words import MOST_PAIRS, subtitle
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

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
    found, rows = courses(run, result), result.rows
    ends = f"from {format_number(rows[0].elr)} to {format_number(rows[-1].elr)}"
    return Report(
        title="The regimes of the pairs toy",
        subtitle=subtitle(result),
        summary=[
            counted(len(rows) * result.spec.seeds, "run"),
            f"{counted(len(rows), 'ELR')} {ends}",
            counted(result.spec.seeds, "seed"),
        ],
        sections=[
            Section("loss", "Loss over its law", [loss_chart(result)]),
            Section("movie", "Through the ELRs", [movie_chart(result, found), course_chart(result, found)]),
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
        many = len(relative) > MOST_PAIRS
        shown = [format_number(c) for c in ((min(relative), max(relative)) if many else relative)]
        return " to ".join(shown) if many else " · ".join(shown)

    columns = [
        Column("ELR", "elr", "effective learning rate of the joint sphere", digits=4),
        Column("ELR A", "relative_elr", "in units of the threshold", digits=4),
        Column("mean loss", "loss", "over the last half of the steps and all seeds", digits=4),
        Column("lowest", "loss_low", "the smallest mean of a seed", digits=4),
        Column("highest", "loss_high", "the largest mean of a seed", digits=4),
        Column("law", "predicted_loss", "0 up to the threshold, (A − 1/ELR)/2 above", digits=4),
        Column(
            "off (%)",
            lambda row: round(100 * (row.loss - row.predicted_loss) / row.loss_at_random, 6),
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
