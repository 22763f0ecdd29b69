"""Where weight decay and gradients balance: norm, ELR, angular update, and how long it takes to get there.

For scale-invariant weights under learning rate η, weight decay λ, b = 1 - ηλ, and effective gradients (at the
unit sphere) of root mean square norm g̃ that are uncorrelated from step to step:

    optimiser   norm                                           cos of the angle of one step
    sgd         ρ⁴ = η g̃² / (λ (2 - ηλ))                      1 - ηλ
    momentum α  ρ⁴ = η g̃² / (λ (1-α) (2 - ηλ/(1+α)))          1 - ηλ/(1+α)
    adamw β1    ρ² = η²C/(1-b²) (1-β1)/(1+β1) (1+bβ1)/(1-bβ1)  (b+β1)/(1+bβ1)
    lion        ρ² = η²C/(1-b²) (1 + 2S)                       b + (1-b²) S / (b (1+2S))

C is the number of weights, and S = Σ_{k>=1} b^k r_k sums the autocorrelation of Lion's signs. To leading order
these are ρ⁴ = ηg̃²/(2λ), ρ² = ηC/(2λ) and angles √(2ηλ), √(2ηλ/(1+α)), √(2ηλ(1-β1)/(1+β1)). The sgd line is
exact for a constant g̃; the others are exact in second moments at a norm that fluctuates little, that is up to
a relative O(ηλ). AdamW's line takes β2 close to 1.

Source: Wan et al., Spherical Motion Dynamics (sgd, momentum); Kosson et al., Rotational Equilibrium (table of
angular updates; adamw, lion); Lobacheva, Kodryan et al., NeurIPS 2021, section 3. The forms with b are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from onsphere.dynamics._checks import Array, Numbers, decay_factor, fraction, non_negative, plain, positive

__all__ = ["Equilibrium", "Optimizer", "equilibrium", "intrinsic_lr", "steps_to_equilibrium"]

Optimizer = Literal["sgd", "momentum", "adamw", "lion"]

_DEFAULT_BETAS = {"adamw": (0.9, 0.999), "lion": (0.9, 0.99)}
#: Terms of Lion's autocorrelation: further ones are below rounding.
_NEGLIGIBLE, _MOST_TERMS = 1e-17, 1_000_000


@dataclass(frozen=True)
class Equilibrium:
    """The state in which weight decay and gradients balance; None where the inputs do not determine it.

    Attributes:
        radius: Norm of the weights.
        elr: Effective learning rate: lr / radius² (momentum: lr / ((1 - momentum) radius²); adamw and lion:
            lr / radius², relative to their normalised update).
        angular_update: Angle of one step, radians; root mean square over steps.
        relaxation_steps: Steps in which a small distance from this norm shrinks by the factor e.
    """

    radius: Any
    elr: Any
    angular_update: Any
    relaxation_steps: Any

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def equilibrium(
    optimizer: Optimizer = "sgd",
    *,
    lr: Numbers,
    weight_decay: Numbers,
    momentum: float | None = None,
    betas: Sequence[float] | None = None,
    gradient_norm: Numbers | None = None,
    radius: Numbers = 1.0,
    noise_trace: Numbers = 0.0,
    parameters: int | None = None,
) -> Equilibrium:
    """The equilibrium of scale-invariant weights under an optimiser, from whatever is known.

    Args:
        optimizer: ``sgd``, ``momentum`` (heavy ball as in ``torch.optim.SGD``, coupled weight decay),
            ``adamw`` or ``lion`` (decoupled weight decay, multiplied by lr).
        lr: Learning rate, positive; arrays broadcast.
        weight_decay: Positive, below 1 / lr.
        momentum: In [0, 1); momentum only.
        betas: (β1, β2) in [0, 1); adamw (default 0.9, 0.999) and lion (default 0.9, 0.99) only.
        gradient_norm: Norm of the loss gradient, root mean square over steps, measured at ``radius``; sgd and
            momentum need it for norm and ELR.
        radius: Norm of the weights at which ``gradient_norm`` was measured. The default 1 makes
            ``gradient_norm`` the effective gradient's norm.
        noise_trace: Trace of the effective gradient's covariance, added to the square of the effective
            gradient's norm: leave 0 if ``gradient_norm`` is that of the stochastic gradients already.
        parameters: Number C of weights in the group; adamw and lion need it for norm and ELR.

    Returns:
        Floats, or arrays of the broadcast shape; None for what the inputs do not determine.

    Raises:
        ValueError: An unknown optimiser, an argument out of its range or not this optimiser's.

    Source: see the module.

    Example:
        >>> equilibrium("sgd", lr=0.1, weight_decay=0.01, gradient_norm=1.0).radius
        1.4955...
    """
    if optimizer not in get_args(Optimizer):
        raise ValueError(f"optimizer is {optimizer!r}; it must be one of {', '.join(get_args(Optimizer))}")
    positive("weight_decay", weight_decay)
    rate, b = positive("lr", lr), decay_factor(lr, weight_decay)
    noise = non_negative("noise_trace", noise_trace)
    if optimizer in ("sgd", "momentum"):
        _not_for(optimizer, betas=betas, parameters=parameters)
        alpha = _momentum(optimizer, momentum)
        square = None
        if gradient_norm is not None:
            square = (positive("gradient_norm", gradient_norm) * positive("radius", radius)) ** 2 + noise
        elif (noise > 0).all():
            square = noise
        return _heavy_ball(rate, b, alpha, square)
    _not_for(optimizer, momentum=momentum, gradient_norm=gradient_norm)
    beta1, beta2 = _betas(betas or _DEFAULT_BETAS[optimizer])
    if parameters is not None and (int(parameters) != parameters or parameters < 1):
        raise ValueError(f"parameters is {parameters}; it must be a positive whole number")
    if optimizer == "adamw":
        spread = (1 - beta1) / (1 + beta1) * (1 + b * beta1) / (1 - b * beta1)
        tangent, along = np.sqrt((1 - b**2) * (1 - beta1**2)), b + beta1
        slowest = np.maximum(np.maximum(b**2, b * beta1), beta1**2)
    else:
        memory = _lion_memory(b, beta1, beta2)
        spread = 1 + 2 * memory
        along = b + (1 - b**2) * memory / (b * spread)
        tangent, along = np.sqrt((1 - along) * (1 + along)), along
        slowest = np.maximum(b**2, b * beta2)
    rho = None if parameters is None else np.sqrt(rate**2 * parameters / (1 - b**2) * spread)
    return Equilibrium(
        radius=None if rho is None else plain(rho),
        elr=None if rho is None else plain(rate / rho**2),
        angular_update=plain(np.arctan2(tangent, along)),
        relaxation_steps=plain(-1 / np.log(slowest)),
    )


def steps_to_equilibrium(
    start_radius: Numbers,
    optimizer: Optimizer = "sgd",
    *,
    tolerance: float = 0.01,
    **known: Any,
) -> Any:
    """Steps until the norm is within a tolerance of its equilibrium, starting from another norm.

    sgd and momentum relax in the fourth power of the norm, adamw and lion in its square, each exponentially
    with the equilibrium's relaxation time. Exact to a relative O(lr · weight_decay) for adamw, if the second moment
    forgets faster than the norm changes (1 / (1 - β2) well below the relaxation time); for sgd also up
    to relative O(s²), s the effective step on the way, since ρ⁴ grows by s⁴ρ⁴ more than the law says. A start far
    below equilibrium makes large first steps that arrive sooner, so that there the number is an upper bound.

    Args:
        start_radius: Norm of the weights now, positive.
        optimizer: Which rule steps the weights, one of those that :func:`equilibrium` knows.
        tolerance: Relative distance of the norm from equilibrium that counts as reached, in (0, 1).
        **known: The other arguments of :func:`equilibrium`; they must determine the radius.

    Returns:
        Steps, a float or array; 0 if the norm is within the tolerance already.

    Raises:
        ValueError: An argument is out of its range, or the equilibrium's norm is not determined.

    Source: Wan et al., Spherical Motion Dynamics (linear rate); Lobacheva, Kodryan et al., NeurIPS 2021, section 3.
    """
    found = equilibrium(optimizer, **known)
    if found.radius is None:
        missing = "gradient_norm" if optimizer in ("sgd", "momentum") else "parameters"
        raise ValueError(f"the norm at equilibrium is not determined; give {missing}")
    power = 4 if optimizer in ("sgd", "momentum") else 2
    tol = float(fraction("tolerance", tolerance))
    ratio = (positive("start_radius", start_radius) / found.radius) ** power
    edge = np.where(ratio > 1, (1 + tol) ** power, (1 - tol) ** power)
    distance = np.abs(ratio - 1) / np.abs(edge - 1)
    return plain(found.relaxation_steps * np.log(np.maximum(distance, 1.0)))


def intrinsic_lr(lr: Numbers, weight_decay: Numbers) -> Any:
    """The intrinsic learning rate ``lr · weight_decay``, whose inverse is the time scale of the equilibrium in steps.

    With γ = ρ⁴/lr² the norm recurrence reads γ' ≈ (1 - 4 lr weight_decay) γ + 2 g̃², so that the state after
    mixing depends on lr and weight decay through their product alone.

    Args:
        lr: Learning rate of the optimiser, positive.
        weight_decay: In [0, 1 / lr).

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range, not finite, or empty.

    Source: Li, Lyu and Arora, NeurIPS 2020.
    """
    decay_factor(lr, weight_decay)
    return plain(positive("lr", lr) * non_negative("weight_decay", weight_decay))


def _heavy_ball(rate: Array, b: Array, alpha: float, square: Array | None) -> Equilibrium:
    product = 1 - b
    slack = product / (1 + alpha)
    radius = elr = None
    if square is not None:
        fourth = rate**2 * square / (product * (1 - alpha) * (2 - slack))
        radius, elr = plain(fourth**0.25), plain(rate / ((1 - alpha) * np.sqrt(fourth)))
    angle = np.arctan2(np.sqrt(slack * (2 - slack)), 1 - slack)
    return Equilibrium(radius, elr, plain(angle), plain(_heavy_ball_relaxation(product, alpha)))


def _heavy_ball_relaxation(product: Array, alpha: float) -> Array:
    """-1 / ln of the largest eigenvalue of the linearised map of (ρ², <x, v>, ‖v‖²) in units η = 1, λ = ηλ."""
    decay = np.asarray(product, dtype=np.float64)
    # d(g²)/d(ρ²) at constant effective gradient: -g̃²/ρ⁴
    push = decay * (1 - alpha) * (2 - decay / (1 + alpha))
    zero = np.zeros_like(decay)
    inner = np.stack([decay, zero + alpha, zero], axis=-1)
    speed = np.stack([decay**2 - push, 2 * alpha * decay, zero + alpha**2], axis=-1)
    norm = np.stack([1 + zero, zero, zero], axis=-1)
    jacobian = np.stack([norm - 2 * inner + speed, inner - speed, speed], axis=-2)
    largest = np.abs(np.linalg.eigvals(jacobian)).max(axis=-1)
    with np.errstate(divide="ignore"):
        return np.asarray(-1 / np.log(largest))


def _lion_memory(b: Array, beta1: float, beta2: float) -> Array:
    """S = Σ_{k>=1} b^k r_k, r_k = (2/π) arcsin of the autocorrelation of Lion's β1 m + (1-β1) g at lag k.

    Kosson et al. replace the arcsine by its argument's multiple; the sum is as cheap.
    """
    noise = beta1**2 * (1 - beta2) / (1 + beta2)
    variance = (1 - beta1) ** 2 + noise
    first = (beta1 * (1 - beta1) * (1 - beta2) + noise * beta2) / variance
    sums = np.empty(b.shape)
    for index, factor in np.ndenumerate(b):
        ratio = float(factor) * beta2
        terms = 1 if ratio <= _NEGLIGIBLE else min(int(np.log(_NEGLIGIBLE) / np.log(ratio)) + 1, _MOST_TERMS)
        lags = np.arange(terms)
        sums[index] = (factor ** (lags + 1) * 2 / np.pi * np.arcsin(first * float(beta2) ** lags)).sum()
    return sums


def _momentum(optimizer: str, momentum: float | None) -> float:
    if optimizer == "sgd":
        if momentum:
            raise ValueError(f"momentum is {momentum} with optimizer 'sgd'; use optimizer 'momentum'")
        return 0.0
    if momentum is None:
        raise ValueError("optimizer 'momentum' needs momentum, in [0, 1)")
    return float(fraction("momentum", momentum, zero=True))


def _betas(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ValueError(f"betas is {tuple(betas)!r}; it must be two numbers in [0, 1)")
    return float(fraction("betas[0]", betas[0], zero=True)), float(fraction("betas[1]", betas[1], zero=True))


def _not_for(optimizer: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} does not enter the equilibrium of {optimizer!r}; leave it out")
