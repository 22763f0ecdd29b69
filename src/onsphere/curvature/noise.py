"""The noise of stochastic gradients at fixed weights: TrΣ and the squared full gradient, unbiased, from M batches.

With the batch gradients g_1 ... g_M, drawn independently with mean ∇L and covariance Σ, two running sums are enough:

    TrΣ   ≈  (Σ|g_i|² - |Σg_i|² / M) / (M - 1)
    |∇L|² ≈  (|Σg_i|² - Σ|g_i|²) / (M (M - 1))       the mean of <g_i, g_j> over pairs, |mean g|² - TrΣ / M

Both are unbiased; |mean g|² alone is too large by TrΣ / M, and the unbiased value can be negative where noise hides
the gradient. Σ is that of a batch. Batches of B_i examples, N in all, have Σ_i = Σ_ex / B_i, and unequal ones are
weighted so that both estimates stay unbiased: TrΣ_ex ≈ (Σ B_i|g_i|² - |Σ B_i g_i|² / N) / (M - 1).

With batch norm in training mode an example's gradient depends on the rest of its batch. Then Σ is still what the
steps of this batch size see, and Σ_ex is its B-fold, no more.

On the sphere every gradient is effective: the tangent part ρ P g, that of the unit sphere.

Source: Sadrtdinov et al. 2025 (TrΣ of effective gradients, signal-to-noise ratio); Kodryan et al., NeurIPS 2022 (mean
stochastic gradient norm at fixed weights as sharpness); McCandlish et al. 2018 (noise scale).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onsphere.curvature.functional import Functional
from onsphere.curvature.precision import coarse_products
from onsphere.functional.batches import Batches, Forward
from onsphere.functional.selection import Selection
from onsphere.results import frame

__all__ = ["GradientNoise", "gradient_noise"]

Array = NDArray[np.float64]

#: Gradients are kept for the jackknife up to this many numbers (in float64 half a GiB), and else computed twice.
_MOST_KEPT = 2**26


@dataclass(frozen=True, repr=False)
class GradientNoise:
    """Signal and noise of the gradients of M batches; with ``sphere`` of the effective gradients.

    The ``*_error`` are jackknife standard errors over batches, NaN with two batches and where gradients are computed
    in half precision (``coarse``), whose errors are not those of batches.

    Attributes:
        noise_trace: TrΣ of the gradient of one batch of ``batch_size`` examples, unbiased.
        squared_gradient: |∇L|², unbiased, so that it can be negative.
        signal_to_noise: |∇L| / √TrΣ, from the two above; 0 where ``squared_gradient`` is negative.
        mean_gradient_norm: Mean of |g_i|, the papers' sharpness.
        squared_mean: |mean g|², the squared gradient of exactly these batches together.
        batches: Number M of batches.
        batch_size: Examples in a batch; if they differ, the most frequent (of several the largest).
        dimension: Entries of a gradient; on the sphere one fewer, the dimension of the tangent space.
        radius: Norm ρ of the parameters, on the sphere; else None.
        coarse: None, or what the gradients were computed in where that is coarser than float32.
    """

    noise_trace: float
    noise_trace_error: float
    squared_gradient: float
    squared_gradient_error: float
    signal_to_noise: float
    signal_to_noise_error: float
    mean_gradient_norm: float
    mean_gradient_norm_error: float
    squared_mean: float
    batches: int
    batch_size: int
    dimension: int
    radius: float | None = None
    coarse: str | None = None

    @property
    def example_noise_trace(self) -> float:
        """TrΣ of one example: ``noise_trace * batch_size``. TrΣ of another batch size B is this divided by B."""
        return self.noise_trace * self.batch_size

    @property
    def noise_scale(self) -> float:
        """The batch size at which signal and noise are equal: ``example_noise_trace / squared_gradient``.

        Infinite where ``squared_gradient`` is not positive. McCandlish et al. 2018, the simple noise scale.
        """
        return self.example_noise_trace / self.squared_gradient if self.squared_gradient > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """The fields and ``example_noise_trace`` and ``noise_scale`` as a dictionary."""
        return asdict(self) | {"example_noise_trace": self.example_noise_trace, "noise_scale": self.noise_scale}

    def to_frame(self) -> Any:
        """A pandas table: the four estimates by name, with value and standard error (needs pandas)."""
        names = ["noise_trace", "squared_gradient", "signal_to_noise", "mean_gradient_norm"]
        rows = [(name, getattr(self, name), getattr(self, f"{name}_error")) for name in names]
        return frame(rows, columns=["quantity", "value", "standard_error"])

    def __repr__(self) -> str:
        def shown(name: str) -> str:
            error = f" ± {getattr(self, f'{name}_error'):.2g}" if self.coarse is None else ""
            return f"{name}={getattr(self, name):.4g}{error}"

        names = ("noise_trace", "squared_gradient", "signal_to_noise", "mean_gradient_norm")
        where = "" if self.radius is None else f", radius={self.radius:.4g}"
        where += "" if self.coarse is None else f", no standard errors: gradients in {self.coarse}"
        return f"GradientNoise({', '.join(map(shown, names))}; {self.batches} batches of {self.batch_size}{where})"


def gradient_noise(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Batches,
    parameters: Selection = None,
    sphere: bool = False,
    mode: Literal["train", "eval"] = "train",
    *,
    forward: Forward | None = None,
) -> GradientNoise:
    """Signal and noise of a loss's stochastic gradients at the model's weights, from at least two batches.

    Batches count as independent draws. If they are one epoch, each example of a finite set once, ``noise_trace``
    stays unbiased for draws from that set, ``squared_gradient`` is that of the distribution behind the set, and the
    set's own is ``squared_mean``, without noise (batch norm aside).

    Args:
        model: Any module. It comes back as it was: buffers, gradients, flags, random state.
        loss_fn: ``loss_fn(output, target) -> scalar``, a mean over examples.
        batches: An iterable of at least two ``(input, target)`` pairs, best of one size. A loader's smaller last
            batch counts with its weight, as the module says.
        parameters: What to differentiate by: None (all that require grad), names, patterns, tensors, or a group of
            :func:`onsphere.sphere_groups`.
        sphere: Measure effective gradients, projected to the tangent space and multiplied by ρ.
        mode: ``train``: batch norm uses the statistics of each batch; ``eval``: running statistics.
        forward: How the model is called, ``forward(model, input)``, where that is not ``model(input)``.

    Returns:
        The estimates with jackknife standard errors. One gradient a batch is computed, two where the gradients
        together hold more than 2**26 numbers.

    Raises:
        ValueError: Fewer than two batches, a gradient that is not finite, or anything the curvature operator refuses
            (NaN weights, a loss that is no mean).

    Source: see the module.
    """
    functional = Functional(model, loss_fn, batches, parameters, sphere=sphere, mode=mode, forward=forward)
    sizes = np.array(functional.examples, dtype=np.float64)
    if len(sizes) < 2:
        raise ValueError(f"gradient_noise needs at least two batches, and was given {len(sizes)}; pass a list of pairs")
    gradient, radius = _gradients(functional)
    kept: list[Tensor] | None = [] if functional.size * len(sizes) <= _MOST_KEPT else None
    total = torch.zeros(functional.size, dtype=torch.float64, device=functional.device)
    squares = np.empty(len(sizes))
    for i, size in enumerate(sizes):
        g = gradient(i)
        squares[i] = float(g @ g)
        if not math.isfinite(squares[i]):
            raise ValueError(f"the gradient of batch {i} is not finite; check its inputs and the loss, or use float64")
        total += float(size) * g
        if kept is not None:
            kept.append(g)
    again = kept if kept is not None else (gradient(i) for i in range(len(sizes)))
    overlaps = np.array([float(total @ g) for g in again])
    square = float(total @ total)
    batch_size = _most_frequent(functional.examples)

    # The estimates from all batches, then those that leave out each batch, as one array [1 + M].
    left_out = np.concatenate([[0.0], sizes])
    count = np.concatenate([[len(sizes)], np.full(len(sizes), len(sizes) - 1)])
    n = sizes.sum() - left_out
    q = (sizes * squares).sum() - left_out * np.concatenate([[0.0], squares])
    s = square - np.concatenate([[0.0], 2 * sizes * overlaps - sizes**2 * squares])
    with np.errstate(divide="ignore", invalid="ignore"):  # M = 2 leaves one batch: no error then
        example = (q - s / n) / (count - 1)
        signal = s / n**2 - example / n
        noise = example / batch_size
        ratio = np.sqrt(np.maximum(signal, 0) / noise)
    norms = np.sqrt(squares)
    coarse = coarse_products(functional)

    def error(values: Array) -> float:
        return math.nan if coarse is not None else _jackknife(values)

    return GradientNoise(
        float(noise[0]),
        error(noise[1:]),
        float(signal[0]),
        error(signal[1:]),
        float(ratio[0]),
        error(ratio[1:]),
        float(norms.mean()),
        math.nan if coarse is not None else float(norms.std(ddof=1) / math.sqrt(len(norms))),
        float(s[0] / n[0] ** 2),
        len(sizes),
        batch_size,
        functional.size - functional.sphere,
        radius,
        coarse,
    )


def _gradients(functional: Functional) -> tuple[Callable[[int], Tensor], float | None]:
    """The gradient of a batch in float64, effective on the sphere; and the sphere's radius."""
    if not functional.sphere:
        return lambda i: functional.gradient(i).to(torch.float64), None
    values = functional.values()
    x = functional.flatten([values[name] for name in functional.names]).to(torch.float64)
    radius = float(x.norm())
    direction = x / radius

    def effective(i: int) -> Tensor:
        g = functional.gradient(i).to(torch.float64)
        return radius * (g - (direction @ g) * direction)

    return effective, radius


def _jackknife(values: Array) -> float:
    """The standard error from leave-one-out estimates; NaN where there are none."""
    count = len(values)
    if count < 3 or not np.isfinite(values).all():
        return math.nan
    return float(math.sqrt((count - 1) * values.var()))


def _most_frequent(sizes: list[int]) -> int:
    """The most frequent of the batch sizes, of several the largest."""
    return max(set(sizes), key=lambda size: (sizes.count(size), size))
