"""Calibration errors: how far the probabilities that are given to classes are from how often these come true.

Probabilities p of examples are sorted into bins b; n_b of n fall into one, p̄_b is their mean, and a_b is the share of
them whose class came true. What is in a bin and what is summed makes the kind:

    ece    p the largest probability of an example, its class the predicted one; bins of equal width
    sce    p the probability of class k, for every class by itself; bins of equal width; mean over classes
    ace    as sce, with bins of equal numbers of examples
    tace   as ace, of the probabilities above a threshold alone

and the norm says how the gaps are added up, over bins and (m of them) classes; n is of the class:

    l1     (1/m) sum_k sum_b (n_b / n) |a_b - p̄_b|
    l2     the square root of (1/m) sum_k sum_b (n_b / n) (a_b - p̄_b)²
    max    the largest |a_b - p̄_b|

All are fractions, and all are biased upwards, the more so the fewer examples and the more bins there are: a perfectly
calibrated prediction has an error above 0. Compare them at equal numbers of examples and bins only.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onsphere.ensembles._inputs import Array, positive_integer
from onsphere.ensembles.averaging import checked_predictions

__all__ = ["Norm", "ace", "ece", "sce", "tace"]

Norm = Literal["l1", "l2", "max"]


def ece(predictions: Any, labels: Any, *, bins: int = 15, norm: Norm = "l1") -> float:
    """Expected calibration error of the most probable class, with bins of equal width.

        sum over bins of (share of examples in the bin) * |accuracy in the bin - mean confidence in the bin|

    The confidence is the largest probability; bin i of B holds the confidences from i / B (included) to (i + 1) / B
    (excluded), the last bin those of 1 too. It is biased upwards, the more so the fewer examples there are.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that
            :func:`~onsphere.ensembles.accuracy` takes.
        labels: Class of each example, ``[examples]``.
        bins: Number B of bins.
        norm: ``"l1"`` is the sum above; ``"l2"`` the root of the mean square, ``"max"`` the largest gap.

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: As :func:`~onsphere.ensembles.accuracy`, ``bins`` below 1, or an unknown norm.

    Source:
        Guo et al. 2017.
    """
    bins = positive_integer("bins", bins)
    logs, classes = checked_predictions(predictions, labels)
    confidence = np.minimum(np.exp(logs.max(axis=1)), 1.0)
    right = logs.argmax(axis=1) == classes
    return _total([_gaps(confidence, right, _of_equal_width(confidence, bins), bins)], norm)


def sce(predictions: Any, labels: Any, *, bins: int = 15, norm: Norm = "l1") -> float:
    """Static calibration error: the error of every class's probability, with bins of equal width; mean over classes.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that
            :func:`~onsphere.ensembles.accuracy` takes.
        labels: Class of each example, ``[examples]``.
        bins: Number of bins, whose ends are those of :func:`ece`.
        norm: How gaps are added up; see the head of this module.

    Returns:
        A fraction between 0 and 1. With many classes it is small, since most probabilities are.

    Raises:
        ValueError: As :func:`ece`.

    Source:
        Nixon et al. 2019, section 3 (SCE).
    """
    bins = positive_integer("bins", bins)
    columns = _columns(predictions, labels)
    return _total([_gaps(p, true, _of_equal_width(p, bins), bins) for p, true in columns], norm)


def ace(predictions: Any, labels: Any, *, bins: int = 15, norm: Norm = "l1") -> float:
    """Adaptive calibration error: as :func:`sce`, with bins that hold equally many examples.

    The n probabilities of a class in ascending order are cut at the places i n / B, rounded down; equal probabilities
    stay in the order of their examples. Where there are fewer of them than bins, the empty bins do not count.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that
            :func:`~onsphere.ensembles.accuracy` takes.
        labels: Class of each example, ``[examples]``.
        bins: Number B of bins.
        norm: How gaps are added up; see the head of this module.

    Returns:
        A fraction between 0 and 1.

    Raises:
        ValueError: As :func:`ece`.

    Source:
        Nixon et al. 2019, section 3 (ACE).
    """
    return _adaptive(_columns(predictions, labels), bins, norm)


def tace(predictions: Any, labels: Any, *, bins: int = 15, norm: Norm = "l1", threshold: float = 1e-3) -> float:
    """Thresholded adaptive calibration error: :func:`ace` of the probabilities above a threshold alone.

    Most probabilities are next to 0 and next to right, and would fill most bins. A class without a probability above
    the threshold has an error of 0 and counts in the mean.

    Args:
        predictions: Logits or log-probabilities, in one of the shapes that
            :func:`~onsphere.ensembles.accuracy` takes.
        labels: Class of each example, ``[examples]``.
        bins: Into how many bins the probabilities of a class are cut.
        norm: How gaps are added up; see the head of this module.
        threshold: Probabilities that are not above it are left out; in [0, 1).

    Returns:
        A fraction between 0 and 1; 0 where no probability is above the threshold.

    Raises:
        ValueError: As :func:`ece`, or a threshold out of range.

    Source:
        Nixon et al. 2019, section 3 (TACE).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must lie in [0, 1)")
    columns = [(p[p > threshold], true[p > threshold]) for p, true in _columns(predictions, labels)]
    return _adaptive(columns, bins, norm)


def _columns(predictions: Any, labels: Any) -> list[tuple[Array, Array]]:
    """For every class its probabilities [examples], and where it is the label."""
    logs, targets = checked_predictions(predictions, labels)
    return [(np.minimum(np.exp(logs[:, k]), 1.0), targets == k) for k in range(logs.shape[1])]


def _of_equal_width(probabilities: Array, bins: int) -> NDArray[np.int64]:
    """The bin of every probability."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.minimum(np.searchsorted(edges, probabilities, side="right") - 1, bins - 1).astype(np.int64)


def _adaptive(columns: list[tuple[Array, Array]], bins: int, norm: Norm) -> float:
    bins, parts = positive_integer("bins", bins), []
    for probabilities, true in columns:
        order = np.argsort(probabilities, kind="stable")
        ends = np.arange(1, bins) * len(order) // bins
        index = np.searchsorted(ends, np.arange(len(order)), side="right").astype(np.int64)
        parts.append(_gaps(probabilities[order], true[order], index, bins))
    return _total(parts, norm)


def _gaps(probabilities: Array, true: Array, index: NDArray[np.int64], bins: int) -> tuple[Array, Array]:
    """The share n_b / n of every bin, and that share times a_b - p̄_b."""
    count = max(len(index), 1)
    shares = np.bincount(index, minlength=bins) / count
    return shares, np.bincount(index, weights=true - probabilities, minlength=bins) / count


def _total(parts: list[tuple[Array, Array]], norm: Norm) -> float:
    """The gaps of all classes added up."""
    if norm == "l1":
        return float(sum(np.abs(weighted).sum() for _, weighted in parts) / len(parts))
    if norm not in ("l2", "max"):
        raise ValueError(f"norm is {norm!r}; it must be 'l1', 'l2' or 'max'")
    known = [(shares[shares > 0], weighted[shares > 0]) for shares, weighted in parts]
    if norm == "l2":
        return math.sqrt(sum(float((w**2 / shares).sum()) for shares, w in known) / len(parts))
    return max((float(np.abs(w / shares).max()) for shares, w in known if len(w)), default=0.0)
