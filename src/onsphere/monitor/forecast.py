"""When the next destabilisation comes: a forecast from the ELR and the effective gradient since the last one.

Between two jumps weight decay raises log ELR at an almost constant rate, from its trough to the level at which the
minimum just found is no longer stable. Three guesses of that level need no model of the network:

    level    the median level of earlier jumps                                   l_j
    climb    the present trough plus the median climb of earlier periods         l_t + c
    mirror   as far above the ELR at which the gradient was smallest as that is above the trough:  2 l_m - l_t

The last is the law of the toy with weight decay (:func:`onsphere.dynamics.toys.period_law`): what the distance to the
minimum lost below the threshold it gains above it. Full-batch runs follow climb and mirror, noisy ones level and
climb; how noisy a run is shows in its gradient norm from step to step. The forecast is a fixed linear mix of the
guesses in units of the climb, divided by the present slope; median and 10 % and 90 % quantiles were fitted by quantile
regression on seeds 10 to 19
(``python -m benchmarks forecast`` prints the errors on seeds 20 to 29).

Source: the mechanism is that of Lobacheva, Kodryan et al., NeurIPS 2021; the forecast is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onsphere.dynamics.detect import DROP, zigzag_jumps

__all__ = ["Forecast", "forecast_jump"]

Array = NDArray[np.float64]

#: Periods that must lie behind before a forecast is made.
_LEAST_PERIODS = 2
#: Median second difference of the log gradient norm above which a run counts as noisy: full batch 0.04, minibatches
#: 0.6.
_NOISY = 0.2
#: The gradient is averaged over this part of a period before its minimum is taken.
_SMOOTH = 0.05
#: A present slope further than this from that of earlier periods is not believed.
_SLOWEST, _FASTEST = 0.5, 1.5
#: Weights of (1, level, climb, mirror) for the 10 %, 50 % and 90 % quantiles.
_SMOOTH_RUN = ((-0.126, 0.0, 0.807, 0.117), (-0.01, 0.0, 0.903, 0.158), (0.202, 0.0, 0.941, 0.06))
_NOISY_RUN = ((0.033, 0.283, 0.117, 0.0), (0.21, 0.445, 0.164, 0.0), (0.574, 0.667, 0.029, 0.0))


@dataclass(frozen=True)
class Forecast:
    """When the next jump is expected.

    Attributes:
        step: Step at which it is expected, the median.
        low: It comes no earlier with 90 % probability.
        high: It comes no later with 90 % probability.
        period: Median distance of earlier jumps, steps.
        last: Step of the last jump.
    """

    step: float
    low: float
    high: float
    period: float
    last: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def forecast_jump(
    elr: ArrayLike,
    effective_gradient: ArrayLike,
    *,
    steps: ArrayLike | None = None,
    jumps: ArrayLike | None = None,
    burn_in: int = 0,
) -> Forecast | None:
    """Forecast the next jump of a run from its readings so far.

    Args:
        elr: ELR of consecutive readings ``[T]``; readings that are not finite are left out.
        effective_gradient: Norm of the effective gradient at the same readings ``[T]``.
        steps: Step number of each reading ``[T]``, ascending; None: 0, 1, 2, ...
        jumps: Indices of the readings at which the ELR peaked before it fell, if they are known; all readings must be
            finite then. None: found here, by a fall of more than ln 1.25.
        burn_in: Jumps are counted from this step on.

    Returns:
        The forecast, in steps; None before two whole periods lie behind.

    Raises:
        ValueError: The arrays differ in length.

    Source: see the module.
    """
    rates, gradients = np.asarray(elr, dtype=np.float64), np.asarray(effective_gradient, dtype=np.float64)
    numbers = np.arange(len(rates)) if steps is None else np.asarray(steps)
    if not (rates.shape == gradients.shape == numbers.shape and rates.ndim == 1):
        raise ValueError(
            f"elr, effective_gradient and steps have shapes {rates.shape}, {gradients.shape} and {numbers.shape}; "
            "they must be series of one length"
        )
    good = np.isfinite(rates) & (rates > 0) & np.isfinite(gradients) & (gradients >= 0)
    rates, gradients, numbers = rates[good], gradients[good], numbers[good]
    start = int(np.searchsorted(numbers, burn_in))
    if jumps is not None:
        peaks = np.asarray(jumps, dtype=np.int64)
    else:
        peaks = zigzag_jumps(rates, drop=DROP, burn_in=start) if len(rates) else np.zeros(0, dtype=np.int64)
    found = features(np.log(rates), np.log(np.maximum(gradients, 1e-300)), peaks)
    if found is None:
        return None
    guesses, scale, noisy = found
    low, median, high = (float(np.dot(weights, guesses)) for weights in (_NOISY_RUN if noisy else _SMOOTH_RUN))
    per_reading = float(numbers[-1] - numbers[peaks[0]]) / (len(numbers) - 1 - peaks[0])
    ahead = [max(x, 0.0) * scale * per_reading for x in (min(low, median), median, max(high, median))]
    now = float(numbers[-1])
    return Forecast(
        step=float(now + ahead[1]),
        low=float(now + ahead[0]),
        high=float(now + ahead[2]),
        period=float(np.median(np.diff(numbers[peaks]))),
        last=int(numbers[peaks[-1]]),
    )


def features(log_elr: Array, log_gradient: Array, peaks: NDArray[np.int64]) -> tuple[Array, float, bool] | None:
    """What the forecast is a linear function of.

    Args:
        log_elr: log ELR of every reading, ``[T]``.
        log_gradient: log norm of the effective gradient, ``[T]``.
        peaks: Readings before which the ELR fell: the jumps so far, ascending.

    Returns:
        (1, level, climb, mirror) relative to the present ELR in units of the median climb; readings per unit; whether
        the run is noisy. None while too few periods lie behind, or right after a jump.
    """
    if len(peaks) < _LEAST_PERIODS + 1:
        return None
    last = int(peaks[-1])
    period = float(np.median(np.diff(peaks)))
    troughs = [a + int(np.argmin(log_elr[a:b])) for a, b in pairwise(peaks)]
    trough = last + int(np.argmin(log_elr[last:]))
    now = len(log_elr) - 1
    if now - trough < 3:
        return None
    climbs = log_elr[peaks[1:]] - log_elr[troughs]
    climb = float(np.median(climbs))
    usual = float(np.median(climbs / (peaks[1:] - np.array(troughs))))
    back = max(5, (now - trough) // 2)
    slope = float(np.clip((log_elr[now] - log_elr[now - back]) / back, _SLOWEST * usual, _FASTEST * usual))
    smooth = _running_mean(log_gradient[last:], max(3, int(_SMOOTH * period)))
    calmest = max(last + int(np.argmin(smooth)), trough)
    level = float(np.median(log_elr[peaks[1:]]))
    guesses = np.array([level, log_elr[trough] + climb, 2 * log_elr[calmest] - log_elr[trough]]) - log_elr[now]
    recent = log_gradient[peaks[0] :]
    noise = float(np.median(np.abs(np.diff(recent, 2))))
    return np.concatenate([[1.0], guesses / climb]), climb / slope, noise > _NOISY


def _running_mean(values: Array, window: int) -> Array:
    """Mean of the last ``window`` values at each place, of fewer at the start."""
    sums = np.cumsum(values)
    sums[window:] -= sums[:-window].copy()
    return np.asarray(sums / np.minimum(np.arange(1, len(values) + 1), window))
