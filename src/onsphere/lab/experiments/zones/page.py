"""The page of the zones: what was found, sharpness along paths, the map of outcomes, courses, the threshold."""

from __future__ import annotations

from onsphere.lab.experiments.zones.charts import LOOKS, Course, course_chart, map_chart, path_chart, threshold_chart
from onsphere.lab.experiments.zones.result import OUTCOMES, ZonesResult
from onsphere.lab.frame import Report
from onsphere.lab.population import ShardFolder
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import subtitle
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_LETTERS = {"at once": "O", "up first": "^", "held": "-", "leaves": "x"}

_COLUMNS = (
    Column("step", "checkpoint", "of the path where it begins"),
    Column("seed", "seed"),
    Column("ELR", "elr"),
    Column("outcome", lambda row: Cell(row.outcome, row.outcome, str(LOOKS[row.outcome].colour)), kind="tight"),
    Column("loss", "loss", "where it begins"),
    Column("ELR · sharpness", "product", "where it begins"),
    Column("highest", "peak", "highest loss over that where it begins"),
    Column("end", "end", "mean loss over the last quarter"),
    Column("path", "path_end", "that of the path over the same steps"),
    Column("ELR · sharpness at the end", lambda row: row.elr * row.end_sharpness),
    Column("test err (%)", "test_error", "batch statistics re-estimated", kind="percent"),
)

_MEASUREMENTS = (
    (
        "sharpness",
        "top Hessian eigenvalue on the unit sphere of the loss in training mode (batch statistics of the batch), on "
        "all training images up to --examples as one batch; Lanczos to a relative error of 1e-3",
    ),
    ("ELR · sharpness", "gradient descent is stable below 2 where the loss is a parabola"),
    ("loss of a continuation", "of its minibatches, as a running mean over an epoch; with full batches of every step"),
    ("goes up", "its highest loss is above 1.2 times the loss where it began"),
    ("comes through", "its mean loss over the last quarter is at most 1.05 times that of the path over the same steps"),
    ("rise of sharpness", "highest ratio of sharpness to the lowest before it on the same path"),
    ("test error", "at the end of the continuation, batch statistics re-estimated over all training images"),
)


def report(run: Run, result: ZonesResult) -> Report:
    """What is to be read about the zone; the shards of the run hold the courses."""
    return Report(
        title="The zone of high sharpness",
        subtitle=subtitle(result.spec),
        summary=[counted(len(result.zones), "path"), counted(len(result.continuations), "continuation")],
        sections=[
            Section("path", "Sharpness along the paths", [path_chart(result)]),
            Section(
                "map", "Continued with other ELRs", [map_chart(result), course_chart(result, courses(run, result))]
            ),
            Section("threshold", "What ELR times sharpness tells", [threshold_chart(result)]),
            Section("continuations", "All continuations", [table(result.continuations, _COLUMNS)], folded=True),
        ],
        measured=_MEASUREMENTS,
        note="Times are in steps; the figures of a path and of its continuations are those of the same seed.",
    )


def printed(result: ZonesResult) -> list[Table | str]:
    """The map of outcomes, one letter a seed, with the path's sharpness."""
    rows = {
        step: sorted((row for row in result.continuations if row.checkpoint == step), key=lambda row: row.seed)
        for step in sorted({row.checkpoint for row in result.continuations})
    }

    def letters(elr: float) -> Column:
        return Column(
            format_number(elr), lambda step: Cell("".join(_LETTERS[r.outcome] for r in rows[step] if r.elr == elr))
        )

    columns = [
        Column("step", lambda step: step),
        Column("loss", lambda step: rows[step][0].loss),
        Column("sharpness", lambda step: rows[step][0].sharpness),
        *map(letters, sorted(result.spec.elrs)),
    ]
    legend = ", ".join(f"{'held above the path' if name == 'held' else name} {_LETTERS[name]}" for name in OUTCOMES)
    return [
        table(rows, columns),
        f"(loss and sharpness of seed 0; columns: ELR of the continuation, one letter a seed: {legend})",
    ]


def courses(run: Run, result: ZonesResult) -> list[Course]:
    """The losses of the first seed's continuations and of its path, read back from the run's folder."""
    spec, length, found = result.spec, result.spec.continue_steps, []
    outcomes = {(row.checkpoint, row.elr): row.outcome for row in result.continuations if row.seed == 0}
    branches = sorted({row.checkpoint for row in result.continuations})
    for shard in map(ShardFolder, run.shard_folders()):
        loss = shard.readings().loss
        for k, copy in enumerate(shard.copies()):
            if copy.seed == 0 and shard.folder.name.startswith("continue-"):
                step = branches[copy.start % len(branches)]
                found.append(Course(step, copy.lr, loss[:, k], outcomes[step, copy.lr]))
            elif copy.seed == 0 and copy.lr == spec.path_elrs[0]:
                found += [Course(step, None, loss[step : step + length, k]) for step in branches]
    return sorted(found, key=lambda course: (course.checkpoint, course.elr or 0.0))
