"""The chaotic equilibrium and divergence from inside, and the same equilibrium in ordinary training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import MOST_SEEDS, above, near, within
from onsphere.lab.claims.study import REGIMES, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_7, PAPER

if TYPE_CHECKING:
    from onsphere.lab.experiments.conventional.result import ConventionalResult, ConventionalRun
    from onsphere.lab.experiments.stabilise.result import Distance, StabiliseResult

STABILISE = Study(
    "stabilise",
    "Runs in the chaotic equilibrium whose ELR is changed half-way, and how far runs wander that keep theirs.",
    "landscape stabilise",
    (
        Variant(
            DIGITS,
            ENGINE | {"elrs": (0.013, 0.03, 0.05), "divergence_elrs": (0.4,), "evaluations": 2},
            {"low": 0.013, "high": 0.05, "divergence": 0.4},
        ),
        Variant(
            FASHION,
            ENGINE
            | FASHION_7
            | {"train": 2000, "widths": (48, 48), "elrs": (0.012, 0.026, 0.05), "divergence_elrs": (0.4,)}
            | {"evaluations": 2},
            {"low": 0.012, "high": 0.05, "divergence": 0.4},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET
            | PAPER
            | {"elrs": (1e-3, 2e-3, 5e-3, 1e-2), "divergence_elrs": (0.1,), "steps": 400 * EPOCH, "evaluations": 8},
            {"low": 1e-3, "high": 1e-2, "divergence": 0.1},
        ),
    ),
    least_seeds=2,
    figures=("wandering", "memory"),
)

CONVENTIONAL = Study(
    "conventional",
    "The same scale-invariant network on the sphere at fixed ELRs, and in the whole space with weight decay.",
    "landscape conventional",
    (
        Variant(
            FASHION,
            ENGINE
            | FASHION_7
            | {"train": 2000, "widths": (48, 48), "batch_size": 128, "setups": ("sphere", "invariant")}
            | {"elr": (5.4e-3, 1.2e-2, 2.6e-2), "lr": (1.0, 3.0), "weight_decay": 3e-3},
        ),
        Variant(
            DIGITS,
            ENGINE
            | {"setups": ("sphere", "invariant"), "elr": (8e-3, 1.5e-2, 2.5e-2, 5e-2, 0.1)}
            | {"lr": (0.3, 1.0), "weight_decay": 1e-2},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET
            | {"setups": ("sphere", "invariant"), "elr": (1e-3, 2e-3, 5e-3, 1e-2), "lr": (0.3, 1.0)}
            | {"weight_decay": 1e-3, "steps": 1000 * EPOCH},
        ),
    ),
    figures=("loss",),
)

ORDINARY = Study(
    "ordinary",
    "An ordinary network: every parameter trained with momentum 0.9 and weight decay 0.01, at three learning rates.",
    "landscape conventional",
    (
        Variant(
            DIGITS,
            ENGINE | {"setups": ("all",), "lr": (0.01, 0.1, 10.0)},
            {"low": 0.01, "middle": 0.1, "high": 10.0, "equilibrium": 0.0141},
        ),
    ),
    figures=("elr",),
)


def last(evidence: Evidence, place: str) -> list[Distance]:
    """Every seed's distance to the start of its stationary phase at the end."""
    own = distances(evidence, place)
    lag = max(row.lag for row in own)
    return sorted((row for row in own if row.lag == lag), key=lambda row: row.seed)


def distances(evidence: Evidence, place: str) -> list[Distance]:
    """All distances at the ELR of a place."""
    result: StabiliseResult = evidence.result
    return [row for row in result.distances if row.elr == evidence.places[place]]


def walk_excess(evidence: Evidence, place: str) -> list[float]:
    """Cosine to the start minus that of a random walk with the same steps, mean over lags, by seed."""
    own = distances(evidence, place)
    gaps: dict[int, list[float]] = {}
    for row in own:
        if row.lag > 0:
            gaps.setdefault(row.seed, []).append(row.cosine - row.walk_cosine)
    return [sum(gaps[seed]) / len(gaps[seed]) for seed in sorted(gaps)]


