"""Averaging the members of an ensemble, and how good the average is.

    averaged probabilities   log p(c) = logsumexp_i log p_i(c) - log n       what the papers call the ensemble
    averaged logits          log p    = log softmax( (1/n) sum_i z_i )       the geometric mean, renormalised

Inputs are numpy arrays or torch tensors, results numbers or float64 arrays. A member's logits and log-probabilities
are interchangeable: softmax is the same for both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onsphere.ensembles._inputs import Array, as_array, check_labels, check_logits, log_softmax, positive_integer

__all__ = [
    "Metrics",
    "accuracy",
    "average_logits",
    "average_probabilities",
    "brier",
    "disagreement",
    "ece",
    "evaluate",
    "nll",
]


def average_probabilities(logits: Any) -> Array:
    """Log of the mean of the members' probabilities.

    Args:
        logits: Logits of the members, ``[members, examples, classes]``.

    Returns:
        Log-probabilities ``[examples, classes]``, logsumexp over members minus log n.

    Raises:
        ValueError: Another shape, or NaN.

    Source:
        Lobacheva, Chirkova et al. 2020; Chirkova et al. 2020.
    """
    return mean_probabilities(log_softmax(check_logits(logits)))


def average_logits(logits: Any) -> Array:
    """Log-probabilities of the mean of the members' logits; usually a little worse than averaged probabilities.

    Args:
        logits: Logits of the members, ``[members, examples, classes]``.

    Returns:
        Log-probabilities of the mean, ``[examples, classes]``.

    Raises:
        ValueError: Another shape, NaN, or an example for which the members together exclude every class.
    """
    return log_softmax(check_logits(check_logits(logits).mean(axis=0), dimensions=2))


def mean_probabilities(log_probabilities: Array) -> Array:
    """Logsumexp over members minus log n, unchecked."""
    if len(log_probabilities) == 1:
        return np.asarray(log_probabilities[0])
    top = log_probabilities.max(axis=0)
    shift = np.where(np.isneginf(top), 0.0, top)  # a class that no member allows stays at -inf
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(np.exp(log_probabilities - shift).mean(axis=0)))


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
    logs, classes = _checked(predictions, labels)
    return float((logs.argmax(axis=1) == classes).mean())


def nll(predictions: Any, labels: Any) -> float:
    """Mean negative log-likelihood in nats, inf where a label has probability 0; arguments as :func:`accuracy`."""
    logs, classes = _checked(predictions, labels)
    return float(-logs[np.arange(len(classes)), classes].mean())


def brier(predictions: Any, labels: Any) -> float:
    """Mean over examples of the squared distance of the probabilities from the one-hot label, summed over classes.

    Between 0 and 2. Arguments as :func:`accuracy`. Source: Brier 1950.
    """
    logs, classes = _checked(predictions, labels)
    return float(np.square(np.exp(logs) - np.eye(logs.shape[1])[classes]).sum(axis=1).mean())


def ece(predictions: Any, labels: Any, *, bins: int = 15) -> float:
    """Expected calibration error of the most probable class, with bins of equal width.

        sum over bins of (share of examples in the bin) * |accuracy in the bin - mean confidence in the bin|

    The confidence is the largest probability; bin i of B holds the confidences from i / B (included) to (i + 1) / B
    (excluded), the last bin those of 1 too. It is biased upwards, the more so the fewer examples there are.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that :func:`accuracy` takes.
        labels: Class of each example, ``[examples]``.
        bins: Number B of bins.

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: As :func:`accuracy`, or ``bins`` below 1.

    Source:
        Guo et al. 2017.
    """
    bins = positive_integer("bins", bins)
    logs, classes = _checked(predictions, labels)
    confidence = np.minimum(np.exp(logs.max(axis=1)), 1.0)
    right = logs.argmax(axis=1) == classes
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(classes))


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


def _checked(predictions: Any, labels: Any) -> tuple[Array, Any]:
    """Log-probabilities [examples, classes] and labels."""
    try:
        several = as_array(predictions).ndim == 3
    except ValueError:  # members of different shapes; what is allowed is said there
        several = True
    logs = average_probabilities(predictions) if several else log_softmax(check_logits(predictions, dimensions=2))
    return logs, check_labels(labels, *logs.shape)
