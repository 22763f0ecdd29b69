"""The periodic behaviour of training with weight decay: jumps, periods, their law, and the minima between them."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import MOST_SEEDS, above, below, near, within
from onsphere.lab.claims.study import PERIODS, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_7

if TYPE_CHECKING:
    from onsphere.lab.experiments.periods.result import PeriodsResult, PeriodsRun
    from onsphere.lab.experiments.periods.science.rows import Minima

_FAST, _SLOW = {"lr": 1.0, "weight_decay": 3e-3}, {"lr": 1.0, "weight_decay": 1e-3}
_SPLIT = {"lr": 0.3, "weight_decay": 1e-2}
_PARTS = {"fast": _FAST, "slow": _SLOW, "same product": _SPLIT}
_CONVNET = CONVNET | {"eps": 1e-5, "steps": 1000 * EPOCH}

MINIBATCH = Study(
    "periods",
    "SGD in the whole space, batches of 128: learning rate 1 with weight decay 3e-3 and 1e-3, and 0.3 with 1e-2.",
    "periods",
    (
        Variant(DIGITS, ENGINE, parts=_PARTS),
        Variant(FASHION, ENGINE | FASHION_7 | {"train": 500, "widths": (64, 64)}, parts=_PARTS),
    ),
    paper=(
        Variant(
            CIFAR_10,
            _CONVNET,
            parts={
                "fast": {"lr": 0.03, "weight_decay": 1e-3},
                "slow": {"lr": 0.01, "weight_decay": 1e-3},
                "same product": {"lr": 0.01, "weight_decay": 3e-3},
            },
        ),
    ),
    figures=("course-lr1-wd0.003",),
)

FULL_BATCH = Study(
    "periods-full-batch",
    "Gradient descent on all 512 images at each step, learning rate 1, weight decay 3e-3 and 1e-3; no noise.",
    "periods",
    (
        Variant(
            DIGITS,
            ENGINE | {"batch_size": "full", "train": 512, "steps": 3000},
            parts={"fast": _FAST | {"compare_sphere": True, "minima": True}, "slow": _SLOW},
        ),
    ),
    figures=("course-lr1-wd0.003",),
)


def runs(evidence: Evidence, part: str) -> list[PeriodsRun]:
    """The runs of a part, by seed."""
    result: PeriodsResult = evidence.parts[part]
    return sorted(result.runs, key=lambda run: run.seed)


def number(value: float | None) -> float:
    """A number that may be missing."""
    return math.nan if value is None else float(value)


def over(value: float | None, other: float | None) -> float:
    """A ratio of numbers that may be missing."""
    return number(value) / number(other) if other else math.nan


def period_ratio(evidence: Evidence, part: str, other: str) -> list[float]:
    """Periods of one part over those of another, seed by seed."""
    pairs = zip(runs(evidence, part), runs(evidence, other), strict=True)
    return [over(one.period, two.period) for one, two in pairs]


def minima(evidence: Evidence) -> list[Minima]:
    """The minima of each run of the part ``fast``, by seed."""
    result: PeriodsResult = evidence.parts["fast"]
    return sorted(result.minima, key=lambda one: one.seed)


def sphere_jumps(evidence: Evidence, part: str, lr: float | None = None) -> list[float]:
    """δ-jumps of each seed on the sphere, at the ELR nearest to the one that was measured in the whole space."""
    result: PeriodsResult = evidence.parts[part]
    found: dict[int, float] = {}
    for row in result.comparison:
        own = [run for run in result.sphere if run.setting == row.setting and lr in (None, run.lr)]
        if row.elr is None or not own:
            continue
        nearest = min({run.elr for run in own}, key=lambda elr: abs(math.log(elr / number(row.elr))))
        for run in own:
            if run.elr == nearest:
                found[run.seed] = max(found.get(run.seed, 0.0), float(run.delta_jumps))
    return [found[seed] for seed in sorted(found)]


def disagreement(one: Minima) -> float:
    """Mean share of test images on which consecutive minima disagree."""
    return fmean(one.disagreement[i][i + 1] for i in range(len(one.steps) - 1))


_RECOVERY = "steps from the lowest ELR to the next jump over those of the norm recurrence without gradients"

CLAIMS = (
    Claim(
        "periods.periodic",
        "With weight decay and a constant learning rate training converges and destabilises over and over again.",
        f"{PERIODS}, abstract",
        MINIBATCH,
        "1 where the run is periodic (three jumps and more)",
        lambda e: [float(run.behaviour == "periodic") for run in runs(e, "fast")],
        MOST_SEEDS,
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "periods.many",
        "Over 24 time scales 1/(2 lr · wd) there are 15 to 30 destabilisations.",
        PERIODS,
        MINIBATCH,
        "jumps in 4,000 steps",
        lambda e: [float(len(run.jumps)) for run in runs(e, "fast")],
        within(15, 30, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.time-scale",
        "A period takes about 1/(2 lr · wd) steps.",
        PERIODS,
        MINIBATCH,
        "median period in units of 1/(2 lr · wd)",
        lambda e: [number(run.period_tau) for run in runs(e, "fast")],
        within(0.7, 1.4, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "does not hold"},
    ),
    Claim(
        "periods.smaller-decay-longer",
        "A smaller weight decay makes longer periods, as one over it: a third has periods 2 to 4 times as long.",
        PERIODS,
        MINIBATCH,
        "period with decay 1e-3 over that with 3e-3",
        lambda e: period_ratio(e, "slow", "fast"),
        within(2, 4, origin="earlier seeds"),
        {DIGITS: "holds"},
        note="On Fashion-MNIST 4,000 steps with the small decay hold too few jumps to tell a period.",
    ),
    Claim(
        "periods.product-alone",
        "The period depends on learning rate and weight decay through their product alone.",
        PERIODS,
        MINIBATCH,
        "period with lr 0.3 and decay 1e-2 over that with 1 and 3e-3",
        lambda e: period_ratio(e, "same product", "fast"),
        within(0.75, 1.25, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "not decided"},
    ),
    Claim(
        "periods.noise-delays",
        "Gradient noise slows the recovery: it takes longer than weight decay alone would need.",
        PERIODS,
        MINIBATCH,
        _RECOVERY,
        lambda e: [number(run.recovery_ratio) for run in runs(e, "fast")],
        above(1),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "periods.noise-delays-little",
        "It takes longer by a tenth to six tenths.",
        PERIODS,
        MINIBATCH,
        _RECOVERY,
        lambda e: [number(run.recovery_ratio) for run in runs(e, "fast")],
        within(1.1, 1.6, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "does not hold"},
    ),
    Claim(
        "periods.full-batch",
        "Full-batch gradient descent is periodic too, so that noise is not the cause.",
        PERIODS,
        FULL_BATCH,
        "1 where the run is periodic (three jumps and more)",
        lambda e: [float(run.behaviour == "periodic") for run in runs(e, "fast")],
        MOST_SEEDS,
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.full-batch-many",
        "Full-batch gradient descent destabilises 6 to 13 times in 3,000 steps.",
        PERIODS,
        FULL_BATCH,
        "jumps in 3,000 steps",
        lambda e: [float(len(run.jumps)) for run in runs(e, "fast")],
        within(6, 13, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.recovery-law",
        "Between jumps the norm only decays: the next jump comes when the norm recurrence without gradients says.",
        f"{PERIODS}, analysis of the norm",
        FULL_BATCH,
        "steps from the lowest ELR to the next jump over the predicted ones",
        lambda e: [number(run.recovery_ratio) for run in runs(e, "fast")],
        near(1, 0.05),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.first-jump",
        "The first destabilisation comes when the norm recurrence says.",
        f"{PERIODS}, analysis of the norm",
        FULL_BATCH,
        "step of the first jump over the predicted one",
        lambda e: [over(run.first_jump, run.predicted_first_jump) for run in runs(e, "fast")],
        near(1, 0.05),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.delta-jumps",
        "Every fall of the ELR is a step across a large angle, a δ-jump, and the other way round.",
        f"{PERIODS}, definition of δ-jumps",
        FULL_BATCH,
        "δ-jumps minus falls of the ELR",
        lambda e: [number(run.delta_jumps) - len(run.jumps) for run in runs(e, "fast")],
        within(-1, 1, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.full-batch-inverse",
        "Without noise too the period goes as one over the weight decay.",
        PERIODS,
        FULL_BATCH,
        "period with decay 1e-3 over that with 3e-3",
        lambda e: period_ratio(e, "slow", "fast"),
        within(2, 4, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.jumps-in-space",
        "At that learning rate and decay the whole space has many δ-jumps.",
        PERIODS,
        FULL_BATCH,
        "δ-jumps in 3,000 steps",
        lambda e: [number(run.delta_jumps) for run in runs(e, "fast")],
        above(6, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "periods.fixed-norm-has-none",
        "A fixed norm removes them: on the sphere at the mean ELR of the periodic run no step is a δ-jump.",
        f"{PERIODS}, control with a fixed norm",
        FULL_BATCH,
        "δ-jumps in 3,000 steps on the sphere",
        lambda e: sphere_jumps(e, "fast"),
        below(0.5, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "minima.apart",
        "The minima of consecutive periods lie far apart.",
        f"{PERIODS}, minima of periods",
        FULL_BATCH,
        "mean angle between consecutive minima (rad)",
        lambda e: [fmean(one.consecutive) for one in minima(e)],
        above(0.5, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "minima.disagree",
        "The networks at the minima of consecutive periods are different functions.",
        f"{PERIODS}, minima of periods",
        FULL_BATCH,
        "share of test images on which consecutive minima disagree",
        lambda e: [disagreement(one) for one in minima(e)],
        above(0.01, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "minima.ensemble",
        "Averaging the predictions at the minima of several periods lowers the test error.",
        f"{PERIODS}, minima of periods",
        FULL_BATCH,
        "test error of the ensemble of all minima minus their mean (points)",
        lambda e: [100 * (one.ensemble_error[-1] - fmean(one.test_error)) for one in minima(e)],
        below(0),
        {DIGITS: "holds"},
    ),
    Claim(
        "minima.improve",
        "Minima of later periods generalise better than that of the first.",
        f"{PERIODS}, minima of periods",
        FULL_BATCH,
        "test error of the last minimum minus that of the first (points)",
        lambda e: [100 * (one.test_error[-1] - one.test_error[0]) for one in minima(e)],
        below(0),
        {DIGITS: "not decided"},
    ),
)
