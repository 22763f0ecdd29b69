"""Fits of the power law of deep ensembles, and how far the data determine it.

    y(n) = limit + scale * n^exponent,      exponent < 0, scale > 0

For a given exponent a the law is linear in (limit, scale), so the fit is a line in x = n^a solved exactly, and one
search over a alone, from every point of a grid. Confidence regions are profile likelihood regions,

    S(limit, scale, a) <= S_min (1 + t² / (m - 3))      without errors, t the quantile of Student's t with m - 3 degrees
    S <= S_min + z² max(1, S_min / (m - 3))             with given standard errors, S the chi-square

and the interval of anything that depends on the law is its range over the region: at fixed a that is a line's
confidence band, and the range is the union of the bands over a.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onsphere.ensembles._inputs import Array, as_array
from onsphere.ensembles._profile import STEEPEST, PowerLawError, Profile
from onsphere.results import plain_values

__all__ = ["PowerLaw", "PowerLawError", "fit_power_law"]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law limit + scale * n^exponent.

    Attributes:
        limit: What infinitely many members reach, c.
        scale: Factor b, positive for a falling law, negative for a rising one.
        exponent: Exponent a of the law, negative.
        intervals: For ``"limit"``, ``"scale"`` and ``"exponent"`` the lower and upper end. An end is infinite (0 for an
            exponent that may be arbitrarily slow) where the data do not bound it: three values without errors bound
            nothing.
        confidence: Confidence level of the intervals.
        residual: Root mean square deviation of the values, in their unit.
        sizes: The sizes fitted to.
        fixed_exponent: Whether the exponent was given rather than fitted.
    """

    limit: float
    scale: float
    exponent: float
    intervals: dict[str, tuple[float, float]]
    confidence: float
    residual: float
    sizes: tuple[float, ...]
    fixed_exponent: bool
    _profile: Profile = field(repr=False, compare=False)
    _sign: float = field(repr=False, compare=False)

    def __call__(self, n: Any) -> Any:
        """The law at size(s) n: a float, or an array of n's shape."""
        values = self.limit + self.scale * np.asarray(n, dtype=np.float64) ** self.exponent
        return float(values) if values.ndim == 0 else values

    def predict(self, n: float) -> tuple[float, float, float]:
        """The law at size n with the confidence interval of its mean: value, lower, upper end.

        Args:
            n: Any positive size, inside or outside the fitted ones.

        Raises:
            ValueError: ``n`` is not positive.
        """
        if not n > 0:
            raise ValueError(f"n is {n}; an ensemble size must be positive")
        ends = [self._sign * e for e in self._profile.band(lambda a: float(n) ** a)]
        return float(self(n)), min(ends), max(ends)

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Laws the data allow, drawn with their likelihood: rows of (limit, scale, exponent).

        Args:
            count: How many laws are drawn.
            generator: numpy's generator that they are drawn with.

        Returns:
            ``[count, 3]``. The exponent is drawn from its profile likelihood, limit and scale given it; without errors
            the noise's variance is drawn too.

        Raises:
            PowerLawError: There are as many parameters as values and no errors, so nothing is known of the noise.
        """
        return self._profile.sample(count, generator) * [self._sign, self._sign, 1.0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; infinite ends are None."""
        return {
            "limit": self.limit,
            "scale": self.scale,
            "exponent": self.exponent,
            "intervals": plain_values(self.intervals),
            "confidence": self.confidence,
            "residual": self.residual,
            "sizes": list(self.sizes),
            "fixed_exponent": self.fixed_exponent,
        }

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {getattr(self, name):.4g} [{low:.4g}, {high:.4g}]" for name, (low, high) in self.intervals.items()
        )
        return f"PowerLaw: {parts} ({100 * self.confidence:g} %, {len(self.sizes)} values)"


def fit_power_law(
    sizes: Any,
    values: Any,
    *,
    errors: Any | None = None,
    exponent: float | None = None,
    rising: bool = False,
    non_negative_limit: bool = False,
    confidence: float = 0.95,
) -> PowerLaw:
    """Fit limit + scale * n^exponent by least squares.

    Args:
        sizes: Ensemble (or network) sizes n ``[m]``, positive, at least three different ones; a size may occur often.
        values: The metric at each ``[m]``: NLL or CNLL in nats, an error rate, ...
        errors: Standard error of each value ``[m]``; None: equal and unknown, estimated from the residuals. Where the
            residuals are larger than the errors say, intervals are widened accordingly.
        exponent: Fix it. The NLL at a fixed temperature has exponent -1 for large n, by expanding the logarithm around
            the mean probability to second order, and -1 needs fewer data: sizes 1, 2, 3, 4 with noise rarely determine
            three parameters. CNLL, the lower envelope over temperatures, has a slower one.
        rising: Fit a law that rises to its limit (scale < 0), as accuracy does.
        non_negative_limit: Only allow limit >= 0.
        confidence: Confidence level of the intervals, in (0, 1).

    Returns:
        The law with its intervals.

    Raises:
        PowerLawError: The data do not determine the law: fewer than three different sizes, values that do not fall (or
            rise), that are constant within their noise, or that fall so evenly in ln n (exponent towards 0) or so
            abruptly (below -10) that no power is best.
        ValueError: Shapes, signs, or values that are not finite.

    Source:
        Lobacheva, Chirkova, Kodryan and Vetrov 2020 (the law); the region: Bates and Watts 1988.
    """
    n, y = _vector("sizes", sizes), _vector("values", values)
    e = np.ones_like(n) if errors is None else _vector("errors", errors)
    if not (e > 0).all():
        raise ValueError(f"errors hold {e.min():g}; a standard error must be positive (leave them out if not known)")
    w = 1 / np.square(e)
    if not len(n) == len(y) == len(w):
        raise ValueError(f"there are {len(n)} sizes, {len(y)} values and {len(w)} errors; give one for each")
    if not (n > 0).all():
        raise ValueError(f"sizes hold {n.min():g}; they must be positive")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    if exponent is not None and not STEEPEST <= exponent < 0:
        raise ValueError(f"exponent is {exponent}; it must lie in [{STEEPEST:g}, 0)")
    if rising and non_negative_limit:
        raise ValueError("non_negative_limit is for falling laws; a rising one has its limit above the values")
    if len(np.unique(n)) < 3:
        raise PowerLawError(f"there are {len(np.unique(n))} different sizes; a power law needs at least 3")
    sign = -1.0 if rising else 1.0
    profile = Profile(n, sign * y, w, errors is not None, exponent, non_negative_limit, confidence)
    limit, scale, best = profile.solution()
    low, high = profile.band(lambda a: np.zeros_like(a))
    bottom, top = profile.scale_interval()
    return PowerLaw(
        limit=sign * limit,
        scale=sign * scale,
        exponent=best,
        intervals={
            "limit": (low, high) if sign > 0 else (-high, -low),
            "scale": (bottom, top) if sign > 0 else (-top, -bottom),
            "exponent": profile.exponent_interval(),
        },
        confidence=confidence,
        residual=float(np.sqrt(np.mean(np.square(sign * y - limit - scale * n**best)))),
        sizes=tuple(n.tolist()),
        fixed_exponent=exponent is not None,
        _profile=profile,
        _sign=sign,
    )


def _vector(name: str, value: Any) -> Array:
    array = as_array(value)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not len(array):
        raise ValueError(f"{name} must be a list of real numbers, not of shape {array.shape} and type {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} hold {array[~np.isfinite(array)][0]}; they must be finite")
    return array
