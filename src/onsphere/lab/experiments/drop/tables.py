"""The tables of a drop: the best start of each final ELR, every cell of the matrix, the class of each start."""

from __future__ import annotations

import math

import numpy as np

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.drop.analyse import difference
from onsphere.lab.experiments.drop.answer import interval
from onsphere.lab.experiments.drop.findings import Best, Difference, MatrixCell, StartClass
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import MISSING, format_number

__all__ = ["best_table", "classes_table", "matrix_table"]


def best_table(result: DropResult) -> Table:
    """The best start of every final ELR and how sure it is."""
    columns = [
        ("to ELR", "effective learning rate after the drop"),
        ("best start", "the start with the lowest mean test error"),
        ("test error (%)", "its mean over seeds ± one standard error"),
        ("no drop (%)", "the final ELR throughout, with as many steps"),
        ("gain (points)", "best minus no drop, with its 95 % interval"),
        ("over smaller", "best minus the next smaller start, with its 95 % interval"),
        ("over larger", "best minus the next larger start, with its 95 % interval"),
        ("by others", "mean gain if every seed's start is chosen by the other seeds"),
        ("gradient ratio", "gradient norm after the drop over that without a drop"),
    ]
    rows = [_best_row(best) for best in result.analysis.best]
    caption = "Differences in percentage points of test error, best minus other: negative is better."
    return Table(columns, rows, caption=caption, numeric=frozenset(range(9)))


def _best_row(best: Best) -> list[Cell | str]:
    smaller = [d for start, d in best.neighbours if start < best.start]
    larger = [d for start, d in best.neighbours if start > best.start]
    return [
        format_number(best.end),
        format_number(best.start),
        _share(best.test_error, best.test_error_se),
        _share(best.no_drop, best.no_drop_se),
        MISSING if best.gain is None else interval(best.gain),
        interval(smaller[0]) if smaller else MISSING,
        interval(larger[0]) if larger else MISSING,
        MISSING if best.held_out is None else f"{100 * best.held_out:.2f}",
        format_number(best.gradient_ratio, 2),
    ]


def matrix_table(result: DropResult) -> Table:
    """Every start and final ELR."""
    columns = [
        ("from ELR", "effective learning rate before the drop"),
        ("to ELR", "after it; equal: no drop"),
        ("test error (%)", "mean over seeds ± one standard error"),
        ("minus no drop", "in points, with its 95 % interval over seeds"),
        ("test loss", "mean ± one standard error"),
        ("train loss (error)", "means over seeds"),
        ("gradient norm", "stochastic, over the last quarter after the drop ± one standard error"),
        ("top eigenvalue", "on the unit sphere ± one standard error"),
        ("angle (rad)", "from the drop to the end"),
    ]
    sharp = any(cell.sharpness is not None for cell in result.analysis.matrix)
    shown = [i for i in range(len(columns)) if sharp or i != 7]
    rows = [_matrix_row(result, cell) for cell in result.analysis.matrix]
    return Table(
        [columns[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
        caption="One row a pair of ELRs. Click a heading to sort.",
        sortable=True,
        numeric=frozenset(range(len(shown))),
    )


def _matrix_row(result: DropResult, cell: MatrixCell) -> list[Cell | str]:
    gain = _no_drop(result, cell)
    sharpness = cell.sharpness if cell.sharpness is not None else math.nan
    spread = cell.sharpness_se if cell.sharpness_se is not None else math.nan
    return [
        Cell(format_number(cell.start), cell.start),
        Cell(format_number(cell.end), cell.end),
        Cell(_share(cell.test_error, cell.test_error_se), cell.test_error),
        Cell("no drop", 0.0) if gain is None else Cell(interval(gain), gain.mean),
        Cell(_plain(cell.test_loss, cell.test_loss_se), cell.test_loss),
        Cell(f"{format_number(cell.train_loss)} ({100 * cell.train_error:.1f} %)", cell.train_loss),
        Cell(_plain(cell.gradient_norm, cell.gradient_norm_se), cell.gradient_norm),
        Cell(_plain(sharpness, spread), sharpness),
        Cell(format_number(cell.angle), cell.angle),
    ]


def _no_drop(result: DropResult, cell: MatrixCell) -> Difference | None:
    """Test error of a cell minus that without a drop, over seeds; None if it is that."""
    if cell.start == cell.end:
        return None
    rows = {(r.start, r.seed): r.test_error for r in result.continuations if r.end == cell.end and r.finite}
    seeds = [seed for start, seed in rows if start == cell.start and (cell.end, seed) in rows]
    return difference(np.array([rows[cell.start, s] for s in seeds]), np.array([rows[cell.end, s] for s in seeds]))


def classes_table(result: DropResult) -> Table:
    """The class of every start with what it follows from."""
    columns = [
        ("start", "effective learning rate before the drop"),
        ("class", "1, 2A, 2B or 3 by the rule below"),
        ("seeds before the drop", "how many were in which regime"),
        ("connected", "seeds in which all paths are connected"),
        ("low–high (%)", "mean error barrier between the continuations at the smallest and largest final ELR"),
        ("average–low (%)", "mean error barrier between the average and the continuation at the smallest final ELR"),
        ("average–high (%)", "mean error barrier between the average and the continuation at the largest final ELR"),
        ("low–high (rad)", "mean angle between these continuations"),
        ("average (%)", "test error of the average of the snapshots before the drop, mean over seeds"),
    ]
    rows = [_class_row(result, one) for one in result.analysis.classes]
    return Table(columns, rows, caption="One row a start.", numeric=frozenset({0, 3, 4, 5, 6, 7, 8}))


def _class_row(result: DropResult, one: StartClass) -> list[Cell | str]:
    regimes = ", ".join(f"{count} {REGIME_NAMES[name]}" for name, count in one.regimes.items())
    barriers = [one.barriers.get(pair, math.nan) for pair in ("low-high", "average-low", "average-high")]
    errors = [average.test_error for average in result.averages if average.start == one.start]
    return [
        format_number(one.start),
        one.label,
        regimes,
        f"{one.connected} of {one.measured}" if one.measured else MISSING,
        *(MISSING if math.isnan(b) else f"{100 * b:.2f}" for b in barriers),
        format_number(one.angles.get("low-high")),
        f"{100 * float(np.mean(errors)):.2f}" if errors else MISSING,
    ]


def _share(value: float, spread: float) -> str:
    return f"{100 * value:.2f} ± {100 * spread:.2f}"


def _plain(value: float, spread: float) -> str:
    if math.isnan(value):
        return MISSING
    return f"{format_number(value)} ± {format_number(spread, 2)}"
