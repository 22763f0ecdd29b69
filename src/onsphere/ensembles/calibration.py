"""The calibrated negative log-likelihood (CNLL): NLL at the best temperature, by cross-validation on the test set.

    CNLL = mean over folds of NLL_test( T_fit ),      T_fit = argmin_T NLL_fit(T)

    "averaged"   softmax( log(mean_i p_i) / T )          one temperature on the averaged log-probabilities
    "members"    mean_i softmax( z_i / T )               one temperature on every member's logits, before averaging

The examples are cut at random into two halves; the temperature fitted on one is scored on the other, both ways, and
the whole is repeated. Comparing networks or ensembles by the plain NLL mostly compares their temperatures.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from onsphere.ensembles._inputs import (
    Array,
    Labels,
    as_array,
    check_labels,
    check_logits,
    log_softmax,
    positive_integer,
)
from onsphere.ensembles.averaging import mean_probabilities

__all__ = ["Calibration", "Temperature", "best_temperature", "calibrated_nll", "temperature_nll"]

Temperature = Literal["averaged", "members"]

#: ln T is searched up to this far from 0, temperatures from 1/1000 to 1000, and from the scale of logits beyond these.
BOUND = math.log(1e3)
#: Logits whose standard deviation lies between 1/30 and 30 are searched within these bounds.
USUAL = math.log(30)


@dataclass(frozen=True)
class Calibration:
    """A CNLL and where it comes from; ``float(...)`` is the value.

    Attributes:
        value: CNLL in nats, the mean over repeats and folds.
        standard_error: Standard error of the value, from the spread over examples (each example's loss is averaged over
            the repeats first). It is what other test examples would change; the members' training seeds are not in it.
        temperatures: The fitted temperatures, ``repeats * folds`` of them, repeat by repeat.
        at_bound: How many of them lie at a bound of the search: 1/1000 and 1000, beyond these with the scale of the
            logits. Then the fitted half has no best temperature, as where every example is classified correctly
            (T -> 0) or predictions are worse than none (T -> infinity).
        uncalibrated: NLL in nats at temperature 1.
        temperature: What had the temperature: ``"averaged"`` or ``"members"``.
    """

    value: float
    standard_error: float
    temperatures: tuple[float, ...]
    at_bound: int
    uncalibrated: float
    temperature: Temperature

    def __float__(self) -> float:
        return self.value

    @property
    def mean_temperature(self) -> float:
        """Geometric mean of the temperatures."""
        return math.exp(sum(map(math.log, self.temperatures)) / len(self.temperatures))

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values by name, ready for JSON."""
        return {**asdict(self), "temperatures": list(self.temperatures)}

    def __repr__(self) -> str:
        bound = f", {self.at_bound} of {len(self.temperatures)} temperatures at the bound" if self.at_bound else ""
        return (
            f"Calibration: CNLL {self.value:.4f} +- {self.standard_error:.4f} nats at temperature "
            f"{self.mean_temperature:.3g} ({self.temperature}); NLL {self.uncalibrated:.4f}{bound}"
        )


def calibrated_nll(
    logits: Any,
    labels: Any,
    *,
    temperature: Temperature = "averaged",
    folds: int = 2,
    repeats: int = 5,
    seed: int = 0,
) -> Calibration:
    """CNLL by test-time cross-validation.

    Args:
        logits: ``[members, examples, classes]``: logits or log-probabilities of the members, numpy or torch.
        labels: ``[examples]``, whole numbers. Classes that never occur are fine.
        temperature: ``"averaged"``: applied to the log of the averaged probabilities; ``"members"``: to every member's
            logits before averaging. For one member both are the same.
        folds: Into how many parts the examples are cut. Each is scored at the temperature fitted on the rest:
            with 2, as in the papers, fitted on one half and scored on the other.
        repeats: How many random cuts; 5 in the papers.
        seed: Seed of the cuts. The same seed cuts different ensembles alike, so their differences are paired.

    Returns:
        The value with its temperatures.

    Raises:
        ValueError: Shapes that do not match, NaN, labels out of range, fewer than ``folds`` examples, or a label that
            was given probability 0, so that no temperature has a finite NLL.

    Source:
        Ashukha et al. 2020 (test-time cross-validation); Lobacheva, Chirkova et al. 2020 (2 folds, 5 repeats).
    """
    array = check_logits(logits)
    _, examples, classes = array.shape
    targets = check_labels(labels, examples, classes)
    folds, repeats = positive_integer("folds", folds), positive_integer("repeats", repeats)
    if not 2 <= folds <= examples:
        raise ValueError(f"folds is {folds}; it must lie between 2 and the number of examples, {examples}")
    base, kind = _prepared(array, targets, temperature), temperature
    fitted: list[tuple[float, bool]] = []
    totals = np.zeros(examples)
    generator = np.random.default_rng(seed)
    for _ in range(repeats):
        for fold in np.array_split(generator.permutation(examples), folds):
            rest = np.setdiff1d(np.arange(examples), fold, assume_unique=True)
            fitted.append(_fit(base[:, rest], targets[rest]))
            totals[fold] += _losses(base[:, fold], targets[fold], fitted[-1][0])
    losses = totals / repeats
    return Calibration(
        value=float(losses.mean()),
        standard_error=float(losses.std(ddof=1) / math.sqrt(examples)),
        temperatures=tuple(t for t, _ in fitted),
        at_bound=sum(bound for _, bound in fitted),
        uncalibrated=float(_losses(base, targets, 1.0).mean()),
        temperature=kind,
    )


