"""What the readings say of a run, each beside its prediction.

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

Source: Lobacheva, Kodryan et al., NeurIPS 2021, sections 3 and 4; Wan et al., Spherical Motion Dynamics (equilibrium).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics import default_delta, equilibrium, generalised_equilibrium, recovery_steps, zigzag_jumps
from onsphere.lab.experiments.periods.result import Behaviour, PeriodsRun
from onsphere.lab.population.course import Array, Course, decay_of

__all__ = ["analyse", "count_jumps"]

#: Jumps from which a run counts as periodic: two whole periods.
PERIODIC = 3
#: Standard deviation of log ELR below which it counts as steady.
STEADY = 0.1


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
