"""Fresh running statistics of batch norms: those of the whole data, whatever its order and however it is cut.

    mean = sum_b n_b mean_b / N        var = sum_b n_b [var_b + (mean_b - mean)²] / (N - 1)        N = sum_b n_b

over batches b of n_b values a channel: the variance between batches belongs to that of the data, and is most of it
where a loader goes through one class after another.

A norm deeper in a network sees what those before it make of a batch. In one pass these normalise by the batch. Where
batches are alike that is the same but for 1 / batch size. Where they are not, it takes away what tells batches apart,
and the statistics behind it are of other activations than evaluation will see. So the first pass also measures whether
batch means differ by more than chance, F = between / within over means of examples, which is 1 for shuffled data; if
they do, further passes run with the statistics found, each of which settles the norms that come next, until nothing
changes. The result is then that of all data in one batch.

Source: Chan, Golub & LeVeque 1983 (pooled moments); Izmailov et al. 2018 and Wu & Johnson 2021 (statistics
re-estimated in one pass, there without the variance between batches).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onsphere.normalisation.frozen import frozen_norms

__all__ = ["reestimate_batch_statistics", "whole_statistics"]

M = TypeVar("M", bound=nn.Module)

_UNLIKE = 2.0  # standard deviations of F above 1 that shuffled batches rarely reach; further passes then do no harm


def _first_element(model: nn.Module, batch: Any) -> Any:
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


@torch.no_grad()
def reestimate_batch_statistics(
    model: M,
    batches: Iterable[Any],
    forward: Callable[[M, Any], Any] = _first_element,
) -> M:
    """Recompute the running statistics of every batch norm that is not frozen: those of all of ``batches`` together.

    The exponential averages a training run leaves behind lag behind the weights, which on a sphere at a
    high effective learning rate turn far in a few steps. Batch norms run in training mode and everything
    else (dropout) in evaluation mode, in one pass without gradients; in several if batches differ by more than
    chance (sorted examples), at most as many as norms follow one another. Means and variances are pooled over
    batches, weighted by the number of values a layer sees. Training flags are restored.

    Norms that are in evaluation mode while the model trains keep their statistics
    (:mod:`onsphere.normalisation.frozen`).

    Args:
        model: the model, changed in place: its running means and variances only.
        batches: inputs, or tuples and lists whose first element is the input (a data loader's ``(x, y)``). Give a list
            or a loader: an iterator can be read once only, and is not enough for sorted examples (a UserWarning).
        forward: how to run one batch, for models with other signatures: called as ``forward(model, batch)``.

    Returns:
        ``model``. Nothing is read from ``batches`` when no batch norm keeps running statistics.

    Raises:
        ValueError: if ``batches`` is empty. Then, as after any error in a forward pass, the statistics are
            the old.
    """
    whole_statistics(model, batches, forward)
    return model


def whole_statistics(
    model: M, batches: Iterable[Any], forward: Callable[[M, Any], Any] = _first_element, unlike: bool | None = None
) -> bool:
    """Recompute running statistics as :func:`reestimate_batch_statistics` does, with gradients as they are.

    Args:
        model: The model, changed in place: its running means and variances only.
        batches: What ``forward`` takes, by default inputs or pairs that begin with one.
        forward: How to run one batch, called as ``forward(model, batch)``.
        unlike: Whether batches differ by more than chance. None: as the first pass finds.

    Returns:
        Whether batches differ by more than chance.

    Raises:
        ValueError: ``batches`` is empty; the statistics are then the old.
    """
    kept = {id(norm) for norm in frozen_norms(model).values()}
    norms = [
        m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None and id(m) not in kept
    ]
    if not norms:
        return False
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    finished, pools = False, dict[nn.Module, _Pool]()
    try:
        for norm in norms:
            norm.reset_running_stats()
        pools = _pass(model, norms, batches, forward, training=True)
        unlike = any(pool.unlike() for pool in pools.values()) if unlike is None else unlike
        _write(pools)
        if unlike and isinstance(batches, Iterator):
            _warn()
        elif unlike:
            for _ in norms:
                if _write(_pass(model, norms, batches, forward, training=False)):
                    break
        finished = True
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            # A layer no batch reached keeps what it knew.
            if not finished or norm not in pools:
                for name, buffer in buffers.items():
                    getattr(norm, name).copy_(buffer)
    return unlike


def _warn() -> None:
    import warnings

    warnings.warn(
        "batches differ by more than chance, as those of sorted examples do, and came as an iterator that can be read "
        "only once: batch statistics are those of a single pass; give a list or a data loader, or shuffle",
        UserWarning,
        stacklevel=4,
    )


def _pass(
    model: Any, norms: list[_BatchNorm], batches: Iterable[Any], forward: Callable[[Any, Any], Any], *, training: bool
) -> dict[nn.Module, _Pool]:
    """What every norm sees in one pass; those no batch reached are left out."""
    pools: dict[nn.Module, _Pool] = {norm: _Pool() for norm in norms}
    uses: dict[nn.Module, int] = {}

    def see(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pools[norm].add(inputs[0].detach(), uses.get(norm, 0))
        uses[norm] = uses.get(norm, 0) + 1

    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    count = 0
    try:
        with _only_these_training(model, norms if training else []):
            for batch in batches:
                uses.clear()
                forward(model, batch)
                count += 1
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise ValueError(
            "no batches to re-estimate batch statistics from: `batches` is empty (an exhausted generator?)"
        )
    return {norm: pool for norm, pool in pools.items() if pool.values}


def _write(pools: dict[nn.Module, _Pool]) -> bool:
    """Write what was found into the norms; whether they had it already, up to rounding."""
    same = True
    for norm, pool in pools.items():
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance = pool.squares / max(1, pool.values - 1)
        close = 16 * torch.finfo(norm.running_var.dtype).eps
        moved = (norm.running_mean.double() - pool.mean).square() > close**2 * variance
        changed = (norm.running_var.double() - variance).abs() > close * variance
        same = same and not bool((moved | changed).any())
        with torch.no_grad():
            norm.running_mean.copy_(pool.mean)
            norm.running_var.copy_(variance)
    return same


@dataclass
class _Moments:
    """Pooled moments [C] of groups of numbers."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    between: Tensor = field(default_factory=lambda: torch.zeros(()))
    within: Tensor = field(default_factory=lambda: torch.zeros(()))
    groups: int = 0

    def add(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """One more group: how many, their mean, their squared deviations from it."""
        self.groups += 1
        if self.count == 0:
            self.count, self.mean, self.between, self.within = count, mean, torch.zeros_like(mean), squares
            return
        total, apart = self.count + count, mean - self.mean
        self.between = self.between + apart.square() * (self.count * count / total)
        self.within = self.within + squares
        self.mean = self.mean + apart * (count / total)
        self.count = total


class _Pool:
    """What one norm sees: moments of all values, and of the means of examples for each use in a forward pass."""

    def __init__(self) -> None:
        self._whole = _Moments()
        self._examples: dict[int, _Moments] = {}

    @property
    def values(self) -> int:
        """Number of values of each channel."""
        return self._whole.count

    @property
    def mean(self) -> Tensor:
        """Means of the channels, float64 [C]."""
        return self._whole.mean

    @property
    def squares(self) -> Tensor:
        """Squared deviations from the means, summed [C]."""
        return self._whole.between + self._whole.within

    def add(self, x: Tensor, use: int) -> None:
        """One batch [N, C, ...]."""
        if x.numel() == 0 or x.dim() < 2:
            return
        rows = x if x.is_floating_point() and x.element_size() >= 4 else x.float()
        rows = rows.flatten(2) if rows.dim() > 2 else rows
        # In two levels, within examples and over them: long float32 sums lose digits.
        means, length, n = (rows, 1, len(rows)) if rows.dim() == 2 else (rows.mean(2), rows.shape[2], len(rows))
        examples = means.double()
        mean = examples.mean(0)
        spread = (examples - mean).square().sum(0)
        squares = length * spread
        if length > 1:
            squares = squares + torch.linalg.vector_norm(rows - means[:, :, None], dim=2).double().square().sum(0)
        self._whole.add(n * length, mean, squares)
        self._examples.setdefault(use, _Moments()).add(n, mean, spread)

    def unlike(self) -> bool:
        """Whether batches differ by more than chance."""
        for seen in self._examples.values():
            between, within = seen.groups - 1, seen.count - seen.groups
            varied = seen.within > 0
            if between < 1 or within < 1 or not bool(varied.any()):
                continue
            ratios = (seen.between[varied] / between) / (seen.within[varied] / within)
            if float(ratios.mean()) > 1 + _UNLIKE * math.sqrt(2 / between):
                return True
        return False


@contextmanager
def _only_these_training(model: nn.Module, training: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode everywhere but in ``training``; every flag as it was afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        for module in training:
            module.training = True
        yield
    finally:
        for module, flag in flags:
            module.training = flag
