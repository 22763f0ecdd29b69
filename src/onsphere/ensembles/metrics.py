"""How good predictions are: those of one network, or the averaged ones of an ensemble.

Inputs are numpy arrays or torch tensors, results numbers. A member's logits and log-probabilities are interchangeable:
softmax is the same for both.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.ensembles._inputs import check_logits, positive_integer
from onsphere.ensembles.averaging import average_probabilities, checked_predictions
from onsphere.ensembles.calibration_errors import ece

__all__ = [
    "Metrics",
    "accuracy",
    "brier",
    "disagreement",
    "evaluate",
    "misclassification_auroc",
    "nll",
    "top_k_accuracy",
]


def accuracy(predictions: Any, labels: Any) -> float:
    """Share of examples whose most probable class is the label; among equals the first class counts.

    Args:
        predictions: Logits or log-probabilities: ``[examples, classes]``, or ``[members, examples, classes]``, whose
            probabilities are averaged first.
        labels: ``[examples]``, whole numbers. Classes that never occur are fine.

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: Shapes that do not match, NaN, labels out of range.
    """
    logs, classes = checked_predictions(predictions, labels)
    return float((logs.argmax(axis=1) == classes).mean())


def top_k_accuracy(predictions: Any, labels: Any, *, k: int = 5) -> float:
    """Share of examples whose label is among the k most probable classes; among equals the first classes count.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that :func:`accuracy` takes.
        labels: Class of each example, ``[examples]``.
        k: How many classes count; 5 for "top-5".

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: As :func:`accuracy`, or ``k`` that leaves no class out.
    """
    k = positive_integer("k", k)
    logs, classes = checked_predictions(predictions, labels)
    if k >= logs.shape[1]:
        raise ValueError(f"k is {k}; with {logs.shape[1]} classes it must be below their number, or every label counts")
    own = logs[np.arange(len(classes)), classes][:, None]
    before = np.arange(logs.shape[1]) < classes[:, None]
    rank = (logs > own).sum(axis=1) + ((logs == own) & before).sum(axis=1)
    return float((rank < k).mean())


def nll(predictions: Any, labels: Any) -> float:
    """Mean negative log-likelihood in nats, inf where a label has probability 0; arguments as :func:`accuracy`."""
    logs, classes = checked_predictions(predictions, labels)
    return float(-logs[np.arange(len(classes)), classes].mean())


def brier(predictions: Any, labels: Any) -> float:
    """Mean over examples of the squared distance of the probabilities from the one-hot label, summed over classes.

    Between 0 and 2. Arguments as :func:`accuracy`. Source: Brier 1950.
    """
    logs, classes = checked_predictions(predictions, labels)
    return float(np.square(np.exp(logs) - np.eye(logs.shape[1])[classes]).sum(axis=1).mean())


def disagreement(logits: Any) -> float:
    """Mean over pairs of members of the share of examples for which their most probable classes differ.

    Args:
        logits: ``[members, examples, classes]``, at least two members.

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: Fewer than two members, another shape, or NaN.
    """
    array = check_logits(logits)
    members, examples, classes = array.shape
    if members < 2:
        raise ValueError("there is one member; disagreement is between pairs, give at least two")
    chosen = array.argmax(axis=2)
    votes = np.zeros((examples, classes))
    for row in chosen:
        votes[np.arange(examples), row] += 1
    agreeing = (votes * (votes - 1)).sum(axis=1) / (members * (members - 1))
    return float(1 - agreeing.mean())


def misclassification_auroc(predictions: Any, labels: Any) -> float:
    """How well confidence tells right from wrong predictions: the area under the receiver operating characteristic.

    It is the chance that a rightly predicted example has a larger confidence (the largest probability) than a wrongly
    predicted one, equal confidences counting half: 1/2 where confidence says nothing.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that :func:`accuracy` takes.
        labels: Class of each example, ``[examples]``.

    Returns:
        A fraction between 0 and 1; NaN where all examples are predicted rightly, or all wrongly.

    Raises:
        ValueError: As :func:`accuracy`.

    Source:
        Hendrycks and Gimpel 2017.
    """
    from scipy.stats import rankdata

    logs, classes = checked_predictions(predictions, labels)
    right = logs.argmax(axis=1) == classes
    hits, misses = int(right.sum()), int((~right).sum())
    if not hits or not misses:
        return math.nan
    ranks = rankdata(np.exp(logs.max(axis=1)))
    return float((ranks[right].sum() - hits * (hits + 1) / 2) / (hits * misses))


@dataclass(frozen=True)
class Metrics:
    """How good predictions are, averaged over the members of an ensemble.

    Attributes:
        accuracy: Fraction of examples predicted rightly.
        nll: Mean negative log-likelihood, in nats.
        brier: Brier score, summed over classes, between 0 and 2.
        ece: Expected calibration error with 15 bins.
        disagreement: Disagreement between the members; None for one member.
        members: How many members were averaged.
        examples: Number of examples behind these numbers.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    disagreement: float | None
    members: int
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return asdict(self)


def evaluate(logits: Any, labels: Any) -> Metrics:
    """All metrics of the averaged probabilities.

    Args:
        logits: Logits of the members, ``[members, examples, classes]``.
        labels: Class of each example, ``[examples]``.

    Raises:
        ValueError: As :func:`accuracy`.
    """
    array = check_logits(logits)
    average = average_probabilities(array)
    scores = {f.__name__: f(average, labels) for f in (accuracy, nll, brier, ece)}
    spread = disagreement(array) if len(array) > 1 else None
    return Metrics(**scores, disagreement=spread, members=len(array), examples=array.shape[1])
