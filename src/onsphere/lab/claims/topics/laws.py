"""What is exact: the norm under weight decay, equivalent recipes; and the threshold at which training destabilises."""

from __future__ import annotations

import math

from onsphere.lab.claims.rules import above, below, near, within
from onsphere.lab.claims.study import INTRINSIC, PERIODS, REGIMES, SPHERICAL_MOTION, Claim, Study, Variant
from onsphere.lab.claims.topics.settings import DIGITS, ENGINE

DRAWN = "drawn gradients"
_RATES = {"lr": 0.1, "weight_decay": 0.01, "low": 0.8, "high": 1.25, "steps": 20_000}

NORMS = Study(
    "norms",
    "The norm recurrence of SGD with weight decay, with effective gradient norms drawn between two bounds.",
    "",
    (Variant(DRAWN, _RATES),),
    function="laws:norms",
)
REPLAYS = Study(
    "replays",
    "A perceptron in float64, trained 40 steps with weight decay, and again by recipes that are said to be equivalent.",
    "",
    (Variant(DIGITS, {"lr": 0.5, "weight_decay": 0.01, "steps": 40, "batch": 64}),),
    function="laws:replays",
)
THRESHOLD = Study(
    "threshold",
    "Gradient descent on 512 digits, lr 1, weight decay 3e-3, 1,600 steps; ELR times sharpness at every fourth.",
    "",
    (Variant(DIGITS, {"lr": 1.0, "weight_decay": 3e-3, "steps": 1600, "train": 512}),),
    function="threshold:threshold",
)
COMMAND = Study(
    "threshold-command",
    "The same with onsphere periods --sharpness: before the first four jumps, and midway between them.",
    "periods",
    (
        Variant(
            DIGITS,
            ENGINE
            | {"batch_size": "full", "train": 512, "lr": 1.0, "weight_decay": 3e-3, "steps": 1600}
            | {"seeds": 1, "sharpness": True},
        ),
    ),
    repeat=True,
    figures=("sharpness-lr1-wd0.003", "sharpness"),
)


def least(values: list[float | None]) -> float:
    """The least number; NaN without any, or where one is missing."""
    return math.nan if not values or None in values else min(value for value in values if value is not None)


