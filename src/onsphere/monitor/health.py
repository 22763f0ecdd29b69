"""What the readings of a group say about numbers, precision, invariance and single tensors.

A step that is smaller than the distance of neighbouring numbers is lost in rounding: with u that distance at 1 (2⁻⁷ in
bfloat16), weights w move only where |D| > u |w| / 4 or so. What SGD ought to have moved is known, lr |g| (times ρ² on a
sphere), and is compared with what it did move; of other optimisers it is said where nothing moves at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.monitor.finding import Finding, finding, listed
from onsphere.monitor.history import GroupHistory
from onsphere.monitor.titles import gist

__all__ = [
    *("ENOUGH", "by_choice", "holds", "invariance", "learning_rate", "no_gradient", "non_finite", "precision"),
    *("rotation", "small_gradients"),
]

#: Readings that a judgement on averages needs.
ENOUGH = 20
#: Noether residuals above these: an eps that shows, and a group that is not invariant.
_EPS_SHOWS, _NOT_INVARIANT = 1e-4, 1e-2
#: A tensor that turns so many times faster or slower than the median one is named.
_ODD = 3.0
#: So much of a step arrives at least, or rounding has swallowed the rest.
_ARRIVES = 0.8


def rotation(histories: Sequence[GroupHistory]) -> list[Finding]:
    """Matrices that turn much faster or slower than the other matrices that the same optimiser steps.

    Gains and biases are not compared, nor embeddings and heads: how fast they turn says where they began, how often
    their words come, or how large the logits are, and little of their learning rate.
    """
    found = []
    for kind in dict.fromkeys(history.optimizer for history in histories):
        found += _odd([history for history in histories if history.optimizer == kind])
    return found


def _odd(histories: Sequence[GroupHistory]) -> list[Finding]:
    speeds = {}
    for history in histories:
        for name, angles in history.tensors.items():
            recent = angles[len(angles) // 2 :]
            recent = recent[np.isfinite(recent)]
            if len(recent) >= ENOUGH // 2 and name not in history.vectors | history.ends:
                speeds[name] = float(np.median(recent))
    if len(speeds) < 3:
        return []
    usual = float(np.median(list(speeds.values())))
    if not usual > 0:
        return []
    found = []
    fast, slow = "a lower learning rate or a larger norm", "a higher learning rate or a smaller norm"
    for word, odd, cure in (
        ("faster", {n: s / usual for n, s in speeds.items() if s > _ODD * usual}, fast),
        ("slower", {n: s / usual for n, s in speeds.items() if 0 < s < usual / _ODD}, slow),
    ):
        if odd:
            named = sorted(odd, key=lambda n: abs(np.log(odd[n])), reverse=True)
            which = ", ".join(f"{n} ({odd[n]:.2g}x)" for n in named[:3]) + (", ..." if len(named) > 3 else "")
            seen = (
                f"{which} {'turns' if len(odd) == 1 else 'turn'} {word} than the rest (median {usual:.2g} rad a step)"
            )
            evidence = {"groups": [history.name for history in histories], "median": usual, "relative": odd}
            found.append(finding("rotation", "info", seen, evidence, f"{cure} evens it out, if it is not meant"))
    return found


def holds(history: GroupHistory) -> bool:
    """Whether readings do not speak against scale invariance: the typical Noether residual is small, or not known."""
    typical = _residual(history)
    return typical is None or typical <= _NOT_INVARIANT or bool(history.frozen)


def invariance(history: GroupHistory) -> list[Finding]:
    """Whether a group that is said to be scale-invariant is."""
    typical = _residual(history)
    # Gradients computed in a coarse dtype are not orthogonal to the weights to better than this.
    if not history.invariant or typical is None or typical <= max(_EPS_SHOWS, history.resolution / 4):
        return []
    evidence: dict[str, Any] = {"group": history.name, "noether_residual": typical}
    if history.frozen and len(history.frozen) < len(history.tensors):
        seen = (
            f"{history.said}: {listed(history.frozen)} has no gradient, so the rest moves alone and the Noether "
            f"residual ({typical:.1g}) cannot tell whether the group is invariant"
        )
        evidence["frozen"] = list(history.frozen)
        return [finding("invariance", "info", seen, evidence, "train or freeze a group as a whole")]
    if typical > _NOT_INVARIANT:
        if history.held and history.on_sphere and not history.frozen_norms:
            return []  # see by_choice
        seen = (
            f"{history.said}: not scale-invariant (Noether residual {typical:.1g}, exact invariance is below 1e-5): "
            "ELRs say little"
        )
        advice = (
            f"{listed(history.frozen_norms)} is in eval mode, so its statistics are frozen and it undoes no scaling: "
            "leave the weights before it out of the groups"
            if history.frozen_norms
            else "build the groups with onsphere.sphere_groups(model, batch), in the modes in which the model trains "
            "(a norm layer in eval mode undoes no rescaling), or, if these spheres are a choice, keep the weights on "
            "them with onsphere.keep_on_sphere(optimizer, groups)"
        )
        evidence["frozen_norms"] = list(history.frozen_norms)
        return [finding("invariance", "alarm", seen, evidence, advice)]
    seen = (
        f"{history.said}: invariance is blurred (Noether residual {typical:.1g}): the norms' eps or low precision shows"
    )
    return [finding("invariance", "warning", seen, evidence, "a smaller eps or larger weights mend it")]


def no_gradient(histories: Sequence[GroupHistory], told: Sequence[Finding]) -> list[Finding]:
    """Tensors that had no gradient at the latest readings, in one finding.

    Args:
        histories: The readings of the groups, ``total`` apart.
        told: Findings on them so far; what these say is not said again.
    """
    known = {name for one in told for name in one.evidence.get("frozen", ())}
    frozen = [name for one in histories if len(one.steps) >= ENOUGH for name in one.frozen if name not in known]
    if not frozen:
        return []
    seen = f"{gist(frozen)}: no gradient at any of the last {ENOUGH} readings"
    advice = "if that is not meant, see that they are trainable and that the loss depends on them"
    return [finding("no gradient", "info", seen, {"tensors": frozen}, advice)]


def small_gradients(history: GroupHistory) -> list[Finding]:
    """Gradients so small that Adam's eps decides the steps."""
    good = history.finite & (history.gradient_norm > 0)
    if not history.eps or good.sum() < ENOUGH:
        return []
    typical = float(np.median(history.gradient_norm[good][-ENOUGH:])) / np.sqrt(history.parameters)
    if typical >= history.eps:
        return []
    seen = (
        f"{history.said}: gradients (root mean square of their numbers {typical:.1g}) are smaller than the optimiser's "
        f"eps of {history.eps:.1g}, so steps are shorter than the lr says and shrink with the gradient"
    )
    evidence = {"group": history.name, "gradient": typical, "eps": history.eps}
    return [finding("eps", "info", seen, evidence, "lower eps, unless this is how it is meant")]


