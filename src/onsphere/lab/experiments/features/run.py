"""Train at every starting ELR, go on at a small one, then measure the accuracy with and without each part of the input.

round "start"   every starting effective learning rate x seed
round "drop"    from the end of each, at the small one; the batch order goes on
measured/       test accuracies by part, from the weights at the end, one file a shard

A part is one of the redundant features of the synthetic data, or a band of frequencies of images. Batch statistics,
where a network has any, are those of the whole training examples, re-estimated.

Source: Sadrtdinov, Kodryan et al., NeurIPS 2024 (synthetic features, Fourier bands).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onsphere.lab.calling import takes
from onsphere.lab.data import Dataset, from_arrays, redundant_features
from onsphere.lab.data.redundant import best_accuracies, noise_levels, redrawn, with_feature
from onsphere.lab.experiment import Experiment, Session
from onsphere.lab.experiments.drop.analyse import threshold
from onsphere.lab.experiments.drop.words import describe_threshold
from onsphere.lab.experiments.features.analyse import analyse, carrying_limit, sparsity
from onsphere.lab.experiments.features.page import printed, report
from onsphere.lab.experiments.features.result import FeatureRun, FeaturesResult, Part, PartAccuracy
from onsphere.lab.experiments.features.spec import FeaturesSpec
from onsphere.lab.experiments.features.words import answer, describe
from onsphere.lab.experiments.regimes.classify import Cell, settled
from onsphere.lab.experiments.regimes.run import read_cells
from onsphere.lab.networks import Evaluation, evaluate, network
from onsphere.lab.options import InputError
from onsphere.lab.population import Copy, Problem, ShardFolder, Stage, stack_starts
from onsphere.lab.progress import Progress
from onsphere.lab.report.words import format_number
from onsphere.lab.result import Real
from onsphere.lab.training import Data, Model, prepared, problem_of
from onsphere.landscape import fourier_bands

TEST_EXAMPLES = 4096  # synthetic ones, where no number is given
MOST_BANDS = 8
BATCH = 500


@dataclass(frozen=True)
class Measured:
    """What is measured of one run after the drop.

    Attributes:
        evaluation: Losses and errors on whole examples.
        alone: Test accuracy with each part alone.
        without: Test accuracy without each part.
    """

    evaluation: Evaluation
    alone: list[Real]
    without: list[Real]


@takes(FeaturesSpec)
def learn_features(model: Model = "layer-norm-mlp", data: Data = "synthetic", **given: Any) -> FeaturesResult:
    """See which features networks learn from different starting ELRs, once all have gone on at one small ELR.

    A network that is not fully scale-invariant is made so (:func:`onsphere.make_scale_invariant`).

    Args:
        model: The network, as :meth:`Experiment.start <onsphere.lab.experiment.Experiment.start>` takes it.
        data: ``synthetic`` for redundant features (:func:`onsphere.lab.data.redundant_features`); or images, as it
            takes them, which are looked at by bands of frequency (:func:`onsphere.landscape.fourier_bands`).
        **given: The fields of :class:`~onsphere.lab.experiments.features.spec.FeaturesSpec`, and ``out``, ``progress``
            and ``stop`` of :meth:`~onsphere.lab.experiment.Experiment.start`, which also says what is raised.

    Returns:
        The result; everything is also on disk.

    Source: Sadrtdinov, Kodryan et al., NeurIPS 2024; how the features are drawn and sparsity is measured are ours.

    Example:
        >>> from onsphere.lab import learn_features
        >>> learn_features(starts=[1e-4, 1e-2, 0.1], seeds=3)  # doctest: +SKIP
    """
    return EXPERIMENT.start(model, data, **given)


def prepare(spec: FeaturesSpec, model: Model, data: Data, progress: Progress) -> Problem:
    """The problem of the first round.

    Raises:
        InputError: The data are no images, a band holds no frequency of theirs, or data, batch size, device or model
            are not usable.
    """
    problem = problem_of(spec, model, synthetic(spec) if spec.synthetic else data)
    if not spec.synthetic:
        check_bands(spec, problem.data.input_shape)
    return prepared(problem, progress)


def synthetic(spec: FeaturesSpec) -> Dataset:
    """The redundant features that a spec asks for, with its label noise."""
    assert spec.train is not None
    least, most = spec.noise
    test = TEST_EXAMPLES if spec.test is None else spec.test
    found = redundant_features(features=spec.features, train=spec.train, test=test, noise=(least, most), seed=spec.seed)
    if not spec.label_noise:
        return found
    arrays = (found.x_train, found.y_train, found.x_test, found.y_test)
    return from_arrays(
        *arrays,
        name=found.name,
        classes=2,
        source=found.source,
        label_noise=spec.label_noise,
        label_noise_kind=spec.label_noise_kind,
        standardise=False,
        seed=spec.seed,
    )


def check_bands(spec: FeaturesSpec, shape: tuple[int, ...]) -> None:
    """Raise :class:`InputError` if examples of this shape are no images, or a band holds no frequency of theirs."""
    if len(shape) != 3:
        raise InputError(
            f"--data: examples of shape {' x '.join(map(str, shape))} are not allowed: bands of frequency are those of "
            "images [channels, height, width]"
        )
    most = shape[1] // 2 + shape[2] // 2
    for low, high in pairwise(edges(spec, shape)):
        if not any(low <= frequency < high for frequency in range(most + 1)):
            raise InputError(
                f"--bands: {low:g},{high:g} is not allowed: images of {shape[1]} x {shape[2]} pixels have no frequency "
                f"in it; they have 0, 1, ... {most}"
            )


def edges(spec: FeaturesSpec, shape: tuple[int, ...]) -> tuple[float, ...]:
    """The edges of the bands that are asked for, or of at most eight equal ones that hold every frequency once."""
    if spec.bands is not None:
        return spec.bands
    beyond = shape[1] // 2 + shape[2] // 2 + 1
    return tuple(map(float, np.unique(np.linspace(0, beyond, min(MOST_BANDS, beyond) + 1).round())))


def parts_of(spec: FeaturesSpec, shape: tuple[int, ...]) -> list[Part]:
    """The parts of an example of this shape: its features or its bands."""
    if spec.synthetic:
        least, most = spec.noise
        known = zip(
            noise_levels(spec.features, (least, most)), best_accuracies(spec.features, (least, most)), strict=True
        )
        return [Part(i, f"feature {i}", noise=float(noise), best=float(best)) for i, (noise, best) in enumerate(known)]
    bands = pairwise(edges(spec, shape))
    return [
        Part(i, f"{format_number(low)} to {format_number(high)}", low=low, high=high)
        for i, (low, high) in enumerate(bands)
    ]


def measure(session: Session[FeaturesSpec, Problem]) -> dict[str, Any]:
    """Train both rounds, measure every part at the end of the second, and analyse the rows."""
    spec, problem = session.spec, session.given
    copies = [Copy(seed=seed, lr=elr) for elr in spec.all_starts() for seed in range(spec.seeds)]
    cells: list[Cell] = []

    def told(ended: list[ShardFolder]) -> str:
        cells.extend(read_cells(ended[-1], 0))
        return describe_threshold(threshold(settled(cells)))

    before = session.train(problem, "start", copies, "before the drop", told=told)
    after = go_on(session, before, copies)
    parts = parts_of(spec, problem.data.input_shape)
    limit = carrying_limit(len(problem.data.x_test), len(parts)) if spec.synthetic else None
    found: list[tuple[FeatureRun, list[PartAccuracy]]] = []
    session.progress.begin("accuracy by part", len(copies))
    for shard in after:
        name, own = f"measured/{shard.folder.name}", partial(_measured, session, shard)
        rows = session.kept(name, list[Measured], own, units=len(shard.copies()))
        finite = np.isfinite(shard.readings().values).all(axis=(0, 2))
        for row, copy, ended in zip(rows, shard.copies(), finite, strict=True):
            found.append(_rows(row, copies[copy.start], parts, limit, bool(ended)))
    found.sort(key=lambda one: (one[0].start, one[0].seed))
    cells = settled(sorted(cells, key=lambda cell: (cell.elr, cell.seed)))
    runs, accuracies = [run for run, _ in found], [row for _, rows in found for row in rows]
    rows_found = {"parts": parts, "runs": runs, "accuracies": accuracies, "cells": cells, "limit": limit}
    return vars(analyse(cells, runs, accuracies, parts, spec.end)) | rows_found | {"radius": problem.radius}


def go_on(session: Session[FeaturesSpec, Problem], before: list[ShardFolder], copies: list[Copy]) -> list[ShardFolder]:
    """The second round: every run of the first goes on at the small effective learning rate."""
    spec, path = session.spec, (session.run.folder / "starts.safetensors").resolve()
    names = session.given.trained
    if not path.exists():
        kept = [(shard.weights(), len(shard.copies())) for shard in before]
        stack_starts(path, [{name: one[name][k] for name in names} for one, count in kept for k in range(count)])
    problem = replace(session.given, steps=spec.drop_steps, starts=path, offset=spec.steps)
    wanted = [Copy(seed=copy.seed, lr=spec.end, start=row) for row, copy in enumerate(copies)]
    return session.train(problem, "drop", wanted, "after the drop")


def _measured(session: Session[FeaturesSpec, Problem], shard: ShardFolder) -> list[Measured]:
    """What is measured of the runs of a shard."""
    problem, weights, found = session.given, shard.weights(), []
    for k, copy in session.each(list(enumerate(shard.copies()))):
        model = network(problem, weights, k, copy.seed)
        evaluation = evaluate(problem, model)  # re-estimates batch statistics and leaves evaluation mode
        found.append(Measured(evaluation, *part_accuracies(session.spec, problem, model)))
    return found


@torch.no_grad()
def part_accuracies(spec: FeaturesSpec, problem: Problem, model: nn.Module) -> tuple[list[float], list[float]]:
    """Test accuracies of a network with each part alone, and without each part."""
    right, examples = torch.zeros(2, len(parts_of(spec, problem.data.input_shape)), dtype=torch.float64), 0
    for labels, *views in views_of(spec, problem):
        examples += len(labels)
        for row, view in zip(right, views, strict=True):
            predicted = torch.stack([model(one).argmax(-1) for one in view])
            row += (predicted == labels).sum(1).cpu()
    alone, without = (right / examples).tolist()
    return alone, without


def views_of(spec: FeaturesSpec, problem: Problem) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The test examples, some at a time: labels [B], each part alone [parts, B, ...], all but each part."""
    data: Any = problem.data
    x, y = data.x_test, data.y_test
    other = x
    if spec.synthetic:
        mean = data.x_train.mean(0).expand_as(x)
        other = redrawn(x, y, spec.features, spec.seed) if spec.others == "redrawn" else mean
    for own, rest, labels in zip(torch.split(x, BATCH), torch.split(other, BATCH), torch.split(y, BATCH), strict=True):
        if spec.synthetic:
            alone = torch.stack([with_feature(own, rest, i) for i in range(spec.features)])
            without = torch.stack([with_feature(rest, own, i) for i in range(spec.features)])
        else:
            alone = fourier_bands(own, edges(spec, data.input_shape))
            without = own - alone
        device, dtype = problem.device, problem.dtype
        yield labels.to(device), alone.to(device, dtype), without.to(device, dtype)


