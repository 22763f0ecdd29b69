"""How differently two networks predict: disagreement, symmetric KL divergence, linear CKA.

    disagreement   share of examples with different predicted classes
    symmetric KL   mean over examples of [ KL(p || q) + KL(q || p) ] / 2,      natural log
    linear CKA     |X' Y|² / (|X' X| |Y' Y|),    X, Y centred over examples (Frobenius norms)

Source: Kornblith et al. 2019 (CKA); Lobacheva, Kodryan et al., NeurIPS 2021 (similarity of minima).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cka", "disagreement", "symmetric_kl"]


def disagreement(a: Tensor, b: Tensor) -> float:
    """Share of examples for which two networks predict different classes.

    Args:
        a: Logits or probabilities ``[N, C]``, or predicted classes ``[N]`` of an integer type.
        b: The same of the other network; one may be logits and the other classes.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: Something is not a tensor.
        ValueError: Shapes that do not fit, no examples, or NaN.
    """
    x, y = _classes(a, "a"), _classes(b, "b")
    if x.shape != y.shape:
        raise ValueError(f"a has {len(x)} examples and b has {len(y)}; predictions must be for the same examples")
    return float((x != y.to(x.device)).double().mean())


def symmetric_kl(logits_a: Tensor, logits_b: Tensor) -> float:
    """Mean over examples of ``[KL(p || q) + KL(q || p)] / 2``, nats.

    Args:
        logits_a: Logits ``[N, C]`` of one network (log-probabilities do as well).
        logits_b: Logits ``[N, C]`` of the other on the same examples.

    Returns:
        A number, 0 only where all predictions are the same.

    Raises:
        TypeError: Something is not a tensor.
        ValueError: Shapes that do not fit, no examples, or numbers that are not finite.
    """
    log_p, log_q = (torch.log_softmax(logits, 1) for logits in _two(logits_a, logits_b, same_width=True))
    # KL(p||q) + KL(q||p) = sum (p - q)(log p - log q): no term is negative, so nothing cancels.
    return float(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean()) / 2


def cka(logits_a: Tensor, logits_b: Tensor) -> float:
    """Linear centred kernel alignment of two sets of outputs or features.

    Not changed by rotations, by scaling and by shifts of either.

    Args:
        logits_a: Outputs ``[N, C]``; further dimensions are flattened.
        logits_b: Outputs ``[N, D]`` of the other network on the same examples; D may differ from C.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: Something is not a tensor.
        ValueError: Different numbers of examples, fewer than two, numbers that are not finite, or outputs that are the
            same for every example.
    """
    x, y = _two(logits_a, logits_b, same_width=False)
    if len(x) < 2:
        raise ValueError("linear CKA needs at least two examples: outputs are centred over them")
    centred = []
    for name, z in (("logits_a", x), ("logits_b", y)):
        shifted = z - z.mean(0)
        norm, size = float(shifted.norm()), float(z.norm())
        if norm <= 1e-14 * size or norm == 0:
            raise ValueError(f"{name} is the same for every example, so there is nothing to align")
        centred.append(shifted / norm)
    x, y = centred
    if len(x) < x.shape[1] + y.shape[1]:  # the same numbers from N x N kernels, when that is the smaller side
        k, m = x @ x.T, y @ y.T
        return float((k * m).sum() / (k.norm() * m.norm()))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def _two(a: Tensor, b: Tensor, *, same_width: bool) -> tuple[Tensor, Tensor]:
    checked = []
    for name, logits in (("logits_a", a), ("logits_b", b)):
        if not isinstance(logits, Tensor):
            raise TypeError(f"{name} is {type(logits).__name__}; it must be a tensor [examples, classes]")
        if logits.dim() < 2 or logits.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(logits.shape)}; it must be [examples, classes], not empty")
        double = logits.detach().to(torch.float64).flatten(1)
        if not bool(torch.isfinite(double).all()):
            raise ValueError(f"{name} holds NaN or infinite numbers")
        checked.append(double)
    x, y = checked[0], checked[1].to(checked[0].device)
    if len(x) != len(y):
        raise ValueError(f"logits_a has {len(x)} examples and logits_b {len(y)}; they must be the same examples")
    if same_width and a.shape != b.shape:
        raise ValueError(f"logits_a is {tuple(a.shape)} and logits_b {tuple(b.shape)}; they must have the same classes")
    if same_width and a.dim() != 2:
        raise ValueError(f"logits_a has shape {tuple(a.shape)}; it must be [examples, classes]")
    return x, y


def _classes(given: Tensor, name: str) -> Tensor:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} is {type(given).__name__}; it must be a tensor of logits [N, C] or of classes [N]")
    if given.numel() == 0:
        raise ValueError(f"{name} has no examples")
    if given.is_floating_point():
        if given.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(given.shape)}; logits are [N, C], classes [N] of integers")
        if bool(torch.isnan(given).any()):
            raise ValueError(f"{name} holds NaN, so it predicts nothing")
        return given.detach().argmax(1)
    if given.dim() != 1 or given.is_complex():
        raise ValueError(f"{name} has shape {tuple(given.shape)}; predicted classes are [N] integers")
    return given.detach()
