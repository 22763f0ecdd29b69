"""How sharp the loss is just before the jumps: does ELR times sharpness pass the stability threshold of GD?

The sharpness of scale-invariant weights is the top eigenvalue of the Hessian on the unit sphere, ρ² λ_max, so

    ELR · sharpness = lr λ_max / (1 - α),   stable below 2 (1 + α) / (1 - α)   (α the momentum; 2 without)

Both are measured by :mod:`.curvature` with respect to the scale-invariant tensors. The first seed of each setting is
trained once more with its whole shard, to the same bits, and measured every :data:`EVERY` steps over :data:`BEFORE`
steps up to each of its first :data:`JUMPS` jumps, and as long in the middle of the gap before it (control).

Source: Lobacheva, Kodryan et al., NeurIPS 2021 (sharpness and the start of destabilisation); Cohen et al., ICLR 2021
(threshold of gradient descent, with and without momentum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch

from onsphere.curvature import Eigenvalues
from onsphere.lab.execution import Interrupted
from onsphere.lab.experiments.periods.analyse import Course, PeriodsRun, courses
from onsphere.lab.experiments.periods.curvature import Curvature
from onsphere.lab.experiments.periods.result import Sharpness
from onsphere.lab.population import Engine, Plan, Problem, ShardFolder
from onsphere.lab.progress import Progress
from onsphere.lab.store.files import read_json, write_json
from onsphere.lab.threads import one_thread

JUMPS = 4  # of a run
BEFORE = 44  # steps
EVERY = 4  # steps
PIECE = 256  # steps between two looks at ``stop``


def measure_sharpness(
    problem: Problem,
    plan: Plan,
    shards: Sequence[ShardFolder],
    invariant: Sequence[str],
    runs: Sequence[PeriodsRun],
    progress: Progress,
    stop: Callable[[], bool],
) -> list[Sharpness]:
    """Measure the first seed of every setting before its first jumps and between them.

    Args:
        problem: What was trained.
        plan: How.
        shards: The ended shards.
        invariant: Names of the scale-invariant tensors.
        runs: What was measured.
        progress: Told the copy-steps done.
        stop: Asked between pieces of work.

    Returns:
        One entry a jump, in the order of ``runs``; none for a run without jumps.

    Raises:
        Interrupted: ``stop`` returned True; shards whose numbers are on disk are not trained again.
    """
    jumps = {(r.lr, r.weight_decay, r.seed): r.jumps[:JUMPS] for r in runs if r.seed == 0 and r.jumps}
    wanted = [(shard, own) for shard in shards if (own := _wanted(problem, shard, invariant, jumps))]
    last = [max(max(jumps[_key(course)]) for course in own.values()) for _, own in wanted]
    progress.begin("sharpness before jumps", sum(n * len(s.copies()) for n, (s, _) in zip(last, wanted, strict=True)))
    found: list[Sharpness] = []
    for (shard, own), steps in zip(wanted, last, strict=True):
        path = shard.folder / "sharpness.json"
        if path.exists():
            progress.advance(steps * len(shard.copies()))
        else:
            with one_thread():
                rows = _shard(problem, plan, shard, invariant, own, jumps, progress, stop)
            write_json(path, {"rows": [asdict(row) for row in rows]})
        found += [Sharpness(**row) for row in read_json(path)["rows"]]
    order = list(jumps)
    return sorted(found, key=lambda row: (order.index((row.lr, row.weight_decay, row.seed)), row.jump))


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


def _key(course: Course) -> tuple[float, float, int]:
    return course.copy.lr, course.copy.weight_decay, course.copy.seed


def _wanted(
    problem: Problem,
    shard: ShardFolder,
    invariant: Sequence[str],
    jumps: dict[tuple[float, float, int], list[int]],
) -> dict[int, Course]:
    """The courses to measure, by the copy's place in the shard."""
    found = courses(shard.readings(), shard.copies(), invariant, problem.lr_factors(0, problem.steps))
    return {k: course for k, course in enumerate(found) if _key(course) in jumps}


def _shard(
    problem: Problem,
    plan: Plan,
    shard: ShardFolder,
    invariant: Sequence[str],
    wanted: dict[int, Course],
    jumps: dict[tuple[float, float, int], list[int]],
    progress: Progress,
    stop: Callable[[], bool],
) -> list[Sharpness]:
    """Train a shard again up to the last wanted jump and measure on the way."""
    engine, curvature = Engine(problem, tuple(shard.copies()), plan), Curvature(problem, invariant)
    state = engine.initial_state()
    ring = torch.empty((PIECE, len(shard.copies()), engine.columns), dtype=problem.dtype, device=problem.device)
    places = {k: stretches(jumps[_key(course)]) for k, course in wanted.items()}
    steps = {k: {step for pair in pairs for part in pair for step in part} for k, pairs in places.items()}
    vectors: dict[int, Eigenvalues | None] = {}
    found: dict[tuple[int, int], float] = {}
    for step in sorted(set().union(*steps.values())):
        while state.step < step:
            before = state.step
            state = engine.advance(state, min(step, before + PIECE), ring)
            progress.advance((state.step - before) * len(shard.copies()))
            if stop():
                raise Interrupted
        for k in (k for k, own in steps.items() if step in own):
            values = dict(zip(problem.trained, state.params, strict=True))
            values |= dict(zip(engine.constant_names, state.constants, strict=True))
            # a vector found before a pause is as good as none
            start = vectors.get(k) if (k, step - EVERY) in found else None
            sharpness = curvature.sharpness({name: value[k].contiguous() for name, value in values.items()}, start)
            vectors[k] = sharpness
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
