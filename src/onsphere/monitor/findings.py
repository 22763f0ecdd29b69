"""What the readings mean, as findings with evidence and something to do: jumps, equilibrium, layers, invariance.

Jumps are looked for in -2 log norm, the part of log ELR that the weights decide: a peak after a climb and before a
fall of more than ln 1.25 each. A learning-rate schedule alone makes no jump, and neither does a norm that only grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.detect import DROP, zigzag_jumps
from onsphere.dynamics.equilibria import Equilibrium, Optimizer, equilibrium, steps_to_equilibrium
from onsphere.monitor.forecast import Forecast, forecast_jump
from onsphere.monitor.history import GroupHistory

__all__ = ["Finding", "diagnose", "forecast_of", "jumps_of"]

Severity = Literal["info", "warning", "alarm"]

#: Steps in which the norm still finds its place after initialisation.
BURN_IN = 100
#: At equilibrium gradient noise moves log norm² by about √(lr wd / 2); a jump moves it by so many times that at least.
_SPREADS = 6.0
#: The fall of a jump takes at most so many steps, and so many readings where they are sparse.
_FALL_STEPS, _LEAST_FALL = 60, 3
#: Noether residuals above these: an eps that shows, and a group that is not invariant.
_EPS_SHOWS, _NOT_INVARIANT = 1e-4, 1e-2
#: A tensor that turns so many times faster or slower than the median one is named.
_ODD = 3.0
#: Readings that a judgement on averages needs.
_ENOUGH = 20
#: The norm counts as settled within this relative distance of its equilibrium, angles likewise.
_NEAR = 0.05
#: A jump is announced when it may come within this part of a period.
_SOON = 0.25


@dataclass(frozen=True)
class Finding:
    """Something the readings say.

    Attributes:
        kind: ``jump``, ``jump expected``, ``equilibrium``, ``rotation``, ``schedule``, ``invariance``, ``non-finite``,
            ``lr``, or ``param groups`` (the optimiser's were changed after the monitor was attached).
        severity: ``info``, ``warning`` or ``alarm``.
        message: One sentence or two: what is seen, and what to do.
        evidence: The numbers behind it.
    """

    kind: str
    severity: Severity
    message: str
    evidence: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        return self.message


def diagnose(groups: Sequence[GroupHistory]) -> list[Finding]:
    """Findings on every group, alarms first.

    Args:
        groups: Their readings. A group called ``total`` stands for the others in what concerns jumps and schedules;
            what is to be said of equilibrium on more than three groups is said of the nearest and the farthest.

    Returns:
        The findings; an empty list if nothing stands out.
    """
    found: list[Finding] = []
    sound = [history for history in groups if history.finite.sum() >= 3]
    for history in groups:
        found += _non_finite(history)
    total = [history for history in sound if history.name == "total"]
    parts = [history for history in sound if history.name != "total"]
    for history in parts:
        found += _learning_rate(history) + _invariance(history) + _rotation(history)
    spheres = [history for history in parts if history.invariant]
    jumping = [finding for history in total or spheres for finding in _jumps(history)]
    found += jumping or [finding for history in spheres for finding in _jumps(history)]
    found += _balance([finding for history in spheres for finding in _equilibrium(history)])
    found += [finding for history in total or spheres for finding in _schedule(history)]
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
    text += f"; lower the weight decay, or train on the sphere at a fixed ELR below {safe:.1g}"
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
    recent = history.effective_gradient[good][-max(_ENOUGH, int(good.sum()) // 4) :]
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
    if known is None or good.sum() < _ENOUGH or history.on_sphere or len(jumps_of(history)) > 1:
        return []
    name, law, arguments = known
    angles = history.angular_update[good]
    measured = float(np.sqrt(np.mean(angles[-max(_ENOUGH, len(angles) // 4) :] ** 2)))
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
    if good.sum() < _ENOUGH or history.on_sphere:
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


# -- the rest ---------------------------------------------------------------------------------------------------


def _rotation(history: GroupHistory) -> list[Finding]:
    speeds = {}
    for name, angles in history.tensors.items():
        recent = angles[len(angles) // 2 :]
        recent = recent[np.isfinite(recent)]
        if len(recent) >= _ENOUGH // 2:
            speeds[name] = float(np.median(recent))
    if len(speeds) < 3:
        return []
    usual = float(np.median(list(speeds.values())))
    if not usual > 0:
        return []
    found = []
    for word, odd in (
        ("faster", {n: s / usual for n, s in speeds.items() if s > _ODD * usual}),
        ("slower", {n: s / usual for n, s in speeds.items() if 0 <= s < usual / _ODD}),
    ):
        if odd:
            named = sorted(odd, key=lambda n: abs(np.log(max(odd[n], 1e-300))), reverse=True)
            listed = ", ".join(f"{n} ({odd[n]:.2g}x)" for n in named[:3]) + (", ..." if len(named) > 3 else "")
            text = f"{history.name}: {listed} turns {word} than the rest (median {usual:.2g} rad a step)"
            found.append(Finding("rotation", "info", text, {"group": history.name, "median": usual, "relative": odd}))
    return found


def _invariance(history: GroupHistory) -> list[Finding]:
    residuals = history.noether_residual[history.finite & np.isfinite(history.noether_residual)]
    if not history.invariant or not len(residuals):
        return []
    typical = float(np.median(residuals[-max(_ENOUGH, len(residuals) // 4) :]))
    evidence = {"group": history.name, "noether_residual": typical}
    if typical > _NOT_INVARIANT:
        text = (
            f"{history.name}: not scale-invariant (Noether residual {typical:.1g}, exact invariance is below 1e-5): "
            "its ELR says little; build the groups with onsphere.sphere_groups(model, batch)"
        )
        return [Finding("invariance", "alarm", text, evidence)]
    if typical > _EPS_SHOWS:
        text = (
            f"{history.name}: invariance is blurred (Noether residual {typical:.1g}): the norms' eps or low precision "
            "shows; a smaller eps or larger weights mend it"
        )
        return [Finding("invariance", "warning", text, evidence)]
    return []


def _learning_rate(history: GroupHistory) -> list[Finding]:
    if float(np.max(history.lr[history.finite])) > 0:
        return []
    text = f"{history.name}: the learning rate is 0 at every reading, so nothing moves and there is no ELR"
    return [Finding("lr", "warning", text, {"group": history.name})]


def _non_finite(history: GroupHistory) -> list[Finding]:
    bad = ~history.finite
    if not bad.any():
        return []
    first = int(history.steps[np.argmax(bad)])
    text = f"{history.name}: {int(bad.sum())} of {len(bad)} readings are not finite, the first at step {first}"
    evidence = {"group": history.name, "readings": int(bad.sum()), "first_step": first}
    return [Finding("non-finite", "alarm", text, evidence)]


def _times(factor: float) -> str:
    if abs(factor - 1) < 0.005:
        return "did not change"
    return f"rose {factor:.3g}-fold" if factor > 1 else f"fell to {100 * factor:.2g} %"
