"""The equilibrium under weight decay where training does not fit its data: norm, ELR and angle of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onsphere.lab.claims.rules import MOST_SEEDS, below, near
from onsphere.lab.claims.study import (
    INTRINSIC,
    PERIODS,
    REGIMES,
    ROTATION,
    SPHERICAL_MOTION,
    Claim,
    Evidence,
    Study,
    Variant,
)
from onsphere.lab.claims.topics.equilibrium import farthest
from onsphere.lab.claims.topics.periods import number, over, sphere_jumps
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_7

if TYPE_CHECKING:
    from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun

_PARTS: dict[str, dict[str, Any]] = {
    "compared": {"lr": (0.3, 1.0), "weight_decay": 3e-3, "compare_sphere": True},
    "same product": {"lr": 0.3, "weight_decay": 1e-2},
}

EQUILIBRIUM = Study(
    "equilibrium",
    "SGD with weight decay on data that the network cannot fit, learning rates 0.3 and 1; and on the sphere beside it.",
    "periods",
    (
        Variant(FASHION, ENGINE | FASHION_7 | {"train": 2000, "widths": (48, 48), "steps": 3500}, parts=_PARTS),
        Variant(DIGITS, ENGINE | {"label_noise": 0.25, "widths": (24, 24), "steps": 3500}, parts=_PARTS),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET | {"eps": 1e-5, "steps": 1000 * EPOCH},
            parts={
                "compared": {"lr": (0.3, 1.0), "weight_decay": 1e-3, "compare_sphere": True},
                "same product": {"lr": 0.3, "weight_decay": 3.333e-3},
            },
        ),
    ),
    figures=("course-lr1-wd0.003",),
)


def _rotation(name: str, optimizer: str) -> Study:
    return Study(
        name,
        f"Every parameter but the head trained with {'AdamW' if optimizer == 'adamw' else 'momentum 0.9'}, "
        "a perceptron and a transformer; the angle of each scale-invariant group's steps.",
        "",
        (
            Variant(DIGITS, {"task": "digits", "optimizer": optimizer, "steps": 2000}),
            Variant("text", {"task": "text", "optimizer": optimizer, "steps": 1000}),
        ),
        function="rotation:rotation",
    )


ADAMW = _rotation("rotation-adamw", "adamw")
MOMENTUM = _rotation("rotation-momentum", "momentum")


def worst(evidence: Evidence, ratio: Callable[[PeriodsRun], float], choose: Callable[..., float]) -> list[float]:
    """One of the numbers of each seed's runs at both learning rates."""
    result: PeriodsResult = evidence.parts["compared"]
    found: dict[int, list[float]] = {}
    for run in result.runs:
        found.setdefault(run.seed, []).append(ratio(run))
    return [choose(found[seed]) for seed in sorted(found)]


def product(evidence: Evidence, name: str) -> list[float]:
    """An attribute with lr 0.3 and the larger decay over that with lr 1, the product being the same, by seed."""
    first: PeriodsResult = evidence.parts["compared"]
    second: PeriodsResult = evidence.parts["same product"]
    one, other = (
        sorted(runs, key=lambda run: run.seed) for runs in ([r for r in first.runs if r.lr == 1.0], second.runs)
    )
    return [over(getattr(b, name), getattr(a, name)) for a, b in zip(one, other, strict=True)]


def sphere_ratio(evidence: Evidence) -> list[float]:
    """Loss over that of the sphere at the ELR of the setting, the farthest from 1 of the settings, by seed."""
    result: PeriodsResult = evidence.parts["compared"]
    level = {row.setting: row.sphere_loss for row in result.comparison}
    return worst(evidence, lambda run: over(run.loss, level.get(run.setting)), farthest)


def largest(values: list[float]) -> float:
    """The largest number; NaN if one is missing."""
    return math.nan if any(value != value for value in values) else max(values)


