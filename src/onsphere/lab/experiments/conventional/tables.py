"""The table on the page of ordinary training beside the sphere."""

from __future__ import annotations

import math

from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.conventional.result import ConventionalResult
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import MISSING, format_number, format_percent

__all__ = ["runs_table"]


def runs_table(result: ConventionalResult) -> Table:
    """One row a run."""
    columns = [
        ("set-up", ""),
        ("lr", "on the sphere the effective learning rate"),
        ("seed", ""),
        ("label", "by the rules of onsphere regimes; rest on it for the reason"),
        ("ELR", "geometric mean of the last quarter"),
        ("lowest", "ELR of the whole run"),
        ("highest", "ELR of the whole run"),
        ("loss", "mean minibatch loss of the last quarter"),
        ("of sphere's", "loss over the sphere's loss at the same ELR"),
        ("train err (%)", "mean of the evaluations in the last quarter"),
        ("test err (%)", "at the end"),
        ("gradient", "mean effective gradient norm of the last quarter"),
        ("angle", "mean angle of a step in the last quarter, rad; none with momentum"),
        ("at this ELR", "regime on the sphere"),
    ]
    rows: list[list[Cell | str]] = [
        [
            run.setup,
            _cell(run.lr),
            _cell(run.seed),
            Cell(REGIME_NAMES[run.regime], colour=REGIME_COLOURS[run.regime], hint=run.reason),
            *(_cell(value) for value in (run.elr, run.lowest_elr, run.highest_elr, run.loss)),
            _cell(run.ratio, 2),
            *(Cell(format_percent(v), _value(v)) for v in (run.train_error, run.test_error)),
            _cell(run.gradient_norm),
            _cell(run.angular_update, 2),
            REGIME_NAMES[run.sphere_regime] if run.sphere_regime is not None else MISSING,
        ]
        for run in result.runs
    ]
    return Table(
        columns,
        rows,
        caption="All runs. Click a heading to sort.",
        sortable=True,
        numeric=frozenset(range(len(columns))) - {0, 3, 13},
    )


def _cell(value: float | None, digits: int = 3) -> Cell:
    return Cell(format_number(value, digits), _value(value))


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)