def best_temperature(logits: Any, labels: Any, *, temperature: Temperature = "averaged") -> float:
    """The temperature with the least NLL on these very examples.

    It is searched from 1/1000 to 1000; for logits whose standard deviation is above 30 or below 1/30 these bounds go
    with it.

    Args:
        logits: Logits of the members, ``[members, examples, classes]``, as for :func:`calibrated_nll`.
        labels: Class of each example, ``[examples]``.
        temperature: Whether the averaged prediction or each member has the temperature, as for :func:`calibrated_nll`.

    Raises:
        ValueError: As :func:`calibrated_nll`.

    Warns:
        UserWarning: The NLL falls up to a bound of the search, which is then returned: these examples have no best
            temperature.
    """
    array = check_logits(logits)
    targets = check_labels(labels, *array.shape[1:])
    found, bound = _fit(_prepared(array, targets, temperature), targets)
    if bound:
        why = "every example is classified correctly" if found < 1 else "the predictions are worse than none"
        warnings.warn(
            f"the NLL falls up to the bound of the search, temperature {found:.3g}, which is returned: there is no "
            f"best temperature for these examples ({why}, perhaps)",
            UserWarning,
            stacklevel=2,
        )
    return found


def temperature_nll(logits: Any, labels: Any, temperatures: Any, *, temperature: Temperature = "averaged") -> Array:
    """NLL at fixed temperatures on these very examples; its lower envelope over temperatures is what CNLL follows.

    Args:
        logits: Logits of the members, ``[members, examples, classes]``, as for :func:`calibrated_nll`.
        labels: Class of each example, ``[examples]``.
        temperatures: ``[T]``, positive and finite.
        temperature: Whether the averaged prediction or each member has the temperature, as for :func:`calibrated_nll`.

    Returns:
        Mean NLL in nats at every temperature, ``[T]``.

    Raises:
        ValueError: As :func:`calibrated_nll`, or temperatures out of range.

    Source:
        Lobacheva, Chirkova, Kodryan and Vetrov 2020 (NLL at fixed temperatures has exponent -1 in the members).
    """
    given = np.atleast_1d(as_array(temperatures)).astype(np.float64)
    if given.ndim != 1 or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"temperatures are {temperatures}; they must be a list of positive, finite numbers")
    array = check_logits(logits)
    targets = check_labels(labels, *array.shape[1:])
    base = _prepared(array, targets, temperature)
    return np.array([_losses(base, targets, t).mean() for t in given.tolist()])


def _prepared(array: Array, targets: Labels, temperature: str) -> Array:
    """What the temperature divides, [1, examples, classes] or [members, examples, classes]."""
    if temperature not in ("averaged", "members"):
        raise ValueError(f"temperature is {temperature!r}; it must be 'averaged' or 'members'")
    logs = log_softmax(array)
    base = mean_probabilities(logs)[None] if temperature == "averaged" else logs
    impossible = np.isneginf(base[:, np.arange(len(targets)), targets]).all(axis=0)
    if impossible.any():
        raise ValueError(
            f"the label of example {int(np.flatnonzero(impossible)[0])} was given probability 0; no temperature makes "
            "its NLL finite: give logits rather than the logarithm of rounded probabilities"
        )
    return base


def _losses(base: Array, targets: Labels, temperature: float) -> Array:
    """NLL of every example at a temperature."""
    logs = mean_probabilities(log_softmax(base / temperature))
    return np.asarray(-logs[np.arange(len(targets)), targets])


def _fit(base: Array, targets: Labels) -> tuple[float, bool]:
    """Bounded scalar minimisation over ln T, after a coarse grid: with members the NLL need not have one minimum.

    Returns:
        The temperature, and whether it lies at a bound.
    """
    from scipy.optimize import minimize_scalar

    def objective(log_temperature: float) -> float:
        return float(_losses(base, targets, math.exp(log_temperature)).mean())

    least, most = _bounds(base)
    low, high = _bracket(objective, least, most)
    found = minimize_scalar(objective, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    # Where the NLL only levels off towards a bound, by rounding, it has no best temperature: the bound says so.
    end = min((least, most), key=objective)
    best = end if objective(end) <= float(found.fun) else float(found.x)
    return math.exp(best), min(best - least, most - best) < 1e-3


def _bounds(base: Array) -> tuple[float, float]:
    """Least and largest ln T that are searched."""
    known = np.where(np.isfinite(base), base, np.nan)
    size = float(np.nanmax(np.abs(known)))
    spread = float(np.nanmean(np.nanvar(known / size, axis=-1))) ** 0.5 if size > 0 else 0.0
    scale = math.log(spread) + math.log(size) if spread > 0 else 0.0
    return min(-BOUND, scale + USUAL - BOUND), max(BOUND, scale - USUAL + BOUND)


def _bracket(objective: Callable[[float], float], least: float, most: float) -> tuple[float, float]:
    grid = np.linspace(least, most, 1 + math.ceil((most - least) * 14 / (2 * BOUND) - 1e-9))
    best = int(np.argmin([objective(float(x)) for x in grid]))
    return float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