CLAIMS = (
    Claim(
        "equilibrium.reached",
        "Where training cannot fit its data there are no periods: norm and ELR settle.",
        f"{PERIODS}, equilibrium presumption; {SPHERICAL_MOTION}",
        EQUILIBRIUM,
        "1 where the run is at equilibrium at both learning rates",
        lambda e: worst(e, lambda run: float(run.behaviour == "equilibrium"), min),
        MOST_SEEDS,
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "equilibrium.angle",
        "At equilibrium the angle of a step is √(2 lr · wd), whatever the loss.",
        f"{SPHERICAL_MOTION}; {ROTATION}",
        EQUILIBRIUM,
        "rms angular update over √(2 lr · wd), the farthest from 1 of both learning rates",
        lambda e: worst(
            e, lambda run: over(run.rms_angular_update, math.sqrt(2 * run.lr * run.weight_decay)), farthest
        ),
        near(1, 0.05),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "equilibrium.elr",
        "At equilibrium the ELR is √(2 lr · wd / E g̃²).",
        f"{SPHERICAL_MOTION}; {PERIODS}",
        EQUILIBRIUM,
        "measured ELR over that law, the farthest from 1 of both learning rates",
        lambda e: worst(e, lambda run: over(run.mean_elr, run.predicted_elr), farthest),
        near(1, 0.05),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "equilibrium.steady",
        "At equilibrium the ELR hardly moves.",
        SPHERICAL_MOTION,
        EQUILIBRIUM,
        "standard deviation of log ELR over time, the larger of both learning rates",
        lambda e: worst(e, lambda run: number(run.elr_spread), largest),
        below(0.1, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "equilibrium.sphere-loss",
        "At equilibrium the loss is that of the sphere at the same ELR.",
        f"{REGIMES}, conventional training",
        EQUILIBRIUM,
        "loss over that of the sphere, the farthest from 1 of both learning rates",
        sphere_ratio,
        near(1, 0.1, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "not decided"},
    ),
    Claim(
        "equilibrium.sphere-has-no-jumps",
        "On the sphere at that ELR there are next to no δ-jumps.",
        PERIODS,
        EQUILIBRIUM,
        "δ-jumps in 3,500 steps, the larger of both learning rates",
        lambda e: sphere_jumps(e, "compared"),
        below(1, origin="earlier seeds"),
        {FASHION: "not decided", DIGITS: "holds"},
        note="None, one or two runs of ten have one, by the machine's rounding; a periodic run has 15 and more.",
    ),
    Claim(
        "equilibrium.product-elr",
        "The ELR at equilibrium depends on learning rate and weight decay through their product alone.",
        f"{INTRINSIC}; {SPHERICAL_MOTION}",
        EQUILIBRIUM,
        "ELR with lr 0.3 and decay 1e-2 over that with 1 and 3e-3",
        lambda e: product(e, "mean_elr"),
        near(1, 0.05),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "equilibrium.product-loss",
        "So does the loss that training comes to: only the intrinsic learning rate lr · wd counts.",
        f"{INTRINSIC}, fast equilibrium",
        EQUILIBRIUM,
        "loss with lr 0.3 and decay 1e-2 over that with 1 and 3e-3",
        lambda e: product(e, "loss"),
        near(1, 0.05),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "rotation.adamw",
        "With AdamW every group of weights turns √(2 lr · wd (1 - β₁)/(1 + β₁)) a step.",
        f"{ROTATION}, table of equilibria",
        ADAMW,
        "rms angular update over the law's, the farthest from 1 of all groups",
        lambda e: list(e.values["angle"]),
        near(1, 0.1, origin="earlier seeds"),
        {DIGITS: "holds", "text": "holds"},
    ),
    Claim(
        "rotation.adamw-balanced",
        "With AdamW all groups of weights turn alike.",
        f"{ROTATION}, balanced rotation",
        ADAMW,
        "largest rms angular update over the smallest of all groups",
        lambda e: list(e.values["spread"]),
        below(1.2, origin="derived"),
        {DIGITS: "holds", "text": "holds"},
    ),
    Claim(
        "rotation.momentum",
        "With momentum α every group of weights turns √(2 lr · wd / (1 + α)) a step.",
        f"{SPHERICAL_MOTION}; {ROTATION}, table of equilibria",
        MOMENTUM,
        "rms angular update over the law's, the farthest from 1 of all groups",
        lambda e: list(e.values["angle"]),
        near(1, 0.1, origin="earlier seeds"),
        {DIGITS: "holds", "text": "holds"},
    ),
    Claim(
        "rotation.momentum-balanced",
        "With momentum all groups of weights turn alike.",
        f"{ROTATION}, balanced rotation",
        MOMENTUM,
        "largest rms angular update over the smallest of all groups",
        lambda e: list(e.values["spread"]),
        below(1.2, origin="derived"),
        {DIGITS: "holds", "text": "holds"},
    ),
)
