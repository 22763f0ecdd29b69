"""The tables on the page of a spectrum."""

from __future__ import annotations

import math

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.spectrum.answer import NAMES, change_text
from onsphere.lab.experiments.spectrum.charts import place_name
from onsphere.lab.experiments.spectrum.result import SpectrumResult
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import format_number, format_percent

__all__ = ["runs_table", "trends_table"]


def trends_table(result: SpectrumResult) -> Table:
    """One row a quantity and place."""
    columns = [
        ("measured at", ""),
        ("quantity", ""),
        ("with the ELR", "clear: the 95 % interval of the mean change leaves out no change"),
        ("Spearman", "rank correlation of the quantity and the ELR, mean over seeds (lowest to highest)"),
        (
            "from the smallest to the largest ELR",
            "mean over seeds (95 % interval by Student's t), geometric for factors",
        ),
        ("seeds", "that go the way of the mean change"),
    ]
    rows: list[list[Cell | str]] = []
    for trend in [*result.trends, result.barriers]:
        if trend.mean is None:
            continue
        same = trend.rising if trend.mean_rises else len(trend.changes) - trend.rising
        place = "pairs at the end" if trend.where == "pairs" else place_name(result, trend.where)
        ranks = trend.spearman
        rank = f"{trend.mean_spearman:.2f} ({min(ranks):.2f} to {max(ranks):.2f})" if ranks else "–"
        rows.append(
            [place, NAMES[trend.quantity], trend.verdict, rank, change_text(trend), f"{same} of {len(trend.changes)}"]
        )
    return Table(columns, rows, caption="How each quantity goes with the ELR.", tight=frozenset({0, 2, 3, 5}))


def runs_table(result: SpectrumResult) -> Table:
    """One row a run."""
    columns = [
        ("ELR", ""),
        ("seed", ""),
        ("regime", "label by the rules of onsphere regimes"),
        ("at step", "where the train loss first came to the target"),
        ("batch loss", "there, mean over the minibatches of the gradient norm: what is matched to the target"),
        ("gradient", "there, mean effective gradient norm"),
        ("sharpness", "there"),
        ("test loss", "there"),
        ("train loss", "at the end"),
        ("gradient", "at the end"),
        ("sharpness", "at the end"),
        ("test loss", "at the end"),
        ("test error (%)", "at the end"),
        ("angle", "from init, at the end, rad"),
    ]
    rows: list[list[Cell | str]] = []
    for run in result.runs:
        matched, end = run.matched, run.end
        rows.append(
            [
                _cell(run.elr),
                _cell(run.seed),
                REGIME_NAMES[run.regime],
                *(
                    _cell(None if matched is None else getattr(matched, name))
                    for name in ("step", "batch_loss", "gradient_norm", "sharpness", "test_loss")
                ),
                *(
                    _cell(None if end is None else getattr(end, name))
                    for name in ("train_loss", "gradient_norm", "sharpness", "test_loss")
                ),
                Cell(format_percent(end.test_error), _value(end.test_error)) if end is not None else _cell(None),
                _cell(None if end is None else end.angle),
            ]
        )
    return Table(
        columns,
        rows,
        caption="All runs: at matched train loss, then at the end. Click a heading to sort.",
        sortable=True,
        numeric=frozenset(range(len(columns))) - {2},
    )


def _cell(value: float | None) -> Cell:
    return Cell(format_number(value), _value(value))


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)
