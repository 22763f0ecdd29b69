"""How long weight decay remembers, and which decay turns weights by a given angle a step.

Decoupled weight decay makes the weights an average of the last updates: after lr_1, ..., lr_T,

    w_T = w_0 prod_t (1 - lr_t λ) - sum_t lr_t u_t prod_{s>t} (1 - lr_s λ)

whose memory is 1 / (lr λ) steps. A run much shorter than that never comes to the equilibrium of norm and angle; at
equilibrium, lr and λ set the angle of a step through their product alone (:mod:`onsphere.dynamics.equilibria`), and an
optimiser kept at that angle (``onsphere.keep_on_sphere(..., angle=True)``) needs neither.

Source: Wang and Aitchison, arXiv 2405.13698 (the average and its time scale); Kosson et al., Rotational Equilibrium
(angles); the inverse is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from onsphere.dynamics._checks import Numbers, decay_factor, fraction, numbers, plain, positive
from onsphere.dynamics.equilibria import equilibrium

__all__ = ["Timescale", "decay_for_angle", "timescale"]

Invertible = Literal["sgd", "momentum", "adamw"]


@dataclass(frozen=True)
class Timescale:
    """How long a run is for its weight decay.

    Attributes:
        steps: Memory 1 / (lr weight_decay) at the largest learning rate, in steps.
        elapsed: How many such memories the run lasts: the sum of lr weight_decay over its steps. Well below 1 decay
            hardly acts; from 3 on the beginning is forgotten.
        remembered: What is left of the initial weights at the end, ``prod (1 - lr weight_decay)``, between 0 and 1.
    """

    steps: float
    elapsed: float
    remembered: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def timescale(lr: Numbers, weight_decay: float, steps: int | None = None) -> Timescale:
    """How many memories of its weight decay a run lasts.

    Args:
        lr: Learning rate, positive; or the schedule, one for each step ``[T]``, zero or more and not all zero.
        weight_decay: Decay λ as in AdamW, where a step shrinks the weights by ``1 - lr λ``; positive, below 1 / lr.
            For ``torch.optim.SGD`` with momentum α give ``weight_decay / (1 - α)``.
        steps: Number of steps T at a constant lr; for a schedule it follows and is left out.

    Raises:
        ValueError: An argument is out of its range, or ``steps`` is missing or given twice.

    Source: Wang and Aitchison, arXiv 2405.13698.

    Example:
        >>> timescale(1e-3, 0.1, 2_000)
        Timescale(steps=10000.0, elapsed=0.2, remembered=0.818...)
    """
    rates = numbers("lr", lr)
    if rates.ndim > 1:
        raise ValueError(f"lr has the shape {rates.shape}; give one number, or one a step")
    if rates.ndim == 0:
        if steps is None or int(steps) != steps or steps < 1:
            raise ValueError(f"steps is {steps}; with one lr it must be a positive whole number")
        count = float(steps)
    elif steps is not None and steps != len(rates):
        raise ValueError(f"steps is {steps} and lr holds {len(rates)}; leave steps out")
    else:
        count = 1.0
    if (rates < 0).any() or rates.max() <= 0:
        raise ValueError("lr must be zero or more and not all zero")
    decay = float(positive("weight_decay", weight_decay))
    decay_factor(float(rates.max()), decay)
    return Timescale(
        steps=float(1 / (rates.max() * decay)),
        elapsed=float(count * rates.sum() * decay),
        remembered=float(np.exp(count * np.log1p(-rates * decay).sum())),
    )


def decay_for_angle(
    angle: Numbers,
    optimizer: Invertible = "adamw",
    *,
    lr: Numbers,
    momentum: float | None = None,
    betas: Sequence[float] | None = None,
) -> Any:
    """The weight decay under which scale-invariant weights turn by a given angle a step at equilibrium.

    The inverse of ``equilibrium(...).angular_update``: what to translate an angular learning rate into, and with
    ``lr * weight_decay`` alone deciding, every lr has its decay.

    Args:
        angle: Angle of a step, root mean square, in radians, in (0, pi / 2).
        optimizer: ``sgd``, ``momentum`` or ``adamw``.
        lr: Learning rate, positive; arrays broadcast with ``angle``.
        momentum: In [0, 1); momentum only.
        betas: (β1, β2) of adamw, (0.9, 0.999) unless given.

    Returns:
        A float or array.

    Raises:
        ValueError: An argument is out of its range or not this optimiser's, or no decay below 1 / lr turns so far.

    Example:
        >>> decay = decay_for_angle(0.01, "adamw", lr=1e-3)
        >>> round(equilibrium("adamw", lr=1e-3, weight_decay=decay).angular_update, 12)
        0.01
    """
    if optimizer not in get_args(Invertible):
        raise ValueError(f"optimizer is {optimizer!r}; it must be one of {', '.join(get_args(Invertible))}")
    turned, rate = positive("angle", angle), positive("lr", lr)
    if not (turned < np.pi / 2).all():
        raise ValueError(f"angle is {turned.max():g}; it must be below pi / 2 radians")
    # 1 - cos without its cancellation: what decay takes away in a step is of the order of the angle squared
    versine = 2 * np.sin(turned / 2) ** 2
    if optimizer == "adamw":
        if momentum is not None:
            raise ValueError("momentum does not enter the equilibrium of 'adamw'; leave it out")
        beta1 = float(fraction("betas[0]", (betas or (0.9, 0.999))[0], zero=True))
        product = versine * (1 + beta1) / (1 - beta1 + beta1 * versine)
    else:
        if betas is not None:
            raise ValueError(f"betas does not enter the equilibrium of {optimizer!r}; leave it out")
        alpha = 0.0 if momentum is None else float(fraction("momentum", momentum, zero=True))
        if optimizer == "sgd" and alpha:
            raise ValueError(f"momentum is {alpha} with optimizer 'sgd'; use optimizer 'momentum'")
        product = versine * (1 + alpha)
    if not (product < 1).all():
        raise ValueError(f"no weight decay below 1 / lr turns {optimizer} by {turned.max():g} radians a step")
    decay = plain(product / rate)
    equilibrium(optimizer, lr=lr, weight_decay=decay, momentum=momentum, betas=betas)
    return decay
