"""Inside the convergence regime: minima of different ELRs at one loss, and the zone that bars the way to them."""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import above, below, near
from onsphere.lab.claims.study import REGIMES, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_7, PAPER

if TYPE_CHECKING:
    from onsphere.lab.experiments.spectrum.result import Place, SpectrumResult
    from onsphere.lab.experiments.zones.result import Continuation, ZonesResult

SPECTRUM = Study(
    "spectrum",
    "Runs at several ELRs of the convergence regime, met again where each first reached one training loss.",
    "landscape spectrum",
    (
        Variant(
            FASHION,
            ENGINE
            | FASHION_7
            | {"train": 2000, "widths": (48, 48), "steps": 2500, "target": 0.3, "evaluations": 2, "chunk": 5}
            | {"elr": (2.2e-4, 4.9e-4, 1.6e-3, 5.4e-3)},
            {"lowest": 2.2e-4, "low": 4.9e-4, "high": 5.4e-3},
        ),
        Variant(
            DIGITS,
            ENGINE | {"elr": (1e-3, 2.5e-3, 6.3e-3, 1.6e-2), "evaluations": 2, "chunk": 5},
            {"lowest": 1e-3, "low": 2.5e-3, "high": 1.6e-2},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET | PAPER | {"elr": (1e-5, 1e-4, 3e-4, 5e-4), "steps": 1000 * EPOCH, "target": 1e-2},
            {"lowest": 1e-5, "low": 1e-4, "high": 5e-4},
        ),
    ),
    figures=("spectrum",),
)

ZONES = Study(
    "zones",
    "Sharpness along paths of full-batch training, and what becomes of runs that branch off with larger ELRs.",
    "landscape zones",
    (
        Variant(
            DIGITS,
            ENGINE | {"path_elrs": (5e-4,), "elrs": (2e-3, 1.6e-2, 6.4e-2), "checkpoints": 5, "evaluations": 2},
            {"large": 6.4e-2},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET
            | PAPER
            | {"path_elrs": (1e-4,), "elrs": (5e-4, 1e-3, 5e-3), "steps": 200 * EPOCH, "continue_steps": 50 * EPOCH},
            {"large": 5e-3},
        ),
    ),
    figures=("zones",),
)


def at_loss(evidence: Evidence, elr: str, quantity: str, place: Place = "matched") -> list[float]:
    """A quantity of the runs at an ELR, by seed; NaN where a run never came to the common loss."""
    result: SpectrumResult = evidence.result
    own = sorted((run for run in result.runs if run.elr == evidence.places[elr]), key=lambda run: run.seed)
    values = [run.value(place, quantity) for run in own]
    return [math.nan if value is None else value for value in values]


def ratios(evidence: Evidence, quantity: str, place: Place = "matched") -> list[float]:
    """A quantity at the largest ELR over that at the place ``low``, seed by seed."""
    pairs = zip(*(at_loss(evidence, elr, quantity, place) for elr in ("high", "low")), strict=True)
    return [high / low for high, low in pairs]


def changes(evidence: Evidence, quantity: str, place: Place = "end") -> list[float]:
    """A quantity at the largest ELR minus that at the smallest, seed by seed."""
    pairs = zip(*(at_loss(evidence, elr, quantity, place) for elr in ("high", "lowest")), strict=True)
    return [high - low for high, low in pairs]


def barriers(evidence: Evidence, low: str, high: str) -> list[float]:
    """The barrier of training loss between the minima of two ELRs, by seed."""
    result: SpectrumResult = evidence.result
    ends = (evidence.places[low], evidence.places[high])
    own = sorted((pair for pair in result.pairs if (pair.low, pair.high) == ends), key=lambda pair: pair.seed)
    return [math.nan if pair.loss_barrier is None else pair.loss_barrier for pair in own]


def added_barrier(evidence: Evidence) -> list[float]:
    """By how much the barrier to the largest ELR is higher than that between the two smallest, by seed."""
    pairs = zip(barriers(evidence, "low", "high"), barriers(evidence, "lowest", "low"), strict=True)
    return [far - close for far, close in pairs]


def late(evidence: Evidence) -> list[list[Continuation]]:
    """The continuations that began below half of the loss at step 0, by seed."""
    result: ZonesResult = evidence.result
    found = []
    for seed in range(result.spec.seeds):
        own = [row for row in result.continuations if row.seed == seed]
        first = max(row.loss for row in own if row.checkpoint == 0)
        found.append([row for row in own if row.loss < first / 2])
    return found


def mean_of(values: list[float]) -> float:
    """The mean; NaN without any."""
    return fmean(values) if values else math.nan


_BARRIERS = "barrier in training loss between the smaller and the largest ELR, minus that between the two smallest"

