"""The three regimes with the squared loss, and what it needs of the network."""

from __future__ import annotations

from onsphere.lab.claims.rules import MOST_SEEDS, above, below
from onsphere.lab.claims.study import QUADRATIC, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.regimes import cells, in_order, is_labelled
from onsphere.lab.claims.topics.settings import CIFAR_10, CONVNET, DIGITS, ENGINE, EPOCH, FASHION, FASHION_14, PAPER

_SQUARED = {"loss": "mse", "label_noise": 0.0, "refine": 0}

SQUARED = Study(
    "regimes-squared",
    "The squared loss on few images, head norm 3, which the network can fit.",
    "regimes",
    (
        Variant(
            DIGITS,
            ENGINE | _SQUARED | {"widths": (64, 64), "train": 256, "elr_min": 1e-2, "elr_max": 3.2, "elrs": 6},
            {"low": 1e-2, "middle": 1.01e-1, "upper": 3.16e-1, "high": 3.2},
        ),
        Variant(
            FASHION,
            ENGINE
            | FASHION_14
            | _SQUARED
            | {"widths": (64, 64), "train": 256, "elr_min": 1e-2, "elr_max": 3.2, "elrs": 6},
            {"low": 1e-2, "middle": 1.01e-1, "upper": 3.16e-1, "high": 3.2},
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET
            | PAPER
            | {"loss": "mse", "width": 128, "head_norm": 10.0, "refine": 0}
            | {"elr_min": 1e-5, "elr_max": 1.0, "elrs": 11, "steps": 1000 * EPOCH},
            {"low": 1e-4, "middle": 3.16e-3, "upper": 1e-2, "high": 0.1},
        ),
    ),
    figures=("overview",),
)

_ONE = {"elr_min": 1e-2, "elrs": 1, "refine": 0, "train": None, "label_noise": 0.0, "steps": 3000, "batch_size": 128}

WIDTHS = Study(
    "regimes-width",
    "Both losses at one ELR of convergence in a narrow network, the squared loss in one four times as wide as well.",
    "regimes",
    (
        Variant(
            DIGITS,
            ENGINE | _ONE,
            parts={
                "cross-entropy": {"widths": (32, 32)},
                "squared": {"widths": (32, 32), "loss": "mse"},
                "squared, wide": {"widths": (128, 128), "loss": "mse"},
            },
        ),
    ),
    paper=(
        Variant(
            CIFAR_10,
            CONVNET | PAPER | {"elr_min": 3e-4, "elrs": 1, "refine": 0, "steps": 1000 * EPOCH},
            parts={
                "cross-entropy": {"width": 32},
                "squared": {"width": 32, "loss": "mse", "head_norm": 10.0},
                "squared, wide": {"width": 128, "loss": "mse", "head_norm": 10.0},
            },
        ),
    ),
)


def differences(evidence: Evidence, first: str, second: str, name: str) -> list[float]:
    """Differences of a cell's attribute between two parts, seed by seed."""
    one, other = (sorted(evidence.parts[part].cells, key=lambda cell: cell.seed) for part in (first, second))
    return [getattr(a, name) - getattr(b, name) for a, b in zip(one, other, strict=True)]


CLAIMS = (
    Claim(
        "squared.three",
        "The three regimes are there with the squared loss as well.",
        f"{QUADRATIC}; thesis",
        SQUARED,
        "1 where the labels rise with the ELR through all three, at most one cell out of order",
        in_order,
        MOST_SEEDS,
        {DIGITS: "holds", FASHION: "not decided"},
    ),
    Claim(
        "squared.fits",
        "A network large enough fits its labels with the squared loss at a small ELR.",
        QUADRATIC,
        SQUARED,
        "training error (fraction)",
        lambda e: [cell.train_error for cell in cells(e, "low")],
        below(0.01, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "not decided"},
    ),
    Claim(
        "squared.loss",
        "At a small ELR the squared loss falls to a small part of what it was.",
        QUADRATIC,
        SQUARED,
        "training loss over that at initialisation",
        lambda e: [cell.train_loss / cell.loss_at_init for cell in cells(e, "low")],
        below(0.1, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
        note="How low it gets depends on the draw of the frozen head: 0.008 to 0.067 over 24 seeds (docs/results.md).",
    ),
    Claim(
        "squared.level-rises",
        "Above the convergence regime the squared loss rises with the ELR.",
        QUADRATIC,
        SQUARED,
        "loss at the larger ELR over that at the smaller",
        lambda e: [a.loss / b.loss for a, b in zip(cells(e, "upper"), cells(e, "middle"), strict=True)],
        above(1.0),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "squared.diverges",
        "At a large ELR training with the squared loss diverges: its steps are nearly orthogonal.",
        QUADRATIC,
        SQUARED,
        "angular update (rad)",
        lambda e: [cell.angular_update for cell in cells(e, "high")],
        above(1.4, origin="earlier seeds"),
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "squared.diverges-label",
        "At a large ELR training with the squared loss is labelled as divergence.",
        QUADRATIC,
        SQUARED,
        "1 where the run is in divergence",
        lambda e: is_labelled(e, ("high", "divergence")),
        MOST_SEEDS,
        {DIGITS: "holds", FASHION: "holds"},
    ),
    Claim(
        "squared.needs-more",
        "A network that fits its data with cross-entropy does not with the squared loss.",
        f"{QUADRATIC}, abstract",
        WIDTHS,
        "training error with the squared loss minus that with cross-entropy (points)",
        lambda e: [100 * gap for gap in differences(e, "squared", "cross-entropy", "train_error")],
        above(0.0),
        {DIGITS: "holds"},
    ),
    Claim(
        "squared.wider-fits-better",
        "With the squared loss a wider network comes closer to fitting the same data.",
        f"{QUADRATIC}, abstract",
        WIDTHS,
        "training loss of the narrow network minus that of the wide one",
        lambda e: differences(e, "squared", "squared, wide", "train_loss"),
        above(0.0),
        {DIGITS: "holds"},
    ),
)
