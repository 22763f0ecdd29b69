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
from onsphere.dynamics.equilibria import Equilibrium, Optimizer, equilibrium, steps_to_equilibrium
from onsphere.monitor.finding import Finding
from onsphere.monitor.forecast import Forecast, forecast_jump
from onsphere.monitor.health import ENOUGH, holds, invariance, learning_rate, non_finite, precision, rotation
from onsphere.monitor.history import GroupHistory

__all__ = ["Finding", "diagnose", "forecast_of", "jumps_of"]

#: Steps in which the norm still finds its place after initialisation.
BURN_IN = 100
#: At equilibrium gradient noise moves log norm² by about √(lr wd / 2); a jump moves it by so many times that at least.
_SPREADS = 6.0
#: The fall of a jump takes at most so many steps, and so many readings where they are sparse.
_FALL_STEPS, _LEAST_FALL = 60, 3
#: The norm counts as settled within this relative distance of its equilibrium, angles likewise.
_NEAR = 0.05
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
    for history in groups:
        if history.name != "total" or len(groups) == 1:
            found += non_finite(history)
    for history in parts:
        found += learning_rate(history) + invariance(history) + precision(history) + rotation(history)
    spheres = [history for history in parts if history.invariant]
    jumping = [finding for history in total or spheres for finding in _jumps(history)]
    found += jumping or [finding for history in spheres for finding in _jumps(history)]
    found += _balance([finding for history in spheres if holds(history) for finding in _equilibrium(history)])
    found += [finding for history in total or spheres if holds(history) for finding in _schedule(history)]
    order = {"alarm": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


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
    """Learning rate times weight decay at the last reading, over 1 - momentum; 0 without weight decay."""
    product = float(np.nan_to_num(history.lr[history.finite][-1] * history.weight_decay[history.finite][-1]))
    return product / (1 - history.momentum)


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
        text = f"{history.name}: one jump, at step {at[0]}: weight decay had raised the ELR to {elr:.2g}"
    else:
        text = f"{history.name}: jumps every ~{period:.0f} steps (lr·wd = {product:.2g})"
    safe = 0.5 * float(np.median([lr[i] / norm[i] ** 2 for i in peaks]))
    ahead = None if coming is None else (max(coming.low - now, 0.0), max(coming.high - now, 0.0))
    if ahead is not None:
        text += f"; next in {ahead[0]:.0f}-{ahead[1]:.0f} steps"
    text += "; lower the weight decay" + (
        f", or train on the sphere at a fixed ELR below {safe:.1g}" if holds(history) else " or the learning rate"
    )
    found = [Finding("jump", "warning", text, evidence)]
    if coming is not None and ahead is not None and ahead[0] <= _SOON * coming.period:
        text = (
            f"{history.name}: a jump is expected in {ahead[0]:.0f}-{ahead[1]:.0f} steps, "
            f"most likely at step {coming.step:.0f}"
        )
        found.append(Finding("jump expected", "alarm", text, {"group": history.name} | coming.to_dict()))
    return found


# -- equilibrium --------------------------------------------------------------------------------------------


def _known_equilibrium(history: GroupHistory) -> tuple[Optimizer, Equilibrium, dict[str, Any]] | None:
    """The optimiser's name in the theory, its equilibrium at the present settings, and the arguments that gave it."""
    good = history.finite
    lr, decay = float(history.lr[good][-1]), float(history.weight_decay[good][-1])
    if not (lr > 0 and decay > 0 and lr * decay < 1):
        return None
    recent = history.effective_gradient[good][-max(ENOUGH, int(good.sum()) // 4) :]
    gradient = float(np.sqrt(np.mean(recent**2)))
    known: dict[str, Any] = {"lr": lr, "weight_decay": decay}
    if history.optimizer == "SGD":
        name: Optimizer = "momentum" if history.momentum else "sgd"
        known |= {"gradient_norm": gradient} if gradient > 0 else {}
        known |= {"momentum": history.momentum} if history.momentum else {}
    elif history.optimizer in ("AdamW", "Lion"):
        name = "adamw" if history.optimizer == "AdamW" else "lion"
        known |= {"parameters": history.parameters} | ({"betas": history.betas} if history.betas else {})
    else:
        return None
    return name, equilibrium(name, **known), known


def _equilibrium(history: GroupHistory) -> list[Finding]:
    good = history.finite
    known = _known_equilibrium(history)
    if known is None or good.sum() < ENOUGH or history.on_sphere or len(jumps_of(history)) > 1:
        return []
    name, law, arguments = known
    angles = history.angular_update[good]
    measured = float(np.sqrt(np.mean(angles[-max(ENOUGH, len(angles) // 4) :] ** 2)))
    norm = float(history.norm[good][-1])
    evidence: dict[str, Any] = {
        "group": history.name,
        "optimizer": name,
        "norm": norm,
        "predicted_norm": law.radius,
        "angular_update": measured,
        "predicted_angular_update": law.angular_update,
        "relaxation_steps": law.relaxation_steps,
    }
    if law.radius is None:
        return []
    off = norm / law.radius - 1
    steps = 0.0
    if abs(off) >= _NEAR:
        steps = float(steps_to_equilibrium(norm, name, tolerance=_NEAR, **arguments))
    evidence |= {"relative_distance": off, "steps_to_equilibrium": steps}
    where = (
        f"at equilibrium: norm {norm:.3g}"
        if steps == 0
        else f"norm {norm:.3g}, on its way to equilibrium at {law.radius:.3g}, some {steps:.0f} steps from here"
    )
    text = f"{history.name}: {where}; angular update {measured:.2g} rad a step, {law.angular_update:.2g} at equilibrium"
    return [Finding("equilibrium", "info", text, evidence)]


def _balance(found: list[Finding]) -> list[Finding]:
    """More than three findings on equilibrium as one."""
    if len(found) <= 3:
        return found
    ratios = [f.evidence["angular_update"] / f.evidence["predicted_angular_update"] for f in found]
    away = [f.evidence["group"] for f in found if f.evidence["steps_to_equilibrium"] > 0]
    longest = max(f.evidence["steps_to_equilibrium"] for f in found)
    where = f"{len(found) - len(away)} of {len(found)} groups have the norm of equilibrium"
    rest = (
        f"; {away[0]}{' and others' if len(away) > 1 else ''} at most some {longest:.0f} steps from it" if away else ""
    )
    text = f"{where}{rest}; angular updates are {min(ratios):.2g} to {max(ratios):.2g} of those at equilibrium"
    return [Finding("equilibrium", "info", text, {"groups": {f.evidence["group"]: f.evidence for f in found}})]


def _schedule(history: GroupHistory) -> list[Finding]:
    good = history.finite
    if good.sum() < ENOUGH or history.on_sphere:
        return []
    lr, norm = history.lr[good], history.norm[good]
    elr = lr / norm**2
    if not (elr > 0).all():
        return []
    lr_factor, elr_factor = float(lr[-1] / lr[0]), float(elr[-1] / elr[0])
    if abs(np.log(elr_factor / lr_factor)) < np.log(2):
        return []
    text = (
        f"{history.name}: since step {history.steps[good][0]} the lr {_times(lr_factor)} and the ELR "
        f"{_times(elr_factor)}: the norm went from {norm[0]:.3g} to {norm[-1]:.3g}. "
        "The schedule that training sees is that of the ELR"
    )
    evidence = {"group": history.name, "lr_factor": lr_factor, "elr_factor": elr_factor, "elr": float(elr[-1])}
    return [Finding("schedule", "info", text, evidence)]


def _times(factor: float) -> str:
    if abs(factor - 1) < 0.005:
        return "did not change"
    return f"rose {factor:.3g}-fold" if factor > 1 else f"fell to {100 * factor:.2g} %"
