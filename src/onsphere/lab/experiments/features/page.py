"""The page of learned features: what was found, charts, a table by start, all runs; its table in the terminal."""

from __future__ import annotations

from onsphere.lab.chart.theme import REGIME_NAMES
from onsphere.lab.experiments.features.analyse import CLEARLY, FALSE_SHARE, SLIGHTLY
from onsphere.lab.experiments.features.charts import alone_chart, band_chart, band_map, error_chart, sparsity_chart
from onsphere.lab.experiments.features.result import FeaturesResult, StartSummary
from onsphere.lab.experiments.features.words import of_interval, percent
from onsphere.lab.frame import Report
from onsphere.lab.report.page import Cell, Section, Table
from onsphere.lab.report.sections import counted
from onsphere.lab.report.subtitles import data_words, network_words, noise_words
from onsphere.lab.report.table import Column, table
from onsphere.lab.report.table import percent as percent_cell
from onsphere.lab.report.words import format_number
from onsphere.lab.store import Run

__all__ = ["printed", "report"]

_SHARED = (
    ("start", "the effective learning rate before the drop; every run then goes on at one small one"),
    (
        "test error, losses",
        "all examples at the last step, batch statistics (if any) re-estimated over training examples",
    ),
    ("intervals and bars", "95 %, by Student's t over seeds; the examples are the same for every seed"),
    (
        "convergence",
        "training error below 1 % in the last quarter before the drop, or mean loss of that quarter below 0.93 of the "
        "quarter before; it ends between the largest start up to which most seeds converge and the next one",
    ),
)
_OTHERS = {
    "redrawn": (
        "test accuracy where every other feature is that of another test example, drawn for each feature anew: they "
        "keep their distribution, and examples of both labels get features of either label alike"
    ),
    "mean": (
        "test accuracy where every other feature is set to its mean over the training examples; a network without "
        "biases then magnifies whatever it has of this feature, so that features it hardly uses count as well"
    ),
}


def report(run: Run, result: FeaturesResult) -> Report:
    """What is to be read about learned features."""
    spec = result.spec
    steps = f"{spec.steps} + {spec.drop_steps} steps, batch {spec.batch_size}"
    return Report(
        title="Learned features" if spec.synthetic else "Learned frequencies",
        subtitle=" · ".join([_data(result), network_words(spec), spec.loss, steps]),
        summary=[
            counted(len(result.cells) + len(result.runs), "run"),
            counted(len(result.starts), "start"),
            f"{spec.seeds} seeds",
        ],
        sections=[
            *(_feature_sections(result) if spec.synthetic else _band_sections(result)),
            Section("runs", "All runs", [_runs_table(result)], folded=True),
        ],
        measured=[*(_feature_measures(result) if spec.synthetic else _band_measures(result)), *_SHARED],
    )


def printed(result: FeaturesResult) -> list[Table | str]:
    """What was found by start (means over seeds with 95 % intervals)."""
    return ["means over seeds after the drop, with 95 % intervals", _starts_table(result)]


def _data(result: FeaturesResult) -> str:
    spec = result.spec
    if not spec.synthetic:
        return data_words(spec)
    return f"{spec.features} redundant features, {spec.train} examples{noise_words(spec)}"


def _feature_sections(result: FeaturesResult) -> list[Section]:
    return [
        Section("sparsity", "How many features", [sparsity_chart(result), _starts_table(result)]),
        Section("alone", "Which features", [alone_chart(result), _features_table(result)]),
    ]


def _band_sections(result: FeaturesResult) -> list[Section]:
    return [
        Section("bands", "Accuracy by band", [band_chart(result), band_map(result), _bands_table(result)]),
        Section("error", "Test error", [error_chart(result), _starts_table(result)]),
    ]


