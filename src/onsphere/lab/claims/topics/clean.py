"""The regimes of a network that fits its data at once."""

from __future__ import annotations

from onsphere.lab.claims.rules import MOST_SEEDS, below, within
from onsphere.lab.claims.study import REGIMES, Claim, Study, Variant
from onsphere.lab.claims.topics.regimes import cells, divergence_begins, from_median, is_labelled
from onsphere.lab.claims.topics.settings import DIGITS, ENGINE

CLEAN = Study(
    "regimes-clean",
    "All digits with their own labels, which the network interpolates soon.",
    "regimes",
    (
        Variant(
            DIGITS,
            ENGINE
            | {"train": None, "label_noise": 0.0, "widths": (32, 32), "steps": 3000, "batch_size": 128, "refine": 0}
            | {"elr_min": 1e-3, "elr_max": 1.0, "elrs": 7},
            {"low": 1e-3, "fast": 1e-2, "high": 1.0},
        ),
    ),
    figures=("overview",),
)


CLAIMS = (
    Claim(
        "regimes.clean-fits",
        "A network that fits its data at once converges at an ELR of 0.01 without a wrong label.",
        f"{REGIMES}, Fig. 1",
        CLEAN,
        "training error (fraction)",
        lambda e: [cell.train_error for cell in cells(e, "fast")],
        below(0.005, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "regimes.clean-loss",
        "On clean labels the loss at an ELR of 0.01 falls below a hundredth of what it was.",
        f"{REGIMES}, Fig. 1",
        CLEAN,
        "loss of the last quarter over that at initialisation",
        lambda e: [cell.relative_loss for cell in cells(e, "fast")],
        below(0.01, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "regimes.clean-ends",
        "On clean labels too, small ELRs converge and large ones diverge.",
        f"{REGIMES}, Fig. 1",
        CLEAN,
        "1 where ELR 1e-3 and 1e-2 converge and 1 diverges",
        lambda e: is_labelled(e, ("low", "convergence"), ("fast", "convergence"), ("high", "divergence")),
        MOST_SEEDS,
        {DIGITS: "holds"},
        note="Between them the chaotic equilibrium is half a decade wide and metastable; its label is not asked.",
    ),
    Claim(
        "regimes.clean-divergence-sharp",
        "On clean labels divergence begins between 0.04 and 0.4 as well.",
        f"{REGIMES}, Fig. 1",
        CLEAN,
        "middle of the bracket in which divergence begins (ELR)",
        divergence_begins,
        within(4e-2, 4e-1, origin="earlier seeds"),
        {DIGITS: "holds"},
    ),
    Claim(
        "regimes.clean-divergence-agrees",
        "On clean labels too all seeds begin to diverge between the same two ELRs of the grid.",
        f"{REGIMES}, Fig. 1",
        CLEAN,
        "distance of the seed's bracket from the median one (decades)",
        from_median,
        below(0.01),
        {DIGITS: "holds"},
    ),
)
