"""The page of a drop: which start is best, the matrix, gradients and barriers; its table in the terminal."""

from __future__ import annotations

from onsphere.lab.chart.spec import Chart
from onsphere.lab.experiments.drop.charts import (
    after_chart,
    at_loss_chart,
    averages_chart,
    barrier_chart,
    error_chart,
    matrix_chart,
    norms_chart,
    stages_chart,
)
from onsphere.lab.experiments.drop.page.measured import NO_ANGLES, measurements, missed, rule, training_words
from onsphere.lab.experiments.drop.page.tables import (
    at_loss_table,
    average_column,
    averages_table,
    best_table,
    classes_table,
    matrix_table,
    norms_table,
    paths_table,
    share,
    stages_table,
)
from onsphere.lab.experiments.drop.result import DropResult
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Block, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import data_words, network_words
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]


def report(run: Run, result: DropResult) -> Report:
    """What is to be read about a drop."""
    spec, rate = result.spec, result.spec.rate
    barriers = [barrier_chart(result)] if result.paths else []
    steps = f"{spec.steps} + {spec.drop_steps} steps, batch {spec.batch_size}"
    more: list[Block | Chart] = [Text(rule(result), tone="note")]
    several = result.tested or len({path.path for path in result.paths}) > 1
    more += [paths_table(result)] if several else []
    trained = [] if spec.training == "sphere" else [training_words(spec)]
    flat: list[Block | Chart] = [after_chart(result) if result.angled else Text(NO_ANGLES)]
    flat += [at_loss_chart(result), at_loss_table(result)] if result.at_loss else []
    flat += [Text(missed(result))] if spec.matched_loss is not None else []
    return Report(
        title=f"Dropping the {spec.rate_name}",
        subtitle=" · ".join([data_words(spec), network_words(spec), spec.loss, steps, *trained]),
        summary=[
            counted(result.runs, "run"),
            counted(len(result.starts), "start"),
            counted(len(result.ends), f"final {rate}"),
            f"{spec.seeds} seeds",
        ],
        sections=[
            Section("error", "Which start is best", [error_chart(result), best_table(result)]),
            *_staged(result),
            *_averages(result),
            Section("matrix", "The whole matrix", [matrix_chart(result), matrix_table(result)]),
            *_norms(result),
            Section("after", "How flat it is after the drop", flat),
            Section("classes", "Connected or not", [*barriers, classes_table(result), *more]),
        ],
        measured=measurements(result),
    )


def _staged(result: DropResult) -> list[Section]:
    """The part about starts in stages, if there are any."""
    if not result.staged:
        return []
    return [Section("stages", "Starts in stages", [stages_chart(result), stages_table(result)])]


def _averages(result: DropResult) -> list[Section]:
    """The part about averages of several numbers of snapshots, if there are any."""
    if len(result.numbers) < 2:
        return []
    told = f"Paths, and the dotted curve above, are of the average of {result.number}."
    parts: list[Block | Chart] = [averages_chart(result), averages_table(result), Text(told, tone="note")]
    return [Section("averages", "How many snapshots to average", parts)]


def _norms(result: DropResult) -> list[Section]:
    """The part about the norms of groups of weights, if they were measured."""
    if not result.norms:
        return []
    return [Section("norms", "Norms before the drop", [norms_chart(result), norms_table(result)])]


def printed(result: DropResult) -> list[Table | str]:
    """The matrix of test errors (means over seeds ± standard errors) with the class of each start."""

    def columns(end: float) -> list[Column]:
        error = Column(f"to {format_number(end)}", lambda one: share(result.at(one.start, end)))
        gradient = Column("gradient", lambda one: result.at(one.start, end).gradient_norm)
        return [error, gradient] if result.angled else [error]

    parts = [Column(f"from {result.spec.rate}", "start"), Column("class", "label", kind="tight")]
    parts += [column for end in result.ends for column in columns(end)]
    parts += [average_column(result, "average")] if result.averages else []
    gradient = "; gradient norm after the drop" if result.angled else ""
    staged = [stages_table(result)] if result.staged else []
    averages = [averages_table(result)] if len(result.numbers) > 1 else []
    return [
        "test error in percent, mean ± standard error over seeds" + gradient,
        table(result.classes, parts),
        *staged,
        *averages,
    ]
