"""What becomes of an optimiser's update d at weights x of norm ||x||, as pure functions of a few scalar products.

    hard projection   x <- rho (x + d) / ||x + d||                        the default of ``keep_on_sphere``
    turn              x <- rho (cos(lr) x/||x|| + sin(lr) u/||u||),       u = d - x <x,d> / <x,x>
    brake             x <- x + d - (1 - outward) max(0, <x,d>/<x,x>) x
    floor             x <- x + d max(1, ratio ||x|| / ||d||)

The turn is by exactly lr radians along the great circle that the update sets out on. The brake scales the part of the
update that makes the norm grow, the floor the whole of an update that is small beside the weights; both leave the norm
free.

Source: Hyperball (arXiv 2606.16899) for updates of fixed norm, of which the turn is the exact form; the radial brake
and the floor are known from public records of training small language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from onsphere.optim.updates import finite_or_zero, scale_to

__all__ = ["Brake", "Floor", "brake_factor", "floor_factor", "turn_factors"]


@dataclass(frozen=True)
class Brake:
    """Scale the outward part of every update: ``x + d - (1 - outward) max(0, <x,d>/<x,x>) x``.

    Attributes:
        outward: Factor of the part of an update that makes the norm grow, in [0, 1]: 0 forbids growth to first
            order, 1 changes nothing. What makes the norm shrink, such as weight decay, is left alone.

    Raises:
        ValueError: The factor is not in [0, 1].
    """

    outward: float

    def __post_init__(self) -> None:
        if not _number(self.outward) or not 0 <= self.outward <= 1:
            raise ValueError(f"outward is {self.outward!r}; it must be a number from 0 to 1")


@dataclass(frozen=True)
class Floor:
    """Lengthen updates that are small beside the weights: ``x + d max(1, ratio ||x|| / ||d||)``.

    An update of nothing but rounding, or of nothing at all, is no direction and stays as it is.

    Attributes:
        ratio: Least norm of an update over the norm of the weights, positive and below 1.

    Raises:
        ValueError: The ratio is not in (0, 1).
    """

    ratio: float

    def __post_init__(self) -> None:
        if not _number(self.ratio) or not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio!r}; it must be a number above 0 and below 1")


def turn_factors(
    xx: Tensor, uu: Tensor, *, radius: float | Tensor, angle: float | Tensor, least: float
) -> tuple[Tensor, Tensor]:
    """The factors a and b of ``a x + b u``, the point ``angle`` radians away from x in the direction u.

    Args:
        xx: <x, x>, float64 of any shape.
        uu: <u, u> of the part u of the update that is orthogonal to x.
        radius: Norm of the result.
        angle: How far to turn, in radians.
        least: Norm of u over that of x up to which u is rounding and no direction.

    Returns:
        float64 tensors of the shape of ``xx``. Without a direction b is 0 and the weights stay at their place on the
        sphere; where something is not finite both are 1.
    """
    turned = torch.as_tensor(angle, dtype=torch.float64).detach().reshape(()).to(xx.device)
    cosine, sine = turned.cos(), turned.sin()
    norm, moves, finite = xx.sqrt(), uu > least * least * xx, (xx + uu).isfinite()
    a = scale_to(radius, norm) * torch.where(moves, cosine, 1.0)
    b = torch.where(moves, radius * sine / torch.where(moves, uu, 1.0).sqrt(), 0.0)
    return torch.where(finite, a, 1.0), torch.where(finite, b, 1.0)


def brake_factor(xx: Tensor, xd: Tensor, *, outward: float) -> Tensor:
    """The factor of x in ``factor x + d``: 1 where the update does not lead outward, less where it does.

    Args:
        xx: <x, x>, float64 of any shape.
        xd: <x, d>, of the shape of ``xx``.
        outward: Factor of the outward part.
    """
    return 1.0 - (1.0 - outward) * finite_or_zero(xd / xx).clamp(min=0.0)


def floor_factor(xx: Tensor, dd: Tensor, *, ratio: float, least: float) -> Tensor:
    """The factor of d in ``x + factor d``, at least 1.

    Args:
        xx: <x, x>, float64 of any shape.
        dd: <d, d>, of the shape of ``xx``.
        ratio: Least norm of the update over that of the weights.
        least: The ratio up to which an update is rounding.
    """
    grown = (ratio * (xx / dd).sqrt()).clamp(min=1.0)
    return torch.where((dd > least * least * xx) & grown.isfinite(), grown, 1.0)


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
