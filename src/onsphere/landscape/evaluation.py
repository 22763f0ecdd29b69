"""Loss and error of a network at any point of weight space, with batch statistics that belong to that point.

Running statistics of batch norms describe the weights they were collected at; a point between two networks has none.
So they are re-estimated there (``mode="reestimate"``: averages over all batches, then evaluation mode), or every batch
is normalised by its own (``mode="train"``). ``mode="eval"`` takes them as they are in the points, interpolated
linearly like any buffer, for those who want to see what that does. Dropout is off in every mode.

The user's model is copied once, without its hooks, and never run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onsphere.functional.frozen import frozen_norms
from onsphere.functional.untouched import private_copy
from onsphere.normalisation import BatchStatistics, reestimate_batch_statistics

__all__ = ["Evaluation", "LossFunction", "Mode", "listed_batches"]

#: How batch norms get their statistics.
Mode = Literal["reestimate", "train", "eval"]
#: ``loss_fn(output, target)``: a mean over examples, as a scalar tensor.
LossFunction = Callable[[Any, Any], Tensor]
#: Pairs (input, target), or one such pair.
Batches = Iterable[Any]


def listed_batches(batches: Batches, name: str = "batches") -> list[tuple[Any, Any]]:
    """``batches`` as a list of (input, target), read once; one pair becomes a list of one.

    Raises:
        ValueError: There is none, or an entry is no pair.
    """
    if isinstance(batches, tuple | list) and len(batches) == 2 and isinstance(batches[1], Tensor):
        batches = [batches]
    found = list(batches)
    if not found:
        raise ValueError(f"{name} is empty (an exhausted generator?); give (input, target) pairs or one such pair")
    for i, batch in enumerate(found):
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ValueError(f"batch {i} of {name} is {type(batch).__name__}; every batch must be (input, target)")
    return [(batch[0], batch[1]) for batch in found]


class Evaluation:
    """Evaluates points of a model's weight space on fixed batches.

    Args:
        model: The model, copied and never run.
        loss_fn: ``loss_fn(output, target)``, a mean over examples.
        batches: (input, target) pairs or one such pair; a list is made of them, so that every point sees the same.
        mode: See the module.
        statistics: With ``mode="reestimate"``, the batches to re-estimate from (training data, when ``batches`` are
            test data); by default ``batches``.

    Raises:
        ValueError: For an unknown mode, empty batches, or statistics in another mode.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Batches,
        mode: Mode = "reestimate",
        statistics: Batches | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if statistics is not None and mode != "reestimate":
            raise ValueError(f'statistics are for mode="reestimate"; mode is {mode!r}')
        self.model = private_copy(model)
        self.loss_fn = loss_fn
        self.mode = mode
        self.batches = [self._placed(batch) for batch in listed_batches(batches)]
        self.statistics = (
            self.batches if statistics is None else [self._placed(b) for b in listed_batches(statistics, "statistics")]
        )
        frozen = set(frozen_norms(self.model).values())  # as in training, their running statistics are used
        batch_norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m not in frozen]
        self.norms = [norm for norm in batch_norms if norm.running_mean is not None]
        self._frozen = bool(frozen)
        self._own = len(batch_norms) > len(self.norms) or any(
            isinstance(m, BatchStatistics) for m in self.model.modules()
        )
        self.examples = sum(_examples(batch) for batch in self.batches)
        self._checked = False

    @property
    def sentence(self) -> str:
        """Where batch statistics came from, in words."""
        if not self.norms:
            alone = "frozen batch norm statistics of the points" if self._frozen else "no batch norm"
            return "statistics of each batch (none are kept)" if self._own else alone
        if self.mode == "reestimate":
            n = sum(_examples(batch) for batch in self.statistics)
            return f"batch norm statistics re-estimated at each point over {n} examples"
        return "statistics of each batch" if self.mode == "train" else "running statistics of the points"

    @torch.no_grad()
    def __call__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[float, float | None]:
        """Mean loss and share of wrong predictions (None where targets are no classes) at a point."""
        self.place(parameters, buffers)
        loss: Tensor | float = 0.0  # summed where the model is: one transfer a point
        wrong: Tensor | int = 0
        counted = 0
        for batch in self.batches:
            output, target = self.model(batch[0]), batch[1]
            if not self._checked:
                _check_deterministic(output, self.model(batch[0]))
                check_mean(self.loss_fn, output, target)
                self._checked = True
            loss = loss + one_number(self.loss_fn(output, target)).double() * _examples(batch)
            right = _right(output, target)
            if right is not None:
                wrong, counted = wrong + (~right).sum(), counted + right.numel()
        return float(loss) / self.examples, int(wrong) / counted if counted else None

    @torch.no_grad()
    def place(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """Put the private copy at a point, batch norms set up as the mode says, and return it."""
        for named, new in ((self.model.named_parameters(), parameters), (self.model.named_buffers(), buffers)):
            for name, tensor in named:
                if name in new:
                    tensor.copy_(new[name])
        self.model.eval()
        if self.mode == "reestimate":
            reestimate_batch_statistics(self.model, self.statistics)
        elif self.mode == "train":
            for norm in self.norms:
                norm.training = True
        return self.model

    def _placed(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        first = next(self.model.parameters(), None)
        if first is None:
            return batch
        x, y = (part.to(first.device) if isinstance(part, Tensor) else part for part in batch)
        return x, y


def one_number(loss: Any) -> Tensor:
    """A loss as it must be (ValueError)."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn returned {shape}; it must return one number, the mean over the examples of a batch")
    return loss.reshape(())


def _check_deterministic(output: Any, again: Any) -> None:
    if not (isinstance(output, Tensor) and output.is_floating_point()):
        return
    size, apart = float(output.double().norm()), float((output.double() - again.double()).norm())
    if apart > _tolerance(output) * size:
        raise ValueError(
            f"the model is not deterministic: with dropout off, two passes over one batch differ by {apart:.3g} at an "
            f"output of norm {size:.3g}; take the noise out of its forward pass"
        )


def _tolerance(output: Tensor) -> float:
    return max(1e-3, 8 * torch.finfo(output.dtype).eps)


def check_mean(loss_fn: LossFunction, output: Any, target: Any) -> None:
    """Refuse a loss that is not the mean over examples of this output and target (ValueError)."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.dim() == 0 or len(output) < 2:
        return
    if not output.is_floating_point():
        return
    if target.dim() == 0 or len(target) != len(output):
        return
    n, half = len(output), (len(output) + 1) // 2
    whole = float(one_number(loss_fn(output, target)))
    parts = [float(one_number(loss_fn(output[s], target[s]))) * len(output[s]) for s in (slice(half), slice(half, n))]
    mean = sum(parts) / n
    allowed = _tolerance(output) * max(abs(whole), abs(mean), 1e-6)
    if math.isfinite(whole) and math.isfinite(mean) and abs(whole - mean) > allowed:
        raise ValueError(
            f"loss_fn is not a mean over examples: {whole:.6g} on {n} examples, but the two halves average {mean:.6g}; "
            'give a loss with reduction="mean" and no class weights'
        )


def _examples(batch: tuple[Any, Any]) -> int:
    sized = batch[1] if isinstance(batch[1], Tensor) and batch[1].dim() else batch[0]
    count = len(sized)
    if count == 0:
        raise ValueError("a batch has no examples")
    return count


def _right(output: Any, target: Any) -> Tensor | None:
    """Which predictions are right, or None if the targets are not classes."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.dim() < 2 or output.shape[1] < 2:
        return None
    if target.is_floating_point() or target.is_complex() or output.shape[:1] + output.shape[2:] != target.shape:
        return None
    return output.argmax(1) == target
