"""The three regimes of training on the sphere at fixed effective learning rates, with cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import MOST_SEEDS, above, below, within
from onsphere.lab.claims.study import REGIMES, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.settings import (
    CIFAR_10,
    CIFAR_100,
    CONVNET,
    DIGITS,
    ENGINE,
    EPOCH,
    FASHION,
    FASHION_14,
    PAPER,
    RESNET,
)

if TYPE_CHECKING:
    from onsphere.lab.experiments.regimes.classify import Cell
    from onsphere.lab.experiments.regimes.result import RegimesResult

_RANK = {"convergence": 0, "chaotic_equilibrium": 1, "divergence": 2}
_WIDE = ENGINE | {"widths": (64, 64), "refine": 0}

MAP = Study(
    "regimes",
    "A grid of effective learning rates on the unit sphere, all seeds at each.",
    "regimes",
    (
        Variant(
            DIGITS,
            _WIDE | {"elr_min": 5e-4, "elr_max": 0.8, "elrs": 9},
            {"slow": 5e-4, "low": 1.26e-3, "middle": 2e-2, "upper": 5.03e-2, "high": 0.318},
        ),
        Variant(
            FASHION,
            _WIDE
            | FASHION_14
            | {"train": 1000, "steps": 2000, "batch_size": 128, "elr_min": 4.3e-4, "elr_max": 1.0, "elrs": 9},
            {"slow": 4.3e-4, "low": 1.13e-3, "middle": 2.07e-2, "upper": 5.47e-2, "high": 0.38},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET | PAPER | {"elr_min": 1e-5, "elr_max": 1.0, "elrs": 11, "steps": 1000 * EPOCH, "refine": 0},
            {"slow": 3.16e-5, "low": 1e-4, "middle": 3.16e-3, "upper": 1e-2, "high": 0.1},
        ),
        Variant(
            CIFAR_100,
            RESNET
            | PAPER
            | {"data": "cifar100", "elr_min": 1e-5, "elr_max": 1.0, "elrs": 11, "steps": 1000 * EPOCH, "refine": 0},
            {"slow": 1e-5, "low": 3.16e-5, "middle": 1e-2, "upper": 3.16e-2, "high": 0.316},
        ),
    ),
    figures=("overview",),
)


def cells(evidence: Evidence, place: str) -> Sequence[Cell]:
    """The cells at a place, by seed.

    Raises:
        LookupError: The grid has no such effective learning rate.
    """
    result: RegimesResult = evidence.result
    elr = evidence.places[place]
    found = sorted((c for c in result.cells if abs(c.elr / elr - 1) < 0.05), key=lambda cell: cell.seed)
    if len(found) != len(result.seeds):
        raise LookupError(f"{result.run} has no effective learning rate {elr:g}")
    return found


def in_order(evidence: Evidence) -> list[float]:
    """1 for a seed whose labels rise with the ELR, all three among them, at most one cell out of order; else 0."""
    result: RegimesResult = evidence.result
    found = []
    for seed in result.seeds:
        ranks = [_RANK[c.regime] for c in sorted(result.cells, key=lambda c: c.elr) if c.seed == seed]
        longest = [1] * len(ranks)
        for i, rank in enumerate(ranks):
            longest[i] = 1 + max((longest[j] for j in range(i) if ranks[j] <= rank), default=0)
        found.append(float(len(ranks) - max(longest) <= 1 and set(ranks) == {0, 1, 2}))
    return found


def divergence_begins(evidence: Evidence) -> list[float]:
    """The geometric middle of each seed's bracket of the second boundary; NaN where there is none."""
    result: RegimesResult = evidence.result
    found = []
    for bracket in sorted(result.boundaries["divergence"].per_seed, key=lambda one: one.seed):
        known = bracket.low is not None and bracket.high is not None
        found.append((bracket.low * bracket.high) ** 0.5 if known else float("nan"))  # type: ignore[operator]
    return found


def from_median(evidence: Evidence) -> list[float]:
    """How far the middle of each seed's bracket of the second boundary is from the median seed's, in decades."""
    middles = [math.log10(middle) for middle in divergence_begins(evidence)]
    return [abs(middle - median(middles)) for middle in middles]


def is_labelled(evidence: Evidence, *wanted: tuple[str, str]) -> list[float]:
    """1 for a seed whose runs have the wanted labels at the places, else 0."""
    rows = [[cell.regime == regime for cell in cells(evidence, place)] for place, regime in wanted]
    return [float(all(row)) for row in zip(*rows, strict=True)]


