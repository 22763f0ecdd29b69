"""The profile likelihood of a power law: exact lines in x = n^a for every exponent a, and one search over a.

With weights w, W = sum w, means x̄ and ȳ, and Sxx, Sxy the weighted sums of squares and products around them,

    scale = Sxy / Sxx,   y at u = n^a:  ȳ + scale (u - x̄),   its variance 1/W + (u - x̄)² / Sxx;   the limit is u = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onsphere.ensembles._inputs import Array

__all__ = ["SLOWEST", "STEEPEST", "PowerLawError", "Profile"]

SLOWEST, STEEPEST = -0.01, -10.0
_GRID = -np.geomspace(-SLOWEST, -STEEPEST, 400)
_INSIDE = 401  # exponents of the region over which bands are united


class PowerLawError(ValueError):
    """The data do not determine a power law."""


class Profile:
    """Least squares of a falling law; see :func:`onsphere.ensembles.fit_power_law` for the arguments."""

    def __init__(
        self,
        n: Array,
        y: Array,
        w: Array,
        known_errors: bool,
        exponent: float | None,
        non_negative_limit: bool,
        confidence: float,
    ) -> None:
        self.n, self.w, self.known_errors, self.non_negative = n, w, known_errors, non_negative_limit
        self.y, self.fixed = y, exponent
        self.reference = float(np.exp(np.average(np.log(n), weights=w)))  # x = (n / reference)^a is well scaled
        self.freedom = len(n) - (3 if exponent is None else 2)
        self.mean = float(np.average(y, weights=w))
        self.flat = float((w * (y - self.mean) ** 2).sum())
        self.best = self._search() if exponent is None else exponent
        self.least = float(self.sums(np.array([self.best]))[0])
        self.variance = self._variance()
        self.slack = self._slack(confidence)
        self._check()
        self.region, self.open_slow, self.open_steep = self._region()

    def line(self, a: Array) -> tuple[Array, Array, Array, Array]:
        """Scale (in units of the reference), x̄, 1 / Sxx and whether the limit is held at 0, for every exponent."""
        x = (self.n / self.reference) ** a[:, None]
        total = self.w.sum()
        mean = (self.w * x).sum(1) / total
        sxx = (self.w * (x - mean[:, None]) ** 2).sum(1)
        scale = (self.w * (x - mean[:, None]) * (self.y - self.mean)).sum(1) / sxx
        scale = np.maximum(scale, 0.0)
        held = np.zeros(len(a), dtype=bool)
        if self.non_negative:
            held = self.mean - scale * mean < 0
            squares = (self.w * x * x).sum(1)
            scale = np.where(held, np.maximum((self.w * x * self.y).sum(1) / squares, 0), scale)
            sxx = np.where(held, squares, sxx)
        return scale, mean, 1 / sxx, held

    def sums(self, a: Array) -> Array:
        """The weighted sum of squares at the best line, for every exponent."""
        scale, mean, _, held = self.line(a)
        limit = np.where(held, 0.0, self.mean - scale * mean)
        x = (self.n / self.reference) ** a[:, None]
        return np.asarray((self.w * (self.y - limit[:, None] - scale[:, None] * x) ** 2).sum(1))

    def solution(self) -> tuple[float, float, float]:
        """Limit, scale and exponent."""
        scale, mean, _, held = self.line(np.array([self.best]))
        limit = 0.0 if held[0] else self.mean - float(scale[0] * mean[0])
        return limit, float(scale[0]) * self.reference**-self.best, self.best

    def band(self, u: Callable[[Any], Any]) -> tuple[float, float]:
        """The range over the region of limit + scale * u(a); u = 0 is the limit."""
        scale, mean, inverse, held = self.line(self.region)
        at = np.asarray(u(self.region)) * self.reference**-self.region
        centre = np.where(held, scale * at, self.mean + scale * (at - mean))
        variance = np.where(held, at**2 * inverse, 1 / self.w.sum() + (at - mean) ** 2 * inverse)
        half = np.sqrt(self._left() * variance)
        low, high = float((centre - half).min()), float((centre + half).max())
        if not np.isfinite(self.slack):
            low, high = -np.inf, np.inf
        elif self.open_slow and not np.any(at):
            low = -np.inf  # towards exponent 0 the limit goes to minus infinity
        if self.non_negative:
            low, high = max(low, 0.0), max(high, 0.0)
        return low, high

    def scale_interval(self) -> tuple[float, float]:
        """The range of the scale over the region."""
        scale, _, inverse, _ = self.line(self.region)
        half, unit = np.sqrt(self._left() * inverse), self.reference**-self.region
        low, high = float(((scale - half) * unit).min()), float(((scale + half) * unit).max())
        return max(low, 0.0), np.inf if self.open_slow or not np.isfinite(self.slack) else high

    def exponent_interval(self) -> tuple[float, float]:
        """The region's exponents, -inf and 0 where it reaches the bounds of the search."""
        low, high = float(self.region.min()), float(self.region.max())
        return -np.inf if self.open_steep else low, 0.0 if self.open_slow else high

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Rows of (limit, scale, exponent) drawn with their likelihood."""
        if self.variance is None:
            raise PowerLawError("as many parameters as values, and no errors: give errors, more sizes or an exponent")
        variance = np.full(count, self.variance)
        if not self.known_errors:
            variance = self.least / generator.chisquare(self.freedom, count)
        grid = np.array([self.best]) if self.fixed is not None else np.union1d(_GRID, self.region)
        width = np.gradient(grid) if len(grid) > 1 else np.ones(1)
        tiny = np.finfo(np.float64).tiny
        fit = -(self.sums(grid) - self.least) / (2 * np.maximum(variance[:, None], tiny))
        chances = np.exp(fit) * width
        cumulative = np.cumsum(chances, axis=1)
        drawn = (cumulative < generator.random(count)[:, None] * cumulative[:, -1:]).sum(1)
        a = grid[np.minimum(drawn, len(grid) - 1)]
        scale, mean, inverse, held = self.line(a)
        drawn_scale = np.maximum(scale + np.sqrt(variance * inverse) * generator.standard_normal(count), 0.0)
        level = self.mean + np.sqrt(variance / self.w.sum()) * generator.standard_normal(count)
        limit = np.where(held, 0.0, level - drawn_scale * mean)
        if self.non_negative:
            limit = np.maximum(limit, 0.0)
        return np.stack([limit, drawn_scale * self.reference**-a, a], axis=1)

    def _search(self) -> float:
        from scipy.optimize import minimize_scalar

        sums = self.sums(_GRID)
        i = int(sums.argmin())
        ends = _GRID[min(i + 1, len(_GRID) - 1)], _GRID[max(i - 1, 0)]
        found = minimize_scalar(
            lambda a: float(self.sums(np.array([a]))[0]), bounds=ends, method="bounded", options={"xatol": 1e-9}
        )
        return float(found.x) if found.fun <= sums[i] else float(_GRID[i])

    def _variance(self) -> float | None:
        """The variance of a value of weight one; None if nothing is known of it."""
        if self.freedom <= 0:
            return 1.0 if self.known_errors else None
        estimate = self.least / self.freedom
        return max(1.0, estimate) if self.known_errors else estimate

    def _slack(self, confidence: float) -> float:
        """How far the sum of squares may rise above its least value within the region."""
        from scipy.stats import norm, t

        if self.variance is None:
            return float("inf")
        level = (1 + confidence) / 2
        quantile = norm.ppf(level) if self.known_errors else t.ppf(level, self.freedom)
        # Exact data leave rounding alone; the region must not vanish in it.
        rounding = 1e-24 * float((self.w * self.y**2).sum())
        return max(float(quantile**2 * self.variance), rounding)

    def _check(self) -> None:
        word = "values do not fall with the sizes as a power law does"
        if self.solution()[1] <= 0 or self.flat <= 1e-24 * float((self.w * self.y**2).sum()):
            raise PowerLawError(f"the {word}: a constant fits best; there is no law to extrapolate")
        if np.isfinite(self.slack) and self.flat <= self.least + self.slack:
            raise PowerLawError(
                "the values are constant within their noise; give more groups or sizes"
                + (", or fix the exponent (-1 for NLL)" if self.fixed is None else "")
            )
        if self.fixed is None and not STEEPEST * 0.999 < self.best < SLOWEST * 1.001:
            how = "evenly in ln n" if self.best > -1 else "all at once, after the smallest size"
            raise PowerLawError(f"the values change {how}, so no exponent is best; fix it (-1 for NLL) or add sizes")

    def _left(self) -> Array:
        """What the sum of squares may still rise by at the region's exponents."""
        if not np.isfinite(self.slack):
            return np.zeros_like(self.region)
        return np.asarray(np.maximum(self.least + self.slack - self.sums(self.region), 0.0))

    def _region(self) -> tuple[Array, bool, bool]:
        """Exponents within the region, and whether it is open towards 0 and towards the steepest."""
        from scipy.optimize import brentq

        if self.fixed is not None:
            return np.array([self.best]), False, False
        if not np.isfinite(self.slack):
            return np.array([self.best]), True, True

        def excess(a: float) -> float:
            return float(self.sums(np.array([a]))[0]) - self.least - self.slack

        inside = _GRID[self.sums(_GRID) <= self.least + self.slack]
        ends = []
        for outermost, beyond, bound in (
            (max([self.best, *inside]), _GRID[max([self.best, *inside]) < _GRID], SLOWEST),
            (min([self.best, *inside]), _GRID[min([self.best, *inside]) > _GRID], STEEPEST),
        ):
            if not len(beyond):
                ends.append((bound, True))
                continue
            outside = beyond.min() if bound == SLOWEST else beyond.max()
            ends.append((float(brentq(excess, outermost, outside)) if excess(outermost) < 0 else outermost, False))
        (slow, open_slow), (steep, open_steep) = ends
        return np.union1d(np.linspace(steep, slow, _INSIDE), [self.best]), open_slow, open_steep
