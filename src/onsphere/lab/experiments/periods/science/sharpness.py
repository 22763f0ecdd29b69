"""The sharpness before jumps and between them, found by training the ended shards once more.

It is the top eigenvalue of the Hessian on the unit sphere of the scale-invariant weights, ρ² λ_max, so that

    ELR · sharpness = lr λ_max / (1 - α),   stable below 2 (1 + α) / (1 - α)   (α the momentum; 2 without)

measured in the first seed of each setting every :data:`EVERY` steps over :data:`BEFORE` steps up to each of its first
:data:`JUMPS` jumps, and as long in the middle of the gap before it (control). It is that of the training-mode loss on a
fixed batch: all training examples with full batches, :data:`EXAMPLES` of them otherwise.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 5 (sharpness and the start of destabilisation); Cohen et al.,
ICLR 2021 (threshold of gradient descent, with and without momentum).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from onsphere.curvature import Eigenvalues, Functional, HessianOperator, operator_eigenvalues
from onsphere.lab.experiments.periods.result import PeriodsRun
from onsphere.lab.experiments.periods.science.again import Again, Key, key_of, trained_again
from onsphere.lab.experiments.periods.science.rows import Sharpness
from onsphere.lab.population import Problem, ShardFolder
from onsphere.lab.population.course import Course, courses_of
from onsphere.lab.population.step import loss_function

JUMPS = 4  # of a run
BEFORE = 44  # steps
EVERY = 4  # steps
EXAMPLES = 512  # of the fixed batch, where steps see minibatches; at least those of a step
COLD, WARM = (1e-3, 100), (1e-2, 20)  # relative tolerance and most products of a search


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
        own = {k: course for k, course in found if key_of(course) in jumps}
        if own:
            last = max(jumps[key_of(course)][-1] for course in own.values())
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


def _sharpness(
    session: Again, shard: ShardFolder, wanted: dict[int, Course], jumps: dict[Key, list[int]]
) -> list[Sharpness]:
    """Train a shard again up to the last wanted jump and measure on the way."""
    problem, meter = session.given.problem, SharpnessMeter(session.given.problem, session.given.invariant)
    places = {k: stretches(jumps[key_of(course)]) for k, course in wanted.items()}
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
        for jump, pair in zip(jumps[key_of(course)], places[k], strict=True)
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


def fixed_batch(problem: Problem) -> tuple[Tensor, Tensor]:
    """All training examples with full batches, else :data:`EXAMPLES` of them, or as many as a step sees if more."""
    rows = torch.arange(len(problem.data.x_train))
    if problem.batch_size < len(rows):
        drawn = np.random.default_rng(problem.seed).permutation(len(rows))
        rows = torch.from_numpy(np.sort(drawn[: max(EXAMPLES, problem.batch_size)]))
    x = problem.data.x_train[rows].to(problem.device, problem.dtype)
    return x, problem.data.y_train[rows].to(problem.device)


class SharpnessMeter:
    """Measures the Hessian of the training-mode loss on a fixed batch.

    Args:
        problem: The problem that is trained.
        invariant: Names of the tensors to differentiate by.
    """

    def __init__(self, problem: Problem, invariant: Sequence[str]) -> None:
        network = problem.build(0).to(problem.device, problem.dtype)
        batch = fixed_batch(problem)
        self.functional = Functional(network, loss_function(problem.loss), batch, tuple(invariant), sphere=True)

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