CLAIMS = (
    Claim(
        "regimes.three",
        "With a growing effective learning rate training on the sphere converges, levels off above zero, diverges.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "1 where the labels rise with the ELR through all three, at most one cell out of order",
        in_order,
        MOST_SEEDS,
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.labels",
        "A small, a middle and a large ELR have the three labels.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "1 where the three runs have them",
        lambda e: is_labelled(e, ("low", "convergence"), ("middle", "chaotic_equilibrium"), ("high", "divergence")),
        MOST_SEEDS,
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.convergence-fits",
        "At a small ELR training fits its data, wrong labels included.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "training error (fraction)",
        lambda e: [cell.train_error for cell in cells(e, "low")],
        below(0.01, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.convergence-loss",
        "At a small ELR the loss falls to a small part of what it was.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "loss of the last quarter over that at initialisation",
        lambda e: [cell.relative_loss for cell in cells(e, "low")],
        below(0.02, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.larger-elr-fits-better",
        "Well inside the convergence regime a larger ELR reaches a lower training loss in as many steps.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "loss at the larger ELR over that at the smaller",
        lambda e: [a.loss / b.loss for a, b in zip(cells(e, "low"), cells(e, "slow"), strict=True)],
        below(1.0),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.larger-elr-flatter",
        "Well inside the convergence regime a larger ELR ends at a lower effective gradient norm.",
        f"{REGIMES}, Fig. 1 and 2",
        MAP,
        "gradient norm at the larger ELR over that at the smaller",
        lambda e: [a.gradient_norm / b.gradient_norm for a, b in zip(cells(e, "low"), cells(e, "slow"), strict=True)],
        below(1.0),
        {DIGITS: "holds", FASHION: "holds"},
        note="At equal steps, not at equal loss; spectrum.* compare at equal loss.",
    ),
    Claim(
        "regimes.larger-elr-generalises",
        "Well inside the convergence regime a larger ELR ends at a lower test error.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "test error at the larger ELR minus that at the smaller (points)",
        lambda e: [100 * (a.test_error - b.test_error) for a, b in zip(cells(e, "low"), cells(e, "slow"), strict=True)],
        below(0.0),
        {DIGITS: "not decided", FASHION: "holds"},
    ),
    Claim(
        "regimes.equilibrium-levels-off",
        "In the chaotic equilibrium the loss levels off.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "loss of the last quarter over that of the quarter before",
        lambda e: [cell.trend for cell in cells(e, "middle")],
        within(0.93, 1.07, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.equilibrium-above-zero",
        "The level of the chaotic equilibrium is well above zero and well below that of random weights.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "loss of the last quarter over that at initialisation",
        lambda e: [cell.relative_loss for cell in cells(e, "middle")],
        within(0.05, 0.45, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.equilibrium-never-fits",
        "In the chaotic equilibrium training does not fit its data, however long it goes on.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "training error (fraction)",
        lambda e: [cell.train_error for cell in cells(e, "middle")],
        above(0.1, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.equilibrium-rises",
        "In the chaotic equilibrium a larger ELR has a higher level of the loss.",
        f"{REGIMES}, Fig. 2",
        MAP,
        "loss at the larger ELR over that at the smaller",
        lambda e: [a.loss / b.loss for a, b in zip(cells(e, "upper"), cells(e, "middle"), strict=True)],
        above(1.0),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.equilibrium-steps",
        "In the chaotic equilibrium steps are far from small: tenths of a radian, and far from orthogonal.",
        REGIMES,
        MAP,
        "angular update (rad)",
        lambda e: [cell.angular_update for cell in cells(e, "middle")],
        within(0.1, 0.6, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.divergence-orthogonal",
        "In divergence every step leads to a direction nearly orthogonal to the last.",
        f"{REGIMES}, regime 3",
        MAP,
        "angular update (rad)",
        lambda e: [cell.angular_update for cell in cells(e, "high")],
        above(1.4, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.divergence-random-loss",
        "In divergence the loss stays at or above that of random weights.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "loss of the last quarter over that at initialisation",
        lambda e: [cell.relative_loss for cell in cells(e, "high")],
        above(0.8, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.divergence-guesses",
        "In divergence the network guesses.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "training error (fraction)",
        lambda e: [cell.train_error for cell in cells(e, "high")],
        above(0.7, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "regimes.divergence-sharp",
        "Divergence begins at a definite ELR, here between 0.04 and 0.4 whatever the data.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "middle of the bracket in which divergence begins (ELR)",
        divergence_begins,
        within(4e-2, 4e-1, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
        note="The place is that of these perceptrons; the published ConvNet has it at 2e-2.",
    ),
    Claim(
        "regimes.divergence-agrees",
        "All seeds begin to diverge between the same two ELRs of the grid.",
        f"{REGIMES}, Fig. 1",
        MAP,
        "distance of the seed's bracket from the median one (decades)",
        from_median,
        below(0.01),
        {DIGITS: "holds", FASHION: "holds"},
    ),
)
