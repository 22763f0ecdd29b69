"""The tables of the page: every change of ELR, every ELR that stays."""

from __future__ import annotations

import math

from onsphere.lab.chart.theme import elr_colours
from onsphere.lab.experiments.stabilise.result import StabiliseResult
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import format_number, format_percent

__all__ = ["levels_table", "stays_table"]


def levels_table(result: StabiliseResult) -> Table:
    """One row a change of ELR."""
    colours = elr_colours(result.spec["elrs"])
    columns = [
        ("before", "ELR before the change"),
        ("after", "ELR after the change"),
        ("loss", "mean minibatch loss over the second half of the steps after the change"),
        ("from start", "loss of runs that had this ELR from the start, over the same steps"),
        ("gap (%)", "mean over seeds of the log of the ratio"),
        ("/ s.e.", "the gap in standard errors over seeds; of a few seeds, beyond 3 or 4 is worth a thought"),
        ("gradient (%)", "gap of the effective gradient norm"),
        ("/ s.e. ", "the gap of the gradient norm in standard errors over seeds"),
        ("steps", "to the level: until a running mean is within the reference's fluctuations; median over seeds"),
        ("test err (%)", "batch statistics re-estimated; in brackets that of runs with the ELR from the start"),
    ]
    rows: list[list[Cell | str]] = [
        [
            Cell(format_number(row.before), row.before, colours[row.before]),
            Cell(format_number(row.after), row.after, colours[row.after]),
            _number(row.loss, 4),
            _number(row.loss_reference, 4),
            _signed(100 * row.loss_gap),
            _signed(row.loss_gap_in_errors),
            _signed(100 * row.gradient_norm_gap),
            _signed(row.gradient_norm_gap_in_errors),
            Cell("never" if row.steps_to_level is None else format_number(row.steps_to_level), row.steps_to_level),
            Cell(f"{format_percent(row.test_error)} ({format_percent(row.test_error_reference)})", row.test_error),
        ]
        for row in result.levels
    ]
    caption = f"Means over {result.spec['seeds']} seeds. Click a heading to sort."
    return Table(columns, rows, caption=caption, sortable=True, numeric=frozenset(range(2, 10)))


def stays_table(result: StabiliseResult) -> Table:
    """One row an ELR at which runs stay."""
    columns = [
        ("ELR", ""),
        ("regime", "how many seeds are in which"),
        ("loss", "minibatches, stationary phase"),
        ("gradient", "effective gradient norm of minibatches, stationary phase"),
        ("rad / step", "mean angle of a step"),
        ("angle (rad)", "to the start, at the end of the stationary phase, with its standard error"),
        ("forgets", "steps until the mean cosine to the start is 1/e; – : not within the run"),
        ("walk", "the same of a random walk with the same angular updates"),
        (
            "loss in the middle",
            "of the great circle from start to end, minus the mean of both ends; negative: a valley",
        ),
        ("barrier", "highest loss on it above the line between the ends"),
    ]
    rows: list[list[Cell | str]] = [
        [
            Cell(format_number(stay.elr), stay.elr),
            ", ".join(f"{count} {_name(name)}" for name, count in stay.regimes.items() if count),
            _number(stay.loss, 3),
            _number(stay.gradient_norm, 3),
            _number(stay.angular_update, 3),
            Cell(f"{stay.angle:.2f} ± {stay.angle_error:.2f}", stay.angle),
            _number(stay.steps_to_forget, 3),
            _number(stay.walk_steps_to_forget, 3),
            Cell(f"{stay.middle:+.2f} ± {stay.middle_error:.2f}", stay.middle),
            Cell(f"{stay.barrier:.2f} ± {stay.barrier_error:.2f}", stay.barrier),
        ]
        for stay in result.stays
    ]
    return Table(
        columns, rows, caption="Means over seeds, ± one standard error.", sortable=True, numeric=frozenset(range(2, 10))
    )


def _number(value: float | None, digits: int) -> Cell:
    return Cell(format_number(value, digits), math.nan if value is None else value)


def _signed(value: float) -> Cell:
    return Cell(f"{value:+.1f}" if math.isfinite(value) else "–", value)


def _name(regime: str) -> str:
    return regime.replace("_", " ")