def by_seed(
    runs: Iterable[ConventionalRun], number: Callable[[ConventionalRun], float], choose: Callable[..., float]
) -> list[float]:
    """One of the numbers of each seed's runs."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(number(run))
    return [choose(found[seed]) for seed in sorted(found)]


def farthest(values: Iterable[float]) -> float:
    """The number that is farthest from 1; NaN if one is missing."""
    known = list(values)
    return math.nan if any(value != value for value in known) else max(known, key=lambda value: abs(value - 1))


def invariant(evidence: Evidence) -> list[ConventionalRun]:
    """The runs in the whole space."""
    result: ConventionalResult = evidence.result
    return result.of("invariant")


def ordinary(evidence: Evidence, place: str) -> list[ConventionalRun]:
    """The ordinary runs at a learning rate, by seed."""
    result: ConventionalResult = evidence.result
    return sorted(result.of("all", evidence.places[place]), key=lambda run: run.seed)


def quotient(value: float | None, other: float | None) -> float:
    """A ratio of numbers that may be missing."""
    return value / other if value is not None and other else math.nan


CLAIMS = (
    Claim(
        "stabilise.loss-forgets",
        "The chaotic equilibrium has no memory: after a change of the ELR the loss comes to the level of the new one.",
        f"{REGIMES}, regime 2",
        STABILISE,
        "share of the difference in log loss that is left",
        lambda e: list(e.result.memory["loss"].seeds),
        near(0, 0.1),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "stabilise.gradient-forgets",
        "After a change of the ELR the effective gradient norm comes to the level of the new one.",
        f"{REGIMES}, regime 2",
        STABILISE,
        "share of the difference in log gradient norm that is left",
        lambda e: list(e.result.memory["gradient_norm"].seeds),
        near(0, 0.1),
        {DIGITS: "holds", FASHION: "not decided"},
    ),
    Claim(
        "stabilise.local",
        "At low ELRs of the chaotic equilibrium runs stay in one region.",
        f"{REGIMES}; thesis (local and global regions)",
        STABILISE,
        "cosine of the weights at the end to those at the start of the stationary phase",
        lambda e: [row.cosine for row in last(e, "low")],
        above(1 / math.e),
        {DIGITS: "holds", FASHION: "holds"},
        note="Over 1,000 steps; the angle grows with the logarithm of time at every ELR.",
    ),
    Claim(
        "stabilise.global",
        "At high ELRs of the chaotic equilibrium runs lose the direction they had.",
        f"{REGIMES}; thesis (local and global regions)",
        STABILISE,
        "cosine of the weights at the end to those at the start of the stationary phase",
        lambda e: [row.cosine for row in last(e, "high")],
        within(-1, 1 / math.e),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "stabilise.divergence-walks",
        "In divergence training is a random walk on the sphere.",
        f"{REGIMES}, regime 3",
        STABILISE,
        "cosine to the start minus that of a random walk with the same angles, mean over lags",
        lambda e: walk_excess(e, "divergence"),
        near(0, 0.05),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "stabilise.equilibrium-does-not-walk",
        "In the chaotic equilibrium training is no random walk: its steps undo one another.",
        f"{REGIMES}, regime 2",
        STABILISE,
        "cosine to the start minus that of a random walk with the same angles, mean over lags",
        lambda e: walk_excess(e, "low"),
        above(0.1, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "conventional.loss-of-the-sphere",
        "At equilibrium with weight decay training has the loss of the sphere at the same ELR.",
        f"{REGIMES}, conventional training",
        CONVENTIONAL,
        "loss over that of the sphere at the run's ELR, the farthest from 1 of the learning rates",
        lambda e: by_seed(invariant(e), lambda run: quotient(run.loss, run.sphere_loss), farthest),
        near(1, 0.1, origin="earlier seeds"),
        {FASHION: "holds"},
        note="On digits the ELRs leave the grid of the sphere, and there is no loss to compare with.",
    ),
    Claim(
        "conventional.regime-of-the-sphere",
        "The regime of training with weight decay is that of the sphere at its ELR.",
        f"{REGIMES}, conventional training",
        CONVENTIONAL,
        "1 where all runs of the seed have the label of the sphere at their ELR",
        lambda e: by_seed(invariant(e), lambda run: float(run.regime == run.sphere_regime), min),
        MOST_SEEDS,
        {FASHION: "holds", DIGITS: "not decided"},
    ),
    Claim(
        "conventional.three",
        "Ordinary training converges, levels off or diverges by its learning rate.",
        f"{REGIMES}, conventional training",
        ORDINARY,
        "1 where lr 0.01 converges, 0.1 levels off, 10 diverges",
        lambda e: [
            float(labels == ("convergence", "chaotic_equilibrium", "divergence"))
            for labels in zip(*([run.regime for run in ordinary(e, p)] for p in ("low", "middle", "high")), strict=True)
        ],
        MOST_SEEDS,
        {DIGITS: "holds"},
    ),
    Claim(
        "conventional.decay-raises-elr",
        "While ordinary training converges, weight decay raises its ELR.",
        f"{REGIMES}, conventional training",
        ORDINARY,
        "ELR at the end over the lowest, lr 0.01",
        lambda e: [quotient(run.elr, run.lowest_elr) for run in ordinary(e, "low")],
        above(2, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "conventional.balance",
        "Levelled off, ordinary training keeps an ELR of its own, here 0.014 within a factor of two.",
        f"{REGIMES}, conventional training",
        ORDINARY,
        "ELR at the end over 0.0141, lr 0.1",
        lambda e: [quotient(run.elr, e.places["equilibrium"]) for run in ordinary(e, "middle")],
        within(0.5, 2, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
)
