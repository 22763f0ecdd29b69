"""The same network at fixed ELR on the sphere, which has no periods, beside training in the whole space.

The equilibrium in the whole space is the sphere's mirror: for each setting three ELRs around the measured mean,
ELR x (1/1.8, 1, 1.8), are trained on the unit sphere with the same seeds and batches; losses are compared at the
measured ELR by interpolation on logarithmic scales.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, section 4 (fixing the norm removes the periods); Kodryan et al.,
NeurIPS 2022 (training on the sphere).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onsphere.dynamics import default_delta
from onsphere.lab.experiments.periods.result import PeriodsRun, Setting, summaries
from onsphere.lab.experiments.periods.science.rows import Comparison, SphereRun
from onsphere.lab.experiments.periods.science.runs import count_jumps
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.population.course import Array

__all__ = ["SphereSide", "compare", "sphere_side"]

FACTORS = (1 / 1.8, 1.0, 1.8)  # of the ELRs on the sphere
Wanted = tuple[float, float, float, int]  # lr, weight decay, ELR, seed


@dataclass(frozen=True)
class SphereSide:
    """What training on the sphere found.

    Attributes:
        comparison: One row a setting.
        runs: One row a run.
    """

    comparison: list[Comparison]
    runs: list[SphereRun]


def sphere_side(problem: Problem, runs: Sequence[PeriodsRun]) -> tuple[Problem, list[Wanted]]:
    """The problem on the sphere and the runs that it should have.

    Args:
        problem: In the whole space.
        runs: What was measured there.
    """
    wanted = []
    for setting in summaries(runs):
        elr = _mean_elr(setting)
        if elr is not None:
            for factor in FACTORS:
                wanted += [(setting.lr, setting.weight_decay, elr * factor, run.seed) for run in setting.runs]
    return replace(problem, geometry="sphere", radius=1.0, snapshots=()), wanted


def compare(
    runs: Sequence[PeriodsRun], wanted: Sequence[Wanted], shards: Sequence[ShardFolder], burn_in: int
) -> SphereSide:
    """Set the settings against the ended runs on the sphere.

    Args:
        runs: What was measured in the whole space.
        wanted: What :func:`sphere_side` asked for.
        shards: The ended shards on the sphere.
        burn_in: Steps at the start in which jumps are not counted.
    """
    settings = {s.setting: s for s in summaries(runs)}
    measured: dict[tuple[float, int], list[SphereRun]] = {}
    keys: dict[tuple[float, int], list[Wanted]] = {}
    for entry in wanted:
        keys.setdefault((entry[2], entry[3]), []).append(entry)
    for shard in shards:
        readings, (_, evaluations) = shard.readings(), shard.evaluations()
        copies = shard.copies()
        angles = readings.angular_update(np.array([copy.lr for copy in copies]))
        distances = 2 * np.sin(angles / 2) ** 2
        for k, copy in enumerate(copies):
            own = (copy, readings.loss[:, k], distances[:, k], float(evaluations[-1, k, 3]), burn_in)
            key = (copy.lr, copy.seed)
            measured[key] = [_sphere_run(settings[lr, decay], *own) for lr, decay, _, _ in keys[key]]
    found = [row for rows in measured.values() for row in rows]
    order = list(settings)
    found.sort(key=lambda r: (order.index(r.setting), r.elr, r.seed))
    return SphereSide([_compare(setting, found) for setting in settings.values()], found)


def _sphere_run(
    setting: Setting, copy: Copy, loss: Array, distance: Array, test_error: float, burn_in: int
) -> SphereRun:
    finite = bool(np.isfinite(loss).all())
    delta = default_delta(*setting.setting)
    return SphereRun(
        lr=setting.lr,
        weight_decay=setting.weight_decay,
        elr=copy.lr,
        seed=copy.seed,
        loss=float(loss[setting.runs[0].start :].mean()) if finite else None,
        delta_jumps=count_jumps(distance, burn_in, delta, 1 / (10 * setting.product)),
        test_error=test_error if math.isfinite(test_error) else None,
        finite=finite,
    )


def _geometric(values: Sequence[float]) -> float | None:
    return float(np.exp(np.log(values).mean())) if values else None


def _mean_elr(setting: Setting) -> float | None:
    return _geometric([run.mean_elr for run in setting.runs if run.finite and run.mean_elr is not None])


def _compare(setting: Setting, sphere: Sequence[SphereRun]) -> Comparison:
    own = [r for r in sphere if r.setting == setting.setting]
    elr = _mean_elr(setting)
    loss = _geometric([run.loss for run in setting.runs if run.loss])
    levels = {e: [r.loss for r in own if r.elr == e and r.loss] for e in sorted({r.elr for r in own})}
    means = {e: np.log(values).mean() for e, values in levels.items() if values}
    sphere_loss = None
    if elr is not None and len(means) == len(FACTORS):
        sphere_loss = float(np.exp(np.interp(np.log(elr), np.log(list(means)), list(means.values()))))
    nearest = [] if elr is None else [r for r in own if r.elr == min(levels, key=lambda e: abs(np.log(e / elr)))]
    jumps = [run.delta_jumps for run in setting.runs if run.delta_jumps is not None]
    return Comparison(
        lr=setting.lr,
        weight_decay=setting.weight_decay,
        elr=elr,
        loss=loss,
        sphere_loss=sphere_loss,
        ratio=loss / sphere_loss if loss and sphere_loss else None,
        delta_jumps=float(np.mean(jumps)) if jumps else None,
        sphere_delta_jumps=float(np.mean([r.delta_jumps for r in nearest])) if nearest else None,
    )
