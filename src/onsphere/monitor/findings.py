"""What the readings mean, as findings with evidence and something to do: jumps, equilibrium, layers, invariance.

Jumps are looked for in -2 log norm, the part of log ELR that the weights decide: a peak after a climb and before a
fall of more than ln 1.25 each. A learning-rate schedule alone makes no jump, and neither does a norm that only grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.detect import DROP, zigzag_jumps
from onsphere.monitor.balance import balances, schedule, time_scales
from onsphere.monitor.finding import Finding, finding, gathered, in_order, listed
from onsphere.monitor.forecast import Forecast, forecast_jump
from onsphere.monitor.health import (
    by_choice,
    holds,
    invariance,
    learning_rate,
    no_gradient,
    non_finite,
    precision,
    rotation,
    small_gradients,
)
from onsphere.monitor.history import GroupHistory
from onsphere.monitor.recorder import Recorder

__all__ = ["Finding", "changes", "diagnose", "forecast_of", "jumps_of"]

#: Steps in which the norm still finds its place after initialisation.
BURN_IN = 100
#: At equilibrium gradient noise moves log norm² by about √(lr wd / 2); a jump moves it by so many times that at least.
_SPREADS = 6.0
#: The fall of a jump takes at most so many steps, and so many readings where they are sparse.
_FALL_STEPS, _LEAST_FALL = 60, 3
#: A jump is announced when it may come within this part of a period.
_SOON = 0.25


def diagnose(groups: Sequence[GroupHistory]) -> list[Finding]:
    """Findings on every group, alarms first.

    Args:
        groups: Their readings. A group called ``total`` stands for the others in what concerns jumps and schedules;
            what is to be said of equilibrium on more than three groups is said of the nearest and the farthest. What
            follows from scale invariance (equilibria, ELRs) is not said of a group whose Noether residual shows that
            it has none.

    Returns:
        The findings; an empty list if nothing stands out.
    """
    with np.errstate(all="ignore"):
        return _diagnose(groups)


def _diagnose(groups: Sequence[GroupHistory]) -> list[Finding]:
    found: list[Finding] = []
    sound = [history for history in groups if history.finite.sum() >= 3]
    total = [history for history in sound if history.name == "total"]
    parts = [history for history in sound if history.name != "total"]
    said = {history.name: history.said for history in groups}
    broken = [one for history in groups if history.name != "total" or len(groups) == 1 for one in non_finite(history)]
    found += gathered(sorted(broken, key=lambda one: int(one.evidence["first_step"])), said)
    broken = [one for history in parts for one in invariance(history)]
    found += gathered(sorted(broken, key=lambda one: -float(one.evidence["noether_residual"])), said)
    found += no_gradient(parts, found)
    for check in (learning_rate, precision, small_gradients):
        found += gathered([one for history in parts for one in check(history)], said)
    found += by_choice(parts) + rotation(parts) + time_scales(parts)
    spheres = [history for history in parts if history.invariant]
    jumping = [one for history in total or spheres for one in _jumps(history)]
    found += jumping or [one for history in spheres for one in _jumps(history)]
    found += balances([history for history in spheres if holds(history) and not len(jumps_of(history))])
    found += [one for history in total or spheres if holds(history) for one in schedule(history)]
    return in_order(found)


def changes(
    recorders: Sequence[Recorder], names: Sequence[Sequence[str]], stepped: Sequence[set[int]]
) -> list[Finding]:
    """What is different about optimisers since they were attached, and where reading has stopped.

    Args:
        recorders: One for each optimiser.
        names: The names of the tensors that each reads.
        stepped: The ids of the tensors that each stepped when it was attached.
    """
    found = []
    for recorder, own, before in zip(recorders, names, stepped, strict=True):
        kind = type(recorder.optimizer).__name__
        now = {id(p) for group in recorder.optimizer.param_groups for p in group["params"]}
        gone = [name for name, p in zip(own, recorder.tensors, strict=True) if id(p) not in now]
        seen = [f"{kind} no longer steps {listed(gone)}"] if gone else []
        more = "1 more tensor, which is" if len(now - before) == 1 else f"{len(now - before)} more tensors, which are"
        seen += [f"{kind} was given {more} not read"] if now - before else []
        seen += [recorder.failure] if recorder.failure else []
        found += [finding("param groups", "warning", one, {}, "attach a new monitor") for one in seen]
    return found


def jumps_of(history: GroupHistory) -> NDArray[np.int64]:
    """Indices (into the finite readings) of the jumps: the last reading before the norm was thrown up."""
    level = -2 * np.log(history.norm[history.finite])
    if not len(level):
        return np.zeros(0, np.int64)
    start = int(np.searchsorted(history.steps[history.finite], BURN_IN))
    least = max(DROP, _SPREADS * math.sqrt(_decay_rate(history) / 2))
    peaks = zigzag_jumps(np.exp(level - level.max()), drop=least, burn_in=start)
    sudden = max(_LEAST_FALL, -(-_FALL_STEPS // history.every))
    kept, before = [], 0
    for peak in peaks:
        climb = level[peak] - level[before : peak + 1].min()
        fall = level[peak] - level[peak : peak + sudden + 1].min()
        if min(climb, fall) > least:
            kept.append(int(peak))
        before = int(peak)
    return np.array(kept, dtype=np.int64)


def _decay_rate(history: GroupHistory) -> float:
    """What decay takes of the weights in a step, at the settings of the last reading; 0 without weight decay."""
    product = float(np.nan_to_num(history.lr[history.finite][-1] * history.weight_decay[history.finite][-1]))
    return product * history.share / (1 - history.momentum)


def forecast_of(history: GroupHistory) -> Forecast | None:
    """When the group's next jump comes; None without two whole periods behind, or on a sphere."""
    good = history.finite
    norm = history.norm[good]
    if len(norm) < 3 or history.on_sphere:
        return None
    return forecast_jump(
        1 / norm**2, history.effective_gradient[good], steps=history.steps[good], jumps=jumps_of(history)
    )


