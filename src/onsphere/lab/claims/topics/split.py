"""Memory splits: when several thin networks beat a wide one with as many parameters, and the laws of ensembles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onsphere.lab.claims.rules import above, below, near, within
from onsphere.lab.claims.study import POWER_LAWS, SPLIT, Claim, Evidence, Study, Variant
from onsphere.lab.claims.topics.settings import CIFAR_10, CIFAR_100, DIGITS, ENGINE, FASHION

if TYPE_CHECKING:
    from onsphere.lab.experiments.split.result import SplitResult

_ENGINE = ENGINE | {"chunk": 32}
_IMAGES = _ENGINE | {"data": "fashion-mnist", "pool": 7}
_PLAIN = {"model": "plain-mlp", "curves": False}
_FEW = _IMAGES | _PLAIN | {"train": 500, "budget": "16k", "members": (1, 8, 16)}
_EPOCHS = 200 * 352  # of 45,000 images in batches of 128
_PAPER = {"train": 45_000, "batch_size": 128, "steps": _EPOCHS, "optimizer": "sgd", "lr": 0.05, "weight_decay": 3e-4}

FEW = Study(
    "split-few",
    "Few images and a large budget: one network overfits.",
    "split",
    (
        Variant(FASHION, _FEW, {"one": 1, "split": 8, "most": 16}),
        Variant(
            DIGITS,
            _ENGINE | _PLAIN | {"train": None, "budget": "64k", "members": (1, 2, 16)},
            {"one": 1, "split": 2, "most": 16},
        ),
    ),
    paper=(
        Variant(
            CIFAR_100,
            _PAPER | {"data": "cifar100", "model": "wrn28", "budget": "36755940", "members": (1, 16, 64), "lr": 0.1},
            {"one": 1, "split": 16, "most": 64},
        ),
        Variant(
            CIFAR_10,
            _PAPER | {"data": "cifar10", "model": "vgg16", "budget": "15247000", "members": (1, 8, 64)},
            {"one": 1, "split": 8, "most": 64},
        ),
    ),
    figures=("splits",),
)

MANY = Study(
    "split-many",
    "Many images for a small budget: one network does not overfit.",
    "split",
    (
        Variant(
            FASHION,
            _IMAGES | _PLAIN | {"train": 5000, "budget": "4k", "members": (1, 4), "steps": 800},
            {"one": 1, "split": 4},
        ),
        Variant(DIGITS, _ENGINE | _PLAIN | {"train": None, "budget": "4k", "members": (1, 4)}, {"one": 1, "split": 4}),
    ),
    figures=("splits",),
)

NORMED = Study(
    "split-normed",
    "The same with batch norm and a frozen head.",
    "split",
    (
        Variant(
            FASHION,
            _IMAGES | {"train": 500, "budget": "16k", "members": (1, 8), "curves": False},
            {"one": 1, "split": 8},
        ),
    ),
    figures=("splits",),
)

PREDICTED = Study(
    "split-predicted",
    "Every split trained; and five times four networks at each width, whose power laws predict which split is best.",
    "split",
    (
        Variant(
            FASHION,
            _FEW,
            {"split": 8},
            {"trained": {}} | {f"predicted {k}": {"predict": True, "curves": True, "seed": k} for k in range(5)},
        ),
    ),
    figures=("splits",),
)

BUDGETS = Study(
    "split-budgets",
    "Three budgets, few images.",
    "split",
    (
        Variant(
            FASHION,
            _IMAGES | {"model": "plain-mlp", "train": 500, "budget": "1k,4k,16k", "members": (1, 2, 4, 8)},
            {"small": 1000, "large": 16_000},
        ),
    ),
    figures=("envelope", "curves"),
)


def scores(evidence: Evidence, metric: str, members: str) -> list[float]:
    """A metric of the split of so many members, by seed."""
    result: SplitResult = evidence.result
    row = result.budgets[0].row(int(evidence.places[members]))
    return [math.nan if value is None else value for value in row.values[metric]]


def gain(evidence: Evidence, metric: str, members: str = "split", other: str = "one") -> list[float]:
    """A metric of a split minus that of another, seed by seed."""
    pairs = zip(scores(evidence, metric, members), scores(evidence, metric, other), strict=True)
    return [a - b for a, b in pairs]


def best_members(evidence: Evidence, budget: str) -> list[float]:
    """The members of the split with the lowest NLL at a budget, by seed."""
    result: SplitResult = evidence.result
    (own,) = (one for one in result.budgets if one.budget == evidence.places[budget])
    rows = [(row.members, [math.inf if v is None else v for v in row.values["nll"]]) for row in own.splits]
    return [float(min(rows, key=lambda row: row[1][k])[0]) for k in range(result.spec.seeds)]


def predictions(evidence: Evidence) -> list[SplitResult]:
    """The results of the predictions, by seed."""
    return [result for name, result in evidence.parts.items() if name.startswith("predicted")]


def close_to_trained(evidence: Evidence) -> list[float]:
    """The largest distance of a predicted NLL from the trained one, by prediction."""
    trained: SplitResult = evidence.parts["trained"]
    nll = {row.members: row.nll for row in trained.budgets[0].splits}
    return [
        max(abs(row.nll - nll[row.members]) for row in result.budgets[0].splits) for result in predictions(evidence)
    ]


def law_exponents(evidence: Evidence) -> list[float]:
    """The exponents of the fitted laws of the CNLL in the number of members, one a width that has one."""
    result: SplitResult = evidence.result
    return [law.law.exponent for law in result.laws if law.metric == "cnll" and law.law and not law.law.fixed_exponent]


CLAIMS = (
    Claim(
        "split.advantage",
        "With a large budget several thin networks have a lower NLL than one wide network of as many parameters.",
        f"{SPLIT}, abstract",
        FEW,
        "NLL of the split minus that of one network (nats)",
        lambda e: gain(e, "nll"),
        below(0),
        {FASHION: "holds", DIGITS: "not decided"},
    ),
    Claim(
        "split.advantage-clear",
        "That advantage is more than 0.05 nats.",
        SPLIT,
        FEW,
        "NLL of the split minus that of one network (nats)",
        lambda e: gain(e, "nll"),
        below(-0.05, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "split.interior",
        "The best number of networks is neither one nor the most: too thin ones are worse again.",
        SPLIT,
        FEW,
        "NLL of the split minus that of the most networks (nats)",
        lambda e: gain(e, "nll", "split", "most"),
        below(0),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "split.interior-clear",
        "The most networks are worse than the best number by 0.015 nats at least.",
        SPLIT,
        FEW,
        "NLL of the split minus that of the most networks (nats)",
        lambda e: gain(e, "nll", "split", "most"),
        below(-0.015, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "split.accuracy",
        "The split is more accurate.",
        f"{SPLIT}, abstract (CIFAR-100: 82.5 against 80.6 %)",
        FEW,
        "accuracy of the split minus that of one network (points)",
        lambda e: [100 * value for value in gain(e, "accuracy")],
        above(0),
        {FASHION: "not decided", DIGITS: "not decided"},
        note="At this size the advantage is one of the NLL.",
    ),
    Claim(
        "split.accuracy-alike",
        "At the small scale the accuracies of one network and of eight are within two points.",
        SPLIT,
        FEW,
        "accuracy of the split minus that of one network (points)",
        lambda e: [100 * value for value in gain(e, "accuracy")],
        near(0, 2, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "split.small-budget-one",
        "With a small budget for the data one network is better, by half a point of accuracy.",
        SPLIT,
        MANY,
        "accuracy of one network minus that of the split (points)",
        lambda e: [-100 * value for value in gain(e, "accuracy")],
        above(0.5, origin="earlier seeds"),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "split.small-budget-nll",
        "With a small budget one network has the lower NLL, and the lower NLL at its best temperature.",
        SPLIT,
        MANY,
        "the smaller of the differences in NLL and in CNLL, split minus one network (nats)",
        lambda e: [min(pair) for pair in zip(gain(e, "nll"), gain(e, "cnll"), strict=True)],
        above(0),
        {FASHION: "holds", DIGITS: "holds"},
    ),
    Claim(
        "split.normed",
        "Networks with batch norm show the advantage as well, by more than 0.05 nats.",
        SPLIT,
        NORMED,
        "NLL of the split minus that of one network (nats)",
        lambda e: gain(e, "nll"),
        below(-0.05, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "split.grows-with-budget",
        "The best number of networks grows with the budget.",
        SPLIT,
        BUDGETS,
        "log2 of the best number at 16,000 parameters minus that at 1,000",
        lambda e: [
            math.log2(large / small)
            for large, small in zip(best_members(e, "large"), best_members(e, "small"), strict=True)
        ],
        above(0),
        {FASHION: "holds"},
    ),
    Claim(
        "power-laws.members",
        "The calibrated NLL falls with the number of networks as a power with a negative exponent.",
        f"{POWER_LAWS}, abstract",
        BUDGETS,
        "exponent of the law, one a width",
        law_exponents,
        within(-3, 0),
        {FASHION: "holds"},
        note="The interval is over widths, not over seeds: a law is fitted to all seeds of a width.",
    ),
    Claim(
        "power-laws.predict",
        "Four networks at each width predict the best split within a factor of two.",
        f"{POWER_LAWS}, prediction of the split",
        PREDICTED,
        "predicted number of networks over the best one",
        lambda e: [result.best["nll"] / e.places["split"] for result in predictions(e)],
        within(0.499, 2.001, of="share"),
        {FASHION: "holds"},
    ),
    Claim(
        "power-laws.predict-cost",
        "That takes a third of what training every split takes, also by parameters.",
        f"{POWER_LAWS}, prediction of the split",
        PREDICTED,
        "share of the training, the larger by steps and by parameters",
        lambda e: [max(result.cost.share, result.cost.parameter_share) for result in predictions(e)],
        below(1 / 3, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
    Claim(
        "power-laws.predict-nll",
        "The predicted NLL of every split is that of the trained one within 0.03 nats.",
        f"{POWER_LAWS}, prediction of the split",
        PREDICTED,
        "largest distance of a predicted NLL from the trained one (nats)",
        close_to_trained,
        below(0.03, origin="earlier seeds"),
        {FASHION: "holds"},
    ),
)