def by_choice(histories: Sequence[GroupHistory]) -> list[Finding]:
    """Spheres on which the optimiser keeps weights that are not scale-invariant, in one finding."""
    chosen = {
        history.said: typical
        for history in histories
        if history.held and history.on_sphere and not history.frozen_norms and not history.frozen
        if (typical := _residual(history)) is not None and typical > _NOT_INVARIANT
    }
    if not chosen:
        return []
    kept = "1 group is" if len(chosen) == 1 else f"{len(chosen)} groups are"
    seen = (
        f"{kept} kept on spheres by choice ({gist(list(chosen))}): the loss depends on these norms, so fixing them "
        "constrains the function unless other weights make up for it"
    )
    evidence = {"groups": list(chosen), "noether_residual": max(chosen.values())}
    advice = "read angles, not ELRs; onsphere.norm_groups tells which of them constrain"
    return [finding("spheres by choice", "info", seen, evidence, advice)]


def precision(history: GroupHistory) -> list[Finding]:
    """Steps that the weights' dtype is too coarse for."""
    good = history.finite & (history.gradient_norm > 0) & (history.lr > 0)
    if good.sum() < ENOUGH:
        return []
    moved = history.effective_step[good][-ENOUGH:]
    step = float(np.median(moved))
    evidence = {"group": history.name, "resolution": history.resolution, "effective_step": step}
    hint = "keep the weights in float32 (and compute under autocast), or raise the learning rate"
    if not moved.any():
        seen = f"{history.said}: nothing moves although gradient and lr are not zero: rounding swallows the steps"
        return [finding("precision", "alarm", seen, evidence | {"arrives": 0.0}, hint)]
    wanted = _wanted_step(history)
    if wanted is None or not history.resolution:
        return []
    arrives = float(np.median(moved / np.maximum(wanted[good][-ENOUGH:], 1e-300)))
    if arrives > _ARRIVES or step > history.resolution:
        return []
    seen = (
        f"{history.said}: rounding swallows most of the steps: {100 * arrives:.2g} % of their length arrives, since "
        f"they are small beside the distance of neighbouring weights (relative {history.resolution:.1g})"
    )
    return [finding("precision", "warning", seen, evidence | {"arrives": arrives}, hint)]


def _wanted_step(history: GroupHistory) -> NDArray[np.float64] | None:
    """The effective step of exact arithmetic, where the optimiser's rule tells it."""
    if history.momentum or history.rule is None:
        return None
    radial = np.nan_to_num(history.noether_residual)
    tangent = history.lr * history.gradient_norm * np.sqrt(np.maximum(1 - radial * radial, 0.0))
    return np.asarray(tangent * history.norm if history.rule == "sphere" else tangent / history.norm)


def _residual(history: GroupHistory) -> float | None:
    residuals = history.noether_residual[history.finite & np.isfinite(history.noether_residual)]
    return float(np.median(residuals[-max(ENOUGH, len(residuals) // 4) :])) if len(residuals) else None


def learning_rate(history: GroupHistory) -> list[Finding]:
    """A learning rate of zero."""
    if float(np.max(history.lr[history.finite])) > 0:
        return []
    seen = f"{history.said}: the learning rate is 0 at every reading, so nothing moves and there is no ELR"
    return [finding("lr", "warning", seen, {"group": history.name}, "set one, or leave the group out")]


def non_finite(history: GroupHistory) -> list[Finding]:
    """Readings in which a weight, gradient or update is not finite."""
    bad = history.non_finite
    if not bad.any():
        return []
    at = int(np.argmax(bad))
    first = int(history.steps[at])
    sources = ("weight", history.norm), ("gradient", history.gradient_norm)
    what = next((name for name, sizes in sources if not np.isfinite(sizes[at])), "update")
    where = f" of {listed(history.damaged)}" if history.damaged else ""
    seen = (
        f"{history.said}: {int(bad.sum())} of {len(bad)} readings are not finite, the first at step {first}, where the "
        f"{what}{where} is not"
    )
    evidence = {"group": history.name, "readings": int(bad.sum()), "first_step": first}
    evidence |= {"tensors": list(history.damaged)} if history.damaged else {}
    return [finding("non-finite", "alarm", seen, evidence, "go back to a checkpoint from before it")]
