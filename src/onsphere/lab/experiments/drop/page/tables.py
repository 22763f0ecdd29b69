"""The tables of a drop's page: best starts, the matrix, classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.drop.analyse import errors_of, paired
from onsphere.lab.experiments.drop.result import (
    AtLossCell,
    Average,
    Best,
    Difference,
    DropResult,
    MatrixCell,
    PathBarrier,
    StagedStart,
    StartClass,
)
from onsphere.lab.experiments.drop.words import interval
from onsphere.lab.intervals import standard_error
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import MISSING, format_number


def best_table(result: DropResult) -> Table:
    """The best start of every final rate and how sure it is."""
    spec = result.spec

    def beside(name: str, way: int) -> Column:
        def shown(best: Best) -> Cell:
            return _points(next((d for start, d in best.neighbours if way * (start - best.start) > 0), None))

        return Column(f"over {name}", shown, f"best minus the next {name} start, with its 95 % interval")

    columns = [
        Column(f"to {spec.rate}", "end", f"{spec.rate_name} after the drop"),
        Column("best start", "start", "the start with the lowest mean test error"),
        Column("test error (%)", share, "its mean over seeds ± one standard error"),
        Column("no drop (%)", lambda b: share(b, "no_drop"), f"the final {spec.rate} throughout, with as many steps"),
        Column("gain (points)", lambda b: _points(b.gain), "best minus no drop, with its 95 % interval"),
        beside("smaller", -1),
        beside("larger", 1),
        Column(
            "by others",
            lambda b: _hundredths(b.held_out),
            "mean gain if every seed's start is chosen by the other seeds",
        ),
        Column("gradient ratio", "gradient_ratio", "gradient norm after the drop over that without a drop", digits=2),
    ]
    shown = [column for column in columns if result.angled or column.value != "gradient_ratio"]
    caption = "Differences in percentage points of test error, best minus other: negative is better."
    return table(result.best, shown, caption, sortable=False)


def matrix_table(result: DropResult) -> Table:
    """Every start and final rate."""
    errors, rate = errors_of(result.continuations), result.spec.rate

    def gain(cell: MatrixCell) -> Cell:
        if cell.start == cell.end:
            return Cell("no drop", 0.0)
        return _points(paired(errors[cell.end].get(cell.start, {}), errors[cell.end][cell.end]))

    def train_loss(cell: MatrixCell) -> Cell:
        return Cell(f"{format_number(cell.train_loss)} ({100 * cell.train_error:.1f} %)", cell.train_loss)

    columns = [
        Column(f"from {rate}", "start", f"{result.spec.rate_name} before the drop"),
        Column(f"to {rate}", "end", "after it; equal: no drop"),
        Column("test error (%)", share, "mean over seeds ± one standard error"),
        Column("minus no drop", gain, "in points, with its 95 % interval over seeds"),
        Column("test loss", _mean("test_loss"), "mean ± one standard error"),
        Column("train loss (error)", train_loss, "means over seeds"),
        Column(
            "gradient norm",
            _mean("gradient_norm"),
            "stochastic, over the last quarter after the drop ± one standard error",
        ),
        Column("top eigenvalue", _mean("sharpness"), "on the unit sphere ± one standard error"),
        Column("angle (rad)", "angle", "from the drop to the end"),
    ]
    hidden = [] if result.sharp else ["top eigenvalue"]
    hidden += [] if result.angled else ["gradient norm", "angle (rad)"]
    shown = [column for column in columns if column.heading not in hidden]
    return table(result.matrix, shown, f"One row a pair of {rate}s. Click a heading to sort.")


def classes_table(result: DropResult) -> Table:
    """The class of every start with what it follows from."""
    rate = result.spec.rate
    ends = {
        "low-high": f"the continuations at the smallest and largest final {rate}",
        "average-low": f"the average and the continuation at the smallest final {rate}",
        "average-high": f"the average and the continuation at the largest final {rate}",
    }

    def regimes(one: StartClass) -> str:
        return ", ".join(f"{count} {REGIME_NAMES[name]}" for name, count in one.regimes.items())

    def barriers(pair: str) -> Column:
        heading, hint = f"{pair.replace('-', '–')} (%)", f"mean error barrier between {ends[pair]}"
        return Column(heading, lambda one: _hundredths(one.barriers.get(pair)), hint)

    columns = [
        Column("start", "start", f"{result.spec.rate_name} before the drop"),
        Column("class", "label", "1, 2A, 2B or 3 by the rule below", kind="text"),
        Column("seeds before the drop", regimes, "how many were in which regime", kind="text"),
        Column(
            "connected",
            lambda one: Cell(f"{one.connected} of {one.measured}" if one.measured else MISSING),
            "seeds in which all paths are connected",
        ),
        *map(barriers, ends),
        Column("low–high (rad)", lambda one: one.angles.get("low-high"), "mean angle between these continuations"),
        average_column(result, "average (%)"),
    ]
    shown = [column for column in columns if result.angled or column.heading != "low–high (rad)"]
    return table(result.classes, shown, "One row a start.", sortable=False)


def averages_table(result: DropResult) -> Table:
    """Test errors of the averages of every start and number of snapshots."""
    errors = {number: result.average_errors(number) for number in result.numbers}

    def column(number: int) -> Column:
        def shown(one: StartClass) -> Cell:
            found = errors[number].get(one.start, [])
            return _interval(found) if found else Cell(MISSING, math.nan)

        return Column(f"of {number} (%)", shown, "test error of this average, mean over seeds ± one standard error")

    columns = [Column("at " + result.spec.rate, "start", f"{result.spec.rate_name} before the drop")]
    caption = "Averages of the last so many snapshots before the drop: test error in percent."
    return table(result.classes, [*columns, *map(column, result.numbers)], caption, sortable=False)


def stages_table(result: DropResult) -> Table:
    """Every start in stages and final rate, beside its stages alone."""
    rows = [(one, place) for one in result.staged for place in range(len(one.matrix))]

    def beside(row: tuple[StagedStart, int]) -> Cell:
        one, place = row
        own = [each for each in one.differences if each.end == one.matrix[place].end]
        return Cell("; ".join(f"{format_number(each.rate)}: {interval(each.difference)}" for each in own))

    columns = [
        Column("stages", lambda row: row[0].name, "rate:steps of each, one after the other", kind="tight"),
        Column(f"to {result.spec.rate}", lambda row: row[0].matrix[row[1]].end),
        Column("test error (%)", lambda row: share(row[0].matrix[row[1]]), "mean over seeds ± one standard error"),
        Column("minus a stage alone (points)", beside, "for each rate, with 95 % intervals over seeds", kind="text"),
        Column("average (%)", lambda row: _interval([a.test_error for a in _first(row[0])]), "without a drop"),
        Column(
            "connected",
            lambda row: Cell(f"{row[0].connected} of {row[0].measured}" if row[0].measured else MISSING),
            "seeds in which all paths between continuations and average are connected",
        ),
    ]
    caption = "Each stage alone has as many steps before the drop as all stages together; negative: stages are better."
    return table(rows, columns, caption, sortable=False)


def norms_table(result: DropResult) -> Table:
    """The norms of groups of weights of every start."""
    columns = [
        Column(
            f"at {result.spec.rate}",
            lambda one: "at initialisation" if one.start is None else format_number(one.start),
            kind="text",
        ),
        Column("groups", lambda one: sum(one.counts), "of all seeds together"),
        Column("smallest", "smallest", "over the joint norm; so are the others"),
        Column("median", "median"),
        Column("largest", "largest"),
    ]
    return table(result.norms, columns, "Norms of the groups of weights before the drop.", sortable=False)


def at_loss_table(result: DropResult) -> Table:
    """Every start and final rate at matched train loss."""
    rate = result.spec.rate
    columns = [
        Column(f"from {rate}", "start"),
        Column(f"to {rate}", "end"),
        Column("seeds", "seeds", "runs that came within 10 % of the loss"),
        Column("step", "step", "mean, after the drop", form=".0f"),
        Column("train loss", "batch_loss", "mean, at fixed weights, batch statistics of each minibatch"),
        Column("top eigenvalue", lambda c: _with_error(c.sharpness, c.sharpness_se), "geometric mean ± standard error"),
        Column("test error (%)", share, "mean over seeds ± one standard error"),
        Column("test loss", lambda c: _with_error(c.test_loss, c.test_loss_se), "mean ± one standard error"),
    ]
    return table(result.at_loss_cells, columns, "One row a pair at matched train loss. Click a heading to sort.")


def paths_table(result: DropResult) -> Table:
    """Barriers of every start, pair of ends and kind of path."""
    named: dict[tuple[float, str, str], list[PathBarrier]] = {(p.start, p.pair, p.path): [] for p in result.paths}
    for path in result.paths:
        named[path.start, path.pair, path.path].append(path)

    def mean(name: str, scale: float = 1) -> Callable[[list[PathBarrier]], Cell]:
        def shown(rows: list[PathBarrier]) -> Cell:
            return _interval([v for row in rows if (v := getattr(row, name)) is not None], scale)

        return shown

    columns = [
        Column("start", lambda rows: rows[0].start),
        Column("between", lambda rows: rows[0].pair.replace("-", " – "), kind="tight"),
        Column("on", lambda rows: {"geodesic": "great circle", "chord": "chord"}[rows[0].path], kind="tight"),
        Column("train error (%)", mean("error_barrier", 100), "mean barrier over seeds ± one standard error"),
        Column("train loss", mean("loss_barrier"), "the same of the training loss"),
        Column("test error (%)", mean("test_error_barrier", 100), "over all test images"),
        Column("test loss", mean("test_loss_barrier"), "over all test images"),
        Column("angle (rad)", mean("angle"), "between the ends"),
    ]
    hidden = [] if result.tested else ["test error (%)", "test loss"]
    hidden += [] if result.angled else ["angle (rad)"]
    shown = [column for column in columns if column.heading not in hidden]
    return table(named.values(), shown, "Barriers: means over seeds ± one standard error. Click a heading to sort.")


def _first(one: StagedStart) -> list[Average]:
    """The averages of the first number of snapshots."""
    return [average for average in one.averages if average.snapshots == one.averages[0].snapshots]


def _interval(values: list[float], scale: float = 100) -> Cell:
    """A mean over seeds with its standard error."""
    if not values or math.isnan(fmean(values)):
        return Cell(MISSING, math.nan)
    mean, error = scale * fmean(values), scale * standard_error(values)
    told = f"{mean:.2f} ± {error:.2f}" if scale == 100 else f"{format_number(mean)} ± {format_number(error, 2)}"
    return Cell(told, mean)


def average_column(result: DropResult, heading: str) -> Column:
    """Test errors of the averages, of rows that have a start."""
    errors = result.average_errors()
    return Column(
        heading,
        lambda one: _hundredths(fmean(errors[one.start]) if one.start in errors else None),
        "test error of the average of the snapshots before the drop, mean over seeds",
    )


def share(of: Best | MatrixCell | AtLossCell, name: str = "test_error") -> Cell:
    """A test error in percent with its standard error."""
    value, error = getattr(of, name), getattr(of, f"{name}_se")
    return Cell(f"{100 * value:.2f} ± {MISSING if math.isnan(error) else f'{100 * error:.2f}'}", value)


def _mean(name: str) -> Callable[[MatrixCell], Cell]:
    """What shows a mean of the matrix with its standard error."""

    def shown(cell: MatrixCell) -> Cell:
        return _with_error(getattr(cell, name), getattr(cell, f"{name}_se"))

    return shown


def _with_error(value: float | None, error: float) -> Cell:
    """A mean with its standard error."""
    if value is None or math.isnan(value):
        return Cell(MISSING, math.nan)
    return Cell(f"{format_number(value)} ± {format_number(error, 2)}", value)


def _points(found: Difference | None) -> Cell:
    return Cell(MISSING, math.nan) if found is None else Cell(interval(found), found.mean)


def _hundredths(share: float | None) -> Cell:
    """A share in percent or in points, two decimals."""
    if share is None or math.isnan(share):
        return Cell(MISSING, math.nan)
    return Cell(f"{100 * share:.2f}", share)
