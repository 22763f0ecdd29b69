"""What the readings say of a run, each beside its prediction, and of the same network at fixed ELR on the sphere.

With b = 1 - lr weight_decay, ρ_t the norm before step t, g̃_t = ρ_t ‖∇_t‖ and s_t = lr g̃_t / ρ_t²:

    ELR_t = lr / ρ_t²,   1 - cos θ_t from tan θ_t = s_t / b
    jump        a peak of log ELR that a drop of more than ln 1.25 follows (zigzag), after the burn-in
    period      distance of consecutive jumps; its unit is τ = 1 / (2 lr weight_decay)
    recovery    from the lowest ELR after a jump to the next jump; predicted by the norm recurrence without gradients,
                ln(ELR at the jump / lowest ELR) / (-2 ln b)
    equilibrium ELR* = √(2 lr weight_decay / E g̃²), rms θ* = √(2 lr weight_decay), both from their exact forms

With a schedule the ELR has the lr of the step; jumps and drops are those of lr_0 / ρ² (a falling lr is no jump), a
recovery is predicted with the lr at its lowest point, τ is that of each step's lr, no equilibrium ELR is predicted.
With heavy-ball momentum α the ELR is lr / ((1 - α) ρ²) and b the larger root of r² - (1 + α - lr weight_decay) r + α.

The sphere has no periods, and the equilibrium in the whole space is its mirror: for each setting three ELRs around
the measured mean, ELR x (1/1.8, 1, 1.8), are trained on the unit sphere with the same seeds and batches; losses are
compared at the measured ELR by interpolation on logarithmic scales.

Source: Lobacheva, Kodryan et al., NeurIPS 2021, sections 3 and 4 (and: fixing the norm removes the periods);
Wan et al., Spherical Motion Dynamics (equilibrium); Kodryan et al., NeurIPS 2022 (training on the sphere).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics import default_delta, equilibrium, generalised_equilibrium, recovery_steps, zigzag_jumps
from onsphere.lab.experiments.periods.result import Behaviour, Comparison, PeriodsRun, Setting, SphereRun, summaries
from onsphere.lab.population import Copy, Problem, ShardFolder
from onsphere.lab.population.course import Array, Course, decay_of

__all__ = ["SphereSide", "analyse", "compare", "count_jumps", "sphere_side"]

#: Jumps from which a run counts as periodic: two whole periods.
PERIODIC = 3
#: Standard deviation of log ELR below which it counts as steady.
STEADY = 0.1
FACTORS = (1 / 1.8, 1.0, 1.8)  # of the ELRs on the sphere
Wanted = tuple[float, float, float, int]  # lr, weight decay, ELR, seed


def analyse(course: Course, evaluation: Array, *, burn_in: int = 100) -> PeriodsRun:
    """Measure one run.

    Args:
        course: The course of the run.
        evaluation: [4], at the end: train loss, train error, test loss, test error.
        burn_in: Steps at the start in which jumps are not counted.
    """
    copy, steps = course.copy, len(course.loss)
    jumps = np.empty(0, np.int64)
    if steps > burn_in:
        jumps = zigzag_jumps(course.norm_elr, burn_in=burn_in)
    period = _median(np.diff(jumps))
    window = _window(course)
    values = {
        "lr": copy.lr,
        "weight_decay": copy.weight_decay,
        "seed": copy.seed,
        "behaviour": _behaviour(course, jumps, window),
        "finite": course.finite,
        "jumps": jumps.tolist(),
        "delta_jumps": _delta_jumps(course, burn_in),
        "period": period,
        "period_tau": None if period is None else _in_tau(course, jumps, period),
    }
    final = [float(v) if math.isfinite(v) else None for v in evaluation]
    ends = {"train_loss": final[0], "train_error": final[1], "test_error": final[3]}
    return PeriodsRun(**values | _recoveries(course, jumps) | _equilibrium(course, window) | ends)


def _in_tau(course: Course, jumps: NDArray[np.int64], period: float) -> float:
    """The period in units of τ; with a schedule the median of the periods' sums of 1 / τ_t."""
    if course.factors is None:
        return period / course.tau
    return float(np.median(np.diff(np.append(0, np.cumsum(course.factors))[jumps])) / course.tau)