# -- jumps -------------------------------------------------------------------------------------------------


def _jumps(history: GroupHistory) -> list[Finding]:
    good, peaks = history.finite, jumps_of(history)
    if not len(peaks):
        return []
    steps, norm, lr = history.steps[good], history.norm[good], history.lr[good]
    product = float(np.nan_to_num(lr[-1] * history.weight_decay[good][-1]))
    at, now = steps[peaks], int(steps[-1])
    elr = float(np.median(lr[peaks] / norm[peaks] ** 2))
    period = float(np.median(np.diff(at))) if len(at) > 1 else None
    coming = forecast_of(history)
    evidence: dict[str, Any] = {
        "group": history.name,
        "steps": [int(s) for s in at],
        "period": period,
        "elr_at_jumps": elr,
        "lr_times_weight_decay": product,
        "forecast": None if coming is None else coming.to_dict(),
    }
    if period is None:
        seen = f"{history.said}: one jump, at step {at[0]}: weight decay had raised the ELR to {elr:.2g}"
    else:
        seen = f"{history.said}: jumps every ~{period:.0f} steps (lr·wd = {product:.2g})"
    safe = 0.5 * float(np.median([lr[i] / norm[i] ** 2 for i in peaks]))
    ahead = None if coming is None else (max(coming.low - now, 0.0), max(coming.high - now, 0.0))
    if coming is not None and ahead is not None:
        seen += f"; next in {ahead[0]:.0f}-{ahead[1]:.0f} steps" if ahead[1] >= 1 else "; the next is overdue"
    advice = "lower the weight decay" + (
        f", or train on the sphere at a fixed ELR below {safe:.1g}" if holds(history) else " or the learning rate"
    )
    found = [finding("jump", "warning", seen, evidence, advice)]
    if coming is not None and ahead is not None and ahead[0] <= _SOON * coming.period:
        when = f"expected in {ahead[0]:.0f}-{ahead[1]:.0f} steps, most likely at step {coming.step:.0f}"
        if ahead[1] < 1:
            when = "overdue: the ELR is past where the forecast puts it"
        seen = f"{history.said}: a jump is {when}"
        advice = "lower the learning rate now, or save a checkpoint"
        found.append(finding("jump expected", "alarm", seen, {"group": history.name} | coming.to_dict(), advice))
    return found
