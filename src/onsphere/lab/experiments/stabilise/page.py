"""The page of the stationary state: what was found, levels after changes, memory, wandering, ways, random walks."""

from __future__ import annotations

import math

from onsphere.lab.chart.theme import elr_colours
from onsphere.lab.experiments.stabilise.analyse import loss_curves
from onsphere.lab.experiments.stabilise.charts import (
    levels_chart,
    memory_chart,
    plane_chart,
    walk_chart,
    wander_chart,
    ways_chart,
)
from onsphere.lab.experiments.stabilise.result import Level, StabiliseResult, Stay
from onsphere.lab.experiments.stabilise.words import unexpected
from onsphere.lab.frame import Report
from onsphere.lab.population import ShardFolder
from onsphere.lab.report.page import Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import format_number, format_percent
from onsphere.lab.store import Run

_MEASUREMENTS = (
    ("loss", "mean over the minibatch of a step, batch statistics of that minibatch"),
    ("effective gradient norm", "norm · ‖gradient‖: the gradient's norm at the unit sphere, of the step's minibatch"),
    ("level", "mean over the second half of the steps after the change, in all runs, changed or not"),
    ("gap", "log of the level after a change minus that of the same seed at this ELR from the start"),
    (
        "difference that is left",
        "least squares over all pairs of ELRs: sum of gap times difference of the two levels over sum of squared "
        "differences; its interval is that of a mean over seeds (Student)",
    ),
    (
        "steps to the level",
        "until a running mean over 16 steps is within 2 standard deviations of such means around the level of the "
        "same seed at this ELR from the start",
    ),
    ("angle to the start", "between all trained weights then and at the start of the stationary phase, float64"),
    (
        "random walk",
        "product of the cosines of all angular updates since: what steps in fresh random tangent directions expect",
    ),
    (
        "loss in the middle, barrier",
        "training loss on the great circle, batch statistics re-estimated at each point, relative to the line "
        "between the ends",
    ),
    ("test error", "batch statistics re-estimated over all training images, mean of the evaluations in the level"),
)


def report(run: Run, result: StabiliseResult) -> Report:
    """What is to be read about the stationary state; the shards of the run hold the courses of the loss."""
    curves = loss_curves(map(ShardFolder, run.shard_folders()), result.spec)
    warnings = [Text(text, tone="warning") for text in unexpected(result)]
    levels = table(result.levels, _level_columns(result), f"Means over {result.spec.seeds} seeds. {SORT}")
    changes = counted(len(result.levels), "change")
    stays = table(result.stays, _STAY_COLUMNS, "Means over seeds, ± one standard error.")
    return Report(
        title="The stationary state from inside",
        subtitle=subtitle(result.spec),
        summary=[counted(result.runs, "run"), f"{changes} of the ELR", counted(result.spec.seeds, "seed")],
        sections=[
            Section("levels", "Levels after a change of the ELR", [*warnings, levels_chart(result, curves)]),
            Section("memory", "What is remembered", [memory_chart(result), plane_chart(result), levels]),
            Section("wandering", "How far runs wander", [wander_chart(result), stays]),
            Section("ways", "What lies between", [ways_chart(result)]),
            Section("walk", "The divergence against a random walk", [walk_chart(result)]),
        ],
        measured=_MEASUREMENTS,
    )


def printed(result: StabiliseResult) -> list[Table | str]:
    """Both tables without what is wide, and which ELRs are in another regime than was meant."""
    levels = [column for column in _level_columns(result) if column.heading != "test err (%)"]
    stays = [column for column in _STAY_COLUMNS if column.heading not in ("regime", "loss", "gradient")]
    warnings = unexpected(result)
    return [table(result.levels, levels), "", table(result.stays, stays), *[""][: len(warnings)], *warnings]


def _level_columns(result: StabiliseResult) -> list[Column]:
    """The columns of a change of ELR."""
    colours = elr_colours(result.spec.elrs)

    def elr(value: float) -> Cell:
        return Cell(format_number(value), value, colours[value])

    def steps(row: Level) -> Cell | float:
        return Cell("never", math.nan) if row.steps_to_level is None else row.steps_to_level

    def test(row: Level) -> Cell:
        return Cell(f"{format_percent(row.test_error)} ({format_percent(row.test_error_reference)})", row.test_error)

    same = "runs with the ELR from the start"
    far = "the gap in standard errors over seeds; of a few seeds, beyond 3 or 4 is worth a thought"
    near = "to the level: until a running mean is within the reference's fluctuations; median over seeds"
    return [
        Column("before", lambda row: elr(row.before), "ELR before the change", kind="text"),
        Column("after", lambda row: elr(row.after), "ELR after the change", kind="text"),
        Column("loss", "loss", "mean minibatch loss over the second half of the steps after the change", digits=4),
        Column("from start", "loss_reference", f"loss of {same}, over the same steps", digits=4),
        Column("gap (%)", "loss_gap", "mean over seeds of the log of the ratio", form="+.1f", scale=100),
        Column("/ s.e.", "loss_gap_in_errors", far, form="+.1f"),
        Column("gradient (%)", "gradient_norm_gap", "gap of the effective gradient norm", form="+.1f", scale=100),
        Column("/ s.e. ", "gradient_norm_gap_in_errors", "the same for the gradient norm", form="+.1f"),
        Column("steps", steps, near),
        Column("test err (%)", test, f"batch statistics re-estimated; in brackets that of {same}"),
    ]


def _regimes(stay: Stay) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in stay.regimes.items() if count)


_END = "to the start, at the end of the stationary phase, with its standard error"
_MIDDLE = "of the great circle from start to end, minus the mean of both ends; negative: a valley"
_STAY_COLUMNS = (
    Column("ELR", lambda stay: Cell(format_number(stay.elr), stay.elr), kind="text"),
    Column("regime", _regimes, "how many seeds are in which", kind="text"),
    Column("loss", "loss", "minibatches, stationary phase"),
    Column("gradient", "gradient_norm", "effective gradient norm of minibatches, stationary phase"),
    Column("rad / step", "angular_update", "mean angle of a step"),
    Column("angle (rad)", "angle", _END, form=".2f", error="angle_error"),
    Column("forgets", "steps_to_forget", "steps until the mean cosine to the start is 1/e; – : not within the run"),
    Column("walk", "walk_steps_to_forget", "the same of a random walk with the same angular updates"),
    Column("loss in the middle", "middle", _MIDDLE, form="+.2f", error="middle_error"),
    Column(
        "barrier", "barrier", "highest loss on it above the line between the ends", form=".2f", error="barrier_error"
    ),
)