def _window(course: Course) -> int:
    """Where the measurement of the equilibrium starts: after 3 τ, but within the second quarter of the run."""
    steps = len(course.loss)
    return round(min(max(steps / 4, 3 * course.tau), steps / 2))


def _behaviour(course: Course, jumps: NDArray[np.int64], window: int) -> Behaviour:
    if not course.finite:
        return "non-finite"
    if len(jumps) >= PERIODIC:
        return "periodic"
    steady = float(np.log(course.elr[window:]).std()) < STEADY and not (jumps >= window).any()
    long = len(course.loss) - window >= 2 * course.tau
    return "equilibrium" if steady and long else "undecided"


def count_jumps(distance: Array, start: int, delta: float, pause: float) -> int:
    """Steps from ``start`` on whose cosine distance is above δ, none within ``pause`` steps of the one before."""
    count, free = 0, float(start)
    for step in np.flatnonzero(distance > delta):
        if step >= free:
            count, free = count + 1, float(step) + pause
    return count


def _delta_jumps(course: Course, burn_in: int) -> int | None:
    if course.cosine_distance is None:
        return None
    delta = default_delta(course.copy.lr, course.copy.weight_decay)
    return count_jumps(course.cosine_distance, burn_in, delta, course.tau / 5)


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def _recoveries(course: Course, jumps: NDArray[np.int64]) -> dict[str, Any]:
    elr, at = course.norm_elr, jumps.tolist()
    troughs = [(last, *_recovery(course, start, last)) for start, last in pairwise(at)]
    measured = np.array([last - trough for last, trough, _ in troughs], np.float64)
    predictions = np.array([predicted for _, _, predicted in troughs])
    return {
        "first_jump": at[0] if at else None,
        "predicted_first_jump": sum(_recovery(course, 0, at[0])) if at else None,
        "measured_recovery": _median(measured),
        "predicted_recovery": _median(predictions),
        "recovery_ratio": _median(measured / predictions),
        "elr_jump": _median(course.elr[jumps]),
        "elr_drop": _median([elr[a] / elr[a:b].min() for a, b in pairwise([*at, len(elr)])]),
    }


def _recovery(course: Course, first: int, last: int) -> tuple[int, float]:
    """Step of the lowest ELR between two steps, and the predicted number of steps from it to the later one."""
    elr = course.norm_elr
    trough = first + int(np.argmin(elr[first : last + 1]))
    copy = course.copy_at(trough)
    predicted = recovery_steps(elr[trough], elr[last], copy.lr, decay_of(copy) / copy.lr)
    return trough, float(predicted)


def _equilibrium(course: Course, window: int) -> dict[str, Any]:
    copy = course.copy_at(slice(window, None)) if len(course.loss) > window else course.copy
    law: dict[str, Any] = {"lr": copy.lr, "weight_decay": copy.weight_decay}
    if copy.momentum:
        law |= {"optimizer": "momentum", "momentum": copy.momentum}
    found: dict[str, Any] = dict.fromkeys(
        ("rms_angular_update", "mean_elr", "predicted_elr", "elr_spread", "jumpiness", "loss")
    )
    found |= {"predicted_angular_update": float(equilibrium(**law).angular_update), "start": window}
    if len(course.loss) - window < 2:
        return found
    elr, gradient = course.elr[window:], course.gradient[window:]
    found |= {
        "mean_elr": float(np.exp(np.log(elr).mean())),
        "elr_spread": float(np.log(elr).std()),
        "loss": float(course.loss[window:].mean()),
    }
    square = float(np.mean(gradient**2))
    if square > 0 and course.factors is None:
        found["predicted_elr"] = float(equilibrium(**law, gradient_norm=math.sqrt(square)).elr)
    if course.cosine_distance is not None:
        angles = np.arctan2(course.effective_step[window:], 1 - course.decay)
        found["rms_angular_update"] = float(np.sqrt(np.mean(angles**2)))
        found["jumpiness"] = float(
            generalised_equilibrium(course.effective_step[window:], copy.lr, copy.weight_decay).jumpiness
        )
    return found


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
    return replace(problem, geometry="sphere", radius=1.0), wanted


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
