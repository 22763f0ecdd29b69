"""The page of the regimes toy: the answer, the loss over its law, a walk through the ELRs, the rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onsphere.lab.experiments.toy_regimes.charts import loss_chart, movie_chart
from onsphere.lab.experiments.toy_regimes.figures import course_figure, loss_figure
from onsphere.lab.experiments.toy_regimes.result import RegimesRow, ToyRegimesResult, deviation
from onsphere.lab.experiments.toy_regimes.spec import ToyRegimesSpec
from onsphere.lab.experiments.toy_regimes.view import courses, selected
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.words import format_duration, format_number
from onsphere.lab.store import Run
from onsphere.lab.toy import page

_TITLE = "The regimes of the pairs toy"
_EXACT_UP_TO = 1.7  # ELR A up to which the balanced 2-cycle is followed; beyond it pairs move chaotically
_MOST_PAIRS = 6  # of which a table cell lists every one

_MEASUREMENTS = (
    ("loss", "F = Σ αᵢ xᵢ² / (xᵢ² + yᵢ²), all pairs together on the unit sphere; no batches, no noise"),
    ("mean loss", "F averaged over the last half of the steps, then over seeds (starting directions)"),
    ("law", "0 up to the threshold, (A − 1/ELR) / 2 above; exact on the balanced 2-cycle, ELR A up to about 1.7"),
    ("threshold", "1/A with A = Σ αᵢ: 2 over the sharpness of the flattest minimum"),
    ("individual ELR", "ELR / rᵢ² with rᵢ² = xᵢ² + yᵢ²; their inverses add up to 1/ELR. A pair converges below 1/αᵢ"),
    ("loss at random", "A/2, the mean of F over uniformly random directions"),
    ("converged", "mean loss of every seed below 1e-6 of that at random; it sinks on to 1e-200, where squares end"),
)


def write_page(run: Run, result: ToyRegimesResult) -> Path:
    """Write ``report.html`` and ``figures/`` into the run's folder.

    Args:
        run: The run; ``course.parquet`` holds the course of its simulations.
        result: Its result.

    Returns:
        The page.
    """
    found, seeds = courses(run, result), int(result.spec["seeds"])
    name = subtitle(result)
    return page.write(
        run,
        result,
        ToyRegimesSpec,
        title=_TITLE,
        subtitle=name,
        answer=answer(result),
        summary=[
            counted(len(result.rows) * seeds, "run"),
            f"{counted(len(result.rows), 'ELR')} from {format_number(result.rows[0].elr)} to "
            f"{format_number(result.rows[-1].elr)}",
            counted(seeds, "seed"),
            format_duration(result.seconds),
        ],
        sections=[
            Section("loss", "Loss over its law", [loss_chart(result)]),
            Section("movie", "Through the ELRs", [movie_chart(result, found)]),
            Section("rows", "All ELRs", [_table(result)]),
        ],
        measurements=_MEASUREMENTS,
        runs=len(result.rows) * seeds,
        figures={
            "loss": partial(loss_figure, result, _TITLE, name),
            "course": partial(course_figure, result, selected(found), _TITLE, f"{name} · seed 0"),
        },
    )


def subtitle(result: ToyRegimesResult) -> str:
    """What was simulated, in a line."""
    alphas = ", ".join(format_number(alpha) for alpha in result.alphas[:_MOST_PAIRS])
    more = ", …" if len(result.alphas) > _MOST_PAIRS else ""
    return (
        f"F = Σ αᵢ xᵢ²/(xᵢ² + yᵢ²) on one sphere · α = {alphas}{more} · A = {format_number(sum(result.alphas))} · "
        f"{result.spec['steps']} steps"
    )


def answer(result: ToyRegimesResult) -> list[str]:
    """What was found, in one sentence, and how well the law holds."""
    below = [row for row in result.rows if row.relative_elr < 1]
    above = [row for row in result.rows if row.relative_elr >= 1]
    parts = [f"{_how_many(rows)} {side} it" for rows, side in ((below, "below"), (above, "above")) if rows]
    threshold = f"Training converges below an ELR of 1/A = {format_number(result.threshold)}"
    return [f"{threshold}: every seed did at {' and at '.join(parts)}.", _agreement(above)]


def _how_many(rows: list[RegimesRow]) -> str:
    converged, n = sum(row.converged for row in rows), len(rows)
    if n == 1:
        return "the one ELR" if converged else "none of one ELR"
    return f"all {n} ELRs" if converged == n else f"{converged or 'none'} of {n} ELRs"


def _agreement(above: list[RegimesRow]) -> str:
    exact = deviation([row for row in above if row.relative_elr <= _EXACT_UP_TO])
    beyond = deviation([row for row in above if row.relative_elr > _EXACT_UP_TO])
    parts = []
    if exact is not None:
        parts.append(f"within {_percent(exact)} of the level of random directions up to {_EXACT_UP_TO} / A")
    if beyond is not None:
        parts.append(f"within {_percent(beyond)} beyond, where the pairs move chaotically")
    if not parts:
        return "No ELR above the threshold was run."
    return (
        f"Above it the mean loss follows (A − 1/ELR)/2: {', '.join(parts)}. It tends to A/2, the level of random "
        "directions, without a sharp second threshold."
    )


def _percent(share: float) -> str:
    return "0.01 %" if share < 1e-4 else f"{format_number(100 * share, 2)} %"


def _table(result: ToyRegimesResult) -> Table:
    columns = [
        ("ELR", "effective learning rate of the joint sphere"),
        ("ELR A", "in units of the threshold"),
        ("mean loss", "over the last half of the steps and all seeds"),
        ("lowest", "the smallest mean of a seed"),
        ("highest", "the largest mean of a seed"),
        ("law", "0 up to the threshold, (A − 1/ELR)/2 above"),
        ("off (%)", "measured minus law, in percent of the loss at random directions"),
        ("/ random", "mean loss over the loss at random directions"),
        ("converged", "in every seed"),
        ("αᵢ ELRᵢ", "individual ELRs in units of the pairs' own thresholds, means of the last half"),
    ]
    caption = "One row an ELR. Click a heading to sort, click again to turn the order around."
    numeric = frozenset(range(8))
    rows = [_cells(result, row) for row in result.rows]
    return Table(columns, rows, caption=caption, sortable=True, numeric=numeric, tight=frozenset({8, 9}))


def _cells(result: ToyRegimesResult, row: RegimesRow) -> list[Cell | str]:
    def plain(value: float, digits: int = 4) -> Cell:
        return Cell(format_number(value, digits), value)

    relative = [alpha * own for alpha, own in zip(result.alphas, row.individual_elrs, strict=True)]
    many = len(relative) > _MOST_PAIRS
    shown = [format_number(c) for c in ((min(relative), max(relative)) if many else relative)]
    return [
        plain(row.elr),
        plain(row.relative_elr),
        plain(row.loss),
        plain(row.loss_low),
        plain(row.loss_high),
        plain(row.predicted_loss),
        plain(round(100 * (row.loss - row.predicted_loss) / row.loss_at_random, 6), 2),
        plain(row.loss / row.loss_at_random, 3),
        "yes" if row.converged else "no",
        " to ".join(shown) if many else " · ".join(shown),
    ]
