"""What is found by training the ended shards once more: the minima of different periods, the sharpness before jumps.

Training is a function of seed and step to the last bit, so any step can be seen again.

Minima: where the readings say that a period's minibatch loss was lowest (running mean of log loss over τ/15 steps), the
weights are kept; how far apart they are, how differently they predict, what an ensemble gains. Predictions use batch
statistics of all training images at the kept weights.

Sharpness: the top eigenvalue of the Hessian on the unit sphere of the scale-invariant weights, ρ² λ_max, so that

    ELR · sharpness = lr λ_max / (1 - α),   stable below 2 (1 + α) / (1 - α)   (α the momentum; 2 without)

measured in the first seed of each setting every :data:`EVERY` steps over :data:`BEFORE` steps up to each of its first
:data:`JUMPS` jumps, and as long in the middle of the gap before it (control). It is that of the training-mode loss on a
fixed batch: all training examples with full batches, :data:`EXAMPLES` of them otherwise.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 5 (minima of different periods; sharpness and the start of
destabilisation); Cohen et al., ICLR 2021 (threshold of gradient descent, with and without momentum).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.curvature import Eigenvalues, Functional, HessianOperator, operator_eigenvalues
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiment import Session
from onsphere.lab.experiments.periods.result import Minima, PeriodsRun, Sharpness
from onsphere.lab.experiments.periods.setups import Ready
from onsphere.lab.experiments.periods.spec import PeriodsSpec
from onsphere.lab.population import Engine, Problem, ShardFolder, State
from onsphere.lab.population.course import Course, courses_of
from onsphere.lab.population.evaluate import BATCH
from onsphere.lab.population.step import loss_function
from onsphere.lab.store.files import read_tensors, write_tensors
from onsphere.normalisation import reestimate_batch_statistics

PIECE = 256  # steps between two looks at ``stop``
MOST = 12  # minima of a run; further periods are thinned out evenly
JUMPS = 4  # of a run
BEFORE = 44  # steps
EVERY = 4  # steps
EXAMPLES = 512  # of the fixed batch, where steps see minibatches; at least those of a step
COLD, WARM = (1e-3, 100), (1e-2, 20)  # relative tolerance and most products of a search
Key = tuple[float, float, int]  # lr, weight decay, seed
Again = Session[PeriodsSpec, Ready]


def trained_again(session: Again, shard: ShardFolder, steps: Collection[int]) -> Iterator[tuple[Engine, State]]:
    """Train a shard again and yield engine and state after each of some steps, ascending.

    Args:
        session: Whose plan it was trained by; its progress is told the copy-steps done.
        shard: A shard whose training has ended.
        steps: The steps after which the state is yielded.

    Raises:
        Interrupted: The run was asked to stop.
    """
    problem, copies = session.given.problem, tuple(shard.copies())
    engine = Engine(problem, copies, session.execution.plan)
    state = engine.initial_state()
    ring = torch.empty((PIECE, len(copies), engine.columns), dtype=problem.dtype, device=problem.device)
    for step in sorted(set(steps)):
        while state.step < step:
            before = state.step
            state = engine.advance(state, min(step, before + PIECE), ring)
            session.progress.advance((state.step - before) * len(copies))
            if session.stop():
                raise Interrupted
        yield engine, state


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
    found = {k: minima_steps(course, own[_key(course)]) for k, course in enumerate(courses_of(shard, invariant))}
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


def measure_sharpness(session: Again, shards: Sequence[ShardFolder], runs: Sequence[PeriodsRun]) -> list[Sharpness]:
    """Measure the first seed of every setting before its first jumps and between them.

    Args:
        session: What was trained, and how.
        shards: The ended shards in the whole space.
        runs: What was measured of their copies.

    Returns:
        One entry a jump, in the order of ``runs``; none for a run without jumps.

    Raises:
        Interrupted: The run was asked to stop; shards whose numbers are on disk are not trained again.
    """
    jumps = {r.key: r.jumps[:JUMPS] for r in runs if r.seed == 0 and r.jumps}
    work = []
    for shard in shards:
        found = enumerate(courses_of(shard, session.given.invariant, session.given.problem.schedule))
        own = {k: course for k, course in found if _key(course) in jumps}
        if own:
            last = max(jumps[_key(course)][-1] for course in own.values())
            work.append((shard, own, last * len(shard.copies())))
    session.progress.begin("sharpness before jumps", sum(units for _, _, units in work))
    rows = []
    for shard, own, units in work:
        path = f"{session.run.shards.name}/{shard.folder.name}/sharpness"
        rows += session.kept(path, list[Sharpness], partial(_sharpness, session, shard, own, jumps), units=units)
    order = list(jumps)
    return sorted(rows, key=lambda row: (order.index(row.key), row.jump))


def stretches(jumps: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Steps before each jump, itself the last one, and steps of its control, in the middle since the jump before.

    Either is less than a third of the gap long, so that they do not meet; the first gap starts at step 0.
    """
    found = []
    for first, jump in zip([0, *jumps], jumps, strict=False):
        length = min(BEFORE, (jump - first - 1) // 3) // EVERY * EVERY
        middle = (first + jump) // 2
        before = range(jump - length, jump + 1, EVERY)
        found.append((list(before), [step - jump + middle + length // 2 for step in before]))
    return found


def _key(course: Course) -> Key:
    return course.copy.lr, course.copy.weight_decay, course.copy.seed


def _sharpness(
    session: Again, shard: ShardFolder, wanted: dict[int, Course], jumps: dict[Key, list[int]]
) -> list[Sharpness]:
    """Train a shard again up to the last wanted jump and measure on the way."""
    problem, meter = session.given.problem, SharpnessMeter(session.given.problem, session.given.invariant)
    places = {k: stretches(jumps[_key(course)]) for k, course in wanted.items()}
    steps = {k: {step for pair in pairs for part in pair for step in part} for k, pairs in places.items()}
    vectors: dict[int, Eigenvalues | None] = {}
    found: dict[tuple[int, int], float] = {}
    for engine, state in trained_again(session, shard, set().union(*steps.values())):
        step = state.step
        for k in (k for k, own in steps.items() if step in own):
            values = dict(zip(problem.trained, state.params, strict=True))
            values |= dict(zip(engine.constant_names, state.constants, strict=True))
            # a vector found before a pause is as good as none
            start = vectors.get(k) if (k, step - EVERY) in found else None
            vectors[k] = sharpness = meter({name: value[k].contiguous() for name, value in values.items()}, start)
            at = np.nan if sharpness is None else sharpness.values[0]
            found[k, step] = float(wanted[k].elr[step] * at)
    return [
        _row(course, jump, *pair, {step: value for (place, step), value in found.items() if place == k})
        for k, course in wanted.items()
        for jump, pair in zip(jumps[_key(course)], places[k], strict=True)
    ]


def _row(course: Course, jump: int, near: list[int], control: list[int], found: dict[int, float]) -> Sharpness:
    copy = course.copy
    return Sharpness(
        lr=copy.lr,
        weight_decay=copy.weight_decay,
        seed=copy.seed,
        jump=jump,
        threshold=2 * (1 + copy.momentum) / (1 - copy.momentum),
        steps=near,
        elr_times_sharpness=[found[step] for step in near],
        control_steps=control,
        control=[found[step] for step in control],
    )


class SharpnessMeter:
    """Measures the Hessian of the training-mode loss on a fixed batch.

    Args:
        problem: The problem that is trained.
        invariant: Names of the tensors to differentiate by.
    """

    def __init__(self, problem: Problem, invariant: Sequence[str]) -> None:
        rows = torch.arange(len(problem.data.x_train))
        if problem.batch_size < len(rows):
            drawn = np.random.default_rng(problem.seed).permutation(len(rows))
            rows = torch.from_numpy(np.sort(drawn[: max(EXAMPLES, problem.batch_size)]))
        x = problem.data.x_train[rows].to(problem.device, problem.dtype)
        y = problem.data.y_train[rows].to(problem.device)
        network = problem.build(0).to(problem.device, problem.dtype)
        self.functional = Functional(network, loss_function(problem.loss), (x, y), tuple(invariant), sphere=True)

    def __call__(self, values: Mapping[str, Tensor], start: Eigenvalues | None = None) -> Eigenvalues | None:
        """The top eigenvalue on the unit sphere.

        Args:
            values: All parameters and buffers, by name.
            start: What was found nearby: saves most of the work.

        Returns:
            The eigenvalue with its vector and error, or None where values are not finite.
        """
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            return None
        tolerance, products = COLD if start is None else WARM
        operator = HessianOperator(self.functional, values=values)
        if not math.isfinite(operator.loss):
            return None
        return operator_eigenvalues(operator, tolerance=tolerance, max_products=products, start=start)
