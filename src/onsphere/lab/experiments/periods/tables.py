"""The tables on the page of the periods."""

from __future__ import annotations

import math
from typing import Any

from onsphere.lab.experiments.periods.result import PeriodsResult, summaries
from onsphere.lab.report.page import Cell, Table
from onsphere.lab.report.words import format_number, format_percent

__all__ = [
    "comparison_table",
    "equilibrium_table",
    "minima_table",
    "predictions_table",
    "runs_table",
    "sharpness_table",
]


def predictions_table(result: PeriodsResult) -> Table:
    """One row a setting, medians over seeds: what was predicted beside what was measured."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("behaviour", "periodic: at least three jumps; equilibrium: a steady ELR without jumps after 3 τ"),
        ("jumps", "fewest and most in a run"),
        ("period", "median distance of jumps, steps"),
        ("of τ", "period times 2 lr wd"),
        ("first jump", "step, measured"),
        ("predicted", "from the lowest ELR before the first jump"),
        ("recovery", "steps from the lowest ELR after a jump to the next one"),
        ("predicted", "by the norm recurrence without gradients"),
        ("off (%)", "median over recoveries of measured over predicted"),
    ]
    rows: list[list[Cell | str]] = []
    for setting in summaries(result.runs):
        low, high = setting.jumps
        ratio = setting.median("recovery_ratio")
        names = ("first_jump", "predicted_first_jump", "measured_recovery", "predicted_recovery")
        rows.append(
            [
                _cell(setting.lr),
                _cell(setting.weight_decay),
                setting.behaviour,
                Cell(str(low) if low == high else f"{low}–{high}", (low + high) / 2),
                _cell(setting.median("period")),
                _cell(setting.median("period_tau"), 2),
                *(_cell(setting.median(name)) for name in names),
                _cell(None if ratio is None else 100 * (ratio - 1), 2),
            ]
        )
    return Table(
        columns,
        rows,
        caption="Medians over seeds. Click a heading to sort.",
        sortable=True,
        numeric=frozenset(range(len(columns))) - {2},
    )


def equilibrium_table(result: PeriodsResult) -> Table:
    """One row a setting, medians over seeds: angular update and ELR against the balance of decay and gradients."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("rms angle", "radians, after 3 τ"),
        ("√(2 lr wd)", "its value at equilibrium"),
        ("off (%)", ""),
        ("ELR", "geometric mean after 3 τ"),
        ("balance", "the ELR at which decay and the mean squared gradient balance"),
        ("off (%)", ""),
        ("spread", "standard deviation of log ELR"),
        ("jumpiness", "mean squared effective step over its equilibrium, less 1: 0 for steps of one size"),
        ("loss", "mean of minibatches after 3 τ"),
    ]
    rows: list[list[Cell | str]] = []
    for setting in summaries(result.runs):
        angles = [setting.median(name) for name in ("rms_angular_update", "predicted_angular_update")]
        elrs = [setting.median(name) for name in ("mean_elr", "predicted_elr")]
        rest = [setting.median(name) for name in ("elr_spread", "jumpiness", "loss")]
        values = [setting.lr, setting.weight_decay, *angles, _off(*angles), *elrs, _off(*elrs), *rest]
        rows.append([_cell(value) for value in values])
    caption = "The equilibrium, medians over seeds."
    return Table(columns, rows, caption=caption, sortable=True, numeric=frozenset(range(len(columns))))


def _off(measured: float | None, predicted: float | None) -> float | None:
    """How far the first is from the second, percent."""
    return 100 * (measured / predicted - 1) if measured and predicted else None