CLAIMS = (
    Claim(
        "spectrum.same-loss",
        "Runs of different ELRs can be compared at one training loss.",
        REGIMES,
        SPECTRUM,
        "loss at the largest ELR over that at the smaller one, where they are compared",
        lambda e: ratios(e, "batch_loss"),
        near(1, 0.06, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "holds"},
        note="A condition of the claims below it, not a finding of the paper.",
    ),
    Claim(
        "spectrum.gradient-norm",
        "At the same training loss a larger ELR has a lower effective gradient norm.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "gradient norm at the largest ELR over that at the smaller one",
        lambda e: ratios(e, "gradient_norm"),
        below(1),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "spectrum.sharpness",
        "At the same training loss a larger ELR has found a flatter place: a lower top eigenvalue on the sphere.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "sharpness at the largest ELR over that at the smaller one",
        lambda e: ratios(e, "sharpness"),
        below(1),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "spectrum.clearly-flatter",
        "Gradient norm and sharpness are lower by a tenth at least.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "the larger of both ratios, largest ELR over the smaller one",
        lambda e: [max(pair) for pair in zip(ratios(e, "gradient_norm"), ratios(e, "sharpness"), strict=True)],
        below(0.9, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "spectrum.test-loss",
        "Minima of larger ELRs have a lower test loss.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "test loss at the end, largest ELR over the smaller one",
        lambda e: ratios(e, "test_loss", "end"),
        below(1),
        {FASHION: "not decided", DIGITS: "holds"},
        note="On Fashion-MNIST the runs at the largest ELR have not converged when the others have.",
    ),
    Claim(
        "spectrum.test-error",
        "Minima of larger ELRs have a lower test error.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "test error at the end, largest ELR minus smallest (points)",
        lambda e: [100 * change for change in changes(e, "test_error")],
        below(0),
        {FASHION: "not decided", DIGITS: "not decided"},
        note="360 test digits are too coarse for differences below a point.",
    ),
    Claim(
        "spectrum.distance",
        "Larger ELRs travel farther from the initial weights.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "rank correlation of the angle from the initial weights with the ELR",
        lambda e: list(e.result.trend("end", "angle").spearman),
        above(0.9, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "spectrum.near-connected",
        "Minima of neighbouring small ELRs share a basin: no barrier lies between them.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        "barrier in training loss between the two smallest ELRs",
        lambda e: barriers(e, "lowest", "low"),
        below(0.01, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "spectrum.far-apart",
        "A much larger ELR leaves the basin: a barrier appears.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        _BARRIERS,
        added_barrier,
        above(0),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "spectrum.far-apart-clear",
        "That barrier is higher by 0.05 at least.",
        f"{REGIMES}, regime 1",
        SPECTRUM,
        _BARRIERS,
        added_barrier,
        above(0.05, origin="earlier seeds"),
        {FASHION: "holds"},
        note="On digits, whose loss is lower, it is 0.01.",
    ),
    Claim(
        "zones.exists",
        "The way to low loss leads through a zone of higher sharpness.",
        f"{REGIMES}; thesis (zones that prevent convergence)",
        ZONES,
        "sharpness in the zone over the lowest before it",
        lambda e: [zone.rise for zone in sorted(e.result.zones, key=lambda zone: zone.seed)],
        above(1.1, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "zones.larger-elr-rises",
        "A run that goes on with an ELR above 2 / sharpness goes up first.",
        f"{REGIMES}, restarts with another ELR",
        ZONES,
        "share of continuations above 2 / sharpness that rise, from half the initial loss down",
        lambda e: [mean_of([float(row.rises) for row in rows if row.product > 2]) for rows in late(e)],
        above(0.5),
        {DIGITS: "holds"},
    ),
    Claim(
        "zones.smaller-elr-stays",
        "A run that goes on with an ELR below 2 / sharpness goes on falling.",
        f"{REGIMES}, restarts with another ELR",
        ZONES,
        "share of continuations below 2 / sharpness that do not rise, from half the initial loss down",
        lambda e: [mean_of([float(not row.rises) for row in rows if row.product <= 2]) for rows in late(e)],
        above(0.5),
        {DIGITS: "not decided"},
    ),
    Claim(
        "zones.flatter-after",
        "Those that go up first and come through end in flatter places than they came from.",
        f"{REGIMES}, restarts with another ELR",
        ZONES,
        "median of the sharpness at the end over that where they began",
        lambda e: [
            median([r.end_sharpness / r.sharpness for r in rows if r.outcome == "up first"] or [math.nan])
            for rows in late(e)
        ],
        below(1),
        {DIGITS: "holds"},
    ),
    Claim(
        "zones.thrown-back",
        "An ELR of the chaotic equilibrium is thrown back from low loss: it does not come through.",
        f"{REGIMES}; thesis (zones that prevent convergence)",
        ZONES,
        "share of its continuations that come through, from half the initial loss down",
        lambda e: [
            mean_of([float(row.comes_through) for row in rows if row.elr == e.places["large"]]) for rows in late(e)
        ],
        below(0.5),
        {DIGITS: "holds"},
    ),
)
