"""The updates as pure functions of lists of tensors: one step of one copy, out of place.

On the sphere of radius rho (projected SGD at a fixed effective learning rate):

    v <- momentum P v + g,   P v = v - x <x, v> / <x, x>        (without momentum v = g)
    x <- x - lr rho² v;      x <- rho x / ||x||
    geodesic:  u = P v,  phi = lr rho ||u||,  x <- x cos(phi) - rho (u / ||u||) sin(phi)

and in Euclidean space the rule of ``torch.optim.SGD``:

    v <- momentum v + g + weight_decay x;   x <- x - lr v

or of ``torch.optim.Adam`` and ``AdamW``. The update is written here once: :class:`onsphere.SphereSGD` runs it in place,
a population of copies runs it under ``torch.func.vmap``. No value is read back to the host and nothing branches on
data, so the functions can be traced (``make_fx``, ``torch.compile``), captured in a CUDA graph, and differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onsphere.products import inner, row_inner, squared_norm
from onsphere.rounding import wide

__all__ = ["adam", "projected", "sgd", "sphere_sgd", "sphere_sgd_measured"]


def sphere_sgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Tensor,
    momentum: float | Tensor = 0.0,
    geodesic: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """One step on the joint sphere of ``params``, at effective learning rate ``lr``.

    Args:
        params: The position: tensors of any shapes that share one norm.
        grads: One gradient for each, of the same shape.
        momentum_buffers: One buffer for each, starting at zero, in gradient units (it scales as 1 / rho);
            or an empty list, and then ``momentum`` is not used.
        lr: Effective learning rate (per step, dimensionless for a dimensionless loss), a float or a 0-d
            tensor.
        radius: rho, a float or a 0-d tensor.
        momentum: In [0, 1), a float or a 0-d tensor.
        geodesic: Follow the great circle (the exact exponential map) instead of step and projection.

    Returns:
        New parameters, of norm ``radius`` and in their own dtypes, and new buffers. float16 and bfloat16 are computed
        in float32 and rounded once. A position that lands exactly on the origin stays there: it has no direction to
        project. One that is not finite is not scaled: an entry of the gradient that is not finite damages that entry,
        as it does with ``torch.optim.SGD``, and no other.

    Source: Kodryan et al., NeurIPS 2022 (projected SGD on the sphere); the projection of the buffer is ours.
    """
    new, buffers, _ = sphere_sgd_measured(
        params, grads, momentum_buffers, lr=lr, radius=radius, momentum=momentum, geodesic=geodesic
    )
    return new, buffers


def sphere_sgd_measured(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    radius: float | Tensor,
    momentum: float | Tensor = 0.0,
    geodesic: bool = False,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """:func:`sphere_sgd`, and the norm before the projection: not finite if and only if the step has gone astray."""
    lr, radius = _double(lr), _double(radius)
    xs = [wide(x) for x in params]
    step, buffers = [wide(g) for g in grads], []
    if momentum_buffers:
        vs = [wide(v) for v in momentum_buffers]
        ratio = finite_or_zero(inner(xs, vs) / squared_norm(xs))
        step = [_scaled(momentum, v - _scaled(ratio, x)) + g for x, g, v in zip(xs, step, vs, strict=True)]
        buffers = [_as(v, old) for v, old in zip(step, momentum_buffers, strict=True)]
    reach = lr * radius * radius
    if geodesic:
        ratio = finite_or_zero(inner(xs, step) / squared_norm(xs))
        tangent = [v - _scaled(ratio, x) for x, v in zip(xs, step, strict=True)]
        cosine, sinc = arc(lr * radius * squared_norm(tangent).sqrt())
        reach = reach * sinc
        moved = [_scaled(cosine, x) - _scaled(reach, u) for x, u in zip(xs, tangent, strict=True)]
    else:
        moved = [_minus(x, reach, v) for x, v in zip(xs, step, strict=True)]
    placed, norm = projected(moved, radius)
    return [_as(x, old) for x, old in zip(placed, params, strict=True)], buffers, norm


def projected(params: Sequence[Tensor], radius: float | Tensor, *, rows: bool = False) -> tuple[list[Tensor], Tensor]:
    """Tensors rescaled to their sphere, and their joint norm before: not finite if and only if one of them is not.

    Args:
        params: Tensors of any shapes.
        radius: Norm of all of them together, or with ``rows`` of every row; a float or a 0-d tensor.
        rows: Whether every slice along dimension 0 is on a sphere of its own (a tensor with fewer than two dimensions
            is one row).

    Returns:
        The rescaled tensors; those at the origin, or not finite, as they are. And the norm, 0-d float64.
    """
    norm = squared_norm(params).sqrt()
    scales = [scale_to(radius, row_inner(x, x).sqrt() if rows else norm) for x in params]
    return [_scaled(scale, x) for scale, x in zip(scales, params, strict=True)], norm


def sgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float | Tensor = 0.0,
    weight_decay: float | Tensor = 0.0,
) -> tuple[list[Tensor], list[Tensor]]:
    """One step of SGD with coupled weight decay: the rule, and with floats the very bits, of ``torch.optim.SGD``.

    Args:
        params: The parameters, a list of tensors.
        grads: One gradient for each, of the same shape.
        momentum_buffers: One buffer for each, starting at zero, which makes the first step that of torch;
            or an empty list, and then ``momentum`` is not used.
        lr: Learning rate, a float or a 0-d tensor.
        momentum: Factor of the buffers in [0, 1), a float or a 0-d tensor.
        weight_decay: Factor of the parameters added to the gradients, a float or a 0-d tensor.

    Returns:
        New parameters and new buffers.
    """
    step, buffers = list(grads), []
    if isinstance(weight_decay, Tensor) or weight_decay != 0:
        step = [_minus(g, -weight_decay, x) for x, g in zip(params, step, strict=True)]
    if momentum_buffers:
        buffers = [_scaled(momentum, v) + g for v, g in zip(momentum_buffers, step, strict=True)]
        step = buffers
    return [_minus(x, lr, v) for x, v in zip(params, step, strict=True)], buffers


def adam(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    firsts: Sequence[Tensor],
    seconds: Sequence[Tensor],
    count: float | Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | Tensor = 0.0,
    decoupled: bool = False,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """One step of ``torch.optim.Adam`` (weight decay in the gradient) or, if ``decoupled``, ``AdamW``.

    Args:
        params: The parameters, a list of tensors.
        grads: One gradient for each, of the same shape.
        firsts: First moments, starting at zero.
        seconds: Second moments, starting at zero.
        count: Number of the step, from 1, a float or a 0-d tensor.
        lr: Learning rate, a float or a 0-d tensor.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moments.
        weight_decay: As in torch, a float or a 0-d tensor.
        decoupled: Whether the decay acts on the parameters and not on the gradients.

    Returns:
        New parameters, first moments, second moments.

    Source: Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019.
    """
    lr, count, (one, two) = _double(lr), _double(count), betas
    if decoupled:
        params = [_minus(x, lr * weight_decay, x) for x in params]
    else:
        grads = [g + _scaled(weight_decay, x) for x, g in zip(params, grads, strict=True)]
    firsts = [one * m + (1 - one) * g for m, g in zip(firsts, grads, strict=True)]
    seconds = [two * v + (1 - two) * g * g for v, g in zip(seconds, grads, strict=True)]
    reach, root = lr / (1 - one**count), (1 - two**count) ** 0.5
    steps = [m / (_scaled(1 / root, v.sqrt()) + eps) for m, v in zip(firsts, seconds, strict=True)]
    return [_minus(x, reach, u) for x, u in zip(params, steps, strict=True)], firsts, seconds


# -- scalars of a step, shared with the step in place ------------------------------------------------------


def scale_to(radius: float | Tensor, norm: Tensor) -> Tensor:
    """``radius / norm``; 1 at the origin, which has no direction, and where the norm is not finite."""
    return torch.where((norm > 0) & (norm < math.inf), radius / norm, 1.0)


def finite_or_zero(ratio: Tensor) -> Tensor:
    """A radial part; zero where it is not finite, so that one such entry does not spread to all others."""
    return torch.where(ratio.isfinite(), ratio, 0.0)


def arc(phi: Tensor) -> tuple[Tensor, Tensor]:
    """cos(phi) and sin(phi) / phi; 1 and 1, a straight step, where the angle is not finite."""
    turns = phi.isfinite()
    # rho sin(phi) / ||u|| written with sinc: a vanishing gradient then divides nothing by zero.
    return torch.where(turns, phi.cos(), 1.0), torch.where(turns, torch.sinc(phi / math.pi), 1.0)


def _as(x: Tensor, like: Tensor) -> Tensor:
    return x if x.dtype == like.dtype else x.to(like.dtype)


def _double(value: float | Tensor) -> float | Tensor:
    """Scalars are multiplied in float64: rho² of a float32 rho would lose its last digits."""
    return value.to(torch.float64) if isinstance(value, Tensor) else value


def _scaled(factor: float | Tensor, x: Tensor) -> Tensor:
    """``factor x`` in the dtype of x."""
    return x * (factor.to(device=x.device, dtype=x.dtype) if isinstance(factor, Tensor) else factor)


def _minus(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """``x - factor y``; with a float in one operation, the one of ``torch.optim.SGD``."""
    if isinstance(factor, Tensor):
        return x - _scaled(factor, y)
    return torch.add(x, y, alpha=-factor)
