"""How sharp the loss is just before the jumps: does ELR times sharpness pass the stability threshold of GD?

The sharpness of scale-invariant weights is the top eigenvalue of the Hessian on the unit sphere, ρ² λ_max, so

    ELR · sharpness = lr λ_max / (1 - α),   stable below 2 (1 + α) / (1 - α)   (α the momentum; 2 without)

Both are measured by :mod:`.sharpness_meter` with respect to the scale-invariant tensors. The first seed of each
setting is trained once more with its whole shard, to the same bits, and measured every :data:`EVERY` steps over
:data:`BEFORE` steps up to each of its first :data:`JUMPS` jumps, and as long in the middle of the gap before it
(control).

Source: Lobacheva, Kodryan et al., NeurIPS 2021 (sharpness and the start of destabilisation); Cohen et al., ICLR 2021
(threshold of gradient descent, with and without momentum).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onsphere.curvature import Eigenvalues
from onsphere.lab.experiments.periods.again import Again, trained_again
from onsphere.lab.experiments.periods.result import PeriodsRun, Sharpness
from onsphere.lab.experiments.periods.sharpness_meter import SharpnessMeter
from onsphere.lab.population import ShardFolder
from onsphere.lab.population.course import Course, courses_of

JUMPS = 4  # of a run
BEFORE = 44  # steps
EVERY = 4  # steps
Key = tuple[float, float, int]  # lr, weight decay, seed


def measure_sharpness(session: Again, shards: Sequence[ShardFolder], runs: Sequence[PeriodsRun]) -> list[Sharpness]:
    """Measure the first seed of every setting before its first jumps and between them.

    Args:
        session: What was trained, and how.
        shards: The ended shards.
        runs: What was measured.

    Returns:
        One entry a jump, in the order of ``runs``; none for a run without jumps.

    Raises:
        Interrupted: The run was asked to stop; shards whose numbers are on disk are not trained again.
    """
    jumps = {(r.lr, r.weight_decay, r.seed): r.jumps[:JUMPS] for r in runs if r.seed == 0 and r.jumps}
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
        rows += session.kept(path, list[Sharpness], partial(_shard, session, shard, own, jumps), units=units)
    order = list(jumps)
    return sorted(rows, key=lambda row: (order.index((row.lr, row.weight_decay, row.seed)), row.jump))


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


def _shard(
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