def _rows(
    found: Measured, origin: Copy, parts: list[Part], limit: float | None, finite: bool
) -> tuple[FeatureRun, list[PartAccuracy]]:
    """The rows of one run after the drop that began where ``origin`` ended; without numbers if it became non-finite."""
    if not finite:
        none = [math.nan] * len(parts)
        found = Measured(Evaluation(*[math.nan] * 4), none, none)
    count: int | None = None
    effective = usefulness = None
    if limit is not None and finite:
        count, effective, usefulness = sparsity(found.alone, limit, [part.best or 0.0 for part in parts])
    run = FeatureRun(
        start=origin.lr,
        seed=origin.seed,
        **found.evaluation.to_dict(),
        count=count,
        effective=effective,
        usefulness=None if usefulness is None or not count else usefulness,
        finite=finite,
    )
    accuracies = zip(parts, found.alone, found.without, strict=True)
    return run, [PartAccuracy(origin.lr, origin.seed, part.part, a, w) for part, a, w in accuracies]


def stages(spec: FeaturesSpec, problem: Problem) -> list[Stage]:
    """The runs before the drop, and each once more after it."""
    copies = [Copy(seed, elr) for elr in spec.all_starts() for seed in range(spec.seeds)]
    after = replace(problem, steps=spec.drop_steps)
    return [
        Stage("before the drop", problem, copies),
        Stage("after the drop", after, [Copy(c.seed, spec.end) for c in copies]),
    ]


EXPERIMENT = Experiment(
    spec=FeaturesSpec,
    result=FeaturesResult,
    prepare=prepare,
    measure=measure,
    report=report,
    answer=answer,
    describe=describe,
    runs=lambda result: len(result.cells) + len(result.runs),
    printed=printed,
    stages=stages,
    beside="the accuracy by parts, measured after training",
)
resume_features = EXPERIMENT.resume
