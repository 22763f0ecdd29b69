"""Whether weight decay and updates balance, how long that takes, and which schedule the effective learning rate had.

Whether a norm has settled is read from the balance itself, not from the norm that a law foresees: a relative distance δ
from the norm of equilibrium shrinks by the factor e in a relaxation time τ, so that log ρ changes by δ / τ a step. The
change of log ρ in a relaxation time is therefore the distance that is left, whatever the norm's place is.

Source: Wan et al., Spherical Motion Dynamics, and Kosson et al., Rotational Equilibrium (the laws); Wang and Aitchison,
arXiv 2405.13698 (the time scale of decay); the test of balance is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.dynamics.equilibria import Equilibrium, Optimizer, equilibrium
from onsphere.monitor.finding import Finding, finding
from onsphere.monitor.health import ENOUGH
from onsphere.monitor.history import GroupHistory
from onsphere.monitor.titles import gist

__all__ = ["balances", "schedule", "time_scales"]

#: The norm counts as settled where it changes by less than this part in a relaxation time.
_NEAR = 0.05
#: Noise (two standard errors) excuses at most such a change.
_MOST_NOISE = 0.1
#: What is this part of a relaxation time away is there: readings tell it no better.
_SOON = 0.25
#: Where lr · weight decay sums up to less than this over all steps, decay has hardly acted.
_LITTLE = 0.3
#: Steps before which nothing is said of the time scale of decay.
_EARLY = 100
#: A schedule is said where ELR and lr moved apart by this factor.
_APART = 2.0


def balances(histories: Sequence[GroupHistory]) -> list[Finding]:
    """How far scale-invariant groups are from equilibrium; of more than three the one sentence on all."""
    return _together([one for history in histories for one in _balance(history)])


def _known(history: GroupHistory) -> tuple[Optimizer, Equilibrium] | None:
    """The optimiser's name in the theory and its equilibrium at the present settings."""
    good = history.finite
    lr, decay = float(history.lr[good][-1]), float(history.weight_decay[good][-1])
    if not (lr > 0 and decay > 0 and lr * decay < 1):
        return None
    recent = history.effective_gradient[good][-max(ENOUGH, int(good.sum()) // 4) :]
    gradient = float(np.sqrt(np.mean(recent**2)))
    known: dict[str, Any] = {"lr": lr, "weight_decay": decay}
    if history.optimizer == "SGD":
        name: Optimizer = "momentum" if history.momentum else "sgd"
        known["lr"] = lr * history.share  # dampening d is an lr (1 - d)
        known |= {"gradient_norm": gradient} if gradient > 0 else {}
        known |= {"momentum": history.momentum} if history.momentum else {}
    elif history.optimizer in ("AdamW", "Lion"):
        name = "adamw" if history.optimizer == "AdamW" else "lion"
        known |= {"parameters": history.parameters} | ({"betas": history.betas} if history.betas else {})
    else:
        return None
    return name, equilibrium(name, **known)


def _balance(history: GroupHistory) -> list[Finding]:
    good = history.finite
    if good.sum() < ENOUGH or history.on_sphere or _hardly(history):
        return []
    known = _known(history)
    if known is None or known[1].radius is None:
        return []
    name, law = known
    angles = history.angular_update[good]
    measured = float(np.sqrt(np.mean(angles[-max(ENOUGH, len(angles) // 4) :] ** 2)))
    norm = float(history.norm[good][-1])
    left, noise = _distance(history, law.relaxation_steps)
    settled = abs(left) < max(_NEAR, min(2 * noise, _MOST_NOISE))
    power = 4 if name in ("sgd", "momentum") else 2
    # The norm to this power relaxes exponentially: its place r, in units of that at equilibrium, from how it moves.
    place = 1 / max(1 + power * left, 1e-3)
    edge = abs((1 + np.sign(place - 1) * _NEAR) ** power - 1)
    steps = 0.0
    if not settled:
        steps = float(law.relaxation_steps * np.log(max(abs(place - 1) / edge, 1.0)))
        steps = 0.0 if steps < _SOON * law.relaxation_steps else steps
    evidence: dict[str, Any] = {
        "group": history.name,
        "optimizer": name,
        "norm": norm,
        "predicted_norm": law.radius,
        "relative_distance": norm / law.radius - 1,
        "balance": left,
        "noise": noise,
        "angular_update": measured,
        "predicted_angular_update": law.angular_update,
        "relaxation_steps": law.relaxation_steps,
        "steps_to_equilibrium": steps,
    }
    turns = f"angular update {measured:.2g} rad a step, {law.angular_update:.2g} at equilibrium"
    if steps == 0:
        seen = f"{history.said}: at equilibrium, decay and growth balance at norm {norm:.3g}; {turns}"
        return [finding("equilibrium", "info", seen, evidence, "nothing to do")]
    moves = "grows" if left > 0 else "shrinks"
    seen = (
        f"{history.said}: norm {norm:.3g} {moves} on its way to equilibrium, by the law at {law.radius:.3g} and some "
        f"{steps:.0f} steps from here; {turns}"
    )
    return [finding("equilibrium", "info", seen, evidence, "until then the ELR drifts with the norm at any fixed lr")]


def _distance(history: GroupHistory, relaxation: float) -> tuple[float, float]:
    """The change of log ρ in a relaxation time, positive if it grows, and its standard error.

    Over the last quarter of the run, or a relaxation time. Noise moves log ρ about the line, and remembers a relaxation
    time τ: a scatter σ over W steps leaves the slope uncertain by √12 σ / W √(2τ / W).
    """
    good = history.finite
    steps, level = history.steps[good].astype(float), np.log(history.norm[good])
    span = steps[-1] - steps[0]
    first = np.searchsorted(steps, steps[-1] - min(max(span / 4, relaxation), span / 2))
    first = max(min(int(first), len(steps) - ENOUGH), 0)
    late = steps[first:] - steps[-1]
    line = np.polyfit(late, level[first:], 1)
    memories = float(-late[0]) / relaxation
    scatter = float(np.std(level[first:] - np.polyval(line, late)))
    product = (history.lr * history.weight_decay)[good]
    left = float(line[0]) * relaxation * float(product[-1] / product[first:].mean())
    return left, scatter * float(np.sqrt(24 / memories**3))


def _together(found: list[Finding]) -> list[Finding]:
    """More than three findings on equilibrium as one."""
    if len(found) <= 3:
        return found
    ratios = [f.evidence["angular_update"] / f.evidence["predicted_angular_update"] for f in found]
    away = [f for f in found if f.evidence["steps_to_equilibrium"] > 0]
    longest = max(f.evidence["steps_to_equilibrium"] for f in found)
    seen = f"{len(found) - len(away)} of {len(found)} groups are at equilibrium"
    if away:
        first = away[0].message.split(":")[0]
        seen += f"; {first}{' and others' if len(away) > 1 else ''} some {longest:.0f} steps from it at most"
    seen += f"; angular updates are {min(ratios):.2g} to {max(ratios):.2g} of those at equilibrium"
    evidence = {"groups": {f.evidence["group"]: f.evidence for f in found}}
    advice = "until then ELRs drift with the norms at any fixed lr" if away else "nothing to do"
    return [finding("equilibrium", "info", seen, evidence, advice)]


# -- the time scale of decay ---------------------------------------------------------------------------------


def _elapsed(history: GroupHistory) -> float:
    """Learning rate times weight decay, summed over all steps from the first reading on."""
    if history.shrunk is None or not len(history.steps):
        return 0.0
    return float(np.nan_to_num(history.shrunk).sum() * history.every)


def _hardly(history: GroupHistory) -> bool:
    """Whether decay, of which there is some, has hardly acted: what it leads to cannot be told yet."""
    return history.shrunk is not None and 0 < _elapsed(history) < _LITTLE


def _is_short(history: GroupHistory) -> bool:
    """Whether decay has hardly acted after steps enough to say so."""
    return _hardly(history) and _steps(history) >= _EARLY


def _steps(history: GroupHistory) -> int:
    return int(history.steps[-1] - history.steps[0]) + 1 if len(history.steps) else 0


def time_scales(histories: Sequence[GroupHistory]) -> list[Finding]:
    """Groups whose decay has hardly acted so far, in one finding."""
    short = [one for one in histories if _is_short(one) and not one.on_sphere]
    if not short:
        return []
    most = max(short, key=_elapsed)
    elapsed, peak, steps = _elapsed(most), float(np.nanmax(most.shrunk)), _steps(most)  # type: ignore[arg-type]
    others = {one.name for one in histories if not one.still} - {one.name for one in short}
    who = "all groups" if len(short) > 1 and not others else gist([one.said for one in short])
    seen = (
        f"{who}: weight decay has hardly acted: lr·wd adds up to {elapsed:.2g} over the {steps} steps that were read, "
        f"and decides norms only from about 1 on (its memory is {1 / peak:,.0f} steps at the highest lr); norms are "
        "still those from before, and growth"
    )
    evidence = {"groups": [one.name for one in short], "elapsed": elapsed, "memory_steps": 1 / peak, "steps": steps}
    advice = "in a run of this length change the ELR by lr or initial norm, or raise the weight decay"
    return [finding("time scale", "info", seen, evidence, advice)]


# -- the schedule --------------------------------------------------------------------------------------------


def schedule(history: GroupHistory) -> list[Finding]:
    """Whether the ELR moved otherwise than the lr, from the peak of the lr on."""
    good = history.finite
    if good.sum() < ENOUGH or history.on_sphere:
        return []
    lr, norm, steps = history.lr[good], history.norm[good], history.steps[good]
    peak, moving = int(np.argmax(lr)), np.flatnonzero(lr > 0)
    if not len(moving) or moving[-1] + 1 - peak < ENOUGH:
        return []
    lr, norm = lr[: moving[-1] + 1], norm[: moving[-1] + 1]  # a schedule may end at zero, where there is no ELR
    elr: NDArray[np.float64] = lr / norm**2
    lr_factor, elr_factor = float(lr[-1] / lr[peak]), float(elr[-1] / elr[peak])
    if abs(np.log(elr_factor / lr_factor)) < np.log(_APART):
        return []
    since = f"since the peak of the lr at step {steps[peak]}" if peak else f"since step {steps[0]}"
    seen = (
        f"{history.said}: {since} the lr {_times(lr_factor)} and the ELR {_times(elr_factor)}: the norm went from "
        f"{norm[peak]:.3g} to {norm[-1]:.3g}"
    )
    evidence = {"group": history.name, "lr_factor": lr_factor, "elr_factor": elr_factor, "elr": float(elr[-1])}
    evidence |= {"since": int(steps[peak])}
    advice = "the schedule that training sees is that of the ELR: judge, compare and copy that one"
    return [finding("schedule", "info", seen, evidence, advice)]


def _times(factor: float) -> str:
    if abs(factor - 1) < 0.005:
        return "did not change"
    return f"rose {factor:.3g}-fold" if factor > 1 else f"fell to {100 * factor:.2g} %"