def _feature_measures(result: FeaturesResult) -> list[tuple[str, str]]:
    assert result.limit is not None
    return [
        ("alone", _OTHERS[result.spec.others]),
        ("without", "the same where this feature alone is replaced so"),
        (
            "carries the label",
            f"alone it is right in more than {100 * result.limit:.2f} % of the test examples: so far above chance that "
            f"in {100 * FALSE_SHARE:g} of 100 networks a feature that says nothing passes",
        ),
        (
            "effective number",
            "(Σ e)² / Σ e² over the features that carry the label, e the accuracy alone above chance: the "
            "participation ratio; the number of features if all add the same, 1 if one adds everything",
        ),
        ("usefulness", "mean of the best accuracy that each feature allows, weighted by e"),
        (
            "groups of starts",
            f"with T the largest start up to which most seeds converge, clearly below: up to T/{CLEARLY:g}; slightly "
            f"above: beyond T up to {SLIGHTLY:g} T; larger: beyond. Between T/{CLEARLY:g} and T runs are metastable",
        ),
    ]


def _band_measures(result: FeaturesResult) -> list[tuple[str, str]]:
    return [
        ("band", "coefficients of the two-dimensional Fourier transform with |f_x| + |f_y| in it, lower end included"),
        (
            "alone",
            "test accuracy where each image has only this band; 0 is the mean of the training images if standardised",
        ),
        ("without", "test accuracy where each image has all but this band"),
        ("minus no drop", "paired by seed; its intervals hold for all starts and bands at once (Bonferroni)"),
    ]


def _starts_table(result: FeaturesResult) -> Table:
    """One row a start."""
    columns = [
        Column("from ELR", "start", "effective learning rate before the drop"),
        Column("regime", lambda one: REGIME_NAMES[one.regime], "of most seeds before the drop", kind="text"),
        Column("test error (%)", lambda one: Cell(percent(one.test_error), one.test_error.mean)),
        Column("train loss", lambda one: one.train_loss.mean, "after the drop"),
    ]
    if result.limit is not None:
        columns += [
            Column(
                "effective number",
                lambda one: Cell(of_interval(one.effective), one.effective.mean),
                "participation ratio of what each feature alone adds to chance",
            ),
            Column("carry the label", lambda one: one.count.mean, "features above chance alone, mean over seeds"),
            Column(
                "usefulness (%)",
                lambda one: percent_cell(one.usefulness.mean),
                "mean best accuracy of the features used",
            ),
        ]
    else:
        columns.append(Column("reads most", lambda one: _foremost(result, one), "the best band alone", kind="text"))
    return table(result.starts, columns, "One row a start.", sortable=False)


def _foremost(result: FeaturesResult, one: StartSummary) -> str:
    best = max(result.parts, key=lambda part: one.alone[part.part].mean)
    return f"{best.name} ({100 * one.alone[best.part].mean:.1f} %)"


def _features_table(result: FeaturesResult) -> Table:
    """One row a feature: its noise, the best accuracy, and accuracies alone from every start."""
    columns = [
        Column("feature", "part"),
        Column("noise", "noise", "standard deviation"),
        Column("best (%)", "best", "the best accuracy from this feature alone", form=".2f", scale=100),
    ]
    columns += [_alone(one) for one in result.starts]
    return table(result.parts, columns, "Accuracy with the feature alone (%) from each start, mean over seeds.")


def _bands_table(result: FeaturesResult) -> Table:
    """One row a band: accuracies alone from every start."""
    columns = [Column("band", "name", "periods over the image", kind="text"), *(_alone(one) for one in result.starts)]
    return table(result.parts, columns, "Accuracy with the band alone (%) from each start, mean over seeds.")


def _alone(one: StartSummary) -> Column:
    return Column(format_number(one.start), lambda part: one.alone[part.part].mean, form=".1f", scale=100)


def _runs_table(result: FeaturesResult) -> Table:
    columns = [
        Column("from ELR", "start"),
        Column("seed", "seed"),
        Column("test err (%)", "test_error", kind="percent"),
        Column("train loss", "train_loss"),
    ]
    if result.limit is not None:
        columns += [Column("effective number", "effective"), Column("carry the label", "count")]
    return table(result.runs, columns)
