"""Averaging the members of an ensemble: the one prediction that they make together.

    averaged probabilities   log p(c) = logsumexp_i log p_i(c) - log n       what the papers call the ensemble
    averaged logits          log p    = log softmax( (1/n) sum_i z_i )       the geometric mean, renormalised

Inputs are numpy arrays or torch tensors, results float64 arrays. A member's logits and log-probabilities are
interchangeable: softmax is the same for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onsphere.ensembles._inputs import Array, Labels, as_array, check_labels, check_logits, log_softmax

__all__ = ["average_logits", "average_probabilities", "checked_predictions", "mean_probabilities"]


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


def checked_predictions(predictions: Any, labels: Any) -> tuple[Array, Labels]:
    """Log-probabilities [examples, classes] of predictions in either shape, and their labels [examples]."""
    try:
        several = as_array(predictions).ndim == 3
    except ValueError:  # members of different shapes; what is allowed is said there
        several = True
    logs = average_probabilities(predictions) if several else log_softmax(check_logits(predictions, dimensions=2))
    return logs, check_labels(labels, *logs.shape)
