"""A schedule that follows from a regime map, against tuned rivals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import below
from onsphere.lab.claims.study import REGIMES, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.drop import points
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_7

if TYPE_CHECKING:
    from onsphere.lab.experiments.schedule.result import ScheduleResult
    from onsphere.lab.experiments.schedule.spec import Family

_RIVALS = {"constant": (0.125, 0.25), "peaks": (4.0,), "lr": (3.0,), "weight_decay": (3e-3,), "evaluations": 1}

SCHEDULE = Study(
    "schedule",
    "The schedule that a regime map proposes, against the settings that win their families in a wider search.",
    "schedule",
    (
        Variant(
            FASHION,
            ENGINE
            | FASHION_7
            | _RIVALS
            | {"train": 2000, "batch_size": 128, "widths": (48, 48), "convergence": (3e-3, 5.4e-3), "chunk": 25},
        ),
        Variant(
            DIGITS,
            ENGINE
            | _RIVALS
            | {"train": None, "batch_size": 128, "widths": (32, 32), "convergence": (4e-2, 6.3e-2), "chunk": 25}
            | {"divergence": 0.13, "lr": (1.0,)},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET
            | {"convergence": (5e-4, 1e-3), "divergence": 2e-2, "steps": 200 * EPOCH, "lr": (0.1, 0.3)}
            | {"train": 45_000, "weight_decay": (5e-4, 1e-3)},
        ),
    ),
    least_seeds=2,
    figures=("errors",),
)


def against(family: Family | None) -> Callable[[Evidence], list[float]]:
    """Test error of the proposal minus that of a family's tuned method, or of the best one (points), by seed."""

    def measure(evidence: Evidence) -> list[float]:
        result: ScheduleResult = evidence.result
        tuned = {method.family: method for method in result.tuned}
        rival = tuned[family or result.verdict.family]
        return points(list(tuned["proposed"].test_error), list(rival.test_error))

    return measure


CLAIMS = (
    Claim(
        "schedule.not-worse",
        "The schedule that follows from the map is no worse than the best of its tuned rivals.",
        f"{REGIMES}; thesis (advice on schedules)",
        SCHEDULE,
        "test error minus that of the best rival (points)",
        against(None),
        below(0.5),
        {FASHION: "holds", DIGITS: "not decided"},
        note="No worse means by half a point at most; whether the mean is within one standard error is on its page.",
    ),
    Claim(
        "schedule.best",
        "The schedule that follows from the map is better than the best of its tuned rivals.",
        f"{REGIMES}; thesis (advice on schedules)",
        SCHEDULE,
        "test error minus that of the best rival (points)",
        against(None),
        below(0),
        {FASHION: "not decided", DIGITS: "not decided"},
    ),
    Claim(
        "schedule.beats-constant",
        "It is better than the best constant ELR.",
        f"{REGIMES}; thesis (advice on schedules)",
        SCHEDULE,
        "test error minus that of the best constant ELR (points)",
        against("constant"),
        below(0),
        {FASHION: "holds", DIGITS: "not decided"},
        note="On clean digits there is next to no chaotic equilibrium to start in.",
    ),
    Claim(
        "schedule.beats-constant-lr",
        "It is better than a constant learning rate with weight decay.",
        f"{REGIMES}; thesis (advice on schedules)",
        SCHEDULE,
        "test error minus that of the best constant learning rate (points)",
        against("space-constant"),
        below(0),
        {FASHION: "holds", DIGITS: "not decided"},
    ),
)
