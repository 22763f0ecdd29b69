"""The page of ordinary training beside the sphere: the answer, phase diagrams, loss against ELR, courses, runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np

from onsphere.lab.chart.theme import REGIME_COLOURS, REGIME_NAMES
from onsphere.lab.experiments.conventional.charts import Drawn, elr_chart, loss_chart, phase_chart, rate_chart
from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun
from onsphere.lab.experiments.conventional.words import warnings_of
from onsphere.lab.frame import Report
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import courses_of, thinned
from onsphere.lab.report.page import Cell, Section, Table, Text
from onsphere.lab.report.sections import counted
from onsphere.lab.report.smoothing import binned_mean
from onsphere.lab.report.subtitles import MOMENTUM, subtitle, tensor_words
from onsphere.lab.report.table import SORT, Column, table
from onsphere.lab.report.words import MISSING, format_number
from onsphere.lab.store import Run

PHASE_BINS, ELR_BINS = 28, 150
_SHORT = {"convergence": "convergence", "chaotic_equilibrium": "equilibrium", "divergence": "divergence"}

_MEASUREMENTS = (
    (
        "sphere",
        "the scale-invariant weights on the unit sphere, everything else frozen, one fixed ELR a run; no weight decay",
    ),
    ("invariant", "the same network and weights in the whole space: SGD with --lr and --weight-decay"),
    (
        "all",
        "an ordinary network: norms with weights and biases, trained head, every parameter with --lr, --weight-decay, "
        "--momentum and --schedule, batch-norm eps 1e-5",
    ),
    ("ELR", f"lr / norm² at every step; {MOMENTUM}"),
    ("last quarter", "of the steps: losses, gradients and angles are means over it, the ELR a geometric mean"),
    ("loss", "mean over minibatches, batch statistics of the minibatch"),
    ("gradient", "norm · ‖gradient‖ of the tensors that count: the gradient at the unit sphere, of the minibatch"),
    (
        "label",
        "divergence: mean angle of a step above 1.2 rad (with momentum: training error above 0.9 of guessing); "
        "convergence: training error below 1 %, or loss still falling (last quarter below 0.93 of the one before); "
        "chaotic equilibrium: neither",
    ),
    (
        "regimes on the sphere",
        "the label of most seeds at the nearest ELR of the grid on the sphere, on the logarithmic scale",
    ),
    (
        "of sphere's",
        "loss over the sphere's at the same ELR, geometric mean over seeds, interpolated on logarithmic scales",
    ),
    ("test error", "with batch statistics re-estimated over all training images, at the last step"),
)


def _label(run: ConventionalRun) -> Cell:
    return Cell(REGIME_NAMES[run.regime], colour=REGIME_COLOURS[run.regime], hint=run.reason)


_RUNS = (
    Column("set-up", "setup", kind="text"),
    Column("lr", "lr", "on the sphere the effective learning rate"),
    Column("seed", "seed"),
    Column("label", _label, "by the rules of onsphere regimes; rest on it for the reason", kind="text"),
    Column("ELR", "elr", "geometric mean of the last quarter"),
    Column("lowest", "lowest_elr", "ELR of the whole run"),
    Column("highest", "highest_elr", "ELR of the whole run"),
    Column("loss", "loss", "mean minibatch loss of the last quarter"),
    Column("of sphere's", "ratio", "loss over the sphere's loss at the same ELR", digits=2),
    Column("train err (%)", "train_error", "mean of the evaluations in the last quarter", kind="percent"),
    Column("test err (%)", "test_error", "at the end", kind="percent"),
    Column("gradient", "gradient_norm", "mean effective gradient norm of the last quarter"),
    Column("angle", "angular_update", "mean angle of a step in the last quarter, rad; none with momentum", digits=2),
    Column(
        "at this ELR",
        lambda run: REGIME_NAMES[run.sphere_regime] if run.sphere_regime else MISSING,
        "regime on the sphere",
        kind="text",
    ),
)


def _mean(heading: str, name: str, **how: Any) -> Column:
    """The mean over the runs that have a value."""

    def over(runs: Sequence[ConventionalRun]) -> float | None:
        known = [value for run in runs if (value := getattr(run, name)) is not None]
        return mean(known) if known else None

    return Column(heading, over, **how)


_PRINTED = (
    Column("set-up", lambda runs: runs[0].setup, kind="text"),
    Column("lr", lambda runs: runs[0].lr),
    Column("label", lambda runs: " / ".join(dict.fromkeys(_SHORT[run.regime] for run in runs)), kind="text"),
    _mean("ELR", "elr"),
    _mean("loss", "loss"),
    _mean("x sphere", "ratio", digits=2),
    _mean("test %", "test_error", scale=100),
)


def report(run: Run, result: ConventionalResult) -> Report:
    """What is to be read about a comparison; the shards of the run hold the courses."""
    spec, shown = result.spec, drawn(run, result)
    rates, elrs = rate_chart(result), elr_chart(shown, result.sphere_map)
    decay = f"weight decay {format_number(spec.weight_decay)}"
    ordinary = f"ordinary: momentum {format_number(spec.momentum)}, {spec.schedule} lr"
    warnings = [Text(text, tone="warning") for text in warnings_of(result)]
    runs = table(result.runs, _RUNS, f"All runs. {SORT}")
    return Report(
        title="Ordinary training, seen from the sphere",
        subtitle=" · ".join([subtitle(spec), *["augmented"] * spec.augment, decay, ordinary]),
        summary=[counted(len(result.runs), "run"), counted(len(result.setups), "set-up")],
        sections=[
            Section("phase", "Phase diagrams", [*warnings, phase_chart(shown)]),
            Section("loss", "Loss against the ELR", [loss_chart(result)]),
            *([Section("courses", "Where the ELR goes", [elrs])] if elrs is not None else []),
            *([Section("rates", "Against the learning rate", [rates])] if rates is not None else []),
            Section("runs", "All runs", [runs], folded=len(result.runs) > 10),
        ],
        measured=[*_tensors(result), *_MEASUREMENTS],
        heading="word",
        engine={name: value for name, value in asdict(result.engine).items() if name != "invariant"},
    )


def _tensors(result: ConventionalResult) -> list[tuple[str, str]]:
    """Which tensors count, in every set-up where they differ."""
    said = {s: tensor_words(result.spec.elr_of, result.engine.invariant[s]) for s in result.setups}
    if len(set(said.values())) == 1:
        return [("tensors", next(iter(said.values())))]
    return [(f"tensors of {setup}", words) for setup, words in said.items()]


def printed(result: ConventionalResult) -> list[Table | str]:
    """Each set-up's learning rates as a table, means over seeds, and what limits the comparison."""
    groups = [result.of(setup, lr) for setup in result.setups for lr in sorted({run.lr for run in result.of(setup)})]
    return [table(groups, _PRINTED), *warnings_of(result)]


def drawn(run: Run, result: ConventionalResult) -> list[Drawn]:
    """The runs as they are drawn, by set-up, learning rate, seed."""
    known = {(r.setup, r.lr, r.seed): i for i, r in enumerate(result.runs)}
    found: dict[int, Drawn] = {}
    for setup in result.setups:
        schedule = result.spec.schedule if setup == "all" else "constant"
        for folder in run.shard_folders(setup):
            for course in courses_of(ShardFolder(folder), result.engine.invariant[setup], schedule):
                place = known[setup, course.copy.lr, course.copy.seed]
                one, steps = result.runs[place], np.arange(len(course.loss), dtype=np.float64)
                elr = np.full(len(steps), one.lr) if setup == "sphere" else course.elr
                at, loss, gradient = binned_mean(steps, course.loss, course.gradient, bins=PHASE_BINS, spacing="log")
                found[place] = Drawn(one, at, loss, gradient, *thinned(elr, ELR_BINS))
    return [found[place] for place in sorted(found)]
