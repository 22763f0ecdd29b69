"""The law that a scaling symmetry leaves on gradients: Σ c_i <∇_i L, θ_i> = 0 for every loss of the output.

It costs one dot product a tensor, so it can watch training: it grows where eps, low precision or an update outside the
symmetry has broken what the norms' laws rest on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from onsphere.products import inner, squared_norm
from onsphere.sharding import check_parts

__all__ = ["noether_residual"]


def noether_residual(
    tensors: Iterable[Tensor] | Mapping[str, object],
    exponents: Sequence[float] | None = None,
    gradients: Iterable[Tensor] | None = None,
) -> float:
    """How far a symmetry is from holding now: ``|Σ c_i <g_i, θ_i>| / (‖g‖ ‖θ‖)``.

    Args:
        tensors: The tensors of one symmetry, or a parameter group from :func:`onsphere.sphere_groups`.
        exponents: c_i; None: all 1, a scale-invariant group.
        gradients: g_i of the tensors' shapes; None: their ``.grad``. Tensors without one count as zero.

    Returns:
        A number in [0, 1], 0 if all gradients are zero; near 1e-7 in float32 for an exact symmetry. NaN if a number
        is not finite.

    Raises:
        TypeError: The parts of a tensor that is spread over processes cannot be added up.
        ValueError: There is no tensor, or lengths or shapes do not match.

    Source: Noether's theorem for scaling; Lobacheva, Kodryan et al., NeurIPS 2021 (orthogonality).

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> (weight[0] / weight.norm()).backward()  # scale-invariant: the gradient is orthogonal to the weights
        >>> bool(onsphere.noether_residual([weight]) < 1e-6)
        True
    """
    given: Any = tensors["params"] if isinstance(tensors, Mapping) else tensors
    thetas: list[Tensor] = [given] if isinstance(given, Tensor) else list(given)
    found: list[Tensor | None] = [t.grad for t in thetas] if gradients is None else list(gradients)
    weights = [1.0] * len(thetas) if exponents is None else [float(c) for c in exponents]
    if not (len(thetas) == len(found) == len(weights)):
        raise ValueError(
            f"there are {len(found)} gradients and {len(weights)} exponents for {len(thetas)} tensors; "
            "give one for each"
        )
    kept = [(c, t.detach(), g.detach()) for c, t, g in zip(weights, thetas, found, strict=True) if g is not None]
    if not thetas:
        raise ValueError("there is no tensor; give those of one symmetry")
    for i, (_, theta, gradient) in enumerate(kept):
        check_parts(theta, f"tensor {i}")
        check_parts(gradient, f"gradient {i}")
    if not kept:
        return 0.0
    total = sum(c * inner(g, t) for c, t, g in kept)
    size = (squared_norm([g for _, _, g in kept]) * squared_norm([t for _, t, _ in kept])).sqrt()
    return 0.0 if float(size) == 0 else abs(float(total)) / float(size)