CLAIMS = (
    Claim(
        "laws.norm",
        "With weight decay the norm settles where ρ⁴ = lr E g̃² / (2 wd - lr wd²).",
        f"{SPHERICAL_MOTION}; {INTRINSIC}",
        NORMS,
        "mean ρ⁴ over the law's",
        lambda e: list(e.values["fourth"]),
        near(1, 0.01),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.angle",
        "Then a step turns the weights by √(2 lr · wd), whatever the gradients.",
        SPHERICAL_MOTION,
        NORMS,
        "rms angular update over √(2 lr · wd)",
        lambda e: list(e.values["angle"]),
        near(1, 0.01),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.relaxation",
        "The norm comes to equilibrium at a linear rate: ρ⁴ by 4 lr · wd a step.",
        f"{INTRINSIC}; {SPHERICAL_MOTION}",
        NORMS,
        "rate over 4 lr · wd",
        lambda e: list(e.values["relaxation"]),
        near(1, 0.02),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.band-low",
        "With gradients between two bounds the norm ends up in a band: it does not stay below.",
        f"{PERIODS}, generalised equilibrium",
        NORMS,
        "least ρ² over the lower end of the band",
        lambda e: list(e.values["band_low"]),
        above(1),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.band-high",
        "With gradients between two bounds the norm ends up in a band: it does not stay above.",
        f"{PERIODS}, generalised equilibrium",
        NORMS,
        "largest ρ² over the upper end of the band",
        lambda e: list(e.values["band_high"]),
        below(1),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.least-time",
        "A δ-jump takes a least number of steps, which the worst gradients need to within two.",
        f"{PERIODS}, time between jumps",
        NORMS,
        "steps to the first jump of the worst gradients minus the least number",
        lambda e: list(e.values["first_jump"]),
        within(-1e-9, 2),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.window",
        "Over any stretch of training the mean of log(b² + s²) is the growth of log ρ²: the averaged law is exact.",
        f"{PERIODS}, generalised equilibrium",
        NORMS,
        "residual of the law over 20,000 steps",
        lambda e: list(e.values["window"]),
        below(1e-9),
        {DRAWN: "holds"},
    ),
    Claim(
        "laws.recurrence",
        "A normalised network obeys the norm recurrence step by step: its gradients are orthogonal to its weights.",
        f"{PERIODS}, properties of scale invariance",
        REPLAYS,
        "largest relative error of ρ² over 40 steps",
        lambda e: list(e.values["recurrence"]),
        below(1e-9),
        {DIGITS: "holds"},
    ),
    Claim(
        "laws.sphere-replays-decay",
        "Training with weight decay is training on the sphere with an ELR of lr / ρ² that moves.",
        f"{REGIMES}, effective learning rate",
        REPLAYS,
        "relative distance of the outputs after 40 steps",
        lambda e: list(e.values["sphere"]),
        below(1e-6),
        {DIGITS: "holds"},
    ),
    Claim(
        "laws.exponential-replays-decay",
        "It is also training without weight decay at a learning rate that grows exponentially.",
        "Li, Arora, ICLR 2020",
        REPLAYS,
        "relative distance of the outputs after 40 steps",
        lambda e: list(e.values["exponential"]),
        below(1e-6),
        {DIGITS: "holds"},
    ),
    Claim(
        "laws.radius",
        "The radius of the sphere does not matter: at one ELR training is the same on all of them.",
        f"{REGIMES}, effective learning rate",
        REPLAYS,
        "relative distance of the outputs after 40 steps, radius 1 and 10",
        lambda e: list(e.values["radius"]),
        below(1e-6),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.before",
        "Training destabilises when ELR times sharpness has passed about 2.",
        f"{PERIODS}, mechanism of the periods",
        THRESHOLD,
        "least over jumps of the highest ELR · sharpness in the 45 steps before",
        lambda e: list(e.values["before"]),
        above(1.8, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.elsewhere",
        "Away from jumps ELR times sharpness is below the threshold.",
        f"{PERIODS}, mechanism of the periods",
        THRESHOLD,
        "share of readings below 1.8, away from jumps",
        lambda e: list(e.values["elsewhere"]),
        above(0.95, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.median",
        "Away from jumps it is about 1.",
        PERIODS,
        THRESHOLD,
        "median ELR · sharpness away from jumps",
        lambda e: list(e.values["median"]),
        below(1.2, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.far",
        "More than 90 steps before a jump it is below the threshold but for a reading in fifty.",
        PERIODS,
        THRESHOLD,
        "share of readings below 1.8, more than 90 steps before a jump",
        lambda e: list(e.values["far"]),
        above(0.98, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.early",
        "In the first half of the way from one jump to the next training is stable throughout.",
        PERIODS,
        THRESHOLD,
        "median over gaps of the highest ELR · sharpness in their first half",
        lambda e: list(e.values["early"]),
        below(1.4, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.jumps",
        "Such a run has three jumps and more to look at.",
        PERIODS,
        COMMAND,
        "jumps whose sharpness was measured",
        lambda e: [float(len(result.sharpness)) for result in e.each],
        above(2.5, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.command-before",
        "The command sees the same: before every jump ELR times sharpness passes 1.8.",
        PERIODS,
        COMMAND,
        "least over jumps of the highest ELR · sharpness before",
        lambda e: [least([row.highest for row in result.sharpness]) for result in e.each],
        above(1.8, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "threshold.command-between",
        "Midway between jumps it stays below 1.8.",
        PERIODS,
        COMMAND,
        "largest ELR · sharpness midway between jumps",
        lambda e: [
            -least([None if v is None else -v for row in result.sharpness for v in row.control]) for result in e.each
        ],
        below(1.8, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
)
