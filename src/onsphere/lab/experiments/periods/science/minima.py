"""The minima of different periods, found by training the ended shards once more.

Where the readings say that a period's minibatch loss was lowest (running mean of log loss over τ/15 steps), the weights
are kept; how far apart they are, how differently they predict, what an ensemble gains. Predictions use batch statistics
of all training images at the kept weights.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 5 (minima of different periods).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.lab.experiments.periods.result import PeriodsRun
from onsphere.lab.experiments.periods.science.again import Again, key_of, trained_again
from onsphere.lab.experiments.periods.science.rows import Minima
from onsphere.lab.experiments.periods.science.setups import Ready
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import Course, courses_of
from onsphere.lab.population.evaluate import BATCH
from onsphere.lab.population.step import loss_function
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import reestimate_batch_statistics

MOST = 12  # minima of a run; further periods are thinned out evenly


def find_minima(session: Again, shards: Sequence[ShardFolder], runs: Sequence[PeriodsRun]) -> list[Minima]:
    """Keep and compare the minima of every run with at least two.

    Args:
        session: What was trained, and how.
        shards: The ended shards in the whole space.
        runs: What was measured of their copies.

    Raises:
        Interrupted: The run was asked to stop; shards whose minima are on disk are not trained again.
    """
    found = [(shard, _steps_of(shard, session.given.invariant, runs)) for shard in shards]
    wanted = [(shard, steps) for shard, steps in found if steps]
    session.progress.begin("minima of the periods", sum(_work(*one) for one in wanted))
    rows = []
    for shard, steps in wanted:
        rows += _compare(session.given, shard, steps, _weights(session, shard, steps))
    order = {run.key: i for i, run in enumerate(runs)}
    return sorted(rows, key=lambda m: order[m.key])


def minima_steps(course: Course, jumps: Sequence[int]) -> list[int]:
    """The step of the lowest smoothed loss of each whole period, at most :data:`MOST` of them."""
    width = 2 * max(0, round(course.tau / 30)) + 1
    if len(jumps) < 2 or len(course.loss) < width:
        return []
    smooth = np.convolve(np.log(np.maximum(course.loss, 1e-300)), np.ones(width) / width, mode="same")
    steps = [first + int(np.argmin(smooth[first:last])) for first, last in pairwise(jumps)]
    if len(steps) > MOST:
        steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, MOST).round().astype(int))]
    return steps


def _steps_of(shard: ShardFolder, invariant: Sequence[str], runs: Sequence[PeriodsRun]) -> dict[int, list[int]]:
    """Which steps of which copies are kept, by the copy's place in the shard."""
    own = {run.key: run.jumps for run in runs}
    found = {k: minima_steps(course, own[key_of(course)]) for k, course in enumerate(courses_of(shard, invariant))}
    return {k: steps for k, steps in found.items() if len(steps) >= 2}


def _work(shard: ShardFolder, wanted: dict[int, list[int]]) -> int:
    return max(map(max, wanted.values())) * len(shard.copies())


def _weights(session: Again, shard: ShardFolder, wanted: dict[int, list[int]]) -> dict[str, Tensor]:
    """The kept tensors ``COPY/STEP/NAME``, from disk or by training again; the constants ``COPY/NAME`` as well."""
    path = shard.folder / "minima.safetensors"
    if path.exists():
        session.progress.advance(_work(shard, wanted))
        return read_tensors(path)[0]
    kept: dict[str, Tensor] = {}
    for engine, state in trained_again(session, shard, {step for steps in wanted.values() for step in steps}):
        if not kept:
            constants = list(zip(engine.constant_names, state.constants, strict=True))
            kept = {f"{k}/{name}": values[k].cpu().clone() for name, values in constants for k in wanted}
        for k in (k for k, steps in wanted.items() if state.step in steps):
            for name, values in zip(session.given.problem.trained, state.params, strict=True):
                kept[f"{k}/{state.step}/{name}"] = values[k].cpu().contiguous().clone()
    write_tensors(path, kept)
    return kept


def _compare(
    given: Ready, shard: ShardFolder, wanted: dict[int, list[int]], weights: dict[str, Tensor]
) -> list[Minima]:
    """Predictions of the minima of a shard's copies, and how far they are from one another."""
    problem, invariant = given.problem, given.invariant
    copies, network = shard.copies(), problem.build(0).to(problem.device, problem.dtype)
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    data = problem.data.to(problem.device, problem.dtype)
    criterion = loss_function(problem.loss)
    found = []
    for k, steps in wanted.items():
        outputs, losses = [], []
        with torch.no_grad():
            for name, tensor in own.items():
                if f"{k}/{name}" in weights:
                    tensor.copy_(weights[f"{k}/{name}"])
            for step in steps:
                for name in problem.trained:
                    own[name].copy_(weights[f"{k}/{step}/{name}"])
                reestimate_batch_statistics(network, torch.split(data.x_train, BATCH))
                network.eval()
                outputs.append(torch.cat([network(x) for x in torch.split(data.x_test, BATCH)]).double().cpu())
                trained = torch.cat([network(x) for x in torch.split(data.x_train, BATCH)])
                losses.append(float(criterion(trained.double(), data.y_train)))
        flat = torch.stack([torch.cat([weights[f"{k}/{s}/{n}"].double().flatten() for n in invariant]) for s in steps])
        logits, labels = torch.stack(outputs), data.y_test.cpu()
        found.append(
            Minima(
                lr=copies[k].lr,
                weight_decay=copies[k].weight_decay,
                seed=copies[k].seed,
                steps=steps,
                test_error=[_differing(one, labels) for one in logits.argmax(-1)],
                train_loss=losses,
                angles=pair_angles(flat.numpy()).tolist(),
                disagreement=[[_differing(a, b) for b in logits.argmax(-1)] for a in logits.argmax(-1)],
                ensemble_error=_ensemble_error(logits if problem.loss == "mse" else logits.softmax(-1), labels),
            )
        )
    return found


def pair_angles(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles between the rows, radians [M, M], from chords: 2 atan2(|a - b|, |a + b|) of the unit vectors."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    difference, total = (np.linalg.norm(unit[:, None] + sign * unit[None], axis=-1) for sign in (-1, 1))
    return np.asarray(2 * np.arctan2(difference, total))


def _differing(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted != labels).double().mean())


def _ensemble_error(scores: Tensor, labels: Tensor) -> list[float]:
    """Test error of the mean of the last m scores, for every m."""
    return [_differing(one, labels) for one in scores.flip(0).cumsum(0).argmax(-1)]