def runs_table(result: PeriodsResult) -> Table:
    """One row a run."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("seed", ""),
        ("behaviour", ""),
        ("jumps", "by the zigzag rule"),
        ("δ-jumps", "steps with 1 − cos above δ"),
        ("period", "steps"),
        ("recovery", "measured over predicted"),
        ("ELR drop", "median factor of a jump"),
        ("rms angle", "over √(2 lr wd)"),
        ("ELR spread", "standard deviation of log ELR"),
        ("loss", "mean of minibatches after 3 τ"),
        ("test err (%)", "at the end"),
    ]
    rows: list[list[Cell | str]] = []
    for run in result.runs:
        angle = None if run.rms_angular_update is None else run.rms_angular_update / run.predicted_angular_update
        rows.append(
            [
                _cell(run.lr),
                _cell(run.weight_decay),
                _cell(run.seed),
                run.behaviour,
                _cell(len(run.jumps)),
                _cell(run.delta_jumps),
                *(_cell(v) for v in (run.period, run.recovery_ratio, run.elr_drop, angle, run.elr_spread, run.loss)),
                Cell(format_percent(run.test_error), math.nan if run.test_error is None else run.test_error),
            ]
        )
    return Table(
        columns,
        rows,
        caption="One row a run. Click a heading to sort.",
        sortable=True,
        numeric=frozenset(range(len(columns))) - {3},
    )


def comparison_table(result: PeriodsResult) -> Table:
    """One row a setting: the whole space against the sphere at its ELR."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("ELR", "geometric mean in the whole space after 3 τ"),
        ("loss", "mean minibatch loss there, geometric mean over seeds"),
        ("on the sphere", "at the same ELR, by interpolation on logarithmic scales"),
        ("ratio", ""),
        ("δ-jumps", "a run, in the whole space"),
        ("on the sphere", "δ-jumps a run at that ELR"),
    ]
    names = ("lr", "weight_decay", "elr", "loss", "sphere_loss", "ratio", "delta_jumps", "sphere_delta_jumps")
    rows: list[list[Cell | str]] = [[_cell(getattr(row, name)) for name in names] for row in result.comparison]
    return Table(columns, rows, caption="Whole space and sphere.", sortable=True, numeric=frozenset(range(8)))


def minima_table(result: PeriodsResult) -> Table:
    """One row a run: its minima and what an ensemble of them gains."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("seed", ""),
        ("minima", "periods whose minimum was kept"),
        ("angle", "mean between consecutive minima, radians"),
        ("disagreement (%)", "mean over all pairs: test images labelled differently"),
        ("test err, first (%)", "of the first period's minimum"),
        ("test err, mean (%)", "of all minima"),
        ("ensemble (%)", "test error of the averaged predictions of all minima"),
    ]
    rows: list[list[Cell | str]] = []
    for one in result.minima:
        count = len(one.steps)
        angle = sum(one.angles[i][i + 1] for i in range(count - 1)) / (count - 1)
        pairs = [one.disagreement[i][j] for i in range(count) for j in range(i)]
        errors = (one.test_error[0], sum(one.test_error) / count, one.ensemble_error[-1])
        rows.append(
            [
                *(_cell(v) for v in (one.lr, one.weight_decay, one.seed, count, angle)),
                _cell(100 * sum(pairs) / len(pairs)),
                *(_cell(100 * error) for error in errors),
            ]
        )
    return Table(columns, rows, caption="Minima of a run's periods.", sortable=True, numeric=frozenset(range(9)))


def sharpness_table(result: PeriodsResult) -> Table:
    """One row a jump: ELR times sharpness before it and midway since the one before."""
    columns = [
        ("lr", ""),
        ("wd", "weight decay"),
        ("seed", ""),
        ("jump", "step"),
        ("threshold", "2, or 2 (1 + α) / (1 − α) with momentum α"),
        ("highest before", "ELR · sharpness in the steps before the jump, without the jump itself"),
        ("passed", "steps before the jump at which it was first seen above the threshold"),
        ("control, mean", "midway between the jump before (or step 0) and this one"),
        ("control, highest", ""),
    ]
    rows: list[list[Cell | str]] = []
    for row in result.sharpness:
        control = [value for value in row.control if value is not None]
        values = (row.lr, row.weight_decay, row.seed, row.jump, row.threshold, row.highest, row.crossing)
        mean = sum(control) / len(control) if control else None
        rows.append([_cell(value) for value in (*values, mean, max(control, default=None))])
    return Table(columns, rows, caption="ELR · sharpness at jumps.", sortable=True, numeric=frozenset(range(9)))


def _cell(value: Any, digits: int = 3) -> Cell:
    return Cell(format_number(value, digits), math.nan if value is None else value)
